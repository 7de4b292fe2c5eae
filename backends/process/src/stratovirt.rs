//! Machines described in StratoVirt's JSON keys, as domains.
//!
//! kxl-vmm reads such a file and says what it comes to, mistakes with their place included; here that
//! becomes a configuration.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kxl_backend::{BackendError, Result};
use kxl_domain::config::disk;
use kxl_domain::config::model::{DomainConfig, Nic};
use kxl_domain::{DomainName, DomainUuid};
use serde::Deserialize;

use crate::qemu::kvm;

/// A file as a domain.
#[derive(Clone, Debug)]
pub struct Translated {
    /// The domain.
    pub config: DomainConfig,
    /// What has become of what a domain does not have, one line each.
    pub notes: Vec<String>,
}

/// What kxl-vmm says of a file.
#[derive(Debug, Deserialize)]
struct Described {
    name: Option<String>,
    uuid: Option<String>,
    memory_mib: u64,
    vcpus: u32,
    cpu: String,
    masks: usize,
    kernel: Option<Place>,
    initrd: Option<Place>,
    cmdline: Option<String>,
    disks: Vec<DescribedDisk>,
    nics: Vec<DescribedNic>,
    serial: String,
    console: String,
    channel: Option<serde_json::Value>,
    memory_file: Option<serde_json::Value>,
    hotplug: Hotplug,
    notes: Vec<String>,
}

/// A file or a tap: by name, or a descriptor that nobody can hand over here.
#[derive(Debug, Deserialize)]
struct Place {
    #[serde(alias = "name")]
    path: Option<String>,
}

#[derive(Debug, Deserialize)]
struct DescribedDisk {
    id: String,
    image: Place,
    readonly: bool,
    serial: Option<String>,
}

#[derive(Debug, Deserialize)]
struct DescribedNic {
    id: String,
    tap: Place,
    mac: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Hotplug {
    nics: usize,
    disks: usize,
}

/// Reads a file. A domain whose file names none is called after the file.
///
/// # Errors
/// [`BackendError::Missing`] without kxl-vmm, [`BackendError::Launch`] with what it says of a file
/// that is wrong, [`BackendError::Config`] for what no domain can have.
pub fn translate(file: &Path) -> Result<Translated> {
    let program = kvm::installed()?;
    let failed = |why: String| BackendError::Launch { program: program.display().to_string(), why };
    let mut named = OsString::from("-config=");
    named.push(file);
    let output = Command::new(&program)
        .arg("-describe")
        .arg(named)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim();
        return Err(failed(said.strip_prefix("kxl-vmm: ").unwrap_or(said).to_owned()));
    }
    let described: Described = serde_json::from_slice(&output.stdout)
        .map_err(|error| failed(format!("its description is not understood: {error}")))?;
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    domain(described, &stem.unwrap_or_default(), &bridge)
}

/// The bridge that an interface of this host is in.
fn bridge(tap: &str) -> Option<String> {
    let master = std::fs::read_link(format!("/sys/class/net/{tap}/master")).ok()?;
    Some(master.file_name()?.to_string_lossy().into_owned())
}

fn domain(
    described: Described,
    stem: &str,
    bridge: &dyn Fn(&str) -> Option<String>,
) -> Result<Translated> {
    let mut notes = described.notes.clone();
    left_out(&described, &mut notes);
    let name = described.name.as_deref().unwrap_or(stem);
    let name: DomainName =
        name.parse().map_err(|error| BackendError::config("name", format!("{error}")))?;
    let mut config = DomainConfig::new(name);
    config.uuid = match &described.uuid {
        Some(uuid) => {
            let parsed: Result<DomainUuid, _> = uuid.parse();
            Some(parsed.map_err(|error| BackendError::config("uuid", format!("{error}")))?)
        }
        None => None,
    };
    (config.memory_mib, config.maxmem_mib) = (described.memory_mib, described.memory_mib);
    (config.vcpus, config.maxvcpus) = (described.vcpus, described.vcpus);
    config.processor.model = Some(described.cpu.clone()).filter(|model| model != "host");
    config.boot.kernel = path("kernel", described.kernel.as_ref())?;
    config.boot.ramdisk = path("ramdisk", described.initrd.as_ref())?;
    config.boot.cmdline = described.cmdline.filter(|text| !text.is_empty());
    for (index, described) in described.disks.iter().enumerate() {
        config.disks.push(disk_of(described, index, &mut notes)?);
    }
    for described in &described.nics {
        config.nics.push(nic_of(described, bridge)?);
    }
    config.backend = match unfit(&config) {
        None => "kvm".to_owned(),
        Some(why) => {
            notes.push(format!("the domain runs with QEMU: {why}"));
            "qemu".to_owned()
        }
    };
    Ok(Translated { config, notes })
}

