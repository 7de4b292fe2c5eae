//! The machine of the stand-in: a console prompt like that of SRM, from which `boot` brings up
//! something that has the looks of OpenVMS at its console: a login that asks for a name and a
//! password, a prompt, and a shutdown that ends at the console prompt again.

/// What ends the emulator: the status that it exits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit(pub(crate) u8);

const PROMPT: &str = "\r\nP00>>>";

/// Who may log in.
const USER: &str = "SYSTEM";
const PASSWORD: &str = "Manager-1";

/// What a guest shows while it boots.
const BOOT: &str = "\r\n(boot dka0 -flags 0)\r\njumping to bootstrap code\r\n\
                    STAND-IN for an operating system, Version V8.4\r\n\
                    %STDRV-I-STARTUP, startup begun\r\nThe system is up\r\n";

/// What it shows while it goes down.
const SHUTDOWN: &str = "\r\n\tSHUTDOWN -- Perform an Orderly System Shutdown\r\n\
                        %SHUTDOWN-I-OPERATOR, this terminal is now an operator's console\r\n\
                        %SHUTDOWN-I-STOPUSER, all user processes will now be stopped\r\n\
                        \tSYSTEM SHUTDOWN COMPLETE\r\n\r\nhalted CPU 0\r\n";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum At {
    /// The console prompt of the machine.
    #[default]
    Halted,
    /// Up, with nobody at the console.
    Up,
    /// A name is to be typed.
    User,
    /// The password of this one is to be typed.
    Password(String),
    /// Somebody is logged in.
    Prompt,
}

/// It.
#[derive(Debug, Default)]
pub(crate) struct Guest(At);

impl Guest {
    /// What a client finds on the screen at first.
    pub(crate) fn greeting(&self) -> &'static str {
        match self.0 {
            At::Halted => "\r\nSTAND-IN console\r\nP00>>>",
            _ => "",
        }
    }

    /// Whether what is typed is shown.
    pub(crate) fn echoes(&self) -> bool {
        !matches!(self.0, At::Password(_) | At::Up)
    }

    /// Takes a line; gives what is shown, or the end of the emulator.
    pub(crate) fn line(&mut self, typed: &str) -> Result<String, Exit> {
        let typed = typed.trim();
        let (next, shown) = match (&self.0, typed) {
            (At::Halted, "") => (At::Halted, PROMPT.to_owned()),
            (At::Halted, "boot") => (At::Up, BOOT.to_owned()),
            (At::Halted, "power off") => return Err(Exit(0)),
            (At::Halted, "crash") => return Err(Exit(3)),
            (At::Halted, "hang") => loop {
                std::thread::park();
            },
            (At::Halted, other) => (At::Halted, format!("\r\n?{other}: not a command{PROMPT}")),
            (At::Up, _) | (At::User, "") => (At::User, "\r\nUsername: ".to_owned()),
            (At::User, name) => (At::Password(name.to_owned()), "\r\nPassword: ".to_owned()),
            (At::Password(name), PASSWORD) if name.eq_ignore_ascii_case(USER) => {
                let last = "\r\n\tWelcome\r\n    Last interactive login on Monday\r\n$ ";
                (At::Prompt, last.to_owned())
            }
            (At::Password(_), _) => (At::Up, "\r\nUser authorization failure\r\n".to_owned()),
            (At::Prompt, "") => (At::Prompt, "\r\n$ ".to_owned()),
            (At::Prompt, "logout") => (At::Up, "\r\n  SYSTEM       logged out\r\n".to_owned()),
            (At::Prompt, command) if command.starts_with("@SYS$SYSTEM:SHUTDOWN") => {
                (At::Halted, format!("{SHUTDOWN}{PROMPT}"))
            }
            (At::Prompt, other) => {
                let no = "%DCL-W-IVVERB, unrecognized command verb";
                (At::Prompt, format!("\r\n{no}\r\n \\{other}\\\r\n$ "))
            }
        };
        self.0 = next;
        Ok(shown)
    }
}
