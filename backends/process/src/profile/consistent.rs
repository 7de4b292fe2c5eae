//! Combinations that no driver carries out.

use super::mistake::Wrong;
use super::{
    ConsoleKind, ControlKind, Destroy, Detach, PauseWay, Profile, QmpWay, ReadyKind, ShutdownWay,
    Standard, signal, state,
};
use crate::template;

/// Looks for the first of them.
pub(super) fn check(profile: &Profile) -> Result<(), Wrong> {
    control(profile)?;
    console(profile)?;
    ready(profile)?;
    ways(profile)?;
    shutdown(profile)?;
    destroy(profile)?;
    templates(profile)?;
    for (index, file) in profile.start.file.iter().enumerate() {
        in_rundir(&format!("start.file.{index}.path"), &file.path)?;
    }
    state::consistent(profile)
}

fn wrong<T>(path: &str, why: &str) -> Result<T, Wrong> {
    Err(Wrong::at(path, why))
}

/// A key that goes with one kind only, and must be there with it.
fn goes_with(path: &str, given: bool, wanted: bool, kind: &str) -> Result<(), Wrong> {
    let key = path.rsplit('.').next().unwrap_or(path);
    match (given, wanted) {
        (true, false) => wrong(path, &format!("{key} goes with {kind}")),
        (false, true) => wrong(path, &format!("{kind} needs the key \"{key}\"")),
        _ => Ok(()),
    }
}

fn in_rundir(path: &str, template: &str) -> Result<(), Wrong> {
    if template.starts_with("{rundir}/") {
        return Ok(());
    }
    wrong(path, "expected a path that begins with {rundir}/, the domain's runtime directory")
}

fn known_signal(path: &str, name: Option<&String>) -> Result<(), Wrong> {
    if name.is_none_or(|name| signal(name).is_some()) {
        return Ok(());
    }
    wrong(path, "no such signal; say TERM, INT, HUP, ...")
}

/// Every template has values that there are.
fn templates(profile: &Profile) -> Result<(), Wrong> {
    let look = |path: String, template: &str| match template::mistake(template) {
        Some(why) => Err(Wrong::at(&path, why)),
        None => Ok(()),
    };
    let (start, console) = (&profile.start, &profile.console);
    for (path, template) in [
        ("start.exec", Some(&start.exec)),
        ("control.socket", profile.control.socket.as_ref()),
        ("console.path", console.path.as_ref()),
        ("console.port", console.port.as_ref()),
        ("console.publish", console.publish.as_ref()),
        ("ready.port", profile.ready.port.as_ref()),
        ("save.file", profile.save.file.as_ref()),
        ("restore.file", profile.restore.file.as_ref()),
        ("save.uri", profile.save.uri.as_ref()),
    ] {
        template.map_or(Ok(()), |template| look(path.to_owned(), template))?;
    }
    for (name, template) in &start.env {
        look(format!("start.env.{name}"), template)?;
    }
    for (path, list) in [
        ("start.argv", &start.argv),
        ("shutdown.argv", &profile.shutdown.argv),
        ("restore.argv", &profile.restore.argv),
    ] {
        for (index, template) in list.iter().enumerate() {
            look(format!("{path}.{index}"), template)?;
        }
    }
    let files = [("start.file", &start.file), ("restore.start", &profile.restore.start)];
    for (path, list) in files {
        for (index, file) in list.iter().enumerate() {
            look(format!("{path}.{index}.path"), &file.path)?;
            look(format!("{path}.{index}.text"), &file.text)?;
        }
    }
    Ok(())
}

