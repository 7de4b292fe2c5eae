//! A hung emulator among others.

use kxl_backend::{Identity, Process};
use kxl_store::ProcessRow;
use nix::sys::signal::Signal;

use crate::error::BenchError;
use crate::figure::{Figure, Goal, Series, Unit};
use crate::host::{Host, Lab};
use crate::libvirt;
use crate::rows::live::MOCK;
use crate::table::Table;

const LIVE: u32 = 20;

/// With and without the stopped one by turns. The guests stay paused: what is measured is commands,
/// not twenty kernels that boot.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let host = lab.host("stopped")?;
    let guest = lab.guest()?.ok().filter(|_| libvirt::program("qemu-system-x86_64").is_some());
    let (text, kind) = match &guest {
        Some(guest) => (guest.config(), "QEMU"),
        None => (MOCK.to_owned(), "mock"),
    };
    let config = host.file("guest.cfg", &text)?;
    host.create_many(&config, "q", LIVE, &["-p"])?;
    let victim = Hung::find(&host, "q7")?;

    let [mut list, mut list_before] = std::array::from_fn(|_| Series::new(Unit::Ms));
    let [mut verbs, mut verbs_before] = std::array::from_fn(|_| Series::new(Unit::Ms));
    for _ in 0..lab.rounds.of(15, 4) {
        let run = host.kxl(["list"])?;
        if run.stdout.contains("(not answering)") {
            return Err(BenchError::wrong("a domain does not answer before one is stopped"));
        }
        list_before.push_time(run.wall);
        verbs_before.push_time(there_and_back(&host)?);
        victim.stop()?;
        let run = host.kxl(["list"])?;
        if run.stdout.matches("(not answering)").count() != 1 {
            return Err(BenchError::wrong(format!("not one that is hung in\n{}", run.stdout)));
        }
        list.push_time(run.wall);
        verbs.push_time(there_and_back(&host)?);
        victim.go()?;
    }
    let what = format!("kxl list, 1 of {LIVE} {kind} stopped");
    table.add(Figure::new(what, list, Goal::AtMost(300.0)).beside("none stopped", &list_before));
    let what = "unpause + pause of another one";
    table.add(Figure::new(what, verbs, Goal::Within(1.5)).beside("none stopped", &verbs_before));
    Ok(())
}

fn there_and_back(host: &Host) -> Result<std::time::Duration, BenchError> {
    Ok(host.kxl(["unpause", "q13"])?.wall + host.kxl(["pause", "q13"])?.wall)
}

/// An emulator that can be stopped; it goes on again in any case.
struct Hung(Process);

impl Hung {
    fn find(host: &Host, name: &str) -> Result<Self, BenchError> {
        let ProcessRow { pid, start_time, boot_id } = host.emulator(name)?;
        let process = Process::open(Identity { pid, start_time, boot_id });
        Ok(Self(process.map_err(BenchError::io("open the process of an emulator"))?))
    }

    fn stop(&self) -> Result<(), BenchError> {
        self.0.signal(Signal::SIGSTOP).map_err(BenchError::io("stop an emulator"))
    }

    fn go(&self) -> Result<(), BenchError> {
        self.0.signal(Signal::SIGCONT).map_err(BenchError::io("let an emulator go on"))
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // Ended by now is as good.
        let _gone = self.go();
    }
}
