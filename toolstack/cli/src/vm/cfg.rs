//! `vmcfg`.

use std::io::IsTerminal;
use std::path::Path;
use std::process::Command;

use kxl_backend::plain;
use kxl_domain::charon::{ConsoleLine, Facts, facts, is_charon};
use kxl_domain::{DomainConfig, Failure, Kind};
use kxl_engine::Host;

use super::{chosen, config_of, own_file};
use crate::args::VmCfg;
use crate::charon;
use crate::commands::{self, Exit};
use crate::{out, report};

/// Edits the configuration of a domain's emulator, or prints it.
pub(super) fn cfg(args: &VmCfg) -> Exit {
    let mut host = Host::open()?;
    let row = chosen(&mut host, args.name.as_deref())?;
    let config = config_of(&mut host, &row)?;
    let Some(file) = own_file(&config).map(Path::to_owned) else {
        let text =
            format!("the emulator of domain \"{}\" has no configuration of its own", row.name);
        return Err(Failure::new(Kind::Denied, text)
            .hint(format!("kxl list -l {} shows the domain's", row.name)));
    };
    if args.show || !std::io::stdout().is_terminal() {
        let text = plain::whole(&file, plain::MOST).map_err(|error| {
            Failure::because(Kind::Failed, format!("cannot read {}", file.display()), &error)
        })?;
        out::print_bytes(&text)?;
        return Ok(0);
    }
    edit(&file)?;
    let text = charon::contents(&file).unwrap_or_default();
    if is_charon(&text) || config.backend == "charon" {
        let facts = facts(&charon::read(&file)?);
        if let ConsoleLine::Port(port) = facts.console {
            warn_of_port(&mut host, port, row.uuid)?;
        }
        if let Some(text) = outdated(&config, &facts) {
            report::note(&text);
        }
    }
    if row.domid.is_some() {
        report::note(&format!("domain \"{}\" runs: changes count from its next start", row.name));
    }
    Ok(0)
}

/// What the register says of the machine and its own configuration does not say any more.
fn outdated(config: &DomainConfig, facts: &Facts) -> Option<String> {
    let (memory, cpus) = (config.memory_mib, config.vcpus);
    let same = facts.memory_mib.is_none_or(|now| now == memory)
        && facts.cpus.is_none_or(|now| now == cpus);
    (!same).then(|| {
        format!(
            "kxl list, host plans and alerts go on counting {memory} MiB and {cpus} processors for \
             domain \"{}\", as it was registered; kxl new registers it anew",
            config.name
        )
    })
}

/// Lets the user's editor have a file.
///
/// # Errors
/// When it cannot be run, or fails.
pub(super) fn edit(file: &Path) -> Result<(), Failure> {
    let named = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok());
    let named = named.filter(|text| !text.trim().is_empty()).unwrap_or_else(|| "vi".to_owned());
    let mut words = named.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let attempt = format!("cannot edit {} with {program}", file.display());
    let status = Command::new(program)
        .args(words)
        .arg(file)
        .status()
        .map_err(|error| Failure::because(Kind::Failed, &attempt, &error).hint("set EDITOR"))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(Kind::Failed, format!("{attempt}: {status}")))
}

/// A port is one domain's on a host.
fn warn_of_port(host: &mut Host, port: u16, own: kxl_domain::DomainUuid) -> Result<(), Failure> {
    for row in commands::all_rows(host)? {
        if row.uuid == own || !row.managed {
            continue;
        }
        // Of one that cannot be read the other lists tell.
        let Ok(Some(config)) = commands::config_of(host, row.uuid) else { continue };
        let theirs = config.emulator_config.as_deref().and_then(charon::facts_of);
        if theirs.is_some_and(|facts| facts.console == ConsoleLine::Port(port)) {
            let text = format!("console port {port} is that of domain \"{}\", too", row.name);
            report::warning(&text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_the_register_does_not_know_is_told() {
        let facts = |size: u32| {
            let text =
                format!("set session hw_model=AlphaServer_DS20 n_of_cpus=2\nset ram size={size}\n");
            facts(&kxl_domain::charon::parse(&text, |_| None).unwrap())
        };
        let text = "name='ds20'\nbackend='charon'\nmemory=512\nvcpus=2\nemulator_config='/a'\n";
        let config = kxl_domain::config::parse("f", text, &[]).unwrap().config;
        assert_eq!(outdated(&config, &facts(512)), None);
        let told = outdated(&config, &facts(1024)).unwrap();
        assert!(told.contains("512 MiB and 2 processors for domain \"ds20\""), "{told}");
    }
}
