//! Programs of the administrator's that are run for a domain and end by themselves.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use kxl_backend::spawn;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::ending::Status;
use crate::kill::Doomed;

/// How much of the end of what it says is kept.
const KEPT: usize = 16 << 10;

/// What a pipe holds.
const PIPE: usize = 64 << 10;

/// What to run: the program, its arguments, and entries of its environment beside `PATH`.
#[derive(Clone, Debug)]
pub(crate) struct Errand {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<OsString>,
}

impl Errand {
    /// Runs it to its end, in a session of its own and with nothing to read. All that it started in
    /// its session is ended with it when it takes too long, or when the future is dropped.
    ///
    /// # Errors
    /// Why it did not end with status 0, with the last line that it said on standard error.
    pub(crate) async fn run(&self, patience: Duration) -> Result<(), String> {
        let shown = Path::new(&self.program).display().to_string();
        let cannot = |error: std::io::Error| format!("{shown} cannot be run: {error}");
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
            .map_err(|errno| cannot(errno.into()))?;
        let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
        let mut command = spawn::Command::new(Path::new(&self.program)).map_err(cannot)?;
        for arg in &self.args {
            command.arg(arg).map_err(cannot)?;
        }
        for entry in &self.env {
            command.env(entry).map_err(cannot)?;
        }
        command.fd(null().map_err(cannot)?, 0).fd(null().map_err(cannot)?, 1).fd(write, 2);
        let process = spawn::spawn(command).and_then(spawn::Gated::open).map_err(cannot)?;
        let mut running = Session(Some(Doomed::new(process)));
        let mut said =
            pipe::Receiver::from_owned_fd(nonblocking(read).map_err(cannot)?).map_err(cannot)?;
        let mut words = Vec::new();
        let Some(process) = running.0.as_ref().map(Doomed::get) else { return Ok(()) };
        let ended = async {
            let mut end = std::pin::pin!(Status::of(process));
            let (mut piece, mut open) = (vec![0; 4096], true);
            loop {
                tokio::select! {
                    count = said.read(&mut piece), if open => match count {
                        Ok(count) if count > 0 => keep(&mut words, &piece[..count]),
                        _ => open = false,
                    },
                    // What it has left running may keep the pipe open for ever.
                    status = &mut end => {
                        read_the_rest(|piece| said.try_read(piece), &mut words);
                        return status;
                    }
                }
            }
        };
        let status = tokio::time::timeout(patience, ended).await;
        let last = last_line(&words);
        match status {
            Ok(Status { code: Some(0), .. }) => {
                let _it_has_ended = running.0.take().map(Doomed::keep);
                Ok(())
            }
            Ok(status) => Err(format!("{shown} failed: {}", status.text(&last))),
            Err(_) => {
                let said = if last.is_empty() { String::new() } else { format!(": {last}") };
                Err(format!("{shown} did not end within {} s{said}", patience.as_secs()))
            }
        }
    }
}

/// The process and what shares its session.
struct Session(Option<Doomed>);

impl Drop for Session {
    fn drop(&mut self) {
        // It has not been reaped where it still lives, so the number is its group's.
        let alive = self.0.as_ref().map(Doomed::get).filter(|process| process.identity().alive());
        if let Some(process) = alive {
            let _gone = killpg(Pid::from_raw(process.identity().pid), Signal::SIGKILL);
        }
    }
}

/// What the program itself had said when it ended is in the pipe; more is said by what it has left
/// running, and may have no end.
fn read_the_rest(mut read: impl FnMut(&mut [u8]) -> std::io::Result<usize>, words: &mut Vec<u8>) {
    let (mut piece, mut left) = (vec![0; 4096], PIPE);
    while left > 0 {
        let Ok(count @ 1..) = read(&mut piece) else { return };
        keep(words, &piece[..count]);
        left = left.saturating_sub(count);
    }
}

fn keep(words: &mut Vec<u8>, piece: &[u8]) {
    words.extend_from_slice(piece);
    let excess = words.len().saturating_sub(KEPT);
    words.drain(..excess);
}

fn nonblocking(fd: OwnedFd) -> std::io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(fd)
}

fn last_line(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or_default().chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::monitor;

    fn shell(script: &str) -> Errand {
        let args = ["-c", script].map(OsString::from).to_vec();
        Errand { program: "/bin/sh".into(), args, env: vec!["WORD=it".into()] }
    }

    #[test]
    fn an_errand_is_done_or_says_why_not() {
        const LONG: Duration = Duration::from_secs(600);
        monitor(async {
            shell("test \"$WORD\" = it").run(LONG).await.unwrap();
            // What it leaves behind does not hold it up.
            shell("sleep 3 & exit 0").run(LONG).await.unwrap();
            let error = shell("echo first >&2; echo the disk >&2; exit 3").run(LONG).await;
            assert_eq!(error.unwrap_err(), "/bin/sh failed: exit status 3: the disk");
            let nobody = Errand { program: "/nonexistent/x".into(), args: vec![], env: vec![] };
            let error = nobody.run(LONG).await.unwrap_err();
            assert!(error.starts_with("/nonexistent/x cannot be run: "), "{error}");
        });
    }

    #[test]
    fn what_an_errand_left_behind_may_write_for_ever() {
        let mut words = Vec::new();
        let endless = |piece: &mut [u8]| {
            piece.fill(b'x');
            Ok(piece.len())
        };
        read_the_rest(endless, &mut words);
        assert_eq!(words.len(), KEPT);
        monitor(async {
            let script = "while :; do echo still here >&2; done & echo gone >&2; exit 3";
            let error = shell(script).run(Duration::from_secs(600)).await.unwrap_err();
            assert!(error.starts_with("/bin/sh failed: exit status 3"), "{error}");
        });
    }

    #[test]
    fn an_errand_that_takes_too_long_is_ended_with_all_that_it_started() {
        let scratch = crate::testing::Scratch::new("errand");
        let file = scratch.0.join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        monitor(async {
            let error = shell(&script).run(Duration::from_millis(500)).await.unwrap_err();
            assert!(error.starts_with("/bin/sh did not end within"), "{error}");
            let pid = std::fs::read_to_string(&file).unwrap().trim().parse::<i32>().unwrap();
            let identity = kxl_backend::Identity::of(pid);
            while identity.as_ref().is_ok_and(kxl_backend::Identity::alive) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
}
