//! The commands of `xl` as data: what each takes and who carries it out.
//!
//! Names, operands and option letters are xl's interface; the descriptions are ours.

use super::{
    Session, alien, console, create, devices, info, list, managed, names, saved, shutdown,
};
use super::{trigger, uptime, vcpu_list, verbs, vm_list};

/// What happens when a command is called.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// This function carries it out and gives the exit status.
    Built(fn(&mut Session, &[String]) -> u8),
    /// Part of kxl's plan, not of this build.
    NotBuilt,
    /// Belongs to Xen itself, for this reason.
    Alien(&'static str),
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Built(_) => "Built",
            Self::NotBuilt => "NotBuilt",
            Self::Alien(_) => "Alien",
        })
    }
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    /// Its name.
    pub(crate) name: &'static str,
    /// Who carries it out.
    pub(crate) run: Run,
    /// Whether `xl -N` may be said before it.
    pub(crate) can_dry_run: bool,
    /// Whether it changes something (decides whether its usage line shows `-f`).
    pub(crate) modifies: bool,
    /// Its operands.
    pub(crate) synopsis: &'static str,
    /// What it does, without a full stop.
    pub(crate) description: &'static str,
    /// Its options, one a line.
    pub(crate) options: &'static str,
}

use Run::{Alien, Built, NotBuilt};

/// Whether a command changes something and whether it knows the dry run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    /// Only looks.
    Looks,
    /// Changes something.
    Changes,
    /// Changes something, or shows under `-N` what it would change.
    ChangesOrShows,
}

use Does::{Changes, ChangesOrShows, Looks};

const fn command(
    name: &'static str,
    run: Run,
    does: Does,
    synopsis: &'static str,
    description: &'static str,
    options: &'static str,
) -> Command {
    Command {
        name,
        run,
        can_dry_run: matches!(does, ChangesOrShows),
        modifies: !matches!(does, Looks),
        synopsis,
        description,
        options,
    }
}

const XENKBD: Run = Alien("xenkbd is a device of Xen guests");
const DISPLIF: Run = Alien("displif is a protocol of Xen guests");
const SNDIF: Run = Alien("sndif is a protocol of Xen guests");
const PSR: Run = Alien("resource monitoring and allocation are done by Xen");
const XENSTORE: Run = Alien("there is no xenstore");

const CREATE_OPTIONS: &str = "\
-h                      Print this help.
-p                      Leave the domain paused after it is created.
-c                      Connect to the console after the domain is created.
-f FILE, --defconfig=FILE
                        Use the given configuration file.
-q, --quiet             Quiet.
-n, --dryrun            Print the resulting configuration only.
-d                      Print the configuration on standard error as well.
-F                      Stay in the foreground until the domain is gone.
-e                      Do nothing when the domain ends.
-V, --vncviewer         Connect a VNC viewer (not built yet).
-A, --vncviewer-autopass
                        The same, passing the password on (not built yet).
";
const LIST_OPTIONS: &str = "\
-l, --long              Print everything, as JSON.
-v, --verbose           Print UUIDs, reasons and labels as well.
-Z, --context           Print security labels.
-c, --cpupool           Print the CPU pool.
-n, --numa              Print the NUMA node affinity.
--state=STATE           Only domains in this state, dormant managed ones too.
";
const SHUTDOWN_OPTIONS: &str = "\
-a, --all               All domains.
-h                      Print this help.
-F                      Accepted: the ACPI button is used anyway.
-w, --wait              Wait for the domain(s); twice: until they are gone.
";
const NEW_OPTIONS: &str = "\
-h                      Print this help.
-f FILE, --defconfig=FILE
                        Use the given configuration file.
-q, --quiet             Quiet.
";
const START_OPTIONS: &str = "\
-h                      Print this help.
-p, --paused            Leave the domain paused.
-c, --console_autoconnect
                        Connect to the console.
";

