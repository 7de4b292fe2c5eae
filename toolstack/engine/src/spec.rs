//! What a backend is told: a row, the host's paths and kxl.conf put together.

use std::path::PathBuf;

use kxl_backend::{HostFacts, LaunchSpec, RunAs};
use kxl_domain::Wanted;
use kxl_store::{LiveRow, Paths};

use crate::conf::Conf;

/// The launch spec of a live row. A domain that is wanted paused is launched paused.
pub(crate) fn launch_spec(
    paths: &Paths,
    conf: &Conf,
    row: &LiveRow,
    cgroups: Vec<PathBuf>,
) -> LaunchSpec {
    LaunchSpec {
        name: row.name.clone(),
        uuid: row.uuid,
        domid: row.domid,
        config: row.config.clone(),
        rundir: paths.rundir(row.uuid),
        emulator_log: paths.emulator_log(&row.name),
        cachedir: paths.cache_dir(),
        profiledir: paths.profile_dir(),
        run_as: conf.run_as.map(|(uid, gid)| RunAs { uid, gid }),
        default_bridge: conf.default_bridge.clone(),
        cgroups,
        host: HostFacts { nics_file: paths.nics_file(), ..HostFacts::default() },
        paused: row.wanted == Wanted::Paused,
        image: None,
    }
}
