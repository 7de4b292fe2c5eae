//! `kxl import`: the programs of a `supervisord.conf` as managed domains, all of them or none.

mod writable;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use kxl_backend::spawn::Attributes;
use kxl_domain::config::model::OutputTo;
use kxl_domain::config::{Rules, parse_with};
use kxl_domain::supervisord::{self, Program, Remark, Surroundings, Weight};
use kxl_domain::{DomainConfig, DomainUuid, Failure, Kind};
use kxl_engine::{Conf, Host, StartOpts};
use serde_json::json;

use super::{Exit, START_DEADLINE};
use crate::args::Import;
use crate::{out, report};
use writable::Writer;

/// No such file is longer.
const LONGEST: u64 = 1 << 20;

/// A program, and what becomes of it.
struct Planned {
    config: DomainConfig,
    deed: Deed,
}

/// What becomes of a program.
enum Deed {
    Register,
    /// In the place of this one.
    Replace(Box<DomainConfig>),
    Unchanged,
}

impl Deed {
    const fn word(&self) -> &'static str {
        match self {
            Self::Register => "registered",
            Self::Replace(_) => "registered anew",
            Self::Unchanged => "unchanged",
        }
    }
}

/// Registers the programs of a file.
pub(crate) fn import(args: &Import) -> Exit {
    let file = args.file.display().to_string();
    let text = read(&args.file)?;
    let here = directory(&args.file)?;
    let variable = |name: &str| std::env::var(name).ok();
    let mut import = supervisord::import(&text, &Surroundings { here: &here, variable: &variable });
    let defaults = Conf::domain_defaults()?;
    for program in &mut import.programs {
        // Whatever the host says of domains that leave keys out, it says of these, too.
        let text = program.config.to_short_cfg();
        let parsed = parse_with(&defaults, Rules::Kxl, &file, &text, &[]);
        let parsed = parsed.map_err(|errors| Failure::new(Kind::Internal, errors.to_string()))?;
        program.config = parsed.config;
        import.remarks.extend(host_remarks(program, args.dry_run));
    }
    import.remarks.sort_by_key(|remark| remark.line);
    for remark in &import.remarks {
        tell(&file, remark);
    }
    let mistakes = import.errors().count();
    if mistakes > 0 {
        let text = format!("cannot import {file}: {mistakes} of its lines cannot be done");
        return Err(Failure::new(Kind::Usage, text).hint("nothing was registered"));
    }
    if args.dry_run {
        show(&file, &import.programs, args.json)?;
        return Ok(0);
    }
    let mut host = Host::open()?;
    let planned = plan(&mut host, &file, import.programs, args.replace)?;
    register(&mut host, &planned)?;
    let status = if args.start { start(&mut host, &planned) } else { 0 };
    told(&planned, args.json)?;
    Ok(status)
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |error: &std::io::Error| {
        Failure::because(Kind::Failed, format!("cannot read {}", path.display()), error)
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| failed(&error))?;
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() as u64 > LONGEST {
        let text = format!("cannot read {}: it is longer than 1 MiB", path.display());
        return Err(Failure::new(Kind::Usage, text));
    }
    // Comments may be of any time and code page.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The directory of the file, absolute.
fn directory(path: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path)
        .map_err(|error| Failure::because(Kind::Failed, "there is no current directory", &error))?;
    Ok(absolute.parent().unwrap_or(Path::new("/")).to_owned())
}

/// What this host has to say about a program: who would run it, and whether it is there. A mere
/// look tells of it as a warning: the file may be for another user, or another host.
fn host_remarks(program: &Program, dry_run: bool) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let about = format!("domain {}", program.config.name);
    let mut say = |weight, text: String| {
        remarks.push(Remark { weight, line: program.line, about: about.clone(), text });
    };
    match Attributes::of(&program.config) {
        Err(error) => say(if dry_run { Weight::Warning } else { Weight::Error }, error.to_string()),
        Ok(Attributes { user: Some(user), .. }) => {
            let writer = Writer { uid: user.uid, groups: user.groups };
            let process = &program.config.process;
            for (key, output) in [("stdout", &process.stdout), ("stderr", &process.stderr)] {
                if let Some(OutputTo::File(path)) = &output.to
                    && let Some(problem) = writer.problem(path)
                {
                    let (name, path) = (&user.name, path.display());
                    say(Weight::Warning, format!("{key} is {path}: the user {name} {problem}"));
                }
            }
        }
        Ok(_) => {}
    }
    if let Some(image) = program.config.emulator.as_ref().filter(|image| image.is_absolute())
        && !image.is_file()
    {
        say(Weight::Warning, format!("{} is not on this host", image.display()));
    }
    remarks
}

