//! Keys for a guest, through `kxl console`.

use std::io::Write;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::host::Host;

/// The byte that leaves a console.
const ESCAPE: u8 = 0x1d;

/// How long leaving may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A viewer of a console that only types. It has to stay until an effect is seen: what was typed
/// goes with the viewer who typed it.
#[derive(Debug)]
pub(crate) struct Typist {
    child: Child,
    name: String,
}

impl Typist {
    /// Attaches to the console of a domain.
    ///
    /// # Errors
    /// When `kxl` cannot be started.
    pub(crate) fn at(host: &Host, name: &str) -> Result<Self, BenchError> {
        let mut command = host.command(["console", name]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(BenchError::io(format!("attach to {name}")))?;
        Ok(Self { child, name: name.to_owned() })
    }

    /// Types.
    ///
    /// # Errors
    /// When the console is closed.
    pub(crate) fn type_keys(&mut self, keys: &str) -> Result<(), BenchError> {
        let Some(stdin) = self.child.stdin.as_mut() else {
            return Err(BenchError::wrong(format!("the console of {} was left", self.name)));
        };
        stdin
            .write_all(keys.as_bytes())
            .and_then(|()| stdin.flush())
            .map_err(BenchError::io(format!("type at {}", self.name)))
    }

    /// Leaves, as a person does.
    ///
    /// # Errors
    /// When the command does not end then.
    pub(crate) fn leave(mut self) -> Result<(), BenchError> {
        if let Some(mut stdin) = self.child.stdin.take() {
            // A console whose domain has ended was left by itself.
            let _gone = stdin.write_all(&[ESCAPE]);
        }
        let until = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let text = format!("the console of {} is not left by ^]", self.name);
                return Err(BenchError::Wrong(text));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        // Ended by itself is as good.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
