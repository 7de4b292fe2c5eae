//! The machine as the api-channel sees it.

use std::fs::File;

use kxl_qmp::server::ErrorClass;

use super::{Machine, MachineError};
use crate::api::Notices;
use crate::api::control::{
    Block, Control, Identity, Limits, Migrate, Migration, NewDisk, NewNic, Outcome, Place, Refusal,
    RunState, Status, Vcpu,
};
use crate::api::notices::{Cause, What};
use crate::config::{Actions, AfterReboot};
use crate::{log, memory};

impl Control for Machine {
    fn notices(&self) -> &Notices {
        &self.notices
    }

    fn attend(&mut self) {
        if let Err(error) = self.look() {
            log::line(&format!("the machine cannot go on: {}", Refusal::from(error).text));
            self.notices.post(What::Shutdown(Cause::HostError));
            self.notices.post(What::Exit(1));
        }
    }

    fn identity(&self) -> Identity {
        Identity { name: self.config.name.clone(), uuid: self.config.uuid.clone() }
    }

    fn status(&self) -> Status {
        Status { state: self.state, ended: self.ended }
    }

    fn stop(&mut self) -> Outcome {
        if self.state == RunState::Running {
            self.stand()?;
            if let Some(end) = self.ending.how() {
                // It came to its end before it was stopped.
                return Ok(self.end(end)?);
            }
            self.state = RunState::Paused;
            self.notices.post(What::Stop);
        }
        Ok(())
    }

    fn cont(&mut self) -> Outcome {
        match self.state {
            RunState::Running => Ok(()),
            RunState::Inmigrate => Err(MachineError::NoState.into()),
            RunState::Shutdown | RunState::GuestPanicked | RunState::InternalError => {
                Err(MachineError::Ended.into())
            }
            // QEMU's words, which clients wait on.
            RunState::FinishMigrate => Err(Refusal::new("Migration is not finalized yet")),
            RunState::Prelaunch | RunState::Paused | RunState::Postmigrate => Ok(self.go()?),
        }
    }

    fn reset(&mut self) -> Outcome {
        if self.engine.is_none() {
            return Err(MachineError::NoState.into());
        }
        // Asked before anything stands still: a machine that cannot be reset goes on.
        if self.actions.reboot == AfterReboot::Reset && self.payload.is_none() {
            return Err(MachineError::NoKernel.into());
        }
        let ran = self.state == RunState::Running;
        self.stand()?;
        if self.actions.reboot == AfterReboot::Shutdown {
            self.over(Cause::HostQmpSystemReset);
            return Ok(());
        }
        self.rebuild()?;
        self.notices.post(What::Reset(Cause::HostQmpSystemReset));
        if ran {
            self.board.resume()?;
            if let Some(engine) = &mut self.engine {
                engine.run()?;
            }
        } else if self.state != RunState::Prelaunch {
            self.state = RunState::Paused;
        }
        Ok(())
    }

    fn powerdown(&mut self) -> Outcome {
        if self.ended.is_some() {
            return Err(MachineError::Ended.into());
        }
        self.board.press_power();
        self.notices.post(What::Powerdown);
        Ok(())
    }

    fn quit(&mut self, cause: Cause) {
        self.notices.post(What::Shutdown(cause));
        self.notices.post(What::Exit(0));
    }

    fn actions(&self) -> Actions {
        self.actions
    }

    fn set_actions(&mut self, actions: Actions) {
        self.actions = actions;
    }

    fn vcpus(&self) -> Vec<Vcpu> {
        let vcpus = self.engine.iter().flat_map(|engine| engine.vcpus());
        vcpus.map(|vcpu| Vcpu { thread: vcpu.thread_id().cast_signed() }).collect()
    }

    fn memory(&self) -> u64 {
        memory::size(&self.memory)
    }

    fn blocks(&self) -> Vec<Block> {
        let disks = self.board.slots().disks.iter();
        disks
            .filter_map(|slot| {
                let (id, file, readonly) = slot.holds.clone()?;
                let size = slot.handle.capacity().unwrap_or(0);
                Some(Block { id, file, readonly, size })
            })
            .collect()
    }

    fn balloon(&self) -> Option<u64> {
        let given = self.board.slots().balloon.as_ref()?.given().ok()?;
        Some(memory::size(&self.memory).saturating_sub(given))
    }

    fn set_balloon(&mut self, bytes: u64) -> Outcome {
        let total = memory::size(&self.memory);
        let Some(balloon) = &self.board.slots().balloon else {
            let text = "the machine has no balloon: start it with -balloon".to_owned();
            return Err(Refusal { class: ErrorClass::DeviceNotActive, text });
        };
        if bytes > total {
            let text = format!("{bytes} bytes are more than the {total} of the machine");
            return Err(Refusal::new(text));
        }
        Ok(balloon.set_target(total - bytes)?)
    }

    fn plug_disk(&mut self, disk: NewDisk) -> Outcome {
        self.not_while_saved()?;
        self.plug_in_disk(disk)
    }

    fn plug_nic(&mut self, nic: NewNic) -> Outcome {
        self.not_while_saved()?;
        self.plug_in_nic(nic)
    }

    fn unplug(&mut self, id: &str) -> Outcome {
        self.not_while_saved()?;
        self.pull_out(id)
    }

    fn migrate(&mut self, order: Migrate) -> Outcome {
        self.save(order)
    }

    fn continue_migration(&mut self) -> Outcome {
        self.continue_save()
    }

    fn cancel_migration(&mut self) {
        if let Some(saver) = &self.saver {
            saver.cancel();
        }
    }

    fn limit_migration(&mut self, limits: Limits) {
        self.set_limits(limits);
    }

    fn limits(&self) -> Limits {
        self.save_limits()
    }

    fn migration(&self) -> Migration {
        self.save_progress()
    }

    fn incoming(&mut self, from: Place, offset: u64) -> Outcome {
        if self.state != RunState::Inmigrate {
            return Err(Refusal::new(
                "the machine waits for no state: start it with -incoming defer",
            ));
        }
        let file = match from {
            Place::Fd(fd) => File::from(fd),
            Place::Path(path) => File::open(&path).map_err(|error| {
                Refusal::new(format!("cannot open {}: {error}", path.display()))
            })?,
        };
        self.bring_in(file, offset)?;
        if !self.config.paused {
            self.go()?;
        }
        Ok(())
    }
}
