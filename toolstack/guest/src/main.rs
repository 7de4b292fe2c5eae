//! `kxl-event`: tells the host of a guest how the guest stands. Runs inside guests, so it needs
//! nothing but a Linux kernel; kxl-event(1) describes it and the lines it writes.

mod answer;
mod arguments;
mod line;
mod script;
mod send;
mod trouble;
mod way;

use std::io::Write as _;
use std::process::ExitCode;

use arguments::{Order, Parsed};
use trouble::Trouble;

const USAGE: &str = "\
usage: kxl-event [OPTION]... COMMAND
  started                  the guest is up
  failed [TEXT]            it is not, and why
  progress PERCENT [TEXT]  it needs longer, and gets on
  log TEXT                 for the host's log
  alert TEXT               somebody should look at it now
  id=NAME [KEY=VALUE]...   any message, word by word
  run SCRIPT [ARG]...      runs a start script: started or failed, as it ends
options:
  --port PATH     a virtio-serial port (default: the one called org.kxl.event.0)
  --console PATH  a console, by marked lines (default: /dev/console, without a port)
  --timeout S     how long to wait for the host (default: 10 seconds)
  --stderr PATH   run: what the script says on stderr (default: /var/log/kxl-event.stderr)
exit status: 0 told, 1 failed, 2 usage, 3 no port and no console, 4 the host does not answer,
  5 the port is busy, 6 the host refuses the message; run: that of the script, if not 0";

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1).collect();
    let (done, code) = match arguments::parse(arguments) {
        Ok(Parsed::Help) => (print(USAGE), 0),
        Ok(Parsed::Version) => (print(concat!("kxl-event ", env!("CARGO_PKG_VERSION"))), 0),
        Ok(Parsed::Drain { path, kept }) => (script::drain(&path, kept), 0),
        Ok(Parsed::Order(Order::Tell(message), options)) => (send::send(&message, &options), 0),
        Ok(Parsed::Order(Order::Run(command), options)) => script::run(&command, &options),
        Err(trouble) => (Err(trouble), 0),
    };
    let Err(trouble) = done else { return ExitCode::from(code) };
    // Nothing can be done for a message that cannot be written.
    let _unwritten = writeln!(std::io::stderr(), "kxl-event: {trouble}");
    ExitCode::from(if code == 0 { trouble.code() } else { code })
}

fn print(text: &str) -> Result<(), Trouble> {
    writeln!(std::io::stdout(), "{text}").map_err(|error| Trouble::io("cannot write", error))
}