/// Why the domain is one for QEMU, where it is.
fn unfit(config: &DomainConfig) -> Option<String> {
    let lack = kvm::lack(config).map(|lack| lack.why);
    lack.or_else(kvm::unfit)
}

/// What a domain has in another way, or not at all.
fn left_out(described: &Described, notes: &mut Vec<String>) {
    let mut note = |text: &str| notes.push(text.to_owned());
    if described.console != "none" {
        note("console: left out; a domain's console is its serial port, see kxl console");
    }
    if !matches!(described.serial.as_str(), "none" | "null" | "stdio") {
        note("serial: left out; the domain's serial port is its console, see kxl console");
    }
    if described.channel.is_some() {
        note("channel: left out; domains have none yet");
    }
    if described.memory_file.is_some() {
        note("mem_path: left out; a domain's memory is its own");
    }
    if described.hotplug.nics > 0 || described.hotplug.disks > 0 {
        note("hotplug: left out; domains have their devices from the start");
    }
    if described.masks > 0 {
        note("cpu: its masks are left out; cpuid= of the domain has names for features");
    }
}

fn path(key: &'static str, place: Option<&Place>) -> Result<Option<PathBuf>> {
    match place {
        None => Ok(None),
        Some(Place { path: Some(path) }) => Ok(Some(PathBuf::from(path))),
        Some(Place { path: None }) => Err(by_descriptor(key)),
    }
}

fn by_descriptor(key: &'static str) -> BackendError {
    BackendError::config(key, "a domain takes no descriptors: name the file or the tap")
}

fn disk_of(
    described: &DescribedDisk,
    index: usize,
    notes: &mut Vec<String>,
) -> Result<kxl_domain::config::model::Disk> {
    let target = described.image.path.as_ref().ok_or_else(|| by_descriptor("disk"))?;
    let letter = u8::try_from(index).ok().filter(|index| *index < 26).map(|index| b'a' + index);
    let letter = letter.map(char::from).ok_or_else(|| {
        BackendError::config("disk", format!("disk {index}: a domain has at most 26 of these"))
    })?;
    if described.serial.is_some() {
        let id = &described.id;
        notes.push(format!("drive {id:?}: serial_num is left out; the guest reads xvd{letter}"));
    }
    let access = if described.readonly { "ro" } else { "rw" };
    let pieces = [
        "format=raw".to_owned(),
        format!("vdev=xvd{letter}"),
        format!("access={access}"),
        format!("target={target}"),
    ];
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    disk::parse(&pieces).map_err(|errors| {
        let why: Vec<_> = errors.iter().map(|error| format!("{error:?}")).collect();
        BackendError::config("disk", format!("{target}: {}", why.join("; ")))
    })
}

fn nic_of(described: &DescribedNic, bridge: &dyn Fn(&str) -> Option<String>) -> Result<Nic> {
    let tap = described.tap.path.as_ref().ok_or_else(|| by_descriptor("vif"))?;
    let mac = described.mac.as_ref().map(|text| {
        let bytes: Option<Vec<u8>> =
            text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
            let id = &described.id;
            BackendError::config("vif", format!("{id}: {text:?} is no hardware address"))
        })
    });
    let mac = mac.transpose()?;
    Ok(Nic { mac, vifname: Some(tap.clone()), bridge: bridge(tap), ..Nic::default() })
}

#[cfg(test)]
mod tests {
    use kxl_domain::config::model::DiskFormat;
    use serde_json::{Value, json};