fn control(profile: &Profile) -> Result<(), Wrong> {
    let (control, start) = (&profile.control, &profile.start);
    let qmp = control.kind == ControlKind::Qmp;
    let prompt = control.kind == ControlKind::Prompt;
    if start.arguments.is_some() && !qmp {
        return wrong("control.kind", "start.arguments goes with control.kind = \"qmp\"");
    }
    let own = qmp && start.arguments.is_none();
    goes_with("control.socket", control.socket.is_some(), own, "kind = \"qmp\" of your own")?;
    if let Some(socket) = &control.socket {
        in_rundir("control.socket", socket)?;
    }
    goes_with("control.prompt", control.prompt.is_some(), prompt, "control.kind = \"prompt\"")?;
    if control.go_on.is_some() && !prompt {
        return wrong("control.go_on", "go_on is typed at a prompt: control.kind = \"prompt\"");
    }
    if start.detach == Detach::Itself {
        if start.arguments.is_some() || prompt {
            return wrong("start.detach", "\"self\" goes with a program that has no prompt");
        }
        if profile.console.kind.is_own() {
            let why = "a program in the background has left its terminal: detach = \"self\" needs \
                       a console of another kind";
            return wrong("console.kind", why);
        }
    }
    if start.configuration.is_some() && start.detach != Detach::Itself {
        return wrong(
            "start.configuration",
            "a Charon goes into the background: detach = \"self\"",
        );
    }
    if !profile.events.is_empty() && !own {
        return wrong("events", "events come by QMP: control.kind = \"qmp\" of your own");
    }
    Ok(())
}

fn console(profile: &Profile) -> Result<(), Wrong> {
    let console = &profile.console;
    let built = profile.start.arguments.is_some();
    if built != (console.kind == ConsoleKind::Socket) {
        let why = "\"socket\" goes with start.arguments, and nothing else does";
        return wrong("console.kind", why);
    }
    if profile.control.kind == ControlKind::Prompt && console.kind != ConsoleKind::Pty {
        return wrong("console.kind", "a prompt is read on a terminal: console.kind = \"pty\"");
    }
    let path = matches!(console.kind, ConsoleKind::Unix | ConsoleKind::File);
    goes_with("console.path", console.path.is_some(), path, "kind = \"unix\" or \"file\"")?;
    if let Some(path) = &console.path {
        in_rundir("console.path", path)?;
    }
    let telnet = console.kind == ConsoleKind::Telnet;
    goes_with("console.port", console.port.is_some(), telnet, "kind = \"telnet\"")?;
    let all = console.streams == Standard::ALL;
    if !all && (console.kind != ConsoleKind::Pty || profile.control.prompt.is_some()) {
        return wrong("console.streams", "streams goes with kind = \"pty\" without a prompt");
    }
    if console.streams.is_empty() {
        return wrong("console.streams", "a program on a terminal has one of its streams there");
    }
    if console.publish.is_some() && matches!(console.kind, ConsoleKind::None) {
        return wrong("console.publish", "there is no console to publish");
    }
    Ok(())
}

fn ready(profile: &Profile) -> Result<(), Wrong> {
    let ready = &profile.ready;
    let qmp = profile.control.kind == ControlKind::Qmp;
    if qmp != (ready.kind == ReadyKind::Qmp) {
        return wrong("ready.kind", "\"qmp\" goes with control.kind = \"qmp\"");
    }
    if ready.kind == ReadyKind::GuestRuns && profile.control.prompt.is_none() {
        return wrong("ready.kind", "\"guest-runs\" needs control.kind = \"prompt\"");
    }
    let matched = ready.kind == ReadyKind::ConsoleMatch;
    goes_with("ready.match", ready.text.is_some(), matched, "ready.kind = \"console-match\"")?;
    if ready.text.as_ref().is_some_and(String::is_empty) {
        return wrong("ready.match", "an empty text is shown by everything");
    }
    let by_console = profile.console.kind == ConsoleKind::Telnet;
    if ready.kind == ReadyKind::Tcp && ready.port.is_none() && !by_console {
        return wrong("ready.kind", "\"tcp\" needs the key \"port\", or a console by telnet");
    }
    if ready.port.is_some() && ready.kind != ReadyKind::Tcp {
        return wrong("ready.port", "port goes with ready.kind = \"tcp\"");
    }
    Ok(())
}

