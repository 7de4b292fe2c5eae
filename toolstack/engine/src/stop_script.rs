//! Shutting a guest down by a script of its operator's: the domain's own, or the common one of the
//! host. It runs beside the monitor's work; how it ends decides what becomes of a stop.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kxl_backend::{plain, trusted};
use kxl_domain::charon::stop_script::{StopScript, common_status, own_status};
use kxl_domain::{DomId, DomainConfig, DomainName, DomainUuid, Failure, Kind};
use kxl_store::{Paths, Severity};
use tokio::sync::oneshot;

use crate::live::{LiveDomain, Next};
use crate::script::{self, Ended, Script};

/// How long a script may take to say goodbye after its guest has ended.
const GOODBYE: Duration = Duration::from_secs(1);

/// How often one is looked at that says goodbye.
const LOOK: Duration = Duration::from_millis(20);

/// What a script has to say, in the domain's runtime directory: a pipe would break with the
/// monitor, and the script with it.
pub(crate) const OUTPUT: &str = "stop-script.out";

/// How far the stop script of a domain has got, and the program that it is.
#[must_use]
pub fn stop_script(paths: &Paths, config: &DomainConfig) -> (StopScript, PathBuf) {
    let common = paths.stop_script();
    let Some(own) = &config.scripts.stop else {
        let file = config.emulator_config.as_deref();
        let status = match (plain::head(&common, plain::MOST), file) {
            (Ok(text), Some(file)) => {
                common_status(&String::from_utf8_lossy(&text), &file.display().to_string())
            }
            (Ok(_), None) => StopScript::CaseNotSet,
            (Err(_), _) => StopScript::NotFound,
        };
        return (status, common);
    };
    let status = match plain::head(own, plain::MOST).map(String::from_utf8) {
        Ok(Ok(text)) => own_status(&text),
        // A program that is no text is nothing that could be customized any further.
        Ok(Err(_)) => StopScript::Customized,
        Err(_) => StopScript::NotFound,
    };
    (status, own.clone())
}

/// The command that shuts a guest down, with its arguments; empty where there is none: the
/// domain's `stop_command`, else its stop script.
#[must_use]
pub(crate) fn command(paths: &Paths, config: &DomainConfig) -> Vec<String> {
    if !config.maintenance.stop_command.is_empty() {
        return config.maintenance.stop_command.clone();
    }
    let (status, program) = stop_script(paths, config);
    if !status.is_ready() {
        return Vec::new();
    }
    if let Some(problem) = trusted::of_program(&program) {
        tracing::warn!("a stop script is not run: {problem}");
        return Vec::new();
    }
    let file = config.emulator_config.iter().map(|file| file.display().to_string());
    std::iter::once(program.display().to_string()).chain(file).collect()
}

/// What it finds in its environment.
pub(crate) fn environment(
    name: &DomainName,
    domid: Option<DomId>,
    uuid: DomainUuid,
) -> Vec<(OsString, OsString)> {
    let domid = domid.map(|domid| domid.to_string()).unwrap_or_default();
    let of_domain =
        [("KXL_DOMAIN", name.to_string()), ("KXL_DOMID", domid), ("KXL_UUID", uuid.to_string())];
    of_domain.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

/// A script that runs. Dropped, it goes on by itself, as that of a monitor that was killed: whoever
/// lets go of a domain without ending it leaves the script its work.
#[derive(Debug)]
pub(crate) struct Shutting {
    pub(crate) done: oneshot::Receiver<Result<(), String>>,
    cancel: Arc<AtomicBool>,
}

impl Shutting {
    pub(crate) fn begin(script: Script) -> std::io::Result<Self> {
        let (tell, done) = oneshot::channel();
        let cancel = Arc::clone(&script.cancel);
        std::thread::Builder::new().name("stop-script".to_owned()).spawn(move || {
            // Nobody listens any more when the domain is over.
            let _over = tell.send(outcome(&script));
        })?;
        Ok(Self { done, cancel })
    }

    /// Why it has failed, told once; `None` while it runs and when it has not.
    pub(crate) fn failed(&mut self) -> Option<String> {
        self.done.try_recv().ok()?.err()
    }

    /// As [`Self::leave`], for a thread that may wait.
    pub(crate) fn end(mut self) {
        for cancel in [false, true] {
            self.cancel.store(cancel, Ordering::Relaxed);
            let until = Instant::now() + GOODBYE;
            while matches!(self.done.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                if Instant::now() >= until {
                    break;
                }
                std::thread::sleep(LOOK);
            }
        }
    }

    /// Lets it say goodbye, for a moment, and ends it then.
    async fn leave(mut self, goodbye: Duration) {
        if tokio::time::timeout(goodbye, &mut self.done).await.is_err() {
            self.cancel.store(true, Ordering::Relaxed);
            // One that cannot even be killed is not waited for.
            let _stuck = tokio::time::timeout(GOODBYE, &mut self.done).await;
        }
    }
}

fn outcome(script: &Script) -> Result<(), String> {
    let name = script.program.display();
    if let Some(problem) = trusted::of_program(&script.program) {
        return Err(format!("the stop script {name} is not run: {problem}"));
    }
    match script::run(script) {
        Ok(Ended::Status { code: Some(0), .. }) => Ok(()),
        Ok(Ended::Status { code, said }) => {
            let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty());
            let last: String =
                last.unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
            let how = code.map_or("a signal".to_owned(), |code| format!("status {code}"));
            let said = if last.is_empty() { String::new() } else { format!(": {last}") };
            Err(format!("the stop script {name} ended with {how}{said}"))
        }
        Ok(Ended::TooLate) => Err(format!(
            "the stop script {name} did not end within {} s",
            script.patience.as_secs()
        )),
        Err(error) => Err(format!("the stop script {name} cannot be run: {error}")),
    }
}

