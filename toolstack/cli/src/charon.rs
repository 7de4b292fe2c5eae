//! Charon's configurations as files: reading one with what it includes, and making a domain of it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kxl_backend::plain;
use kxl_domain::charon::{self, Configuration, Facts, facts};
use kxl_domain::{Failure, Kind};

use crate::text::add;
use crate::view::tame;

/// What the guest of an emulator may take to shut down, in seconds: OpenVMS needs minutes.
const PATIENCE: u32 = 300;

/// What a command line says beside the configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beside {
    /// `--emulator`.
    pub(crate) emulator: Option<PathBuf>,
    /// `--description`.
    pub(crate) description: Option<String>,
    /// `--autostart`.
    pub(crate) autostart: bool,
}

impl Beside {
    /// The words that override a configuration with what is said here.
    ///
    /// # Errors
    /// [`Kind::Usage`] for an emulator that cannot be run.
    pub(crate) fn overrides(&self) -> Result<Vec<String>, Failure> {
        let mut words = Vec::new();
        if let Some(emulator) = &self.emulator {
            words.push(format!("exec={}", quoted(&absolute(&runnable(emulator)?)?)));
        }
        if let Some(description) = &self.description {
            words.push(format!("description={}", quoted(description)));
        }
        if self.autostart {
            words.push("autostart=1".to_owned());
        }
        Ok(words)
    }
}

/// Reads a configuration; files that it includes are looked for beside it.
///
/// # Errors
/// [`Kind::Failed`] when it cannot be read, [`Kind::Usage`] with file, line and column of what is
/// wrong in it.
pub(crate) fn read(file: &Path) -> Result<Configuration, Failure> {
    let name = file.display().to_string();
    let text = contents(file)
        .map_err(|error| Failure::because(Kind::Failed, format!("cannot read {name}"), &error))?;
    parse(file, &text)
}

fn parse(file: &Path, text: &str) -> Result<Configuration, Failure> {
    let beside = file.parent().unwrap_or(Path::new(""));
    let include = |name: &str| contents(&beside.join(name)).ok();
    charon::parse(text, include).map_err(|error| {
        let place = error.located(Some(&file.display().to_string()));
        let caret = " ".repeat(error.column.saturating_sub(1));
        Failure::new(Kind::Usage, format!("{place}\n    {}\n    {caret}^", tame::line(&error.text)))
    })
}

/// The facts of a configuration, for lists: what cannot be read has none.
pub(crate) fn facts_of(file: &Path) -> Option<Facts> {
    read(file).ok().map(|configuration| facts(&configuration))
}

/// A file's text. Nothing but a plain file is opened: others may never come to an end.
pub(crate) fn contents(file: &Path) -> io::Result<String> {
    // Comments may be in any encoding.
    Ok(String::from_utf8_lossy(&plain::head(file, plain::MOST)?).into_owned())
}

/// The configuration of a domain that runs this one, in the notation of kxl.cfg(5).
///
/// # Errors
/// As [`read`].
pub(crate) fn translate(file: &Path, text: &str) -> Result<String, Failure> {
    let facts = facts(&parse(file, text)?);
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = facts.name.as_deref().unwrap_or(&stem);
    let mut out = String::new();
    add(&mut out, format_args!("name = {}\n", quoted(name)));
    out.push_str("backend = \"charon\"\n");
    add(&mut out, format_args!("emulator_config = {}\n", quoted(&absolute(file)?)));
    if let Some(size) = facts.memory_mib {
        add(&mut out, format_args!("memory = {size}\n"));
    }
    if let Some(count) = facts.cpus {
        add(&mut out, format_args!("vcpus = {count}\n"));
    }
    add(&mut out, format_args!("stopwaitsecs = {PATIENCE}\n"));
    Ok(out)
}

