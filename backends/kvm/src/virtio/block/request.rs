//! One request to a disk (virtio 1.2, section 5.2.6).

use std::io;

use vm_memory::{Bytes, GuestAddress};

use super::SECTOR;
use super::disk::Disk;
use crate::virtio::Env;
use crate::virtio::io as guest;
use crate::virtio::queue::{Buffers, Chain, Segment};

/// Bytes that one request reads or writes at most. The limits of buffers that the driver is told
/// of come to less; a Linux that knows none of them sends 4 MiB at most.
pub(super) const LARGEST: usize = 32 << 20;

/// Sectors of one range that is discarded, 128 MiB, and ranges of one such request.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 18;
pub(super) const MAX_DISCARD_SEGMENTS: u32 = 16;

/// Sectors of one range that is zeroed, and ranges of one such request. Where the file system
/// cannot zero they are written.
pub(super) const MAX_ZEROES_SECTORS: u32 = 1 << 16;
pub(super) const MAX_ZEROES_SEGMENTS: u32 = 1;

const _: () = assert!(MAX_ZEROES_SECTORS as usize * MAX_ZEROES_SEGMENTS as usize * 512 <= LARGEST);

/// What waiting for the disk to have written everything counts as.
const FLUSH_WORK: usize = 16 << 20;

const HEADER: usize = 16;
const RANGE: usize = 16;

mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// Why a request is answered with an error.
#[derive(Debug)]
enum Failure {
    /// The guest asks for what there is not.
    Guest(&'static str),
    /// The host cannot.
    Host(io::Error),
    /// Nobody can.
    Unsupported,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

/// A request that can be answered: it has a header and a place for its status.
#[derive(Debug)]
pub(super) struct Request {
    kind: u32,
    sector: u64,
    readable: Buffers,
    writable: Buffers,
    status: GuestAddress,
    /// Bytes of data that the device may write.
    room: usize,
    /// Bytes of data that are read already.
    done: u64,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Started {
    /// It is answered; the bytes written into its buffers.
    Done(usize),
    /// It has to wait for the disk.
    Waits(Request),
}

impl Request {
    /// `None` if there is no way to answer; that is counted.
    pub(super) fn new(mut chain: Chain, env: &Env) -> Option<Self> {
        let Some(status) = chain.writable.pop_last_byte() else {
            env.errors.report(|| "a request without a place for its status".to_owned());
            return None;
        };
        let mut header = [0; HEADER];
        let have = chain.readable.read(&env.memory, &mut header);
        // A header that is too short is of no known kind.
        let kind = if have == HEADER { word(&header, 0) } else { u32::MAX };
        let sector = u64::from(word(&header, 8)) | u64::from(word(&header, 12)) << 32;
        let room = chain.writable.total();
        let (readable, writable) = (chain.readable, chain.writable);
        Some(Self { kind, sector, readable, writable, status, room, done: 0 })
    }

    /// How much there is to do for it, in bytes that are read or written, or what takes as long.
    pub(super) fn work(&self) -> usize {
        match self.kind {
            kind::IN => self.room,
            kind::OUT => self.readable.total(),
            kind::FLUSH => FLUSH_WORK,
            kind::DISCARD | kind::WRITE_ZEROES => LARGEST,
            _ => 0,
        }
    }

    /// Does it, unless it would have to wait for the disk.
    pub(super) fn start(mut self, disk: Option<&Disk>, serial: &[u8], env: &Env) -> Started {
        if let (kind::IN, Some(disk)) = (self.kind, disk)
            && disk.tells_waits()
            && let Ok(false) = self.read(disk, env, guest::NOWAIT)
        {
            return Started::Waits(self);
        }
        Started::Done(self.execute(disk, serial, env))
    }

    /// Has what it waits for brought into memory meanwhile.
    pub(super) fn fetch(&self, disk: Option<&Disk>) {
        if let (Some(disk), Some(start)) = (disk, self.sector.checked_mul(SECTOR)) {
            disk.fetch(start.saturating_add(self.done), self.writable.total());
        }
    }

    /// Does it; the bytes written into its buffers.
    pub(super) fn execute(mut self, disk: Option<&Disk>, serial: &[u8], env: &Env) -> usize {
        let room = self.room;
        let done = match (self.kind, disk) {
            (kind::GET_ID, _) => {
                let count = self.writable.write(&env.memory, serial);
                Ok(count)
            }
            (_, None) => Err(Failure::Guest("there is no disk in the slot")),
            (kind::IN, Some(disk)) => self.read(disk, env, 0).map(|_all| room),
            (kind::OUT, Some(disk)) => self.write(disk, env).map(|()| 0),
            (kind::FLUSH, Some(disk)) => disk.flush().map(|()| 0).map_err(Failure::from),
            (kind::DISCARD | kind::WRITE_ZEROES, Some(disk)) => self.ranges(disk, env).map(|()| 0),
            _ => Err(Failure::Unsupported),
        };
        let (status, written) = match done {
            Ok(written) => (OK, written),
            Err(failure) => (self.report(failure, disk, env), 0),
        };
        // The address was in memory when the chain was taken, and memory does not go away.
        drop(env.memory.write_obj(status, self.status));
        // All of the room counts if the status behind it is written.
        if status == OK && written == room { room + 1 } else { written + 1 }
    }

    fn report(&self, failure: Failure, disk: Option<&Disk>, env: &Env) -> u8 {
        let (kind, sector) = (self.kind, self.sector);
        match failure {
            Failure::Guest(what) => {
                env.errors.report(|| format!("request {kind} at sector {sector}: {what}"));
                IOERR
            }
            Failure::Host(error) => {
                env.errors.report(|| format!("request {kind} at sector {sector}: {error}"));
                if let Some(told) = disk.and_then(|disk| disk.error(kind != kind::IN, &error)) {
                    env.observer.tell(told);
                }
                IOERR
            }
            Failure::Unsupported => UNSUPPORTED,
        }
    }

    /// Reads what is left to be read; whether that is all. What it was told to is said again by
    /// the next try, errors too.
    fn read(&mut self, disk: &Disk, env: &Env, flags: libc::c_int) -> Result<bool, Failure> {
        let start = within(disk, self.sector, not_too_large(self.room)?)?;
        while !self.writable.segments().is_empty() {
            let (at, into) = (Some(start + self.done), self.writable.segments());
            let count = match retry(|| guest::read(disk.fd(), &env.memory, into, at, flags)) {
                Err(error) if flags != 0 => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        disk.waits_untold();
                    }
                    return Ok(error.kind() != io::ErrorKind::WouldBlock);
                }
                done => done?,
            };
            if count == 0 {
                return Err(Failure::Guest("the file is shorter than it was"));
            }
            self.done += count as u64;
            self.writable.skip(count);
        }
        Ok(true)
    }

    fn write(&mut self, disk: &Disk, env: &Env) -> Result<(), Failure> {
        writable(disk)?;
        let mut offset = within(disk, self.sector, not_too_large(self.readable.total())?)?;
        while !self.readable.segments().is_empty() {
            let at = Some(offset);
            let from: &[Segment] = self.readable.segments();
            let count = retry(|| guest::write(disk.fd(), &env.memory, from, at))?;
            if count == 0 {
                return Err(Failure::Host(io::ErrorKind::WriteZero.into()));
            }
            offset += count as u64;
            self.readable.skip(count);
        }
        Ok(())
    }

    /// Discards, or fills with zeros, what a list of ranges says.
    fn ranges(&mut self, disk: &Disk, env: &Env) -> Result<(), Failure> {
        writable(disk)?;
        let total = self.readable.total();
        let (most, longest) = match self.kind {
            kind::DISCARD => (MAX_DISCARD_SEGMENTS, MAX_DISCARD_SECTORS),
            _ => (MAX_ZEROES_SEGMENTS, MAX_ZEROES_SECTORS),
        };
        if total == 0 || !total.is_multiple_of(RANGE) || total > RANGE * most as usize {
            return Err(Failure::Guest("no list of ranges"));
        }
        for _ in 0..total / RANGE {
            let mut range = [0; RANGE];
            self.readable.read(&env.memory, &mut range);
            let sector = u64::from(word(&range, 0)) | u64::from(word(&range, 4)) << 32;
            let (sectors, flags) = (word(&range, 8), word(&range, 12));
            if sectors > longest {
                return Err(Failure::Guest("a range beyond the limit"));
            }
            let length = u64::from(sectors) * SECTOR;
            let bytes = usize::try_from(length).unwrap_or(usize::MAX);
            let offset = within(disk, sector, bytes)?;
            if length == 0 {
                continue;
            }
            match (self.kind, flags) {
                (kind::DISCARD, 0) => discard(disk, offset, length)?,
                (kind::WRITE_ZEROES, 0 | 1) => disk.zero(offset, length, flags == 1)?,
                _ => return Err(Failure::Unsupported),
            }
        }
        Ok(())
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    for (to, from) in word.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    u32::from_le_bytes(word)
}

/// Discarding is advice: where the file cannot, nothing is lost.
fn discard(disk: &Disk, offset: u64, length: u64) -> Result<(), Failure> {
    match disk.discard(offset, length) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        done => Ok(done?),
    }
}

fn writable(disk: &Disk) -> Result<(), Failure> {
    if disk.is_readonly() { Err(Failure::Guest("the disk is read-only")) } else { Ok(()) }
}

fn not_too_large(bytes: usize) -> Result<usize, Failure> {
    if bytes > LARGEST { Err(Failure::Guest("more than a request may carry")) } else { Ok(bytes) }
}

/// The offset of a range of the disk, if all of it is there.
fn within(disk: &Disk, sector: u64, bytes: usize) -> Result<u64, Failure> {
    let bytes = bytes as u64;
    if !bytes.is_multiple_of(SECTOR) {
        return Err(Failure::Guest("no whole sectors"));
    }
    match sector.checked_add(bytes / SECTOR) {
        Some(end) if end <= disk.sectors() => Ok(sector * SECTOR),
        _ => Err(Failure::Guest("beyond the end of the disk")),
    }
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