/// The commands that xl has, in the order of its help.
#[rustfmt::skip]
pub(crate) const UPSTREAM: &[Command] = &[
    command("create", Built(create::create), ChangesOrShows, "<ConfigFile> [options] [vars]", "Create a domain from a configuration file", CREATE_OPTIONS),
    command("config-update", NotBuilt, ChangesOrShows, "<Domain> <ConfigFile> [options] [vars]", "Replace the configuration a domain is rebooted with", ""),
    command("list", Built(list::list), Looks, "[options] [Domain]", "List all domains, or one", LIST_OPTIONS),
    command("destroy", Built(verbs::destroy), Changes, "[options] <Domain>", "Take the power away from a domain", "-f                      Asked of domain 0 it is refused all the same.\n"),
    command("shutdown", Built(shutdown::shutdown), Changes, "[options] <-a|Domain>", "Ask a domain to switch itself off", SHUTDOWN_OPTIONS),
    command("reboot", Built(shutdown::reboot), Changes, "[options] <-a|Domain>", "Ask a domain to reboot", SHUTDOWN_OPTIONS),
    command("pci-attach", NotBuilt, Changes, "<Domain> <PCI_SPEC_STRING>", "Add a PCI device to a domain", ""),
    command("pci-detach", NotBuilt, Changes, "[options] <Domain> <PCI_SPEC_STRING>", "Remove a PCI device from a domain", "-f                      Without waiting for the guest.\n"),
    command("pci-list", NotBuilt, Looks, "<Domain>", "List the PCI devices of a domain", ""),
    command("pci-assignable-add", NotBuilt, Changes, "[options] <BDF>", "Make a PCI device assignable", "-n NAME, --name=NAME    Give it a name.\n"),
    command("pci-assignable-remove", NotBuilt, Changes, "[options] <BDF>|NAME", "Make a PCI device no longer assignable", "-r                      Bind it to its old driver again.\n"),
    command("pci-assignable-list", NotBuilt, Looks, "[options]", "List the assignable PCI devices", "-n, --show-names        With their names.\n"),
    command("pause", Built(verbs::pause), Changes, "<Domain>", "Stop the virtual CPUs of a domain", ""),
    command("unpause", Built(verbs::unpause), Changes, "<Domain>", "Let a paused domain go on", ""),
    command("console", Built(console::console), Looks, "[options] <Domain>", "Attach to a domain's console", "-t <type>       pv, serial or vuart: all are the one console there is.\n-n <number>     Accepted for the same reason.\n-e <escape>     The character that leaves, ^] unless given.\n"),
    command("vncviewer", NotBuilt, Looks, "[options] <Domain>", "Attach a VNC viewer to a domain", "-a, --autopass          Pass the password on.\n--vncviewer-autopass    The same.\n"),
    command("save", Built(saved::save), Changes, "[options] <Domain> <CheckpointFile> [<ConfigFile>]", "Save the state of a domain to a file", "-h  Print this help.\n-c  Leave the domain running.\n-p  Leave the domain paused.\n-D  Keep its domain id.\n"),
    command("migrate", NotBuilt, Changes, "[options] <Domain> <host>", "Move a domain to another host", "-h              Print this help.\n-C <config>     Send this configuration.\n-s <sshcommand> Use this command instead of ssh.\n-e              Do nothing there when the domain ends.\n-p              Leave it paused there.\n-D              Keep its domain id.\n"),
    command("restore", Built(saved::restore), Changes, "[options] [<ConfigFile>] <CheckpointFile>", "Make a domain from a saved state", "-h                      Print this help.\n-p                      Leave it paused.\n-e                      Do nothing when the domain ends.\n-d                      Print the configuration on standard error as well.\n-c                      Connect to the console.\n-F                      Stay in the foreground until the domain is gone.\n-V, --vncviewer         Connect a VNC viewer (not built yet).\n-A, --vncviewer-autopass\n                        The same, passing the password on (not built yet).\n"),
    command("migrate-receive", NotBuilt, Changes, "- for internal use only", "Receive a domain from another host", ""),
    command("dump-core", NotBuilt, Changes, "<Domain> <filename>", "Dump the memory of a domain", ""),
    command("cd-insert", NotBuilt, ChangesOrShows, "<Domain> <VirtualDevice> <path>", "Put a medium into a CD-ROM drive", ""),
    command("cd-eject", NotBuilt, ChangesOrShows, "<Domain> <VirtualDevice>", "Take the medium out of a CD-ROM drive", ""),
    command("mem-max", NotBuilt, Changes, "<Domain> <MemMB>", "Set the memory limit of a domain", ""),
    command("mem-set", NotBuilt, Changes, "<Domain> <MemMB>", "Set the current memory of a domain", ""),
    command("button-press", Built(trigger::button_press), Changes, "<Domain> <power|sleep>", "Press a button of a domain's machine", ""),
    command("vcpu-list", Built(vcpu_list::vcpu_list), Looks, "[Domain, ...]", "List the virtual CPUs of all/some domains", ""),
    command("vcpu-pin", NotBuilt, ChangesOrShows, "[options] <Domain> <VCPU|all> <Hard affinity|-|all> <Soft affinity|-|all>", "Set which CPUs a virtual CPU may use", "-f, --force        Without checks.\n"),
    command("vcpu-set", NotBuilt, Changes, "[options] <Domain> <vCPUs>", "Set how many virtual CPUs are on line", "-i, --ignore-host  Also more than the host has.\n"),
    command("vm-list", Built(vm_list::vm_list), Looks, "", "List the domains with their UUIDs", ""),
    command("info", Built(info::info), Looks, "[options] [key]", "Print information about the host", "-n, --numa         With the topology.\n-x, --xenstore     With the features of xenstore.\n"),
    command("sharing", NotBuilt, Looks, "[Domain]", "Print how much memory is shared", ""),
    command("sched-credit", NotBuilt, Changes, "[-d <Domain> [-w[=WEIGHT]|-c[=CAP]]] [-s [-t TSLICE] [-r RATELIMIT] [-m MIGRDELAY]] [-p CPUPOOL]", "Get or set scheduling weight and cap", ""),
    command("sched-credit2", NotBuilt, Changes, "[-d <Domain> [-w[=WEIGHT]|-c[=CAP]]] [-s [-r RATELIMIT]] [-p CPUPOOL]", "Get or set scheduling weight and cap", ""),
    command("sched-rtds", Alien("the RTDS scheduler is Xen's"), Changes, "[-d DOMAIN [-v[=VCPUID/all]] [-p[=PERIOD]] [-b[=BUDGET]] [-e[=Extratime]]] [-c CPUPOOL]", "Get or set parameters of the RTDS scheduler", ""),
    command("domid", Built(names::domid), Looks, "<DomainName>", "Turn a domain name into a domain id", ""),
    command("domname", Built(names::domname), Looks, "<DomainId>", "Turn a domain id into a domain name", ""),
    command("rename", NotBuilt, Changes, "<Domain> <NewDomainName>", "Give a domain another name", ""),
    command("trigger", Built(trigger::trigger), Changes, "<Domain> <nmi|reset|init|power|sleep|s3resume> [<VCPU>]", "Send a trigger to a domain", ""),
    command("sysrq", NotBuilt, Changes, "<Domain> <letter>", "Send a magic SysRq key to a domain", ""),
    command("debug-keys", Alien("there is no hypervisor that takes debug keys"), Changes, "<Keys>", "Send debug keys to Xen", ""),
    command("set-parameters", Alien("there is no hypervisor with parameters to set"), Changes, "<Params>", "Set parameters of the hypervisor", ""),
    command("dmesg", NotBuilt, Looks, "[-c]", "Print the messages of the hypervisor", "-c, --clear               Clear them afterwards.\n"),
    command("top", NotBuilt, Looks, "", "Watch the domains", ""),
    command("network-attach", NotBuilt, ChangesOrShows, "<Domain> [type=<type>] [mac=<mac>] [bridge=<bridge>] [ip=<ip>] [script=<script>] [backend=<BackDomain>] [vifname=<name>] [rate=<rate>] [model=<model>] [accel=<accel>]", "Add a network interface to a domain", ""),
    command("network-list", Built(devices::network_list), Looks, "<Domain(s)>", "List the network interfaces of domains", ""),
    command("network-detach", NotBuilt, Changes, "<Domain> <DevId|mac>", "Remove a network interface from a domain", ""),
    command("channel-list", NotBuilt, Looks, "<Domain(s)>", "List the channels of domains", ""),
    command("block-attach", NotBuilt, ChangesOrShows, "<Domain> <disk-spec-component(s)>...", "Add a disk to a domain", ""),
    command("block-list", Built(devices::block_list), Looks, "<Domain(s)>", "List the disks of domains", ""),
    command("block-detach", NotBuilt, Changes, "[option] <Domain> <DevId>", "Remove a disk from a domain", "-f, --force            Without waiting for the guest.\n"),
    command("vtpm-attach", NotBuilt, ChangesOrShows, "<Domain> [uuid=<uuid>] [backend=<BackDomain>]", "Add a virtual TPM to a domain", ""),
    command("vtpm-list", NotBuilt, Looks, "<Domain(s)>", "List the virtual TPMs of domains", ""),
    command("vtpm-detach", NotBuilt, Changes, "<Domain> <DevId|uuid>", "Remove a virtual TPM from a domain", ""),
    command("vkb-attach", XENKBD, ChangesOrShows, "<Domain> <vkb-spec-component(s)>...", "Add a virtual keyboard to a domain", ""),
    command("vkb-list", XENKBD, Looks, "<Domain(s)>", "List the virtual keyboards of domains", ""),
    command("vkb-detach", XENKBD, Changes, "<Domain> <DevId>", "Remove a virtual keyboard from a domain", ""),
    command("vdispl-attach", DISPLIF, ChangesOrShows, "<Domain> [backend=<BackDomain>] [be-alloc=<BackAlloc>] [connectors='<Connectors>']", "Add a virtual display to a domain", ""),
    command("vdispl-list", DISPLIF, Looks, "<Domain(s)>", "List the virtual displays of domains", ""),
    command("vdispl-detach", DISPLIF, Changes, "<Domain> <DevId>", "Remove a virtual display from a domain", ""),
    command("vsnd-attach", SNDIF, ChangesOrShows, "<Domain> <vsnd-spec-component(s)>...", "Add a virtual sound device to a domain", ""),
    command("vsnd-list", SNDIF, Looks, "<Domain(s)>", "List the virtual sound devices of domains", ""),
    command("vsnd-detach", SNDIF, Changes, "<Domain> <DevId>", "Remove a virtual sound device from a domain", ""),
    command("uptime", Built(uptime::uptime), Looks, "[-s] [Domain ...]", "Print how long domains have been running", "-s                      Short form.\n"),
    command("claims", NotBuilt, Looks, "", "Print outstanding memory claims", ""),
    command("cpupool-create", NotBuilt, ChangesOrShows, "[options] [<ConfigFile>] [Variable=value ...]", "Create a CPU pool", "-f FILE, --defconfig=FILE      Use the given configuration file.\n-n, --dryrun                   Print the resulting configuration only.\n"),
    command("cpupool-list", NotBuilt, Looks, "[-c|--cpus] [<CPU Pool>]", "List the CPU pools", "-c, --cpus                     With their CPUs.\n"),
    command("cpupool-destroy", NotBuilt, Changes, "<CPU Pool>", "Remove a CPU pool", ""),
    command("cpupool-rename", NotBuilt, Changes, "<CPU Pool> <new name>", "Give a CPU pool another name", ""),
    command("cpupool-cpu-add", NotBuilt, Changes, "<CPU Pool> <CPU nr>|node:<node nr>", "Add CPUs to a CPU pool", ""),
    command("cpupool-cpu-remove", NotBuilt, Changes, "<CPU Pool> <CPU nr>|node:<node nr>", "Remove CPUs from a CPU pool", ""),
    command("cpupool-migrate", NotBuilt, Changes, "<Domain> <CPU Pool>", "Move a domain to another CPU pool", ""),
    command("cpupool-numa-split", NotBuilt, Changes, "", "Make one CPU pool for each NUMA node", ""),
    command("getenforce", Built(alien::getenforce), Looks, "", "Print the mode of the Xen security module", ""),
    command("setenforce", Built(alien::setenforce), Changes, "<1|0|Enforcing|Permissive>", "Set the mode of the Xen security module", ""),
    command("loadpolicy", Built(alien::loadpolicy), Changes, "<policy file>", "Load a policy into the Xen security module", ""),
    command("remus", Alien("Remus is done by Xen"), Changes, "[options] <Domain> [<host>]", "Keep a copy of a domain in step on another host", ""),
    command("devd", Built(alien::devd), Changes, "[options]", "Serve devices from a driver domain", "-F                      Stay in the foreground.\n-p, --pidfile [FILE]    Write the process id to FILE.\n"),
    command("suspend", Built(saved::suspend), Changes, "<Domain>", "Suspend a domain: a managed one to the store, another one to RAM", ""),
    command("resume", Built(saved::resume), Changes, "<Domain>", "Resume a suspended domain", "-h             Print this help.\n-p, --paused   Leave it paused.\n"),
    command("psr-hwinfo", PSR, Looks, "[options]", "Print what the CPUs offer for resource monitoring", ""),
    command("psr-cmt-attach", PSR, Changes, "<Domain>", "Attach cache monitoring to a domain", ""),
    command("psr-cmt-detach", PSR, Changes, "<Domain>", "Detach cache monitoring from a domain", ""),
    command("psr-cmt-show", PSR, Looks, "<PSR-CMT-Type> <Domain>", "Print what cache monitoring found", ""),
    command("psr-cat-set", PSR, Changes, "[options] <Domain> <CBM>", "Set the cache share of a domain", ""),
    command("psr-cat-show", PSR, Looks, "[options] <Domain>", "Print the cache share of a domain", ""),
    command("psr-mba-set", PSR, Changes, "[options] <Domain> <THRTL>", "Set the memory bandwidth of a domain", ""),
    command("psr-mba-show", PSR, Looks, "<Domain>", "Print the memory bandwidth of a domain", ""),
    command("usbctrl-attach", NotBuilt, Changes, "<Domain> [type=<type>] [version=<version>] [ports=<number>]", "Add a USB controller to a domain", ""),
    command("usbctrl-detach", NotBuilt, Changes, "<Domain> <DevId>", "Remove a USB controller from a domain", ""),
    command("usbdev-attach", NotBuilt, Changes, "<Domain> hostbus=<busnum> hostaddr=<devnum> [controller=<DevId> [port=<port>]]", "Add a USB device to a domain", ""),
    command("usbdev-detach", NotBuilt, Changes, "<Domain> <controller> <port>", "Remove a USB device from a domain", ""),
    command("usb-list", NotBuilt, Looks, "<Domain>", "List the USB devices of a domain", ""),
    command("qemu-monitor-command", NotBuilt, Changes, "<Domain> <Command>", "Give a command to QEMU's monitor", ""),
    command("dt-overlay", Alien("device tree overlays are applied by Xen"), Changes, "add|remove <.dtbo>, attach <.dtbo> <Domain>", "Change the device tree of the host", ""),
    command("xenstore-quota-get", XENSTORE, Looks, "<Domain>|-g", "Print quotas of xenstore", ""),
    command("xenstore-quota-set", XENSTORE, Changes, "<Domain>|-g <quota>=<val>...", "Set quotas of xenstore", ""),
];

