//! Asking the guests' systems how they are, by the scripts of their operator: all at once, none
//! for longer than it may take.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use kxl_backend::trusted;
use kxl_domain::charon::ServiceState;
use kxl_engine::script::{self, Ended, Script};

use super::roster::Entry;
use crate::view::tame;

/// How long a script has to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a script says that the guest's system is not booted.
const NOT_BOOTED: i32 = 255;

/// What a script has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Response {
    /// Status 0, and its first line.
    Up(String),
    /// Status 255.
    NotBooted,
    /// Another status, and its first line.
    Failed(i32, String),
    /// Nothing in time.
    Silent,
    /// It could not be run, or was ended by a signal.
    Broken(String),
}

impl std::fmt::Display for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Up(text) if text.is_empty() => f.write_str("up"),
            Self::Up(text) => f.write_str(text),
            Self::NotBooted => f.write_str("not booted (SRM prompt)"),
            Self::Failed(status, text) if text.is_empty() => write!(f, "status {status}"),
            Self::Failed(status, text) => write!(f, "status {status}: {text}"),
            Self::Silent => write!(f, "no answer within {} s", PATIENCE.as_secs()),
            Self::Broken(why) => write!(f, "the script cannot be run: {why}"),
        }
    }
}

/// The answers to come, each with the place of its entry.
pub(super) struct Asking {
    answers: Receiver<(usize, Response)>,
}

impl Asking {
    /// Waits for the next one; `None` when all have come.
    pub(super) fn next(&self) -> Option<(usize, Response)> {
        self.answers.recv().ok()
    }
}

/// Whether there is something to ask of an entry.
pub(super) fn is_asked(entry: &Entry) -> bool {
    entry.state == ServiceState::Active && entry.config.scripts.guest_status.is_some()
}

/// Asks for all entries that run and have a script.
pub(super) fn ask(entries: &[Entry]) -> Asking {
    let (tell, answers) = channel();
    for (place, entry) in entries.iter().enumerate().filter(|(_, entry)| is_asked(entry)) {
        let Some(script) = script_of(entry) else { continue };
        let tell = tell.clone();
        // The receiver may be gone with the command: nobody wants to know then.
        thread::spawn(move || drop(tell.send((place, response(&script)))));
    }
    Asking { answers }
}

fn script_of(entry: &Entry) -> Option<Script> {
    let program: PathBuf = entry.config.scripts.guest_status.clone()?;
    let args = entry.file().map(|file| file.as_os_str().to_owned()).into_iter().collect();
    let row = &entry.seen.row;
    let env: Vec<(OsString, OsString)> = vec![
        ("KXL_DOMAIN".into(), row.name.as_str().into()),
        ("KXL_UUID".into(), row.uuid.to_string().into()),
    ];
    let cancel = Arc::default();
    Some(Script { program, args, env, patience: PATIENCE, output: None, cancel })
}

fn response(script: &Script) -> Response {
    if let Some(problem) = trusted::of_program(&script.program) {
        return Response::Broken(problem);
    }
    match script::run(script) {
        Ok(Ended::Status { code, said }) => {
            let first = tame::line(said.lines().next().unwrap_or_default().trim());
            match code {
                Some(0) => Response::Up(first),
                Some(NOT_BOOTED) => Response::NotBooted,
                Some(code) => Response::Failed(code, first),
                None => Response::Broken("it was ended by a signal".to_owned()),
            }
        }
        Ok(Ended::TooLate) => Response::Silent,
        Err(error) => Response::Broken(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(text: &str, patience: Duration) -> Response {
        let args = vec!["-c".into(), text.into()];
        let (program, env, cancel) = ("/bin/sh".into(), Vec::new(), Arc::default());
        response(&Script { program, args, env, patience, output: None, cancel })
    }

    #[test]
    fn an_answer_is_the_first_line_and_255_means_that_nothing_is_booted() {
        const LONG: Duration = Duration::from_secs(60);
        assert_eq!(shell("echo up 3 days; echo more", LONG), Response::Up("up 3 days".into()));
        assert_eq!(shell("exit 255", LONG).to_string(), "not booted (SRM prompt)");
        assert_eq!(shell("echo no route; exit 2", LONG).to_string(), "status 2: no route");
        assert_eq!(shell("true", LONG).to_string(), "up");
        assert_eq!(shell("kill -9 $$", LONG), Response::Broken("it was ended by a signal".into()));
    }

    #[test]
    fn a_script_that_does_not_answer_is_ended() {
        assert_eq!(shell("sleep 1000", Duration::from_millis(50)), Response::Silent);
        assert_eq!(Response::Silent.to_string(), "no answer within 5 s");
    }

    #[test]
    fn a_script_that_others_may_write_is_not_run() {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("kxl-guest-status-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (program, ran) = (dir.join("script"), dir.join("ran"));
        std::fs::write(&program, format!("#!/bin/sh\ntouch {}\n", ran.display())).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o777)).unwrap();
        let (args, env, cancel) = (Vec::new(), Vec::new(), Arc::default());
        let patience = Duration::from_secs(60);
        let told = response(&Script { program, args, env, patience, output: None, cancel });
        assert!(told.to_string().contains("can be written by others (mode 777)"), "{told}");
        assert!(!ran.exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
