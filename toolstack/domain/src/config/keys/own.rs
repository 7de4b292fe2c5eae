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
    k("cpu_model", Text, "", "the backend's", "the processor that the guest sees: a model of QEMU, or host or baseline where backend is kvm"),
    k("exec", Text, "path", "the profile's", "the program to run instead of the profile's; device_model_override by another name"),
    k("description", Text, "one line", "none", "what the domain is, for people: shown in lists"),
    k("emulator_config", Text, "path", "none", "the configuration file of the emulator itself, for backend=\"charon\" and for profiles that name one"),
    k("prestart", Text, "path", "none", "a script that is run before each start; where it fails the domain is not started"),
    k("stop_script", Text, "path", "the common script of the host, if there is one", "the script that shuts the guest of an emulator without a power button down"),
    k("guest_status_script", Text, "path", "none", "a script that says whether the guest's system is up; kxl vm list shows what it answers within 5 s"),
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
    k("requires", TextOrList, "names of domains", "none", "as after, and this one is not started where one of them did not come up"),
    k("stop_command", List, "", "none", "a program and its arguments that shut the guest down where there is no power button to press; run by host save and host shutdown"),
    k("clock_after_restore", Text, "leave or host", "leave", "the guest's clock after a restore or resume: it goes on from the moment of the save, or is set to the host's where the backend has a way"),
    k("startsecs", Number, "s", "10", "how long the domain has to stay up to count as started; 0 is at once"),
    k("startretries", Number, "", "3", "how many more tries follow a failed start"),
    k("autorestart", Text, "never, unexpected or always", "\"unexpected\"", "which ends of a domain that was up are followed by another start; false is never, true is always"),
    k("exitcodes", TextOrList, "numbers from 0 to 255", "0", "the exit codes that are expected"),
    k("managed_start", Flag, "", "0", "the domain is starting until its guest says that it has started"),
    k("start_timeout", Number, "s", "none; 300 with managed_start", "how long a start may take before it has failed"),
    k("progress_interval", Number, "s", "60", "how long a guest in a maintenance start may be silent before it counts as hung, 1 to 60"),
    k("stopwaitsecs", Number, "s", "10", "how long kxl stop waits before it takes the power away"),
    k("stopsignal", Text, "name or number", "the profile's", "the signal that asks the program to end, for backends that ask by signal"),
    k("guest_events", Text, "none, port or console", "\"none\"", "how the guest talks to the host; with managed_start it is port or console, as the backend has it"),
    k("user", Text, "name or number", "who starts it; for QEMU and kvm, emulator_user of kxl.conf", "the user that the domain's program runs as, if root starts it"),
    k("nice", Number, "", "0", "the nice value of the domain's program, \"-20\" to 19"),
    k("rlimits", TextOrList, "NAME=SOFT[:HARD]", "as of kxl itself", "limits of the kernel on the program, such as nofile=1024, core=0, as=512M"),
    k("oom_protect", Number, "", "0", "adjusts the score by which the kernel picks what to kill when memory runs out, \"-1000\" (never) to 1000"),
    k("capabilities", TextOrList, "names of capabilities", "none", "what the program of user= keeps of root's capabilities"),
    k("umask", Text, "octal digits", "022", "the file mode bits that the program's new files do not get"),
    k("directory", Text, "path", "/", "the directory that the program runs in"),
    k("environment", List, "NAME=value", "[]", "more entries for the environment of the program"),
    k("stdin", Text, "path or none", "the console", "what the program reads from"),
    k("stdout", Text, "path or none", "the console", "where the program's standard output goes"),
    k("stderr", Text, "path, none or stdout", "the console", "where the program's standard error goes"),
    k("stdout_maxbytes", Text, "size", "10M", "the size at which the file of stdout is rotated; 0 is never"),
    k("stderr_maxbytes", Text, "size", "10M", "the size at which the file of stderr is rotated; 0 is never"),
    k("stdout_backups", Number, "", "4", "how many rotated files of stdout are kept"),
    k("stderr_backups", Number, "", "4", "how many rotated files of stderr are kept"),
];
