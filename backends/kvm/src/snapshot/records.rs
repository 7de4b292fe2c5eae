//! The records that a machine's state is written down in.
//!
//! A head of 16 bytes (magic, version, zero), then records: tag u16, mandatory u8, length u32, and
//! so many bytes of bincode (fixed-width integers); all little-endian. Unknown records that are not
//! mandatory are passed over, mandatory ones refused: so a later version can add to both. This
//! version and the one before it are read.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};
use thiserror::Error;

use crate::devices::{cmos, power, serial};
use crate::machine::{board, engine, slots, vm};
use crate::vcpu;

/// The version that is written.
pub const VERSION: u32 = 1;
/// The oldest that is read: the one before it, of which there is none yet.
pub const OLDEST: u32 = 1;

const MAGIC: [u8; 8] = *b"kxl-vmm\n";
const HEAD: usize = 16;
const RECORD_HEAD: usize = 7;
/// Bytes that one record may have: a processor's is about 10 KiB.
const LONGEST: usize = 1 << 20;

const MACHINE: u16 = 1;
const VM: u16 = 2;
/// The record of a processor.
pub(crate) const VCPU: u16 = 3;
const POWER: u16 = 4;
const CMOS: u16 = 5;
const COM1: u16 = 6;
const SLOT: u16 = 7;

type Plain = Configuration<LittleEndian, Fixint, Limit<LONGEST>>;
const fn plain() -> Plain {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<LONGEST>()
}

/// Why records are not understood.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// Something else, or cut off.
    #[error("these are no state records of kxl-vmm")]
    Magic,
    /// Too new or too old.
    #[error("state records of version {0}; this kxl-vmm reads {OLDEST} to {VERSION}")]
    Version(u32),
    /// It ends too early.
    #[error("the state records end in the middle of one")]
    Cut,
    /// A record that has to be understood.
    #[error(
        "state record {0} is unknown here and may not be passed over: a newer kxl-vmm reads it"
    )]
    Unknown(u16),
    /// One that does not decode.
    #[error("state record {0} is damaged")]
    Damaged(u16),
    /// One that there is only one of.
    #[error("state record {0} is there twice")]
    Twice(u16),
    /// One that has to be there.
    #[error("state record {0} is missing")]
    Missing(u16),
}

/// Everything of a machine but its memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// Bytes of its memory.
    pub memory: u64,
    /// KVM's part and the processors.
    pub engine: engine::State,
    /// The devices.
    pub board: board::State,
}

#[derive(Encode, Decode)]
struct Machine {
    memory: u64,
    vcpus: u32,
}

/// Writes a state down.
#[must_use]
pub fn encode(saved: &Saved) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 << 10);
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend(0u32.to_le_bytes());
    let vcpus = u32::try_from(saved.engine.vcpus.len()).unwrap_or(u32::MAX);
    put(&mut out, MACHINE, &Machine { memory: saved.memory, vcpus });
    put(&mut out, VM, &saved.engine.vm);
    for vcpu in &saved.engine.vcpus {
        put(&mut out, VCPU, vcpu);
    }
    put(&mut out, POWER, &saved.board.power);
    put(&mut out, CMOS, &saved.board.cmos);
    if let Some(com1) = &saved.board.com1 {
        put(&mut out, COM1, com1);
    }
    for slot in &saved.board.slots {
        put(&mut out, SLOT, slot);
    }
    out
}

/// Every record of this version is mandatory: none of them can be left away.
fn put<T: Encode>(out: &mut Vec<u8>, tag: u16, record: &T) {
    // The records are plain values of bounded size, which the encoder always takes.
    let payload = bincode::encode_to_vec(record, plain()).unwrap_or_default();
    out.extend(tag.to_le_bytes());
    out.push(1);
    out.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(payload);
}

/// What was found so far.
#[derive(Default)]
struct Found {
    machine: Option<Machine>,
    vm: Option<vm::State>,
    vcpus: Vec<vcpu::State>,
    power: Option<power::State>,
    cmos: Option<cmos::State>,
    com1: Option<serial::State>,
    slots: Vec<slots::State>,
}

/// Reads a state.
///
/// # Errors
/// Any [`RecordError`].
pub fn decode(bytes: &[u8]) -> Result<Saved, RecordError> {
    let (head, mut rest) = bytes.split_at_checked(HEAD).ok_or(RecordError::Magic)?;
    if head[..8] != MAGIC {
        return Err(RecordError::Magic);
    }
    let version = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(RecordError::Version(version));
    }
    let mut found = Found::default();
    while !rest.is_empty() {
        let (head, behind) = rest.split_at_checked(RECORD_HEAD).ok_or(RecordError::Cut)?;
        let tag = u16::from_le_bytes([head[0], head[1]]);
        let length = u32::from_le_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let (payload, behind) = behind.split_at_checked(length).ok_or(RecordError::Cut)?;
        found.take(tag, head[2] != 0, payload)?;
        rest = behind;
    }
    found.whole()
}

fn get<T: Decode<()>>(tag: u16, payload: &[u8]) -> Result<T, RecordError> {
    let damaged = RecordError::Damaged(tag);
    match bincode::decode_from_slice(payload, plain()) {
        Ok((value, used)) if used == payload.len() => Ok(value),
        _ => Err(damaged),
    }
}