/// The refusal of a configuration whose emulator nobody has named.
pub(crate) fn no_emulator(file: &Path) -> Failure {
    let name = file.display();
    Failure::new(Kind::Usage, format!("{name} is a configuration of Charon, and names no emulator"))
        .hint(format!(
            "kxl new {name} --emulator PATH registers it, PATH being the emulator's program"
        ))
}

/// Checks that a program can be run.
fn runnable(program: &Path) -> Result<String, Failure> {
    let attempt = format!("{} cannot be the emulator", program.display());
    let meta =
        fs::metadata(program).map_err(|error| Failure::because(Kind::Usage, &attempt, &error))?;
    let executable = meta.is_file() && meta.permissions().mode() & 0o111 != 0;
    if !executable {
        let why = if meta.is_file() { "it is not executable" } else { "it is not a file" };
        return Err(Failure::new(Kind::Usage, format!("{attempt}: {why}")));
    }
    text_of(program)
}

fn absolute(path: impl AsRef<Path>) -> Result<String, Failure> {
    let path = std::path::absolute(path.as_ref())
        .map_err(|error| Failure::because(Kind::Failed, "there is no current directory", &error))?;
    text_of(&path)
}

fn text_of(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Failure::new(Kind::Usage, format!("the path {} is not UTF-8", path.display()))
    })
}

/// A string as a configuration writes it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use kxl_domain::config;

    use super::*;

    #[test]
    fn a_domain_of_charon_has_the_name_and_the_size_that_its_configuration_says() {
        let text = "set session hw_model=AlphaServer_DS20\nset ram size=512\n";
        let made = translate(Path::new("/srv/ds20.cfg"), text).unwrap();
        let config = config::parse("made", &made, &[]).unwrap().config;
        assert_eq!((config.name.as_str(), config.backend.as_str()), ("ds20", "charon"));
        assert_eq!((config.memory_mib, config.vcpus, config.stop.wait_secs), (512, 2, 300));
        assert_eq!(config.emulator_config, Some("/srv/ds20.cfg".into()));
        let text = format!("{text}set session configuration_name=\"pay\"\n");
        let made = translate(Path::new("/srv/a \"b\".cfg"), &text).unwrap();
        let config = config::parse("made", &made, &[]).unwrap().config;
        assert_eq!(config.name.as_str(), "pay");
        assert_eq!(config.emulator_config, Some("/srv/a \"b\".cfg".into()));
    }

    #[test]
    fn what_is_said_beside_becomes_words_and_an_emulator_has_to_be_a_program() {
        let beside = |emulator: &str| Beside {
            emulator: Some(emulator.into()),
            description: Some("a \"b\"".into()),
            autostart: true,
        };
        let words = beside("/bin/sh").overrides().unwrap();
        assert_eq!(words, ["exec=\"/bin/sh\"", "description=\"a \\\"b\\\"\"", "autostart=1"]);
        for (emulator, why) in
            [("/etc/passwd", "not executable"), ("/", "not a file"), ("/nonexistent", "cannot be")]
        {
            let failure = beside(emulator).overrides().unwrap_err();
            assert!(failure.text.contains(why), "{failure}");
        }
    }

    #[test]
    fn a_configuration_or_an_include_that_never_ends_is_refused() {
        let dir = std::env::temp_dir().join(format!("kxl-cli-charon-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (fifo, file) = (dir.join("fifo"), dir.join("a.cfg"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(&file, "set session hw_model=AlphaServer_DS20\ninclude fifo\n").unwrap();
        for file in [fifo.as_path(), &file, Path::new("/dev/zero")] {
            assert_eq!(facts_of(file), None, "{}", file.display());
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_mistake_shows_its_line_with_a_caret() {
        let failure = parse(Path::new("a.cfg"), "set session hw_model=X\nset ram\n").unwrap_err();
        assert_eq!(failure.kind, Kind::Usage);
        assert_eq!(failure.text, "a.cfg:2:8: what to set is missing\n    set ram\n           ^");
    }
}
