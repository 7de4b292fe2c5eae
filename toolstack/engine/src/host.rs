//! The host as a command sees it: paths, databases, kxl.conf, and the domains by name.

use kxl_domain::{Failure, Kind, config};
use kxl_store::{ListRow, Paths, Store, StoreError};

use crate::conf::Conf;
use crate::herald::Herald;

/// One host (or one `KXL_ROOT`).
#[derive(Debug)]
pub struct Host {
    /// Where everything is.
    pub paths: Paths,
    /// The databases; opened when first used.
    pub store: Store,
    /// What kxl.conf says.
    pub conf: Conf,
}

impl Host {
    /// The host of this environment. Opens no database. A mistake in kxl.conf is no reason not to
    /// stop, save or adopt a domain: [`Conf::mistake`] has it.
    ///
    /// # Errors
    /// When a path of the environment cannot be used.
    pub fn open() -> Result<Self, Failure> {
        let paths = Paths::from_env().map_err(|e| stored("cannot use this host's places", &e))?;
        let conf = Conf::read_or_mistake(&paths);
        Self::with(paths, conf)
    }

    /// The host at these places, where kxl.conf was read before. What has to be recorded is not to
    /// be lost because somebody has made a mistake in kxl.conf since.
    ///
    /// # Errors
    /// When the store cannot be used at all. Opens no database.
    pub fn with(paths: Paths, conf: Conf) -> Result<Self, Failure> {
        let store = Store::open(&paths).map_err(|e| stored("cannot open the store", &e))?;
        store.set_retention(conf.telling.retention);
        let herald = Herald::new(&paths, &conf.telling);
        store.on_events(move |severity| herald.wake(Some(severity)));
        Ok(Self { paths, store, conf })
    }

    /// Has hooks told of what they were not told of yet, and old events removed: for the timer that
    /// goes on with what a crash has cut off.
    pub fn look_after_events(&self) {
        if self.conf.telling.retention.days.is_some()
            && let Err(error) = self.store.trim_events()
        {
            tracing::warn!(%error, "old events stay");
        }
        Herald::new(&self.paths, &self.conf.telling).wake(None);
    }

    /// The domain of a name, domid or uuid.
    ///
    /// # Errors
    /// [`Kind::NoSuchDomain`], with the nearest name as a hint.
    pub fn find(&mut self, who: &str) -> Result<ListRow, Failure> {
        let found = self.store.find(who).map_err(|e| stored("cannot read the registry", &e))?;
        if let Some(row) = found {
            return Ok(row);
        }
        let failure = Failure::new(Kind::NoSuchDomain, format!("there is no domain \"{who}\""));
        let rows = self.store.list().unwrap_or_default();
        let near = config::nearest(who, rows.iter().map(|row| row.name.as_str()));
        Err(match near {
            Some(name) => failure.hint(format!("did you mean \"{name}\"?")),
            None => failure.hint("kxl list shows what there is"),
        })
    }
}

/// A failure of the store, with its kind.
pub(crate) fn stored(attempt: impl Into<String>, error: &StoreError) -> Failure {
    Failure::because(Kind::Failed, attempt, error)
}
