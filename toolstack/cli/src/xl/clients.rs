//! What real programs do with the output of `xl`, replayed: the grep, sed and awk lines of the
//! two xendomains scripts, the cluster agent, Ganeti, FusionInventory, OCS Inventory, and bash
//! completion (that one stands beside the help).

use kxl_domain::config::{Rules, parse_by};
use kxl_domain::{DomainConfig, DomainUuid};

use super::list::tests::sample;
use super::list::{Columns, table};
use super::yajl::{Map, Value};
use super::{create, libxl_json, yajl};

const UUID: &str = "8d5dbf3a-0000-4000-8000-000000000003";

/// A configuration as xen-tools writes them: numbers in quotes, `file:` disks, a trailing comma,
/// a key that nobody knows.
const XEN_TOOLS: &str = "
kernel = '/boot/vmlinuz'
ramdisk = '/boot/initrd.img'
vcpus = '2'
memory = '512'
root = '/dev/xvda2 ro'
extra = 'elevator=noop'
disk = [ 'file:/srv/xen/disk.img,xvda2,w', 'file:/srv/xen/swap.img,xvda1,w', ]
name = 'web'
dhcp = 'dhcp'
vif = [ 'ip=10.0.0.2,mac=00:16:3E:EF:C6:62,bridge=br0' ]
on_poweroff = 'destroy'
on_reboot = 'restart'
on_crash = 'restart'
";

/// A fully virtualised one as Ganeti writes them.
const GANETI: &str = "
name = \"inst1\"
builder = \"hvm\"
kernel = \"/usr/lib/xen/boot/hvmloader\"
memory = 1024
vcpus = 1
pae = 1
acpi = 1
apic = 1
boot = \"cd\"
usbdevice = \"tablet\"
vnc = 1
vnclisten = \"0.0.0.0\"
vif = [ \"mac=aa:00:00:1a:b1:62, bridge=br0, type=ioemu\" ]
disk = [ \"file:/srv/a.img,hda,w\" ]
on_poweroff = \"preserve\"
on_reboot = \"restart\"
on_crash = \"restart\"
";

fn config(text: &str) -> DomainConfig {
    parse_by(Rules::Xl, "test.cfg", text, &[]).unwrap().config
}

fn uuid() -> DomainUuid {
    UUID.parse().unwrap()
}

fn dry_run(text: &str) -> String {
    create::json(&config(text), uuid())
}

fn long_list() -> String {
    let mut items = Vec::new();
    for (domid, config) in
        [(0, libxl_json::host(512)), (3, libxl_json::config(&config(XEN_TOOLS), uuid(), None))]
    {
        let mut map = Map::default();
        map.put("domid", Value::Number(domid)).put("config", config);
        items.push(map.into());
    }
    yajl::render(&Value::List(items)) + "\n"
}

/// What stands between the quotes of `"name": "…",` alone on its line.
fn name_line(line: &str) -> Option<&str> {
    line.split_once("\"name\": \"")?.1.strip_suffix("\",")
}

#[test]
fn the_dry_run_has_the_shape_of_libxl() {
    insta::assert_snapshot!(dry_run(XEN_TOOLS));
}

#[test]
fn the_dry_run_of_a_full_machine_has_the_shape_of_libxl() {
    insta::assert_snapshot!(dry_run(GANETI));
}

/// `create --quiet --dryrun --defconfig F | sed 's/^.*"name": "\(.*\)",$/\1/p'`
#[test]
fn xendomains_finds_exactly_one_name_in_a_dry_run() {
    for (text, name) in [(XEN_TOOLS, "web"), (GANETI, "inst1")] {
        let output = dry_run(text);
        let names: Vec<&str> = output.lines().filter_map(name_line).collect();
        assert_eq!(names, [name]);
        assert_eq!(output.matches("\"name\"").count(), 1);
    }
}

/// Its loop over `list -l`: `    {` resets, a name is kept, a domid completes the pair.
#[test]
fn xendomains_pairs_numbers_and_names_of_a_long_list() {
    let mut pairs = Vec::new();
    let (mut id, mut name) = (None, None);
    for line in long_list().lines() {
        if line == "    {" {
            (id, name) = (None, None);
        }
        if let Some(number) = line.strip_prefix("        \"domid\": ") {
            id = number.strip_suffix(',').map(str::to_owned);
        }
        if let Some(found) = name_line(line) {
            name = Some(found.to_owned());
        }
        if let (Some(number), Some(found)) = (&id, &name) {
            pairs.push((number.clone(), found.clone()));
            (id, name) = (None, None);
        }
    }
    // Domain-0's name is the last of its members here as in xl, so no pair is made of it.
    assert_eq!(pairs, [("3".to_owned(), "web".to_owned())]);
}

/// Debian's helper reads the JSON: an array of `domid` and `config.c_info.name`.
#[test]
fn the_long_list_is_json_with_names_where_helpers_look() {
    let text = long_list();
    assert!(text.ends_with("]\n\n"));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value[0]["domid"], 0);
    assert_eq!(value[1]["domid"], 3);
    assert_eq!(value[1]["config"]["c_info"]["name"], "web");
}

/// OCS Inventory takes the first line with `uuid` in it.
#[test]
fn ocs_inventory_finds_the_uuid() {
    let text = long_list();
    let line = text.lines().find(|line| line.contains("uuid")).unwrap();
    assert_eq!(line.trim(), format!("\"uuid\": \"{UUID}\","));
}

/// `list NAME | awk 'NR==2{print $4,$3}'`
#[test]
fn the_cluster_agent_reads_cpus_and_memory_of_the_second_line() {
    let text = table(&sample()[1..2], Columns::default());
    let words: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((words[3], words[2]), ("2", "2048"));
}

/// Ganeti splits every line but the first into exactly six fields and knows these states.
#[test]
fn ganeti_understands_every_line() {
    let known = ["r-----", "rb----", "-b----", "------", "---s--", "---sc-", "-----d"];
    for line in table(&sample(), Columns::default()).lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words.len(), 6, "{line}");
        assert!(words[1..4].iter().all(|word| word.parse::<u64>().is_ok()), "{line}");
        assert!(words[5].parse::<f64>().is_ok(), "{line}");
        let state = words[4].replace('p', "-");
        assert!(known.contains(&state.as_str()), "{line}");
    }
}