fn tell(file: &str, remark: &Remark) {
    let colon = if remark.line > 0 { ":" } else { ": " };
    let text = format!("{file}{colon}{remark}");
    match remark.weight {
        Weight::Notice => report::note(&text),
        Weight::Warning => report::warning(&text),
        Weight::Error => out::complain(&format!("kxl: error: {text}\n")),
    }
}

fn show(file: &str, programs: &[Program], as_json: bool) -> Result<(), Failure> {
    if as_json {
        let list: Vec<_> = programs
            .iter()
            .map(|p| json!({ "name": p.config.name.as_str(), "line": p.line, "config": p.config.to_short_cfg() }))
            .collect();
        return out::print_json(&list);
    }
    let text: Vec<String> = programs
        .iter()
        .map(|program| format!("# {file}:{}\n{}", program.line, program.config.to_short_cfg()))
        .collect();
    out::print(&text.join("\n"))
}

/// Looks what there is already; refuses before anything is registered.
fn plan(
    host: &mut Host,
    file: &str,
    programs: Vec<Program>,
    replace: bool,
) -> Result<Vec<Planned>, Failure> {
    let mut planned = Vec::new();
    for Program { line, mut config } in programs {
        let name = config.name.clone();
        let row = host.find(name.as_str()).ok().filter(|row| row.name == name);
        let taken = |why: &str, hint: String| {
            let text = format!("cannot import {file}:{line}: {why} \"{name}\"");
            Failure::new(Kind::Denied, text).hint(hint)
        };
        let Some(row) = row else {
            planned.push(Planned { config, deed: Deed::Register });
            continue;
        };
        let managed = host.store.managed(row.uuid);
        let managed =
            managed.map_err(|e| Failure::because(Kind::Failed, "cannot read the domains", &e))?;
        let Some(managed) = managed else {
            return Err(taken(
                "there is a transient domain",
                format!("end it first: kxl destroy {name}"),
            ));
        };
        config.uuid = Some(row.uuid);
        let deed = if managed.config == config {
            Deed::Unchanged
        } else if replace {
            Deed::Replace(Box::new(managed.config))
        } else {
            return Err(taken(
                "there is another domain",
                "nothing was registered; --replace registers those that differ anew".into(),
            ));
        };
        planned.push(Planned { config, deed });
    }
    Ok(planned)
}

/// Registers all; what was done is undone when one of them cannot be.
fn register(host: &mut Host, planned: &[Planned]) -> Result<(), Failure> {
    let mut done: Vec<(DomainUuid, &Planned)> = Vec::new();
    for each in planned.iter().filter(|each| !matches!(each.deed, Deed::Unchanged)) {
        match host.define(each.config.clone()) {
            Ok(defined) => done.push((defined.uuid, each)),
            Err(failure) => {
                for (uuid, each) in done.into_iter().rev() {
                    if let Err(failure) = undo(host, uuid, each) {
                        report::failure(&failure);
                    }
                }
                return Err(failure.hint("nothing was registered"));
            }
        }
    }
    Ok(())
}

fn undo(host: &mut Host, uuid: DomainUuid, each: &Planned) -> Result<(), Failure> {
    match &each.deed {
        Deed::Replace(old) => host.define((**old).clone()).map(drop),
        Deed::Register | Deed::Unchanged => {
            let row = host.find(&uuid.to_string())?;
            host.delete(&row)
        }
    }
}

fn start(host: &mut Host, planned: &[Planned]) -> u8 {
    let opts = StartOpts { paused: false, deadline: START_DEADLINE };
    let mut worst = 0;
    for each in planned.iter().filter(|each| each.config.maintenance.autostart == Some(true)) {
        let started = host.find(each.config.name.as_str()).and_then(|row| {
            // A second import finds them running.
            if row.domid.is_some() { Ok(()) } else { host.start(&row, opts).map(drop) }
        });
        if let Err(failure) = started {
            report::failure(&failure);
            worst = worst.max(failure.kind.exit_code());
        }
    }
    worst
}

fn told(planned: &[Planned], as_json: bool) -> Result<(), Failure> {
    if as_json {
        let list: Vec<_> = planned
            .iter()
            .map(|each| json!({ "name": each.config.name.as_str(), "result": each.deed.word() }))
            .collect();
        return out::print_json(&list);
    }
    let line = |each: &Planned| format!("{}: {}\n", each.config.name, each.deed.word());
    out::print(&planned.iter().map(line).collect::<String>())
}
