//! A configuration while it is put together: what each option and each key adds, and what must
//! hold of the whole.

use super::values::{Result, Wrong};
use super::{Boot, Config, Disk, Endpoint, Incoming, MAX_DISKS, MAX_NICS, Nic, Source, Tap};

/// A configuration to which parts are added.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) kernel: Option<Source>,
    pub(super) initrd: Option<Source>,
    pub(super) cmdline: Option<String>,
    /// What was taken and is not done, for the person who asked for it.
    pub(super) notes: Vec<String>,
    /// Devices that came from the file: an option of the same name replaces them.
    replaceable: Vec<String>,
}

impl Draft {
    /// Everything so far came from the file; what follows may replace it.
    pub(super) fn file_ends(&mut self) {
        let disks = self.config.disks.iter().map(|disk| disk.id.clone());
        self.replaceable = disks.chain(self.config.nics.iter().map(|nic| nic.id.clone())).collect();
    }

    fn may_replace(&mut self, id: &str) -> bool {
        let found = self.replaceable.iter().position(|known| known == id);
        found.map(|index| self.replaceable.swap_remove(index)).is_some()
    }

    fn taken(&self, id: &str) -> bool {
        self.config.disks.iter().any(|disk| disk.id == id)
            || self.config.nics.iter().any(|nic| nic.id == id)
    }

    /// A name that no device has, for one that came without.
    fn free(&self, kind: &str, first: usize) -> String {
        (first..)
            .map(|index| format!("{kind}{index}"))
            .find(|id| !self.taken(id))
            .unwrap_or_default()
    }

    /// Adds a disk; without a name it gets one.
    pub(super) fn disk(
        &mut self,
        id: Option<String>,
        source: Source,
        readonly: bool,
        serial: Option<String>,
    ) -> Result<()> {
        let id = id.unwrap_or_else(|| self.free("disk", self.config.disks.len()));
        let disk = Disk { id, source, readonly, serial };
        if self.may_replace(&disk.id)
            && let Some(old) = self.config.disks.iter_mut().find(|old| old.id == disk.id)
        {
            *old = disk;
            return Ok(());
        }
        if self.taken(&disk.id) {
            return Err(Wrong(format!("there are two devices {:?}: give one another id", disk.id)));
        }
        if self.config.disks.len() == MAX_DISKS {
            return Err(Wrong(format!("a machine has at most {MAX_DISKS} disks")));
        }
        self.config.disks.push(disk);
        Ok(())
    }

    /// Adds a network interface; without a name it gets one.
    pub(super) fn nic(&mut self, id: Option<String>, mut nic: Nic) -> Result<()> {
        nic.id = id.unwrap_or_else(|| self.free("net", self.config.nics.len()));
        let same_mac = |old: &Nic| nic.mac.is_some() && old.mac == nic.mac && old.id != nic.id;
        if self.config.nics.iter().any(same_mac) {
            return Err(Wrong("two interfaces have this mac: give one another".to_owned()));
        }
        if self.may_replace(&nic.id)
            && let Some(old) = self.config.nics.iter_mut().find(|old| old.id == nic.id)
        {
            *old = nic;
            return Ok(());
        }
        if self.taken(&nic.id) {
            return Err(Wrong(format!("there are two devices {:?}: give one another id", nic.id)));
        }
        if self.config.nics.len() == MAX_NICS {
            return Err(Wrong(format!("a machine has at most {MAX_NICS} network interfaces")));
        }
        self.config.nics.push(nic);
        Ok(())
    }

    /// The whole, if its parts fit together, and what there is to say about it.
    pub(super) fn finish(mut self) -> Result<(Config, Vec<String>)> {
        self.boot()?;
        self.hotplug()?;
        self.used_once()?;
        Ok((self.config, self.notes))
    }

    fn boot(&mut self) -> Result<()> {
        let Some(kernel) = self.kernel.take() else {
            if self.config.incoming.is_some() {
                // The state has the kernel in it: a file is for a reset.
                return Ok(());
            }
            let why = if self.initrd.is_some() || self.cmdline.is_some() {
                "an initrd and a command line are for a kernel: name one with -kernel"
            } else {
                "there is nothing to run: name a kernel with -kernel or in the file of -config, \
                 or a state with -incoming"
            };
            return Err(Wrong(why.to_owned()));
        };
        self.config.boot = Some(Boot {
            kernel,
            initrd: self.initrd.take(),
            cmdline: self.cmdline.take().unwrap_or_default(),
        });
        Ok(())
    }

    fn hotplug(&self) -> Result<()> {
        let Config { hotplug, disks, nics, .. } = &self.config;
        let rows = [
            ("network interfaces", hotplug.nics, nics.len()),
            ("disks", hotplug.disks, disks.len()),
        ];
        for (what, reserved, have) in rows {
            if reserved != 0 && reserved < have {
                return Err(Wrong(format!(
                    "-hotplug counts all {what}, and {have} are configured: {reserved} is too few"
                )));
            }
        }
        Ok(())
    }

    /// The process has one stdin, one descriptor of each number and one socket of each path.
    fn used_once(&self) -> Result<()> {
        let config = &self.config;
        let ends: Vec<&Endpoint> = [&config.serial, &config.console]
            .into_iter()
            .chain(config.channel.as_ref().map(|channel| &channel.endpoint))
            .chain(&config.qmp)
            .collect();
        let ends_twice = ends.iter().enumerate().find(|(index, end)| {
            !matches!(end, Endpoint::None | Endpoint::Null) && ends[..*index].contains(end)
        });
        if let Some((_, end)) = ends_twice {
            let what = match end {
                Endpoint::Stdio => "stdio".to_owned(),
                Endpoint::File(path) | Endpoint::Unix(path) => format!("{}", path.display()),
                _ => "a descriptor".to_owned(),
            };
            return Err(Wrong(format!("{what} is used twice: each end has one device")));
        }
        let mut numbers = Vec::new();
        let boot = config.boot.iter().flat_map(|boot| [Some(&boot.kernel), boot.initrd.as_ref()]);
        let incoming = match &config.incoming {
            Some(Incoming::From(source)) => Some(source),
            _ => None,
        };
        let sources = boot
            .flatten()
            .chain(config.disks.iter().map(|disk| &disk.source))
            .chain(incoming)
            .chain(config.memory_file.as_ref().map(|file| &file.source));
        numbers.extend(sources.filter_map(|source| match source {
            Source::Fd(fd) => Some(*fd),
            Source::Path(_) => None,
        }));
        numbers.extend(config.nics.iter().filter_map(|nic| match nic.tap {
            Tap::Fd(fd) => Some(fd),
            Tap::Name(_) => None,
        }));
        numbers.extend(ends.iter().filter_map(|end| match end {
            Endpoint::Fd(fd) => Some(*fd),
            _ => None,
        }));
        numbers.sort_unstable();
        if let Some(pair) = numbers.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Wrong(format!("descriptor {} is used twice", pair[0])));
        }
        Ok(())
    }
}