/// `^(.*\S)\s+(\d+)\s+(\d+)\s+(\d+)\s+([a-z-]{5,6})\s`, and one letter in the state.
#[test]
fn fusion_inventory_understands_states_of_one_letter() {
    for line in table(&sample(), Columns::default()).lines().skip(1) {
        let state = line.split_whitespace().nth(4).unwrap();
        assert_eq!(state.len(), 6);
        let letters = state.replace('-', "");
        assert!(!letters.is_empty(), "a running domain must not look switched off: {line}");
    }
    let verbose = table(&sample()[1..2], Columns { verbose: true, ..Columns::default() });
    assert!(verbose.contains(UUID));
}

#[test]
fn command_line_and_numbers_of_xen_tools_arrive() {
    let value: serde_json::Value = serde_json::from_str(&dry_run(XEN_TOOLS)).unwrap();
    assert_eq!(value["b_info"]["cmdline"], "root=/dev/xvda2 ro elevator=noop");
    assert_eq!(value["b_info"]["max_vcpus"], 2);
    assert_eq!(value["b_info"]["target_memkb"], 512 * 1024);
    assert_eq!(value["nics"][0]["mac"], "00:16:3e:ef:c6:62");
    assert!(value.get("on_poweroff").is_none(), "the default is not printed");
    assert_eq!(value["on_crash"], "restart");
}

#[test]
fn affinity_is_a_list_of_cpus_for_each_virtual_one() {
    let text = "name = 'a'\nkernel = '/k'\nvcpus = 2\ncpus = '0'\n";
    let value: serde_json::Value = serde_json::from_str(&dry_run(text)).unwrap();
    assert_eq!(value["b_info"]["vcpu_hard_affinity"], serde_json::json!([[0], [0]]));
}
