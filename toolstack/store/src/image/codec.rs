//! The one codec of images: the manifest of format version 1, as `IMAGE-FORMAT.md` has it.
//!
//! The records have types of their own, so that a change of the vocabulary never changes what is
//! on a disk unnoticed. Reading trusts nothing: lengths are compared before anything is made of
//! them, and what does not add up is an [`ImageFault`].

use std::os::unix::ffi::{OsStrExt, OsStringExt};

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};
use kxl_domain::config::model::DiskFormat;
use kxl_domain::image::{DiskIdentity, Machine, MemoryLayout, Moment, PAGE, Purpose};
use kxl_domain::{DomId, DomainConfig, DomainName, DomainUuid, ImageId, Wanted};

use super::fault::ImageFault;
use super::{CHUNK, Digest, Facts};

/// The format that is written, and the newest that is read.
pub(super) const VERSION: u32 = 1;
/// The longest manifest that is read: enough for 16 TiB of memory.
pub(super) const LONGEST: u64 = 512 << 20;

const MAGIC: [u8; 8] = *b"kxl-img\n";
const HEAD: usize = 24;
const DIGEST: usize = 32;
/// Bytes before the payload of a record.
const RECORD_HEAD: usize = 7;
/// What one record without the table may take up in memory.
const RECORD_LIMIT: usize = 16 << 20;

const IDENTITY: u16 = 1;
const CONFIG: u16 = 2;
const MACHINE: u16 = 3;
const MOMENT: u16 = 4;
const DISKS: u16 = 5;
const DEVICE: u16 = 6;
const MEMORY: u16 = 7;
const WRITER: u16 = 8;

type Plain = Configuration<LittleEndian, Fixint, Limit<RECORD_LIMIT>>;
const fn plain() -> Plain {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<RECORD_LIMIT>()
}

/// All that is known of an image but for the bytes themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// What the engine wrote down.
    pub facts: Facts,
    /// The device stream.
    pub device: DeviceFacts,
    /// The memory block, where there is one.
    pub memory: Option<MemoryFacts>,
}

/// What is known of a device stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceFacts {
    /// Its bytes.
    pub length: u64,
    /// Their BLAKE3.
    pub digest: Digest,
}

/// What is known of a memory block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MemoryFacts {
    /// Name and size.
    pub layout: MemoryLayout,
    /// One digest for each chunk; 32 zeros for a chunk of zeros.
    pub chunks: Vec<Digest>,
}

#[derive(Encode, Decode)]
struct IdentityRecord {
    id: [u8; 16],
    purpose: String,
    created_ms: i64,
    uuid: [u8; 16],
    name: String,
    domid: Option<u32>,
    managed: bool,
    wanted: String,
}

#[derive(Encode, Decode)]
struct MachineRecord {
    backend: String,
    emulator: String,
    version: String,
    machine: String,
    cpu: String,
    features: Vec<String>,
    accel: String,
    devices: Vec<String>,
    notes: Vec<(String, String)>,
}

#[derive(Encode, Decode)]
struct MomentRecord {
    stopped_ms: i64,
    running: bool,
}

#[derive(Encode, Decode)]
struct DiskRecord {
    vdev: String,
    path: Vec<u8>,
    format: String,
    writable: bool,
    size: u64,
    mtime_ns: Option<i64>,
    header: [u8; 32],
    snapshot: Option<String>,
}

#[derive(Encode, Decode)]
struct DeviceRecord {
    length: u64,
    digest: [u8; 32],
}

#[derive(Encode, Decode)]
struct MemoryRecord {
    id: String,
    size: u64,
    chunk: u64,
}