impl LiveDomain {
    /// The stop script that shuts the guest down, if there is one that does.
    pub(crate) fn ready_stop_script(&self) -> Option<PathBuf> {
        let (status, program) = stop_script(&self.paths, &self.row.config);
        status.is_ready().then_some(program)
    }

    /// Starts the stop script, unless it runs already.
    pub(crate) fn begin_stop_script(&mut self, program: PathBuf) -> Result<(), Failure> {
        if self.shutting.is_some() {
            return Ok(());
        }
        let row = &self.row;
        let file = row.config.emulator_config.as_ref();
        let script = Script {
            program,
            args: file.map(|file| file.clone().into_os_string()).into_iter().collect(),
            env: environment(&row.name, Some(row.domid), row.uuid),
            patience: Duration::from_secs(u64::from(row.config.stop.wait_secs)),
            output: Some(self.paths.rundir(row.uuid).join(OUTPUT)),
            cancel: Arc::default(),
        };
        let attempt = format!("cannot shutdown domain \"{}\" (domid {})", row.name, row.domid);
        let begun = Shutting::begin(script);
        self.shutting =
            Some(begun.map_err(|error| Failure::because(Kind::Failed, attempt, &error))?);
        Ok(())
    }

    /// Ends the stop script of a domain that is over, after a moment to say goodbye: it would go on
    /// with whoever comes under that name next.
    pub fn leave_stop_script(&mut self) -> impl Future<Output = ()> + use<> {
        let shutting = self.shutting.take();
        async move {
            if let Some(shutting) = shutting {
                shutting.leave(GOODBYE).await;
            }
        }
    }

    /// Follows the end of the stop script. One that failed has failed the stop that it was for: the
    /// power is taken away.
    pub async fn stop_script_is_over(&mut self, outcome: Result<(), String>) -> Next {
        self.shutting = None;
        match outcome {
            Ok(()) => Next::Continue,
            Err(why) if self.is_being_stopped() => self.stop_has_failed(why).await,
            Err(why) => {
                self.event(Severity::Warning, "shutdown-failed", None, &why);
                Next::Continue
            }
        }
    }