    use super::*;

    /// What kxl-vmm says of a plain machine.
    fn described() -> Value {
        json!({
            "name": null, "uuid": null, "memory_mib": 256, "vcpus": 2, "cpu": "host", "masks": 0,
            "kernel": {"path": "/k"}, "initrd": null, "cmdline": "console=ttyS0",
            "disks": [{"id": "rootfs", "image": {"path": "/d/a,b"}, "readonly": true,
                       "serial": null}],
            "nics": [{"id": "lan", "tap": {"name": "tap0"}, "mac": "00:16:3e:00:00:01",
                      "vhost": "auto"}],
            "serial": "stdio", "console": "none", "channel": null, "rng": true, "balloon": true,
            "memory_file": null, "hotplug": {"nics": 0, "disks": 0, "dirs": []}, "notes": [],
        })
    }

    fn translated(described: &Value) -> Result<Translated> {
        let described = serde_json::from_value(described.clone()).unwrap();
        domain(described, "web", &|tap| (tap == "tap0").then(|| "br0".to_owned()))
    }

    #[test]
    fn a_described_machine_becomes_a_domain_that_prints_and_parses() {
        let found = translated(&described()).unwrap();
        let config = &found.config;
        assert_eq!(config.name.as_str(), "web", "called after its file");
        assert_eq!((config.memory_mib, config.vcpus), (256, 2));
        assert_eq!(config.boot.cmdline.as_deref(), Some("console=ttyS0"));
        let disk = &config.disks[0];
        assert_eq!(
            (disk.vdev.as_str(), disk.readwrite, disk.format),
            ("xvda", false, DiskFormat::Raw)
        );
        assert_eq!(disk.target.as_deref(), Some(Path::new("/d/a,b")));
        let nic = &config.nics[0];
        assert_eq!((nic.vifname.as_deref(), nic.bridge.as_deref()), (Some("tap0"), Some("br0")));
        assert_eq!(nic.mac, Some([0, 0x16, 0x3e, 0, 0, 1]));
        let again = kxl_domain::config::parse("x", &config.to_cfg(), &[]).unwrap();
        assert_eq!(&again.config, config);
    }

    #[test]
    fn it_is_one_for_qemu_where_this_host_has_no_kvm_and_says_why() {
        let found = translated(&described()).unwrap();
        match kvm::unfit() {
            None => assert_eq!((found.config.backend.as_str(), found.notes.len()), ("kvm", 0)),
            Some(why) => {
                assert_eq!(found.config.backend, "qemu");
                assert_eq!(found.notes, [format!("the domain runs with QEMU: {why}")]);
            }
        }
    }

    #[test]
    fn what_a_domain_does_not_have_is_noted() {
        let mut machine = described();
        machine["console"] = "unix:/c".into();
        machine["serial"] = "file:/l".into();
        machine["channel"] = json!({"name": "x", "end": "unix:/x"});
        machine["memory_file"] = json!({"file": {"path": "/m"}, "shared": false});
        machine["hotplug"]["nics"] = 2.into();
        machine["masks"] = 1.into();
        machine["disks"][0]["serial"] = "S1".into();
        machine["notes"] = json!(["drive \"rootfs\": direct is not done, the host caches it"]);
        let notes = translated(&machine).unwrap().notes;
        for start in [
            "drive \"rootfs\": direct",
            "console:",
            "serial:",
            "channel:",
            "mem_path:",
            "hotplug:",
            "cpu:",
            "drive \"rootfs\": serial_num",
        ] {
            assert!(notes.iter().any(|note| note.starts_with(start)), "{start}: {notes:?}");
        }
    }

    #[test]
    fn descriptors_and_names_that_no_domain_can_have_are_refused() {
        let mut machine = described();
        machine["disks"][0]["image"] = json!({"fd": 5});
        let error = translated(&machine).unwrap_err().to_string();
        assert!(error.contains("disk: a domain takes no descriptors"), "{error}");
        let mut machine = described();
        machine["name"] = "a/b".into();
        let error = translated(&machine).unwrap_err().to_string();
        assert!(error.starts_with("name: "), "{error}");
    }
}
