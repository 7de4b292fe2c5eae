//! Relative paths in a configuration.

use std::path::{Path, PathBuf};

use super::model::{DomainConfig, Firmware, Input, OutputTo};

impl DomainConfig {
    /// Makes every relative path absolute: kernel, ramdisk, firmware, ini, the emulator's
    /// configuration, scripts, the files of disks and of standard streams, the working directory, and
    /// an emulator that is named with a slash (one without is searched for, as a shell would).
    ///
    /// Left alone are the targets of disks with a script or of the form `SCHEME://…`, which are no
    /// paths. Nothing is looked up: `..` and links stay as they are.
    pub fn resolve_paths(&mut self, cwd: &Path) {
        let boot = &mut self.boot;
        let scripts = &mut self.scripts;
        let files = [
            &mut boot.kernel,
            &mut boot.ramdisk,
            &mut self.ini,
            &mut self.emulator_config,
            &mut scripts.prestart,
            &mut scripts.stop,
            &mut scripts.guest_status,
        ];
        for path in files.into_iter().filter_map(Option::as_mut) {
            resolve(path, cwd);
        }
        if let Some(Firmware::Path(path)) = &mut boot.firmware {
            resolve(path, cwd);
        }
        if let Some(emulator) = &mut self.emulator
            && emulator.as_os_str().as_encoded_bytes().contains(&b'/')
        {
            resolve(emulator, cwd);
        }
        let process = &mut self.process;
        if let Some(directory) = &mut process.directory {
            resolve(directory, cwd);
        }
        if let Some(Input::File(path)) = &mut process.stdin {
            resolve(path, cwd);
        }
        for output in [&mut process.stdout, &mut process.stderr] {
            if let Some(OutputTo::File(path)) = &mut output.to {
                resolve(path, cwd);
            }
        }
        for disk in self.disks.iter_mut().filter(|disk| disk.script.is_none()) {
            if let Some(target) = disk.target.as_mut().filter(|target| !is_address(target)) {
                resolve(target, cwd);
            }
        }
    }
}

fn resolve(path: &mut PathBuf, cwd: &Path) {
    // Joining an absolute path gives that path.
    *path = cwd.join(&*path);
}

fn is_address(target: &Path) -> bool {
    target.to_str().and_then(|text| text.split_once("://")).is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    #[test]
    fn relative_paths_become_absolute_and_the_rest_stays() {
        let text = "name='a'\nkernel='k'\nramdisk='/abs/r'\nini='../i'\nexec='./q'\n\
            disk=['d.img,raw,xvda','vdev=xvdb,target=nbd://h/x','iscsi:iqn.x,xvdc,w',',,hdc,cdrom']\n";
        let mut config = parse("f", text, &[]).unwrap().config;
        config.resolve_paths("/home/me".as_ref());
        assert_eq!(config.boot.kernel.as_deref(), Some("/home/me/k".as_ref()));
        assert_eq!(config.boot.ramdisk.as_deref(), Some("/abs/r".as_ref()));
        assert_eq!(config.ini.as_deref(), Some("/home/me/../i".as_ref()));
        assert_eq!(config.emulator.as_deref(), Some("/home/me/./q".as_ref()));
        let targets: Vec<_> =
            config.disks.iter().map(|d| d.target.as_ref().map(|t| t.to_str().unwrap())).collect();
        assert_eq!(targets, [Some("/home/me/d.img"), Some("nbd://h/x"), Some("iqn.x"), None]);
    }

    #[test]
    fn the_scripts_and_the_configuration_of_an_emulator_become_absolute() {
        let text = "name='a'\nbackend='charon'\nemulator_config='c'\nprestart='p'\n\
            stop_script='/abs/s'\nguest_status_script='g'\n";
        let mut config = parse("f", text, &[]).unwrap().config;
        config.resolve_paths("/srv".as_ref());
        let scripts = config.scripts;
        let paths = [config.emulator_config, scripts.prestart, scripts.stop, scripts.guest_status];
        let want = ["/srv/c", "/srv/p", "/abs/s", "/srv/g"];
        assert_eq!(paths, want.map(|path| Some(path.into())));
    }

    #[test]
    fn an_emulator_without_a_slash_is_searched_for() {
        let mut config = parse("f", "name='a'\nkernel='k'\nexec='q'\n", &[]).unwrap().config;
        config.resolve_paths("/x".as_ref());
        assert_eq!(config.emulator.as_deref(), Some("q".as_ref()));
    }
}
