//! kxl's own keys.

use super::Section::Own as S;
use super::Type::{Flag, List, Number, Text, TextOrList};
use super::Verdict::Own;
use super::{Key, Type};

const fn k(
    name: &'static str,
    kind: Type,
    unit: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key { name, kind, unit, default, verdict: Own, section: S, meaning }
}

#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    k("backend", Text, "auto, qemu, kvm, mock or a profile's name", "\"auto\"", "which program runs the domain; auto is kvm where it fits the host and the configuration, else qemu with the best accelerator"),
    k("arch", Text, "x86_64 or aarch64", "the host's", "the guest's processor architecture"),
    k("machine", Text, "", "the backend's", "the emulated machine: a machine type of QEMU, or the name of a simulator"),
    k("exec", Text, "path", "the profile's", "the program to run instead of the profile's; device_model_override by another name"),
    k("ini", Text, "path", "none", "the commands that set a simulated machine up, ending before go"),
    k("start", Text, "", "none", "what follows go: the address a simulated machine starts at"),
    k("limit_memory", Number, "MiB", "none", "most memory that the emulator process may use, the guest's included"),
    k("limit_pids", Number, "", "none", "most threads and processes the emulator may have"),
    k("limit_nofile", Number, "", "none", "most files the emulator may hold open"),
    k("console_log", Number, "KiB", "1024", "size at which the console's log is rotated; 0 keeps no log"),
    k("console_keep", Number, "", "4", "how many rotated console logs are kept"),
    k("console_pace", Number, "ms", "the profile's", "time between two bytes typed into the console, for guests that lose faster ones"),
    k("autostart", Flag, "", "as it was registered", "whether a managed domain is started when the host starts; kxl autostart changes it later"),
    k("priority", Number, "", "500", "place among the domains of the host, 0 to 1000: lower ones are started first and stopped last"),
    k("after", TextOrList, "names of domains", "none", "the domains that are started before this one, and stopped after it"),
    k("stop_command", List, "", "none", "a program and its arguments that shut the guest down where there is no power button to press; run by host save and host shutdown"),
    k("clock_after_restore", Text, "leave or host", "leave", "the guest's clock after a restore or resume: it goes on from the moment of the save, or is set to the host's where the backend has a way"),
];
