//! Called as `xl`, `xm` or `xen`: their grammar, their texts, their exit statuses.
//!
//! Data goes to standard output, everything else to standard error. Where xl is silent, so is
//! this, also where that is no good idea; scripts count on it.

mod alien;
mod console;
mod create;
mod devices;
pub(crate) mod getopt;
mod help;
mod info;
mod libxl_json;
mod list;
mod managed;
mod names;
mod saved;
mod shutdown;
mod table;
mod trigger;
mod uptime;
mod vcpu_list;
mod verbs;
mod vm_list;
mod yajl;

#[cfg(test)]
mod clients;

use std::ffi::OsString;

use kxl_domain::{DomainName, Failure, Kind};
use kxl_engine::{Host, Seen, observe};
use kxl_store::ListRow;

use crate::commands::LOOK_BUDGET;
use crate::out;
pub(crate) use create::json as config_json;
use getopt::{Line, Options, Problem};
use table::{Command, Run};

/// libxl's error codes that scripts and programs know.
pub(crate) mod rc {
    /// Something did not work.
    pub(crate) const FAIL: i32 = -3;
    /// An argument makes no sense.
    pub(crate) const INVAL: i32 = -6;
    /// The guest cannot be asked.
    pub(crate) const NOPARAVIRT: i32 = -10;
    /// There is no such domain.
    pub(crate) const DOMAIN_NOTFOUND: i32 = -21;
}

/// Exit status of a failure without a better one.
pub(crate) const FAILURE: u8 = 1;

/// Exit status of a wrong command line.
pub(crate) const USAGE: u8 = 2;

/// The name the program was called by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// `xl`, or `xen`, Debian's word for it.
    Xl,
    /// `xm`: lists dormant managed domains, in its own table.
    Xm,
}

impl Flavour {
    /// The flavour of a program name; `None` when it is none of these.
    pub(crate) fn of(name: &str) -> Option<Self> {
        match name {
            "xl" | "xen" => Some(Self::Xl),
            "xm" => Some(Self::Xm),
            _ => None,
        }
    }
}

/// One run of the program.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) flavour: Flavour,
    /// `-N` was said.
    pub(crate) dry_run: bool,
    /// The command that runs, for its help.
    pub(crate) command: &'static Command,
    host: Option<Host>,
}

/// What a domain argument means.
#[derive(Debug)]
pub(crate) enum Target {
    /// The host, domain 0.
    Host,
    /// A live domain.
    Live(Box<ListRow>),
    /// A number that no domain has; most commands find that out only when they act.
    Missing(u32),
}

/// Runs a personality and returns its exit status.
pub(crate) fn main(flavour: Flavour, words: impl Iterator<Item = OsString>) -> u8 {
    let Ok(words) = words.map(OsString::into_string).collect::<Result<Vec<String>, _>>() else {
        out::complain("arguments have to be UTF-8\n");
        return USAGE;
    };
    let mut dry_run = false;
    let mut rest = words.as_slice();
    // The command's own options begin after its name.
    while let Some(word) = rest.first().filter(|word| word.len() > 1 && word.starts_with('-')) {
        for letter in word[1..].chars() {
            match letter {
                'N' => dry_run = true,
                'v' | 'f' | 't' | 'T' => {}
                _ => {
                    out::complain("unknown global option\n");
                    return FAILURE;
                }
            }
        }
        rest = &rest[1..];
    }
    let Some((word, args)) = rest.split_first() else {
        help::show(&help::list());
        return FAILURE;
    };
    let Some(command) = table::lookup(word) else {
        if word == "help" {
            return help::help(args);
        }
        out::complain("command not implemented\n");
        return FAILURE;
    };
    if dry_run && !command.can_dry_run {
        out::complain("command does not implement -N (dryrun) option\n");
        return FAILURE;
    }
    let mut session = Session { flavour, dry_run, command, host: None };
    if args.iter().any(|arg| arg == "-h" || arg == "--help")
        && !matches!(command.run, Run::Built(_))
    {
        return help::show(&help::of(command));
    }
    match command.run {
        Run::Built(run) => run(&mut session, args),
        Run::NotBuilt => {
            out::complain(&format!("xl: \"{}\" is not built yet\n", command.name));
            FAILURE
        }
        Run::Alien(reason) => {
            out::complain(&format!("xl: \"{}\" is not available: {reason}\n", command.name));
            FAILURE
        }
    }
}

impl Session {
    /// Takes the arguments apart; help and mistakes are dealt with and leave an exit status.
    pub(crate) fn parse(&self, known: Options, args: &[String], wanted: usize) -> Result<Line, u8> {
        let line = match getopt::parse(known, args) {
            Ok(line) => line,
            Err(Problem::Help) => return Err(help::show(&help::of(self.command))),
            Err(Problem::NotSupported(option)) => {
                out::complain(&format!("option `{option}' not supported.\n"));
                return Err(USAGE);
            }
        };
        if line.operands.len() < wanted {
            out::complain(&format!(
                "'xl {}' requires at least {wanted} argument{}.\n\n",
                self.command.name,
                if wanted > 1 { "s" } else { "" }
            ));
            self.usage();
            return Err(USAGE);
        }
        Ok(line)
    }

