//! `[supervisord]` and the sections that are not about one program.

use super::ini::{Ini, Section};
use super::section::Keys;
use super::{Import, Surroundings, Weight, shell};

/// What the server's section says for every program.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    pub(super) user: Option<String>,
    pub(super) umask: Option<String>,
    pub(super) directory: Option<String>,
    pub(super) environment: Vec<String>,
}

/// Reads `[supervisord]`, if there is one.
pub(super) fn read(ini: &Ini, around: &Surroundings<'_>, import: &mut Import) -> Server {
    let mut server = Server::default();
    let Some(section) = ini.sections.iter().find(|section| section.name == "supervisord") else {
        return server;
    };
    let mut keys = Keys::new(section, "", around, import);
    if let Some((true, value)) = keys.flag("nodaemon") {
        let text = "a domain's monitor runs in the foreground with kxl-monitor --foreground";
        keys.notice(&value, text);
    }
    server.user = keys.value("user").map(|value| value.text.trim().to_owned());
    server.umask = keys.value("umask").map(|value| value.text);
    server.directory = keys.value("directory").map(|value| value.text);
    if let Some(value) = keys.value("environment") {
        match shell::pairs(&value.text) {
            Ok(pairs) => server.environment = pairs,
            Err(why) => keys.refuse(&value, why),
        }
    }
    use Weight::{Notice, Warning};
    keys.only_said(&[
        ("command", Notice, "is not needed: there is no server to be run"),
        ("stdout_file", Notice, "is not needed: monitors write to kxl's log directory"),
        (
            "logfile",
            Notice,
            "is not needed: kxl events tells what happened, and each monitor has its log",
        ),
        ("logfile_maxbytes", Notice, "is not needed: kxl's logs are kept to their size"),
        ("logfile_backups", Notice, "is not needed: kxl's logs are kept to their size"),
        ("loglevel", Notice, "is not needed: KXL_LOG sets what monitors log"),
        ("pidfile", Notice, "is not needed: kxl list shows who runs"),
        ("childlogdir", Notice, "is not needed: name the files of each program"),
        ("identifier", Notice, "has no meaning here"),
        ("minfds", Warning, "is not done: give each program its rlimits"),
        ("minprocs", Warning, "is not done: give each program its rlimits"),
        ("nocleanup", Notice, "has no meaning here"),
        ("strip_ansi", Warning, "is not done: output is written as it comes"),
        ("silent", Notice, "has no meaning here"),
    ]);
    keys.leftovers();
    server
}

/// Says what becomes of a section that is neither a program nor the server.
pub(super) fn other(section: &Section, about: &str, import: &mut Import) {
    let kind = section.name.split(':').next().unwrap_or_default();
    let (weight, text) = match kind {
        "supervisord" => return,
        "unix_http_server" | "inet_http_server" | "rpcinterface" | "supervisorctl" => {
            (Weight::Notice, "is not needed: kxl shell and every other command act on their own")
        }
        "include" => (Weight::Error, "is not followed: import each file by itself"),
        "group" => (Weight::Warning, "is not done: there are no groups of domains"),
        "eventlistener" => {
            (Weight::Warning, "is not imported: hooks take its place, see kxl-events(7)")
        }
        "fcgi-program" => (Weight::Warning, "is not imported: kxl binds no sockets for programs"),
        _ => (Weight::Warning, "is not a section of supervisord, and is ignored"),
    };
    import.say(weight, section.line, about, text);
}