fn once<T: Decode<()>>(place: &mut Option<T>, tag: u16, payload: &[u8]) -> Result<(), RecordError> {
    match place.replace(get(tag, payload)?) {
        None => Ok(()),
        Some(_) => Err(RecordError::Twice(tag)),
    }
}

impl Found {
    fn take(&mut self, tag: u16, mandatory: bool, payload: &[u8]) -> Result<(), RecordError> {
        match tag {
            MACHINE => once(&mut self.machine, tag, payload)?,
            VM => once(&mut self.vm, tag, payload)?,
            VCPU => self.vcpus.push(get(tag, payload)?),
            POWER => once(&mut self.power, tag, payload)?,
            CMOS => once(&mut self.cmos, tag, payload)?,
            COM1 => once(&mut self.com1, tag, payload)?,
            SLOT => self.slots.push(get(tag, payload)?),
            _ if mandatory => return Err(RecordError::Unknown(tag)),
            _ => {}
        }
        Ok(())
    }

    fn whole(self) -> Result<Saved, RecordError> {
        let machine = self.machine.ok_or(RecordError::Missing(MACHINE))?;
        if self.vcpus.len() != machine.vcpus as usize {
            return Err(RecordError::Missing(VCPU));
        }
        let in_order = self.slots.iter().zip(0u32..).all(|(slot, number)| slot.slot == number);
        if !in_order {
            return Err(RecordError::Damaged(SLOT));
        }
        let vm = self.vm.ok_or(RecordError::Missing(VM))?;
        Ok(Saved {
            memory: machine.memory,
            engine: engine::State { vm, vcpus: self.vcpus },
            board: board::State {
                com1: self.com1,
                power: self.power.ok_or(RecordError::Missing(POWER))?,
                cmos: self.cmos.ok_or(RecordError::Missing(CMOS))?,
                slots: self.slots,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn saved() -> Saved {
        let vcpu = vcpu::State { regs: vec![7; 144], msrs: vec![(16, 5)], ..Default::default() };
        Saved {
            memory: 128 << 20,
            engine: engine::State {
                vm: vm::State { clock_ns: 9, ..Default::default() },
                vcpus: vec![vcpu.clone(), vcpu],
            },
            board: board::State {
                com1: Some(serial::State { input: b"ls".to_vec(), ..Default::default() }),
                power: power::State::default(),
                cmos: cmos::State::default(),
                slots: Vec::new(),
            },
        }
    }

    fn record(tag: u16, mandatory: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = tag.to_le_bytes().to_vec();
        bytes.push(mandatory);
        bytes.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(decode(&encode(&saved())), Ok(saved()));
    }

    #[test]
    fn later_records_are_passed_over_unless_they_are_mandatory() {
        let mut bytes = encode(&saved());
        bytes.extend(record(900, 0, b"something new"));
        assert_eq!(decode(&bytes), Ok(saved()));
        bytes.extend(record(901, 1, b"something needed"));
        assert_eq!(decode(&bytes), Err(RecordError::Unknown(901)));
    }

    #[test]
    fn other_versions_and_other_files_are_refused_by_name() {
        let mut bytes = encode(&saved());
        bytes[8] = 2;
        assert_eq!(decode(&bytes), Err(RecordError::Version(2)));
        assert_eq!(decode(b"QEVM\0\0\0\x03 and more of it"), Err(RecordError::Magic));
        assert_eq!(decode(b""), Err(RecordError::Magic));
    }

    #[test]
    fn each_record_has_its_number_for_good() {
        assert_eq!([MACHINE, VM, VCPU, POWER, CMOS, COM1, SLOT], [1, 2, 3, 4, 5, 6, 7]);
        // Bytes of the first version, for as long as it is read.
        let bytes = encode(&saved());
        assert_eq!(&bytes[..16], b"kxl-vmm\n\x01\0\0\0\0\0\0\0");
        assert_eq!(&bytes[16..35], b"\x01\0\x01\x0c\0\0\0\0\0\0\x08\0\0\0\0\x02\0\0\0");
    }

    #[test]
    fn a_state_of_the_first_version_is_read_for_as_long_as_it_is_supported() {
        // Of a machine with one processor, 256 MiB and a serial line, written by the first version.
        let fixture = include_bytes!("../../../../tests/fuzz/corpus/vmm_state/records-v1");
        let saved = decode(&fixture[1..]).unwrap();
        assert_eq!((saved.memory, saved.engine.vcpus.len()), (256 << 20, 1));
        assert!(saved.board.com1.is_some() && saved.board.slots.is_empty());
        assert_eq!(encode(&saved), fixture[1..]);
    }

    proptest! {
        #[test]
        fn a_damaged_state_is_refused_or_read_and_never_more(
            at in 0usize..2000, bit in 0u8..8, cut in 0usize..2000,
        ) {
            let mut bytes = encode(&saved());
            let length = bytes.len();
            bytes[at % length] ^= 1 << bit;
            let _refused = decode(&bytes);
            let _refused = decode(&bytes[..cut % length]);
        }
    }
}
