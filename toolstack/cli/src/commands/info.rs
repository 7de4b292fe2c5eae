//! `kxl info`.

use std::process::Command;

use kxl_domain::{Failure, Kind};
use kxl_engine::{Host, monitor_program};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Exit, list};
use crate::args::Info;
use crate::{facts, out};

/// Prints facts about the host, or the backends.
pub(crate) fn info(args: &Info) -> Exit {
    if args.backends {
        return backends(args.json);
    }
    let lines = host_lines()?;
    match &args.key {
        None if args.json => {
            let map: serde_json::Map<_, _> =
                lines.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            out::print_json(&map)?;
        }
        None => {
            let text: String =
                lines.iter().map(|(key, value)| format!("{key:<18} {}\n", plain(value))).collect();
            out::print(&text)?;
        }
        Some(wanted) => {
            let Some((key, value)) = lines.iter().find(|(key, _)| key == wanted) else {
                let known: Vec<_> = lines.iter().map(|(key, _)| *key).collect();
                return Err(Failure::new(
                    Kind::Usage,
                    format!("\"{wanted}\" is no line of kxl info"),
                )
                .hint(format!("the lines are {}", known.join(", "))));
            };
            if args.json {
                out::print_json(&json!({ *key: value }))?;
            } else {
                out::print(&format!("{}\n", plain(value)))?;
            }
        }
    }
    Ok(0)
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn host_lines() -> Result<Vec<(&'static str, serde_json::Value)>, Failure> {
    let mut host = Host::open()?;
    let rows = list::all(&mut host)?;
    let live = rows.iter().filter(|row| row.domid.is_some()).count();
    let managed = rows.iter().filter(|row| row.managed).count();
    let memory: u64 = rows.iter().filter(|row| row.domid.is_some()).map(|row| row.memory_mib).sum();
    let facts = facts::gather();
    let path = |path: &std::path::Path| json!(path.display().to_string());
    Ok(vec![
        ("kxl", json!(env!("CARGO_PKG_VERSION"))),
        ("host", json!(facts.host)),
        ("release", json!(facts.release)),
        ("machine", json!(facts.machine)),
        ("cpus", json!(facts.cpus)),
        ("nodes", json!(facts.nodes)),
        ("virtualisation", json!(facts.virtualisation.unwrap_or("none"))),
        ("kvm", json!(if facts.kvm { "usable" } else { "not usable" })),
        ("memory_mib", json!(facts.memory_mib)),
        ("available_mib", json!(facts.available_mib)),
        ("domains_mib", json!(memory)),
        ("live", json!(live)),
        ("managed", json!(managed)),
        ("boot_id", json!(host.store.boot_id())),
        ("config", path(&host.paths.conf_file())),
        ("state", path(host.paths.state_dir())),
        ("logs", path(host.paths.log_dir())),
        ("runtime", path(host.paths.run_dir())),
        ("monitor", monitor_program().map_or_else(|f| json!(f.to_string()), |p| path(&p))),
    ])
}

/// A backend, as the monitor lists it.
#[derive(Debug, Deserialize, Serialize)]
struct BackendLine {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    capabilities: Vec<String>,
    /// The programs that were found.
    #[serde(default)]
    programs: Vec<Program>,
    /// What is not there, and what to install.
    #[serde(default)]
    missing: Vec<String>,
}

/// An emulator on this host.
#[derive(Debug, Deserialize, Serialize)]
struct Program {
    path: String,
    version: Option<String>,
    accelerator: Option<String>,
}

/// Asks the monitor program, which links the backends; this one does not.
pub(super) fn backends(as_json: bool) -> Exit {
    let program = monitor_program()?;
    let attempt = || format!("cannot list the backends with {}", program.display());
    let output = Command::new(&program)
        .arg("--list-backends")
        .output()
        .map_err(|error| Failure::because(Kind::Failed, attempt(), &error))?;
    if !output.status.success() {
        let mut failure = Failure::new(Kind::Failed, attempt());
        failure.causes.push(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        return Err(failure);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Result<Vec<BackendLine>, _> =
        text.lines().filter(|line| !line.is_empty()).map(serde_json::from_str).collect();
    let lines = lines.map_err(|error| Failure::because(Kind::Internal, attempt(), &error))?;
    if as_json {
        out::print_json(&lines)?;
    } else {
        out::print(&table(&lines))?;
    }
    Ok(0)
}

fn table(lines: &[BackendLine]) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(format!("{:<12} {}", line.name, line.description).trim_end());
        text.push('\n');
        let mut put = |label: &str, value: &str| {
            text.push_str(&format!("{:<12} {label}: {value}\n", ""));
        };
        put("offers", &line.capabilities.join(" "));
        // Those of which nothing but the place is known share a line.
        let (plain, known): (Vec<_>, Vec<_>) = line
            .programs
            .iter()
            .partition(|program| program.version.is_none() && program.accelerator.is_none());
        for program in known {
            let parts =
                [Some(&program.path), program.version.as_ref(), program.accelerator.as_ref()];
            let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
            put("runs", &parts.join(" "));
        }
        if !plain.is_empty() {
            let paths: Vec<&str> = plain.iter().map(|program| program.path.as_str()).collect();
            put("runs", &paths.join(" "));
        }
        line.missing.iter().for_each(|missing| put("missing", missing));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_says_what_it_offers_and_what_is_missing() {
        let lines: Vec<BackendLine> = [
            r#"{"name":"qemu","description":"QEMU","capabilities":["pause","powerdown"],"programs":[{"path":"/usr/bin/qemu-system-x86_64","version":"7.2.0","accelerator":"kvm"}],"missing":[]}"#,
            r#"{"name":"simh","description":"SIMH","capabilities":["pause"],"missing":["pdp11: apt install simh"],"later":"x"}"#,
        ]
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
        assert_eq!(
            table(&lines),
            "qemu         QEMU\n             offers: pause powerdown\n             \
             runs: /usr/bin/qemu-system-x86_64 7.2.0 kvm\n\
             simh         SIMH\n             offers: pause\n             \
             missing: pdp11: apt install simh\n"
        );
    }
}