/// Writes a manifest down.
///
/// # Errors
/// `Malformed` for a configuration that is no JSON, which does not happen to one that was parsed,
/// and for facts beyond what a manifest may hold.
pub(super) fn encode(manifest: &Manifest) -> Result<Vec<u8>, ImageFault> {
    let facts = &manifest.facts;
    let mut records = Records::default();
    records.put(IDENTITY, true, &identity(facts))?;
    let config = serde_json::to_string(&facts.config)
        .map_err(|error| ImageFault::Malformed(format!("the configuration: {error}")))?;
    records.put(CONFIG, true, &config)?;
    records.put(MACHINE, true, &machine(&facts.machine))?;
    let Moment { stopped_ms, running } = facts.moment;
    records.put(MOMENT, true, &MomentRecord { stopped_ms, running })?;
    records.put(DISKS, true, &facts.disks.iter().map(disk).collect::<Vec<_>>())?;
    let DeviceFacts { length, digest } = manifest.device;
    records.put(DEVICE, true, &DeviceRecord { length, digest })?;
    if let Some(memory) = &manifest.memory {
        let MemoryLayout { id, size } = &memory.layout;
        let record = MemoryRecord { id: id.clone(), size: *size, chunk: CHUNK };
        let mut payload = to_bytes(&record)?;
        payload.extend_from_slice(memory.chunks.as_flattened());
        records.push(MEMORY, true, &payload)?;
    }
    records.put(WRITER, false, &concat!("kxl ", env!("CARGO_PKG_VERSION")).to_owned())?;
    Ok(records.seal())
}

#[derive(Default)]
struct Records {
    bytes: Vec<u8>,
    count: u32,
}

impl Records {
    fn put(&mut self, tag: u16, mandatory: bool, record: &impl Encode) -> Result<(), ImageFault> {
        self.push(tag, mandatory, &to_bytes(record)?)
    }

    fn push(&mut self, tag: u16, mandatory: bool, payload: &[u8]) -> Result<(), ImageFault> {
        let length = u32::try_from(payload.len())
            .map_err(|_| ImageFault::Malformed(format!("record {tag} is too long to be kept")))?;
        if self.bytes.is_empty() {
            self.bytes.resize(HEAD, 0);
        }
        self.bytes.extend_from_slice(&tag.to_le_bytes());
        self.bytes.push(u8::from(mandatory));
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(payload);
        self.count += 1;
        Ok(())
    }

    fn seal(mut self) -> Vec<u8> {
        let length = (self.bytes.len() + DIGEST) as u64;
        self.bytes[..8].copy_from_slice(&MAGIC);
        self.bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        self.bytes[12..16].copy_from_slice(&self.count.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&length.to_le_bytes());
        let digest = blake3::hash(&self.bytes);
        self.bytes.extend_from_slice(digest.as_bytes());
        self.bytes
    }
}

fn to_bytes(record: &impl Encode) -> Result<Vec<u8>, ImageFault> {
    // What would not be read again is not written.
    let bytes = bincode::encode_to_vec(record, plain())
        .map_err(|error| ImageFault::Malformed(error.to_string()))?;
    if bytes.len() > RECORD_LIMIT / 4 {
        return Err(ImageFault::Malformed("the facts are too long to be kept".into()));
    }
    Ok(bytes)
}

/// Reads a manifest.
///
/// # Errors
/// See [`ImageFault`]: everything but `ByteOrder`, `MandatoryFlags`, `Xen` and `Chunk`.
pub(super) fn decode(bytes: &[u8]) -> Result<Manifest, ImageFault> {
    let body = body(bytes)?;
    let mut found = Found::default();
    let mut rest = &body[HEAD..];
    let mut last = 0;
    for _ in 0..u32::from_le_bytes(array(&body[12..16])) {
        let (head, after) = split(rest, RECORD_HEAD)?;
        let tag = u16::from_le_bytes(array(&head[..2]));
        let length = u32::from_le_bytes(array(&head[3..7])) as usize;
        let (payload, after) = split(after, length)?;
        if tag <= last {
            return malformed(format!("record {tag} after record {last}"));
        }
        if !found.take(tag, payload)? && head[2] != 0 {
            return Err(ImageFault::UnknownRecord(tag));
        }
        (rest, last) = (after, tag);
    }
    if !rest.is_empty() {
        return malformed("bytes after the last record");
    }
    found.manifest()
}