/// What xm had and xl has not: managed domains. Looked up after the others, so that no prefix of
/// theirs changes its meaning.
#[rustfmt::skip]
pub(crate) const EXTENSIONS: &[Command] = &[
    command("new", Built(managed::new), Changes, "<ConfigFile> [options] [vars]", "Register a managed domain without starting it", NEW_OPTIONS),
    command("delete", Built(managed::delete), Changes, "<Domain>", "Remove a managed domain from the register", ""),
    command("start", Built(managed::start), Changes, "[options] <Domain>", "Start a managed domain", START_OPTIONS),
];

/// Finds a command by its name or by the beginning of it: the exact name first, then a beginning
/// that only one of xl's own fits, then the extensions in the same way.
pub(crate) fn lookup(word: &str) -> Option<&'static Command> {
    [UPSTREAM, EXTENSIONS].iter().find_map(|table| within(table, word)).filter(|_| {
        // What is ambiguous in xl stays so, whatever an extension is called.
        let among = UPSTREAM.iter().filter(|command| command.name.starts_with(word)).count();
        among <= 1 || UPSTREAM.iter().chain(EXTENSIONS).any(|command| command.name == word)
    })
}

fn within(table: &'static [Command], word: &str) -> Option<&'static Command> {
    if let Some(exact) = table.iter().find(|command| command.name == word) {
        return Some(exact);
    }
    let mut fitting = table.iter().filter(|command| command.name.starts_with(word));
    fitting.next().filter(|_| fitting.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(word: &str) -> Option<&'static str> {
        lookup(word).map(|command| command.name)
    }

    #[test]
    fn the_table_has_every_command_of_xl_once() {
        assert_eq!(UPSTREAM.len(), 97);
        let mut names: Vec<_> = UPSTREAM.iter().map(|command| command.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 97);
    }

    #[test]
    fn a_beginning_finds_a_command_while_only_one_fits() {
        assert_eq!(found("create"), Some("create"));
        assert_eq!(found("cre"), Some("create"));
        assert_eq!(found("li"), Some("list"));
        assert_eq!(found("des"), Some("destroy"));
        assert_eq!(found("unp"), Some("unpause"));
        assert_eq!(found("c"), None, "claims, console, create and others begin so");
        assert_eq!(found("nosuch"), None);
        // An exact name wins over longer ones.
        assert_eq!(found("migrate"), Some("migrate"));
        assert_eq!(found("sched-credit"), Some("sched-credit"));
    }

    #[test]
    fn the_extensions_leave_every_beginning_of_xl_its_meaning() {
        for command in UPSTREAM {
            for end in 1..=command.name.len() {
                let word = &command.name[..end];
                let alone = within(UPSTREAM, word).map(|command| command.name);
                let among = UPSTREAM.iter().filter(|c| c.name.starts_with(word)).count();
                let exact_extension = EXTENSIONS.iter().any(|c| c.name == word);
                if among > 1 && alone.is_none() && !exact_extension {
                    assert_eq!(found(word), None, "{word}");
                } else if !exact_extension {
                    assert_eq!(found(word), alone, "{word}");
                }
            }
        }
        assert_eq!(found("start"), Some("start"));
        assert_eq!(found("new"), Some("new"));
        assert_eq!(found("delete"), Some("delete"));
    }

    #[test]
    fn the_dry_run_is_offered_where_xl_offers_it() {
        let mut with: Vec<_> = UPSTREAM.iter().filter(|c| c.can_dry_run).map(|c| c.name).collect();
        with.sort_unstable();
        let expected = [
            "block-attach",
            "cd-eject",
            "cd-insert",
            "config-update",
            "cpupool-create",
            "create",
            "network-attach",
            "vcpu-pin",
            "vdispl-attach",
            "vkb-attach",
            "vsnd-attach",
            "vtpm-attach",
        ];
        assert_eq!(with, expected);
    }
}
