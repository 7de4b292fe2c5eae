//! Commands that may hang or be killed in the middle.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::BenchError;

/// How long any command may take. A guest that boots under emulation on a busy host is the slowest.
const PATIENCE: Duration = Duration::from_secs(180);

/// A command that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) line: String,
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) took: Duration,
}

impl Ended {
    /// Refuses one that did not succeed.
    pub(super) fn succeeded(self) -> Result<Self, BenchError> {
        if self.status.success() {
            return Ok(self);
        }
        Err(BenchError::Command {
            line: self.line,
            status: self.status.to_string(),
            text: self.stderr.trim_end().to_owned(),
        })
    }
}

/// A command on its way.
#[derive(Debug)]
pub(super) struct Going {
    line: String,
    child: Child,
    start: Instant,
    out: PathBuf,
    err: PathBuf,
}

impl Going {
    /// Starts it; its output goes into files beside `scratch`.
    pub(super) fn start(mut command: Command, scratch: &Path) -> Result<Self, BenchError> {
        let (out, err) = (scratch.with_extension("out"), scratch.with_extension("err"));
        let create = |path: &Path| {
            File::create(path).map_err(BenchError::io(format!("make {}", path.display())))
        };
        command.stdin(Stdio::null()).stdout(create(&out)?).stderr(create(&err)?);
        let words = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
        let line = format!("kxl {}", words.collect::<Vec<_>>().join(" "));
        let start = Instant::now();
        let child = command.spawn().map_err(BenchError::io(format!("run {line}")))?;
        Ok(Self { line, child, start, out, err })
    }

    /// Kills it; false when it had ended before.
    pub(super) fn kill(&mut self) -> bool {
        let alive = matches!(self.child.try_wait(), Ok(None));
        // Our child and not waited for: it cannot be another process.
        alive && self.child.kill().is_ok()
    }

    /// Whether it has ended.
    pub(super) fn over(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    pub(super) fn end(mut self) -> Result<Ended, BenchError> {
        let status = loop {
            match self
                .child
                .try_wait()
                .map_err(BenchError::io(format!("wait for {}", self.line)))?
            {
                Some(status) => break status,
                None if self.start.elapsed() > PATIENCE => {
                    self.kill();
                    let text = format!("{} hangs: killed after {PATIENCE:?}", self.line);
                    return Err(BenchError::Wrong(text));
                }
                // The only wait for a child with a limit that needs no signals.
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let took = self.start.elapsed();
        let read = |path: &Path| {
            let bytes = fs::read(path);
            let bytes = bytes.map_err(BenchError::io(format!("read {}", path.display())));
            bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        let (stdout, stderr) = (read(&self.out)?, read(&self.err)?);
        Ok(Ended { line: self.line.clone(), status, stdout, stderr, took })
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        if self.kill() {
            let _reaped = self.child.wait();
        }
    }
}
