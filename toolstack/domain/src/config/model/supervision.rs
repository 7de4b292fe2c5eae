//! Supervision: when a domain counts as started, when it is started again, how it is stopped.

use serde::{Deserialize, Serialize};

use crate::state::words;

words! {
    /// `autorestart=`: which ends of a domain that was up are followed by another start.
    pub enum Autorestart {
        /// None; `false` is a synonym.
        Never = "never",
        /// Those whose exit code is not in `exitcodes=`.
        Unexpected = "unexpected",
        /// All; `true` is a synonym.
        Always = "always",
    }
}

impl Autorestart {
    /// The value of this spelling, the synonyms of Supervisor included.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        match text {
            "false" => Some(Self::Never),
            "true" => Some(Self::Always),
            word => Self::parse(word),
        }
    }
}

words! {
    /// `guest_events=`: the way by which a guest talks to its host.
    pub enum GuestEvents {
        /// None.
        None = "none",
        /// A virtio-serial port; QEMU and kvm have it.
        Port = "port",
        /// Marked lines on the console.
        Console = "console",
    }
}

impl GuestEvents {
    /// What holds where the key is not given: no way, but a guest that has to say that it has
    /// started needs one, a port where the backend has ports.
    #[must_use]
    pub fn default_of(backend: &str, managed_start: bool) -> Self {
        match backend {
            _ if !managed_start => Self::None,
            "auto" | "qemu" | "kvm" => Self::Port,
            _ => Self::Console,
        }
    }
}

/// The rules of a supervised domain; Xen's `on_poweroff`, `on_crash` and `on_watchdog` have no say
/// in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Supervision {
    /// `startsecs=`: how long it has to stay up to count as started; 0 = at once.
    pub startsecs: u32,
    /// `startretries=`: how many more tries follow a failed start.
    pub startretries: u32,
    /// `autorestart=`.
    pub autorestart: Autorestart,
    /// `exitcodes=`: the expected ones.
    pub exitcodes: Vec<u8>,
    /// `managed_start=`: it is starting until its guest says that it has started.
    pub managed_start: bool,
    /// `start_timeout=` in seconds; `None` = 300 with `managed_start`, no limit without.
    pub start_timeout: Option<u32>,
    /// `progress_interval=` in seconds: a guest in a maintenance start that is silent for longer
    /// is hung.
    pub progress_interval: u32,
}

impl Default for Supervision {
    fn default() -> Self {
        Self {
            startsecs: 10,
            startretries: 3,
            autorestart: Autorestart::Unexpected,
            exitcodes: vec![0],
            managed_start: false,
            start_timeout: None,
            progress_interval: 60,
        }
    }
}

impl Supervision {
    /// The keys of which any one makes a domain supervised.
    pub const KEYS: [&'static str; 7] = [
        "startsecs",
        "startretries",
        "autorestart",
        "exitcodes",
        "managed_start",
        "start_timeout",
        "progress_interval",
    ];

    /// The keys that decide the same for a domain that is not supervised.
    pub const INSTEAD_OF: [&'static str; 3] = ["on_poweroff", "on_crash", "on_watchdog"];
}

/// How a domain is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stop {
    /// `stopwaitsecs=`: how long a stop waits before it takes the power away.
    pub wait_secs: u32,
    /// `stopsignal=`: what asks the program to end; `None` = what its profile says.
    pub signal: Option<StopSignal>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { wait_secs: 10, signal: None }
    }
}

/// The signals by number, from 1; those that no `stopsignal=` may be have no name here.
const NUMBERED: [&str; 31] = [
    "HUP", "INT", "QUIT", "", "", "ABRT", "", "", "KILL", "USR1", "", "USR2", "", "ALRM", "TERM",
    "", "", "CONT", "", "", "", "", "URG", "", "", "VTALRM", "PROF", "WINCH", "IO", "PWR", "",
];

words! {
    /// `stopsignal=`: the signals that can ask a program to end.
    pub enum StopSignal {
        /// The terminal is gone.
        Hup = "HUP",
        /// Ctrl-C.
        Int = "INT",
        /// Ctrl-\.
        Quit = "QUIT",
        /// A core dump, usually.
        Abrt = "ABRT",
        /// The end, without a question.
        Kill = "KILL",
        /// The program's own.
        Usr1 = "USR1",
        /// The program's own.
        Usr2 = "USR2",
        /// A timer.
        Alrm = "ALRM",
        /// The usual.
        Term = "TERM",
        /// Go on.
        Cont = "CONT",
        /// Urgent data.
        Urg = "URG",
        /// A timer.
        Vtalrm = "VTALRM",
        /// A timer.
        Prof = "PROF",
        /// Another size of the window.
        Winch = "WINCH",
        /// Input or output is possible.
        Io = "IO",
        /// The power fails.
        Pwr = "PWR",
    }
}

impl StopSignal {
    /// The signal of a name, with or without `SIG` and in letters of any case, or of a number.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse::<usize>() {
            return Self::parse(NUMBERED.get(number.checked_sub(1)?)?);
        }
        let upper = text.to_ascii_uppercase();
        Self::parse(upper.strip_prefix("SIG").unwrap_or(&upper))
    }

    /// Linux's number of it.
    ///
    /// # Panics
    /// Never: every signal of this list has its place in the numbered one.
    #[must_use]
    pub fn number(self) -> i32 {
        let place = NUMBERED.iter().position(|name| *name == self.as_str());
        let place = place.expect("every stop signal has a number");
        i32::try_from(place + 1).expect("there are 31 of them")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_by_name_with_or_without_sig_and_by_number() {
        for text in ["TERM", "SIGTERM", "sigterm", "term", "15"] {
            assert_eq!(StopSignal::read(text), Some(StopSignal::Term), "{text}");
        }
        for text in ["STOP", "SIGSTOP", "19", "0", "32", "", "SIG", "-1", "CHLD"] {
            assert_eq!(StopSignal::read(text), None, "{text}");
        }
    }

    #[test]
    fn every_signal_has_the_number_that_reads_back_as_it() {
        for signal in StopSignal::ALL {
            assert_eq!(StopSignal::read(&signal.number().to_string()), Some(*signal));
        }
        let numbers = [StopSignal::Hup, StopSignal::Kill, StopSignal::Usr2, StopSignal::Pwr];
        assert_eq!(numbers.map(StopSignal::number), [1, 9, 12, 30]);
    }
}