fn ways(profile: &Profile) -> Result<(), Wrong> {
    let qmp = profile.control.kind == ControlKind::Qmp;
    let ways = [
        ("pause.kind", profile.pause.kind == PauseWay::Qmp),
        ("sleep.kind", profile.sleep.kind == QmpWay::Qmp),
        ("shutdown.kind", profile.shutdown.kind == ShutdownWay::Qmp),
        ("reset.kind", profile.reset.kind == QmpWay::Qmp),
    ];
    if let Some((path, _)) = ways.iter().find(|(_, by_qmp)| *by_qmp && !qmp) {
        return wrong(path, "\"qmp\" needs control.kind = \"qmp\"");
    }
    let built = profile.start.arguments.is_some();
    if profile.sleep.kind == QmpWay::Qmp && !built {
        return wrong("sleep.kind", "only QEMU's own profiles put a guest to sleep");
    }
    if profile.pause.kind == PauseWay::Freezer && (built || profile.control.prompt.is_some()) {
        return wrong("pause.kind", "an emulator with a prompt or QMP is not frozen");
    }
    Ok(())
}

fn shutdown(profile: &Profile) -> Result<(), Wrong> {
    let shutdown = &profile.shutdown;
    let is = |kind| shutdown.kind == kind;
    for (path, given, wanted, kind) in [
        ("shutdown.signal", shutdown.signal.is_some(), is(ShutdownWay::Signal), "\"signal\""),
        ("shutdown.text", shutdown.text.is_some(), is(ShutdownWay::Type), "\"type\""),
        ("shutdown.step", !shutdown.step.is_empty(), is(ShutdownWay::Script), "\"script\""),
        ("shutdown.argv", !shutdown.argv.is_empty(), is(ShutdownWay::Exec), "\"exec\""),
    ] {
        goes_with(path, given, wanted, &format!("shutdown.kind = {kind}"))?;
    }
    known_signal("shutdown.signal", shutdown.signal.as_ref())?;
    let typed = is(ShutdownWay::Type) || is(ShutdownWay::Script);
    if typed && matches!(profile.console.kind, ConsoleKind::None | ConsoleKind::File) {
        return wrong("shutdown.kind", "there is no console on which anything could be typed");
    }
    let empty = shutdown.step.iter().position(|step| step.text.is_empty() && step.expect.is_none());
    if let Some(index) = empty {
        let path = format!("shutdown.step.{index}");
        return wrong(&path, "a step types something, waits for something, or both");
    }
    Ok(())
}

fn destroy(profile: &Profile) -> Result<(), Wrong> {
    let destroy = &profile.destroy;
    if destroy.signal.is_some() && !destroy.step.is_empty() {
        return wrong("destroy.signal", "say either signal or steps");
    }
    known_signal("destroy.signal", destroy.signal.as_ref())?;
    for (index, step) in destroy.step.iter().enumerate() {
        let path = format!("destroy.step.{index}");
        let given = [&step.qmp, &step.key, &step.signal].into_iter().flatten().count();
        if given != 1 {
            return wrong(&path, "a step has exactly one of qmp, key and signal");
        }
        known_signal(&path, step.signal.as_ref())?;
        if step.qmp.is_some() && profile.control.kind != ControlKind::Qmp {
            return wrong(&path, "\"qmp\" needs control.kind = \"qmp\"");
        }
        if step.key.is_some()
            && matches!(profile.console.kind, ConsoleKind::None | ConsoleKind::File)
        {
            return wrong(&path, "there is no console on which anything could be typed");
        }
    }
    if profile.start.arguments.is_some() && !destroy.steps().is_empty() {
        return wrong("destroy", "QEMU's own profiles are ended by KILL alone");
    }
    let total: u64 = destroy.steps().iter().map(|step| step.wait_ms).sum();
    if total > Destroy::MOST_MS {
        return wrong("destroy", "all wait_ms are at most 2000: destroy takes at most 3 s");
    }
    Ok(())
}
