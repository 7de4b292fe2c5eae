//! How a guest ended, from the lines that QEMU itself wrote into its log.
//!
//! With `-action reboot=shutdown,shutdown=pause` the run state is `shutdown` after a reboot as
//! after a power-off, and the event that tells them apart is gone if no monitor was there to hear
//! it. Two trace points outlive that: `runstate_set` for every change of the run state, and
//! `qemu_system_shutdown_request` with the cause for a power-off, but not for a reset that is
//! turned into a shutdown.

use kxl_domain::GuestEvent;
use kxl_domain::guest::clean;
use serde_json::Value;

/// What a shutdown's cause means, by the name in the event.
pub(crate) fn of_event(data: &Value) -> Option<GuestEvent> {
    match data.get("reason").and_then(Value::as_str)? {
        "guest-shutdown" => Some(GuestEvent::Poweroff),
        // Xen, too, takes a triple fault for a reboot: kernels that find no other way use it.
        "guest-reset" | "guest-triple-fault" | "subsystem-reset" | "host-qmp-system-reset" => {
            Some(GuestEvent::Reboot)
        }
        "guest-panic" | "host-error" => Some(GuestEvent::Crash),
        // Somebody ends the emulator itself; its exit follows.
        _ => None,
    }
}

/// How the guest of an emulator in run state `shutdown` ended; `None` where the log does not say,
/// because this QEMU was built without tracing to its log.
pub(crate) fn of_log(log: &str) -> Option<GuestEvent> {
    let mut cause = None;
    let mut shut = None;
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("qemu_system_shutdown_request reason=") {
            cause = rest.split_whitespace().next().and_then(|number| number.parse::<u32>().ok());
        } else if line.contains("runstate_set ") {
            shut = None;
            if line.contains("new_state") && line.ends_with("(shutdown)") {
                shut = Some(match cause {
                    // A shutdown that nobody requested by that name: a reset, turned into one.
                    None => GuestEvent::Reboot,
                    // ShutdownCause of QEMU's qapi/run-state.json, in order since 4.0.
                    Some(6) => GuestEvent::Poweroff,
                    Some(3 | 7 | 9) => GuestEvent::Reboot,
                    Some(1 | 8) => GuestEvent::Crash,
                    Some(_) => GuestEvent::Poweroff,
                });
            }
            cause = None;
        }
    }
    shut
}

/// Bytes of what is told of the log at most.
const WORDS_MAX: usize = 1024;

/// The log without those lines: what a person wants to read.
pub(crate) fn words(log: &str) -> String {
    let ours = |line: &&str| {
        !line.contains("qemu_system_shutdown_request reason=") && !line.contains("runstate_set ")
    };
    let lines: Vec<&str> =
        log.lines().filter(ours).filter(|line| !line.trim().is_empty()).collect();
    clean(&lines[lines.len().saturating_sub(5)..].join("; "), WORDS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const START: &str = "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)\n";
    const DOWN: &str = "runstate_set current_run_state 9 (running) new_state 11 (shutdown)\n";
    const REQUEST: &str = "qemu_system_shutdown_request reason=6\n";

    #[test]
    fn the_log_tells_a_poweroff_from_a_reboot() {
        assert_eq!(of_log(&format!("{START}{REQUEST}{DOWN}")), Some(GuestEvent::Poweroff));
        assert_eq!(of_log(&format!("{START}warning: x\n{DOWN}")), Some(GuestEvent::Reboot));
        let panic = REQUEST.replace('6', "8");
        assert_eq!(of_log(&format!("{START}{panic}{DOWN}")), Some(GuestEvent::Crash));
    }

    #[test]
    fn what_happened_before_a_reset_does_not_count() {
        let again = "runstate_set current_run_state 11 (shutdown) new_state 7 (paused)\n\
                     runstate_set current_run_state 7 (paused) new_state 9 (running)\n";
        let log = format!("{START}{REQUEST}{DOWN}{again}{DOWN}");
        assert_eq!(of_log(&log), Some(GuestEvent::Reboot));
        assert_eq!(of_log(&format!("{START}{REQUEST}{DOWN}{again}")), None);
        assert_eq!(of_log("no tracing in this build"), None);
    }

    #[test]
    fn events_name_their_cause() {
        let event = |reason| of_event(&json!({"guest": true, "reason": reason}));
        assert_eq!(event("guest-shutdown"), Some(GuestEvent::Poweroff));
        assert_eq!(event("guest-reset"), Some(GuestEvent::Reboot));
        assert_eq!(event("guest-panic"), Some(GuestEvent::Crash));
        assert_eq!(event("host-signal"), None);
        assert_eq!(of_event(&json!(null)), None);
    }

    #[test]
    fn people_see_the_last_words_without_our_own_lines() {
        let log = format!("{START}qemu: disk full\n\n{REQUEST}{DOWN}qemu: terminating\n");
        assert_eq!(words(&log), "qemu: disk full; qemu: terminating");
    }
}
