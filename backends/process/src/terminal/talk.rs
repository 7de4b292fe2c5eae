//! What is typed on a guest's console for its operator.

use std::rc::Rc;
use std::time::Duration;

use kxl_backend::{BackendError, Event, Result};

use tokio::task::JoinHandle;

use super::keeper::Shared;
use super::outlet::Outlet;
use crate::profile::Said;

impl Shared {
    /// Types on the console, as slowly as `pace` says.
    ///
    /// # Errors
    /// When nothing can be typed there.
    pub(super) async fn type_in(&self, text: &str, pace: Option<Duration>) -> Result<()> {
        let failed = |error: std::io::Error| BackendError::io("cannot type on the console", error);
        let outlet = self.outlet();
        for byte in text.bytes() {
            match &outlet {
                Outlet::Own => {
                    nix::unistd::write(&self.master, &[byte])
                        .map_err(|errno| failed(errno.into()))?;
                }
                Outlet::Line(line) => line.send(&[byte]).map_err(failed)?,
                Outlet::File(_) | Outlet::Nothing => {
                    return Err(failed(std::io::Error::from(std::io::ErrorKind::Unsupported)));
                }
            }
            if let Some(pace) = pace {
                tokio::time::sleep(pace).await;
            }
        }
        Ok(())
    }

    /// Goes through a talk in the background; one that comes to nothing is told as an event.
    pub(super) fn talk(
        self: &Rc<Self>,
        steps: Vec<Said>,
        pace: Option<Duration>,
    ) -> JoinHandle<()> {
        let shared = Rc::clone(self);
        shared.ear.open();
        tokio::task::spawn_local(async move {
            let done = shared.go_through_talk(&steps, pace).await;
            shared.ear.close();
            if let Err(why) = done {
                let text = format!("the script on the console was given up: {why}");
                let warning = Event::Warning { what: "shutdown-failed", text };
                let _nobody_listens = shared.events.send(warning);
            }
        })
    }

    async fn go_through_talk(&self, steps: &[Said], pace: Option<Duration>) -> Result<(), String> {
        for step in steps {
            self.type_in(&step.text, pace).await.map_err(|error| error.to_string())?;
            let Some(text) = &step.expect else { continue };
            let patience = Duration::from_millis(step.timeout_ms);
            if !self.ear.until(text, patience).await {
                let (said, ms) = (self.ear.last_line(), step.timeout_ms);
                return Err(format!("{text:?} did not come within {ms} ms, but {said:?}"));
            }
        }
        Ok(())
    }
}
