//! What programs that drive an `xl` do, replayed: the calls they make and what they make of the
//! answers.

use crate::support::host::COMMAND;
use crate::support::run::run;
use crate::support::{Host, Output, guest, wait};

/// `xen`, as Debian's xendomains calls it.
fn xen(host: &Host, args: &[&str]) -> Output {
    run(&mut host.command("xen", args), COMMAND)
}

#[test]
fn debians_xendomains_starts_what_does_not_run_and_stops_it_by_number() {
    let host = Host::new();
    let file = host.file("web.cfg", &guest::mock("web", ""));
    let file = file.to_str().unwrap();
    xen(&host, &["list"]).expect(0);
    let dry = xen(&host, &["create", "--quiet", "--dryrun", "--defconfig", file]).expect(0);
    let config: serde_json::Value = serde_json::from_str(&dry.stdout).unwrap();
    assert_eq!(config["c_info"]["name"], "web");
    xen(&host, &["domid", "web"]).expect(1);
    let output = xen(&host, &["create", "--quiet", "--defconfig", file]).expect(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
    let id = xen(&host, &["domid", "web"]).expect(0).stdout.trim().to_owned();
    let list = xen(&host, &["list", "-l"]).expect(0).stdout;
    let list: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
    let live: Vec<_> = list.iter().filter(|one| one["domid"] != 0).collect();
    assert_eq!(live.len(), 1);
    assert_eq!(live[0]["config"]["c_info"]["name"], "web");
    xen(&host, &["shutdown", &id]).expect(0);
    wait::eventually("domid says that it is gone", || {
        xen(&host, &["domid", "web"]).code() == Some(1)
    });
}

#[test]
fn xens_xendomains_finds_one_name_and_one_number_for_each_domain_with_grep() {
    let host = Host::new();
    let file = host.file("web.cfg", &guest::mock_with("web", "", "vif = [ 'user', 'user' ]"));
    let dry = host
        .xl(&["create", "--quiet", "--dryrun", "--defconfig", file.to_str().unwrap()])
        .expect(0);
    let named = |text: &str| {
        let names = text.lines().filter_map(|line| {
            line.trim_start().strip_prefix("\"name\": \"")?.strip_suffix("\",").map(str::to_owned)
        });
        names.collect::<Vec<_>>()
    };
    assert_eq!(named(&dry.stdout), ["web"]);
    host.xl(&["create", "--quiet", "--defconfig", file.to_str().unwrap()]).expect(0);
    let text = host.xl(&["list", "-l"]).expect(0).stdout;
    let mut found = Vec::new();
    let mut id = None;
    for line in text.lines() {
        if line == "    {" {
            id = None;
        } else if let Some(number) = line.strip_prefix("        \"domid\": ") {
            id = Some(number.strip_suffix(',').expect("domid is not the last member").to_owned());
        } else if let [name] = &named(line)[..] {
            found.push((name.clone(), id.clone().expect("domid comes first")));
        }
    }
    found.retain(|(_, id)| id != "0");
    assert_eq!(found, [("web".to_owned(), "1".to_owned())]);
    host.xl(&["shutdown", "--all", "--wait"]).expect(0);
    host.gone("web");
}

#[test]
fn the_resource_agent_of_pacemaker_overrides_the_name_and_reads_columns() {
    let host = Host::new();
    let file = host.file("web.cfg", &guest::mock("other", ""));
    host.xl(&["create", file.to_str().unwrap(), "name=\"web\""]).expect(0);
    assert!(host.find("other").is_none());
    let text = host.xl(&["list", "web"]).expect(0).stdout;
    let columns: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((columns[3], columns[2]), ("1", "64"));
    host.xl(&["list", "migrating-web"]).expect(1);
    let info = host.xl(&["info"]).expect(0).stdout;
    let total = info.lines().find(|line| line.starts_with("total_memory")).unwrap();
    total.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap();
    host.xl(&["destroy", "web"]).expect(0);
    assert_eq!(host.xl(&["list", "web"]).expect(1).stdout, "");
}

#[test]
fn xen_tools_find_the_name_on_standard_output_only_while_it_runs() {
    let host = Host::new();
    let output = host.xl(&["list", "web"]);
    assert!(!output.stdout.contains("web") && output.stderr.contains("web"), "{output}");
    let text = guest::mock("web", "").replace("memory = 64", "memory = '64'");
    let text = text.replace("vcpus = 1", "vcpus = '1'");
    let file = host.file("web.cfg", &format!("{text}dhcp = 'dhcp'\n"));
    host.xl(&["create", file.to_str().unwrap()]).expect(0);
    assert!(host.xl(&["list", "web"]).expect(0).stdout.contains("web"));
}

#[test]
fn ganeti_reads_six_columns_and_finds_a_stopped_instance_kept() {
    let host = Host::new();
    let file = host.file("inst.cfg", &guest::mock_with("inst", "", "on_poweroff = 'preserve'"));
    host.xl(&["create", "-p", file.to_str().unwrap()]).expect(0);
    host.xl(&["unpause", "inst"]).expect(0);
    let state = |host: &Host| {
        let text = host.xl(&["list"]).expect(0).stdout;
        let mut found = None;
        for line in text.lines().skip(1) {
            let columns: Vec<_> = line.split_whitespace().collect();
            assert_eq!(columns.len(), 6, "{line}");
            for number in &columns[1..4] {
                number.parse::<u64>().unwrap();
            }
            columns[5].parse::<f64>().unwrap();
            if columns[0] == "inst" {
                found = Some(columns[4].to_owned());
            }
        }
        found
    };
    let running = state(&host).unwrap();
    assert!(["r-----", "-b----", "rb----", "------"].contains(&running.as_str()), "{running}");
    host.xl(&["shutdown", "-w", "inst"]).expect(0);
    assert_eq!(state(&host).as_deref(), Some("---s--"));
    host.xl(&["destroy", "inst"]).expect(0);
    assert_eq!(state(&host), None);
    let help = host.xl(&["help"]).expect(0).stdout;
    assert!(help.lines().skip(4).filter(|line| line.starts_with(" list ")).count() == 1, "{help}");
    let info = host.xl(&["info"]).expect(0).stdout;
    for key in [
        "total_memory",
        "free_memory",
        "nr_cpus",
        "nr_nodes",
        "cores_per_socket",
        "threads_per_core",
        "xen_major",
        "xen_minor",
    ] {
        let line = info.lines().find(|line| line.split_whitespace().next() == Some(key));
        let value = line.unwrap_or_else(|| panic!("{key} is missing")).rsplit(':').next().unwrap();
        value.trim().parse::<u64>().unwrap();
    }
}

#[test]
fn inventory_agents_find_one_letter_and_the_uuid() {
    let host = Host::new();
    let web = host.create("web", &guest::mock("web", "tick=0"));
    host.ok(["pause", "web"]);
    let text = host.xl(&["list"]).expect(0).stdout;
    let line = text.lines().find(|line| line.starts_with("web")).unwrap();
    let letters: String = line.split_whitespace().nth(4).unwrap().replace('-', "");
    assert_eq!(letters, "p");
    assert!(host.xl(&["list", "-v", "web"]).expect(0).stdout.contains(&web.uuid()));
    let long = host.xl(&["list", "-l", "web"]).expect(0).stdout;
    let line = long.lines().find(|line| line.to_lowercase().contains("uuid")).unwrap();
    assert!(
        line.starts_with(' ') && line.contains(&format!("\"uuid\": \"{}\"", web.uuid())),
        "{line}"
    );
}
