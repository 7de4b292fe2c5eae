//! Steps that wait until a test lets them go on.

use std::path::Path;
use std::time::Duration;

use kxl_backend::Result;

use crate::script::{Script, Step};

/// Time between two looks at the file.
const AGAIN: Duration = Duration::from_millis(10);

/// The script of `words` and of the file in `rundir`, as soon as it does not hold `step`.
pub(crate) async fn released(words: &Script, rundir: &Path, step: Step) -> Result<Script> {
    loop {
        let script = words.with_file(rundir)?;
        if !script.holds(step) {
            return Ok(script);
        }
        tokio::time::sleep(AGAIN).await;
    }
}