    /// A stop script has not brought the emulator to its end: an alert, and the power goes.
    pub(crate) async fn stop_has_failed(&mut self, why: String) -> Next {
        self.event(Severity::Alert, "stop-failed", None, &why);
        self.row.supervision.stop_by_ms = None;
        self.stop_failed = Some(why);
        match self.destroy().await {
            Ok(next) => next,
            Err(failure) => {
                tracing::error!(%failure, "a stop could not be carried through");
                Next::Continue
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use kxl_domain::config::parse;

    /// Nobody but us may write it, whatever the umask is.
    fn put(path: &std::path::Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn the_command_of_a_domain_is_its_own_else_its_script_else_the_common_one() {
        let root = std::env::temp_dir().join(format!("kxl-stop-script-{}", std::process::id()));
        let paths = Paths::under(&root);
        fs::create_dir_all(root.join("etc/kxl")).unwrap();
        for dir in [&root, &root.join("etc/kxl")] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let config = |more: &str| {
            let text = format!("name='a'\nbackend='charon'\nemulator_config='/a.cfg'\n{more}");
            parse("f", &text, &[]).unwrap().config
        };
        assert_eq!(stop_script(&paths, &config("")).0, StopScript::NotFound);
        assert!(command(&paths, &config("")).is_empty());
        put(&paths.stop_script(), "case $1 in\n/a.cfg)\n to_customize\n;;\nesac\n");
        assert!(command(&paths, &config("")).is_empty());
        put(&paths.stop_script(), "case $1 in\n/a.cfg) sync ;;\nesac\n");
        let common = paths.stop_script().display().to_string();
        assert_eq!(command(&paths, &config("")), [common.as_str(), "/a.cfg"]);
        let own = root.join("own");
        put(&own, "#!/bin/sh\nsync\n");
        let script = own.display().to_string();
        let with_own = config(&format!("stop_script='{script}'\n"));
        assert_eq!(command(&paths, &with_own), [script.as_str(), "/a.cfg"]);
        fs::set_permissions(&own, fs::Permissions::from_mode(0o722)).unwrap();
        assert!(command(&paths, &with_own).is_empty(), "others may write it");
        fs::remove_file(&own).unwrap();
        nix::unistd::mkfifo(&own, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(stop_script(&paths, &with_own).0, StopScript::NotFound);
        let endless = config("stop_script='/dev/zero'\n");
        assert_eq!(stop_script(&paths, &endless).0, StopScript::NotFound);
        let gone = config("stop_script='/nonexistent'\n");
        assert_eq!(stop_script(&paths, &gone).0, StopScript::NotFound);
        assert_eq!(command(&paths, &config("stop_command=['/bin/x']\n")), ["/bin/x"]);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_script_that_fails_says_so_with_its_last_words() {
        let scratch = std::env::temp_dir().join(format!("kxl-stop-out-{}", std::process::id()));
        let run = |text: &str, millis| {
            outcome(&Script {
                program: "/bin/sh".into(),
                args: vec!["-c".into(), text.into()],
                env: Vec::new(),
                patience: Duration::from_millis(millis),
                output: Some(scratch.clone()),
                cancel: Arc::default(),
            })
        };
        assert_eq!(run("exit 0", 60_000), Ok(()));
        let told = run("echo trying; echo no route >&2; exit 3", 60_000).unwrap_err();
        assert_eq!(told, "the stop script /bin/sh ended with status 3: no route");
        let told = run("sleep 1000", 50).unwrap_err();
        assert_eq!(told, "the stop script /bin/sh did not end within 0 s");
        fs::remove_file(&scratch).unwrap();
    }

    #[test]
    fn a_script_that_others_may_write_is_not_run() {
        let dir = std::env::temp_dir().join(format!("kxl-stop-others-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (program, ran) = (dir.join("script"), dir.join("ran"));
        put(&program, &format!("#!/bin/sh\ntouch {}\n", ran.display()));
        fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).unwrap();
        let (args, env, cancel) = (Vec::new(), Vec::new(), Arc::default());
        let patience = Duration::from_secs(60);
        let told = outcome(&Script { program, args, env, patience, output: None, cancel });
        let told = told.unwrap_err();
        assert!(told.contains("is not run: ") && told.contains("mode 777"), "{told}");
        assert!(!ran.exists());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_script_that_does_not_say_goodbye_is_ended() {
        let dir = std::env::temp_dir().join(format!("kxl-stop-leave-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let pid = dir.join("pid");
        let text = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", pid.display());
        let begun = Shutting::begin(Script {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), text.into()],
            env: Vec::new(),
            patience: Duration::from_secs(600),
            output: Some(dir.join("out")),
            cancel: Arc::default(),
        });
        let number = loop {
            match fs::read_to_string(&pid) {
                Ok(text) => break text.trim().parse::<i32>().unwrap(),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let identity = kxl_backend::Identity::of(number).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(begun.unwrap().leave(Duration::from_millis(50)));
        assert!(!identity.alive());
        fs::remove_dir_all(&dir).unwrap();
    }
}