/// The manifest without its digest, which was right.
fn body(bytes: &[u8]) -> Result<&[u8], ImageFault> {
    if bytes.len() < HEAD + DIGEST {
        return Err(ImageFault::Truncated("the manifest"));
    }
    if bytes[..8] != MAGIC {
        return Err(ImageFault::Digest("the manifest"));
    }
    let version = u32::from_le_bytes(array(&bytes[8..12]));
    let length = u64::from_le_bytes(array(&bytes[16..24]));
    if (bytes.len() as u64) < length {
        return Err(ImageFault::Truncated("the manifest"));
    }
    let (body, digest) = bytes.split_at(bytes.len() - DIGEST);
    if bytes.len() as u64 != length || digest != blake3::hash(body).as_bytes() {
        return Err(ImageFault::Digest("the manifest"));
    }
    if version != VERSION {
        return Err(ImageFault::NewerVersion { found: version, known: VERSION });
    }
    Ok(body)
}

#[derive(Default)]
struct Found {
    identity: Option<IdentityRecord>,
    config: Option<DomainConfig>,
    machine: Option<MachineRecord>,
    moment: Option<MomentRecord>,
    disks: Option<Vec<DiskRecord>>,
    device: Option<DeviceRecord>,
    memory: Option<MemoryFacts>,
}

