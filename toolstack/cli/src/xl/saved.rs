//! `save`, `restore`, `suspend` and `resume`.
//!
//! xl's own suspend is to RAM; for a managed domain it is xm's here: an image in the store.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kxl_control::{After, Save};
use kxl_domain::config::{Rules, parse_by};
use kxl_domain::image::{ImagePlace, Purpose};
use kxl_domain::{DomainConfig, Failure, Kind, State, Verb};
use kxl_engine::RestoreOpts;
use kxl_store::image::{Image, ImageFault};
use kxl_store::{ListRow, StoreError};

use super::getopt::{self, Options};
use super::names::run;
use super::verbs::missing;
use super::{FAILURE, Flavour, Session, Target, console, create, fail};
use crate::commands::{START_DEADLINE, VERB_DEADLINE, create as shared, save as own};
use crate::terminal::escape;
use crate::{moving, out, source};

const SAVE: Options = Options { short: "cpD", long: &[("checkpoint", false, 'c')] };
const RESTORE: Options = Options {
    short: "pedcFVA",
    long: &[("paused", false, 'p'), ("vncviewer", false, 'V'), ("vncviewer-autopass", false, 'A')],
};
const RESUME: Options = Options { short: "p", long: &[("paused", false, 'p')] };

/// What xl says of mandatory flags: our own bit is nobody's business.
const KXL_FLAG: u32 = 0x0001_0000;

/// Writes a domain's state to a file; the domain ends unless told otherwise.
pub(crate) fn save(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(SAVE, args, 2)?;
        if line.operands.len() > 3 {
            session.usage();
            return Err(FAILURE);
        }
        let row = live(session, &line.operands[0], Verb::Save)?;
        let file = PathBuf::from(&line.operands[1]);
        let path = destination(&file)?;
        let running = own::running(session.host()?, &row).map_err(|f| fail(&f))?;
        let other = line.operands.get(2).map(|cfg| read_config(Path::new(cfg), &running));
        let other = other.transpose()?;
        let after = match (line.has('c'), line.has('p')) {
            (true, _) => After::GoOn,
            (false, true) => After::Pause,
            (false, false) => After::End,
        };
        let order = moving::into_file(path, after, other.as_ref().unwrap_or(&running));
        if session.flavour == Flavour::Xl {
            let header = order.header.as_ref().map_or(0, String::len);
            // The text with its NUL, and its length before it.
            let length = header + 1 + 4;
            out::complain(&format!(
                "Saving to {} new xl format (info 0x3/0x0/{length})\n",
                file.display()
            ));
        }
        let order = Save {
            keep_domid: line.has('D') && other.is_none(),
            config: other.map(Box::new),
            replace: true,
            ..order
        };
        if let Err(failure) = moving::save(session.host()?, &row, order, false) {
            told(session, &failure);
            if session.flavour == Flavour::Xl {
                out::complain("Failed to save domain, resuming domain\n");
            }
            return Err(FAILURE);
        }
        Ok(0)
    })
}

/// Makes a domain from a saved state.
pub(crate) fn restore(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(RESTORE, args, 1)?;
        let (cfg, file) = match line.operands.as_slice() {
            [file] => (None, file),
            [cfg, file] => (Some(cfg), file),
            _ => {
                session.usage();
                return Err(FAILURE);
            }
        };
        let image = open(session, Path::new(file))?;
        let saved = &image.facts().config;
        let other = match cfg {
            Some(cfg) => Some(read_config(Path::new(cfg), saved)?),
            None => {
                tell_xl(session, "Parsing config from <saved>\n");
                None
            }
        };
        let config = other.as_ref().unwrap_or(saved);
        let uuid = config.uuid.unwrap_or(image.facts().uuid);
        if line.has('d') {
            out::complain(&create::json(config, uuid));
        }
        if line.has('V') || line.has('A') {
            out::complain("xl: a VNC viewer is not started yet\n");
        }
        let taken = session.host()?.find(config.name.as_str()).ok();
        if taken.is_some_and(|row| row.domid.is_some() && row.name == config.name) {
            out::complain(&format!("Domain with name \"{}\" already exists.\n", config.name));
            return Err(FAILURE);
        }
        let opts = RestoreOpts {
            paused: line.has('p'),
            config: other,
            preserve: line.has('e'),
            deadline: START_DEADLINE,
            ..RestoreOpts::default()
        };
        let what = format!("restore {file}");
        let host = session.host()?;
        let came =
            moving::bring_back(&what, false, |moved| host.restore(file.as_ref(), &opts, moved));
        let started = came.map_err(|failure| told(session, &failure))?;
        let host = session.host()?;
        if line.has('c') {
            let attached = host
                .find(&started.uuid.to_string())
                .and_then(|row| console::show(host, &row, escape::DEFAULT));
            if let Err(failure) = attached {
                fail(&failure);
                out::complain("Unable to attach console\n");
            }
        }
        if line.has('F') {
            shared::wait_until_gone(host, &started).map_err(|failure| fail(&failure))?;
        }
        Ok(0)
    })
}

