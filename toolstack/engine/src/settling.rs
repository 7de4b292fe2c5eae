//! The end of a domain's live record.

use kxl_domain::{ImageId, Reason, State, Wanted};
use kxl_store::{Settle, now_ms};

use crate::cgroup;
use crate::live::{LiveDomain, Next};
use crate::steps::{Step, reach};

impl LiveDomain {
    /// The end of the domain's live record.
    ///
    /// A write that fails is kept and tried again ([`Self::settle_again`]): without it the next
    /// monitor would take the end for a crash.
    pub(crate) fn settle(
        &mut self,
        state: State,
        reason: Reason,
        detail: &str,
        wanted: Option<Wanted>,
    ) -> Next {
        self.settle_with(state, reason, detail, wanted, None)
    }

    /// The same for a domain that is `image` from now on.
    pub(crate) fn settle_with(
        &mut self,
        state: State,
        reason: Reason,
        detail: &str,
        wanted: Option<Wanted>,
        image: Option<ImageId>,
    ) -> Next {
        self.leave_image(!matches!(
            reason,
            Reason::Poweroff
                | Reason::Reboot
                | Reason::Destroyed
                | Reason::Saved
                | Reason::Suspended
        ));
        if self.row.state != State::Shutdown {
            self.row.supervision.ended_ms = Some(now_ms());
        }
        self.row.supervision.stop_by_ms = None;
        self.row.state = state;
        self.row.op = None;
        self.row.reason = Some(reason);
        if self.last_end.is_none_or(|(domid, _)| domid != self.row.domid) {
            self.note_end(reason);
        }
        if let Some(wanted) = wanted {
            self.row.wanted = wanted;
        }
        let detail = detail.to_owned();
        self.keep_time(state);
        let supervision = self.row.supervision.clone();
        let reason = Some(reason);
        self.unsettled = Some(Settle { state, reason, detail, wanted, image, supervision });
        self.settle_again();
        reach(Step::Removed, None);
        cgroup::remove(self.row.uuid);
        self.publish();
        Next::Over
    }

    /// The end of a restore that came to nothing: the domain is what it was before.
    pub(crate) fn settle_as_before(&mut self, detail: &str) -> Next {
        let (state, reason) = match self.row.state {
            State::Failed => (State::Failed, self.row.reason.unwrap_or(Reason::StartFailed)),
            _ => (State::Halted, self.row.reason.unwrap_or(Reason::Unknown)),
        };
        self.settle(state, reason, detail, Some(Wanted::Halted))
    }

    /// Writes the end of the live record if it is not written yet; `true` when nothing is left to
    /// be written.
    pub fn settle_again(&mut self) -> bool {
        let Some(settle) = &self.unsettled else { return true };
        let recorded = self.store.settle_record(self.row.uuid, settle).and_then(|()| {
            reach(Step::Resting, None);
            self.store.remove_live(self.row.uuid)
        });
        match recorded {
            // The journal last: until the record is written it is all that tells of the image.
            Ok(()) => {
                self.unsettled = None;
                for image in std::mem::take(&mut self.journalled) {
                    self.forget_image(image);
                }
            }
            Err(error) => {
                tracing::error!(%error, name = %self.row.name, "the end is not recorded yet");
            }
        }
        self.unsettled.is_none()
    }
}
