//! What was typed, kept for the next time: mode 0600, in the user's own state directory.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kxl_store::Paths;
use rustyline::history::FileHistory;
use rustyline::{Editor, Helper};

use crate::report;

/// How many lines are kept.
pub(crate) const KEPT: usize = 1000;

/// Reads the history; where it is, for [`keep`]. Without a place for it there is none.
pub(crate) fn open<H: Helper>(editor: &mut Editor<H, FileHistory>) -> Option<PathBuf> {
    let path = place()?;
    if let Err(error) = private(&path) {
        report::warning(&format!("no history is kept in {}: {error}", path.display()));
        return None;
    }
    if let Err(error) = editor.load_history(&path) {
        // A file that something else has written to: begun anew with the next line.
        tracing::debug!(%error, "the history cannot be read");
    }
    Some(path)
}

/// Keeps the newest line. Where that fails the shell goes on without.
pub(crate) fn keep<H: Helper>(editor: &mut Editor<H, FileHistory>, path: Option<&Path>) {
    if let Some(path) = path
        && let Err(error) = editor.append_history(path)
    {
        tracing::debug!(%error, "the history is not kept");
    }
}

/// With the host's state; for one who has no such places (a user who comes through the gate) with
/// what programs keep for that user.
fn place() -> Option<PathBuf> {
    if let Ok(paths) = Paths::from_env() {
        return Some(paths.shell_history());
    }
    let dir = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let state = dir("XDG_STATE_HOME").or_else(|| Some(dir("HOME")?.join(".local/state")))?;
    Some(state.join("kxl/shell.history"))
}

/// Makes the file where it is missing, and takes it away from others where they could read it.
fn private(path: &Path) -> io::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
    let file = options.open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}
