//! `kxl start`.

use kxl_domain::{Failure, Kind};
use kxl_engine::{Host, StartOpts};

use super::{Exit, START_DEADLINE, console, create, each};
use crate::args::Start;

/// Starts registered domains.
pub(crate) fn start(args: &Start) -> Exit {
    if args.console && args.names.len() > 1 {
        return Err(Failure::new(Kind::Usage, "--console goes with one domain only"));
    }
    let mut host = Host::open()?;
    let opts = StartOpts { paused: args.paused, deadline: START_DEADLINE };
    Ok(each(&mut host, &args.names, |host, row| {
        let started = host.start(row, opts)?;
        if !args.quiet || args.json {
            create::tell(&started, args.paused, args.json)?;
        }
        if args.console {
            console::after_start(host, &started)?;
        }
        Ok(())
    }))
}