/// `suspend`: of a managed domain an image in the store; of another one, as xl means it, to RAM.
/// Under xl the status is 0 whenever the argument names something that could be suspended.
pub(crate) fn suspend(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(getopt::NONE, args, 1)?;
        let arg = &line.operands[0];
        if session.flavour == Flavour::Xm {
            return xm_suspend(session, arg);
        }
        let row = match session.target(arg)? {
            Target::Live(row) => row,
            Target::Host => {
                fail(&Failure::new(Kind::Denied, "cannot suspend domain 0: it is the host"));
                return Ok(0);
            }
            Target::Missing(number) => {
                fail(&missing(kxl_domain::DomId(number)));
                return Ok(0);
            }
        };
        let outcome = if row.managed {
            into_store(session, &row)?
        } else {
            let host = session.host()?;
            host.verb(&row, Verb::Sleep, VERB_DEADLINE, |_| ()).map(drop)
        };
        outcome.map_or_else(|failure| ignored(&failure), |()| Ok(0))
    })
}

/// The status after a suspend or resume that failed. xl's is 0; but what could never work must not
/// look as if it had.
fn ignored(failure: &Failure) -> Result<u8, u8> {
    let status = fail(failure);
    if failure.kind == Kind::Unsupported { Err(status) } else { Ok(0) }
}

fn xm_suspend(session: &mut Session, arg: &str) -> Result<u8, u8> {
    if arg == kxl_domain::DomainName::HOST || arg == "0" {
        return Err(error("Cannot suspend privileged domain Domain-0"));
    }
    let row = super::managed::managed(session, arg)?;
    if row.state != State::Running {
        return Err(error("Domain is not running"));
    }
    if !row.managed {
        return Err(error("Domain is not managed by Xend lifecycle support."));
    }
    into_store(session, &row)?.map_err(|failure| told(session, &failure))?;
    Ok(0)
}

fn into_store(session: &mut Session, row: &ListRow) -> Result<Result<(), Failure>, u8> {
    let order = Save {
        verb: Verb::Suspend,
        place: ImagePlace::Store,
        purpose: Purpose::Suspend,
        after: After::End,
        live: true,
        config: None,
        header: None,
        keep_domid: false,
        snapshot: false,
        replace: false,
    };
    Ok(moving::save(session.host()?, row, order, false).map(drop))
}

/// `resume`: a suspended managed domain comes back from the store; another one wakes from RAM.
pub(crate) fn resume(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(RESUME, args, 1)?;
        let arg = &line.operands[0];
        let xm = session.flavour == Flavour::Xm;
        // A suspended domain has no number; it is looked for by name.
        let dormant = session.host()?.find(arg).ok().filter(|row| {
            row.domid.is_none() && row.managed && (xm || row.name.as_str() == arg.as_str())
        });
        let Some(row) = dormant else { return wake(session, arg) };
        if xm && row.state != State::Suspended {
            return Err(xm_not_suspended());
        }
        let opts = RestoreOpts {
            paused: line.has('p'),
            deadline: START_DEADLINE,
            ..RestoreOpts::default()
        };
        let host = session.host()?;
        let what = format!("resume {}", row.name);
        let came = moving::bring_back(&what, false, |moved| host.resume(&row, &opts, moved));
        match came {
            Ok(_) => Ok(0),
            Err(failure) if xm => Err(error(&format!("Error occurred when resuming: {failure}"))),
            Err(failure) => {
                fail(&failure);
                Ok(0)
            }
        }
    })
}

/// What `resume` means for a domain that is not suspended in the store.
fn wake(session: &mut Session, arg: &str) -> Result<u8, u8> {
    if session.flavour == Flavour::Xm {
        if arg == kxl_domain::DomainName::HOST || arg == "0" {
            let text = "Error occurred when resuming: Cannot resume privileged domain Domain-0";
            return Err(error(text));
        }
        // Tells an unknown one.
        super::managed::managed(session, arg)?;
        return Err(xm_not_suspended());
    }
    let target = session.target(arg)?;
    let woken = super::verbs::act(session, &target, Verb::Wake)?;
    woken.map_or_else(|failure| ignored(&failure), |()| Ok(0))
}

fn xm_not_suspended() -> u8 {
    error("Error occurred when resuming: Cannot resume domain that is not suspended.")
}