    /// Prints the help of the command that runs.
    pub(crate) fn usage(&self) {
        help::show(&help::of(self.command));
    }

    /// The host, opened when first used.
    pub(crate) fn host(&mut self) -> Result<&mut Host, u8> {
        match &mut self.host {
            Some(host) => Ok(host),
            empty => Ok(empty.insert(Host::open().map_err(|failure| fail(&failure))?)),
        }
    }

    /// What a domain argument means; an unknown name is told and leaves an exit status.
    pub(crate) fn target(&mut self, arg: &str) -> Result<Target, u8> {
        self.quiet_target(arg)?.ok_or_else(|| {
            out::complain(&format!("{arg} is an invalid domain identifier (rc={})\n", rc::INVAL));
            FAILURE
        })
    }

    /// The same; `None` for an unknown name, of which nothing is said.
    pub(crate) fn quiet_target(&mut self, arg: &str) -> Result<Option<Target>, u8> {
        if arg == DomainName::HOST {
            return Ok(Some(Target::Host));
        }
        let number = if !arg.is_empty() && arg.bytes().all(|byte| byte.is_ascii_digit()) {
            Some(arg.parse::<u32>().unwrap_or(u32::MAX))
        } else {
            None
        };
        if number == Some(0) {
            return Ok(Some(Target::Host));
        }
        let xm = self.flavour == Flavour::Xm;
        let found = match self.host()?.find(arg) {
            Ok(row) => Some(row),
            Err(failure) if failure.kind == Kind::NoSuchDomain => None,
            Err(failure) => return Err(fail(&failure)),
        };
        // A uuid is no identifier to xl, and a dormant domain no domain.
        let live = found.filter(|row| {
            row.domid.is_some() && (number.is_some() || xm || row.name.as_str() == arg)
        });
        Ok(match (live, number) {
            (Some(row), _) => Some(Target::Live(Box::new(row))),
            (None, Some(number)) => Some(Target::Missing(number)),
            (None, None) => None,
        })
    }

    /// Every domain, live ones first by number, resting ones after that by name.
    pub(crate) fn rows(&mut self) -> Result<Vec<ListRow>, u8> {
        let rows = self.host()?.store.list();
        rows.map_err(|e| fail(&Failure::because(Kind::Failed, "cannot read the domains", &e)))
    }

    /// The live domains.
    pub(crate) fn live(&mut self) -> Result<Vec<ListRow>, u8> {
        let mut rows = self.rows()?;
        rows.retain(|row| row.domid.is_some());
        Ok(rows)
    }

    /// These domains as they are at this moment.
    pub(crate) fn look(&mut self, rows: Vec<ListRow>) -> Result<Vec<Seen>, u8> {
        Ok(observe(&self.host()?.paths, rows, LOOK_BUDGET))
    }
}

/// Tells a failure in one line and gives the status for it.
pub(crate) fn fail(failure: &Failure) -> u8 {
    out::complain(&format!("xl: {failure}\n"));
    FAILURE
}

/// libxl's code for a failure.
pub(crate) const fn code(failure: &Failure) -> i32 {
    match failure.kind {
        Kind::NoSuchDomain => rc::DOMAIN_NOTFOUND,
        Kind::Unsupported => rc::NOPARAVIRT,
        Kind::Usage => rc::INVAL,
        Kind::Failed | Kind::Denied | Kind::TimedOut | Kind::Internal => rc::FAIL,
    }
}

/// Prints data; the exit status is that of printing.
pub(crate) fn print(text: &str) -> u8 {
    match out::print(text) {
        Ok(()) => 0,
        Err(failure) => fail(&failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> u8 {
        main(Flavour::Xl, line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn wrong_global_options_and_unknown_commands_are_status_1() {
        for line in ["-Q list", "--help", "--version", "c", "nosuch", "-N list", "-vvv -N pause 1"]
        {
            assert_eq!(run(line), FAILURE, "xl {line}");
        }
    }

    #[test]
    fn what_is_not_built_or_belongs_to_xen_fails() {
        for line in ["migrate web host", "rename a b", "remus web", "debug-keys h"] {
            assert_eq!(run(line), FAILURE, "xl {line}");
        }
    }

    #[test]
    fn wrong_command_lines_are_status_2_and_create_has_its_own() {
        for line in ["list -X", "list --state", "create a b", "setenforce", "console -e"] {
            assert_eq!(run(line), USAGE, "xl {line}");
        }
        assert_eq!(run("create"), 6);
        assert_eq!(run("create name=\"x\""), 6, "words alone are no configuration to xl");
        assert_eq!(run("create /nonexistent"), 3);
    }

    #[test]
    fn shutdown_wants_a_domain_or_all() {
        assert_eq!(run("shutdown"), FAILURE);
        assert_eq!(run("reboot -w"), FAILURE);
    }
}