impl Found {
    /// Reads a record; `false` for one that is not known.
    fn take(&mut self, tag: u16, payload: &[u8]) -> Result<bool, ImageFault> {
        match tag {
            IDENTITY => self.identity = Some(whole(payload)?),
            CONFIG => {
                let text: String = whole(payload)?;
                let config = serde_json::from_str(&text);
                let fault = |error| ImageFault::Malformed(format!("the configuration: {error}"));
                self.config = Some(config.map_err(fault)?);
            }
            MACHINE => self.machine = Some(whole(payload)?),
            MOMENT => self.moment = Some(whole(payload)?),
            DISKS => self.disks = Some(whole(payload)?),
            DEVICE => self.device = Some(whole(payload)?),
            MEMORY => self.memory = Some(memory(payload)?),
            WRITER => drop(whole::<String>(payload)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn manifest(self) -> Result<Manifest, ImageFault> {
        const MISSING: ImageFault = ImageFault::Missing("manifest's mandatory records");
        let identity = self.identity.ok_or(MISSING)?;
        let config = self.config.ok_or(MISSING)?;
        let machine = self.machine.ok_or(MISSING)?;
        let moment = self.moment.ok_or(MISSING)?;
        let disks = self.disks.ok_or(MISSING)?;
        let device = self.device.ok_or(MISSING)?;
        let facts = Facts {
            id: ImageId(uuid::Uuid::from_bytes(identity.id)),
            purpose: word("purpose", &identity.purpose, Purpose::parse)?,
            created_ms: identity.created_ms,
            uuid: DomainUuid(uuid::Uuid::from_bytes(identity.uuid)),
            name: word("name", &identity.name, |text| DomainName::new(text).ok())?,
            domid: identity.domid.map(DomId),
            managed: identity.managed,
            wanted: word("wish", &identity.wanted, Wanted::parse)?,
            config,
            machine: Machine {
                backend: machine.backend,
                emulator: machine.emulator,
                version: machine.version,
                machine: machine.machine,
                cpu: machine.cpu,
                features: machine.features,
                accel: machine.accel,
                devices: machine.devices,
                notes: machine.notes.into_iter().collect(),
            },
            moment: Moment { stopped_ms: moment.stopped_ms, running: moment.running },
            disks: disks.into_iter().map(from_disk).collect::<Result<_, _>>()?,
        };
        let device = DeviceFacts { length: device.length, digest: device.digest };
        Ok(Manifest { facts, device, memory: self.memory })
    }
}

fn memory(payload: &[u8]) -> Result<MemoryFacts, ImageFault> {
    let (record, used): (MemoryRecord, usize) = from_bytes(payload)?;
    let MemoryRecord { id, size, chunk } = record;
    if chunk != CHUNK || size == 0 || !size.is_multiple_of(PAGE) {
        return malformed(format!("a memory of {size} bytes in chunks of {chunk}"));
    }
    let (chunks, rest) = payload[used..].as_chunks::<DIGEST>();
    if chunks.len() as u64 != size.div_ceil(CHUNK) || !rest.is_empty() {
        return malformed(format!("{} digests for a memory of {size} bytes", chunks.len()));
    }
    Ok(MemoryFacts { layout: MemoryLayout { id, size }, chunks: chunks.to_vec() })
}

fn identity(facts: &Facts) -> IdentityRecord {
    IdentityRecord {
        id: *facts.id.0.as_bytes(),
        purpose: facts.purpose.to_string(),
        created_ms: facts.created_ms,
        uuid: *facts.uuid.0.as_bytes(),
        name: facts.name.to_string(),
        domid: facts.domid.map(|domid| domid.0),
        managed: facts.managed,
        wanted: facts.wanted.to_string(),
    }
}

fn machine(machine: &Machine) -> MachineRecord {
    let machine = machine.clone();
    MachineRecord {
        backend: machine.backend,
        emulator: machine.emulator,
        version: machine.version,
        machine: machine.machine,
        cpu: machine.cpu,
        features: machine.features,
        accel: machine.accel,
        devices: machine.devices,
        notes: machine.notes.into_iter().collect(),
    }
}

fn disk(disk: &DiskIdentity) -> DiskRecord {
    DiskRecord {
        vdev: disk.vdev.clone(),
        path: disk.path.as_os_str().as_bytes().to_vec(),
        format: disk.format.to_string(),
        writable: disk.writable,
        size: disk.size,
        mtime_ns: disk.mtime_ns,
        header: disk.header,
        snapshot: disk.snapshot.clone(),
    }
}

fn from_disk(disk: DiskRecord) -> Result<DiskIdentity, ImageFault> {
    Ok(DiskIdentity {
        vdev: disk.vdev,
        path: std::ffi::OsString::from_vec(disk.path).into(),
        format: word("disk format", &disk.format, DiskFormat::parse)?,
        writable: disk.writable,
        size: disk.size,
        mtime_ns: disk.mtime_ns,
        header: disk.header,
        snapshot: disk.snapshot,
    })
}

fn word<T>(what: &str, text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, ImageFault> {
    parse(text).ok_or_else(|| ImageFault::Malformed(format!("its {what} is {text:?}")))
}

/// A record that is the whole payload.
fn whole<T: Decode<()>>(payload: &[u8]) -> Result<T, ImageFault> {
    let (record, used) = from_bytes(payload)?;
    if used == payload.len() { Ok(record) } else { malformed("bytes after a record's fields") }
}

fn from_bytes<T: Decode<()>>(payload: &[u8]) -> Result<(T, usize), ImageFault> {
    bincode::decode_from_slice(payload, plain())
        .map_err(|error| ImageFault::Malformed(format!("a record cannot be read: {error}")))
}

fn split(bytes: &[u8], at: usize) -> Result<(&[u8], &[u8]), ImageFault> {
    bytes
        .split_at_checked(at)
        .ok_or_else(|| ImageFault::Malformed("a record is longer than the manifest".into()))
}

/// The bytes of a number; the slice was cut to its length.
pub(super) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

fn malformed<T>(problem: impl Into<String>) -> Result<T, ImageFault> {
    Err(ImageFault::Malformed(problem.into()))
}