/// A live domain, for a verb that fails where there is none.
fn live(session: &mut Session, arg: &str, verb: Verb) -> Result<Box<ListRow>, u8> {
    if session.flavour == Flavour::Xm {
        let row = super::managed::managed(session, arg)?;
        if row.domid.is_none() {
            return Err(error("Domain is not running"));
        }
        return Ok(Box::new(row));
    }
    match session.target(arg)? {
        Target::Live(row) => Ok(row),
        Target::Host => {
            let text = format!("cannot {verb} domain 0: it is the host");
            Err(fail(&Failure::new(Kind::Denied, text)))
        }
        Target::Missing(number) => Err(fail(&missing(kxl_domain::DomId(number)))),
    }
}

/// Where a state goes. What is there is replaced, as xl does; when the new one is complete, and not
/// before.
fn destination(file: &Path) -> Result<PathBuf, u8> {
    let writable = |dir: &Path| nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK).is_ok();
    let path = moving::new_file(file, true).ok();
    path.filter(|path| path.parent().is_some_and(writable)).ok_or_else(|| {
        out::complain(&format!("Failed to open temp file {} for writing\n", file.display()));
        FAILURE
    })
}

/// A configuration file in the place of the saved one.
fn read_config(file: &Path, saved: &DomainConfig) -> Result<DomainConfig, u8> {
    let name = file.display().to_string();
    let text = source::read(file).map_err(|error| {
        out::complain(&format!("Failed to read config file: {name}: {}\n", create::plain(&error)));
        FAILURE
    })?;
    out::complain(&format!("Parsing config from {name}\n"));
    let mut parsed = parse_by(Rules::Xl, &name, &text, &[]).map_err(|errors| {
        out::complain(&errors.xl_text());
        errors.xl_exit_code()
    })?;
    source::resolve(&mut parsed).map_err(|failure| fail(&failure))?;
    Ok(moving::keep_identity(parsed.config, saved))
}

/// Opens a saved state; what xl says of one, and of what is none, is said.
fn open(session: &Session, file: &Path) -> Result<Image, u8> {
    let head = match head(file) {
        Ok(head) => head,
        Err(error) => {
            out::complain(&format!("Can't open restore file: {}\n", create::plain(&error)));
            return Err(FAILURE);
        }
    };
    let opened = Image::open_file(file);
    if let Some((flags, length)) = head {
        let known = flags & !KXL_FLAG;
        tell_xl(
            session,
            &format!(
                "Loading new save file {} (new xl fmt info {known:#x}/0x0/{length})\n",
                file.display()
            ),
        );
    }
    let image = opened.map_err(|error| {
        out::complain(&unfit(file, &error));
        FAILURE
    })?;
    tell_xl(session, " Savefile contains xl domain config in JSON format\n");
    Ok(image)
}

/// What xl says of a file that cannot be restored.
fn unfit(file: &Path, error: &StoreError) -> String {
    match error {
        StoreError::Image { fault, .. } => match fault {
            ImageFault::BadMagic => {
                "File has wrong magic number - corrupt or for a different tool?\n".to_owned()
            }
            ImageFault::ByteOrder => "File has wrong byte order\n".to_owned(),
            ImageFault::MandatoryFlags(flags) => format!(
                "Savefile has mandatory flag(s) {flags:#x} which are not supported; need newer xl\n"
            ),
            ImageFault::Truncated(_) => "Savefile truncated.\n".to_owned(),
            other => format!("xl: {} {other}\n", file.display()),
        },
        other => format!("xl: {other}\n"),
    }
}

/// Mandatory flags and the length of what follows the header, of a file that has one in this
/// host's byte order; `None` for what is too short or something else.
fn head(file: &Path) -> io::Result<Option<(u32, u32)>> {
    let about = fs::metadata(file)?;
    let mut opened = File::open(file)?;
    if !about.is_file() {
        return Ok(None);
    }
    let mut bytes = [0; 48];
    match opened.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let ours = bytes.starts_with(b"Xen saved domain, xl format\n") && word(32) == 0x0102_0304;
    Ok(ours.then(|| (word(36), word(44))))
}

/// Says on standard error what xl says there, and xm does not.
fn tell_xl(session: &Session, text: &str) {
    if session.flavour == Flavour::Xl {
        out::complain(text);
    }
}

/// Tells a failure in the manner of the personality.
fn told(session: &Session, failure: &Failure) -> u8 {
    match session.flavour {
        Flavour::Xl => fail(failure),
        Flavour::Xm => error(&failure.to_string()),
    }
}

fn error(text: &str) -> u8 {
    out::complain(&format!("Error: {text}\n"));
    FAILURE
}
