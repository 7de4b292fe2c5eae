//! Tests of the crate as its callers see it, on databases of their own, some with many processes.

mod alerts;
mod boot;
mod files;
mod life;
mod locks;
mod managed;
mod places;
mod processes;
mod retention;
mod sockets;
mod tail;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use kxl_domain::supervision::Record;
use kxl_domain::{DomainConfig, DomainName, DomainUuid, Op, Wanted};

use crate::{Claim, LiveRow, Paths, Store};

/// A tree of its own for one test, removed at its end.
pub(crate) struct Host {
    root: PathBuf,
    pub(crate) paths: Paths,
}

impl Host {
    pub(crate) fn new() -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("kxl-store-{}-{serial}", std::process::id()));
        std::fs::create_dir(&root).unwrap();
        let paths = Paths::under(&root);
        Self { root, paths }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn store(&self) -> Store {
        Store::open(&self.paths).unwrap()
    }

    /// A store that believes to run in this boot.
    pub(super) fn store_in(&self, boot: &str) -> Store {
        let mut store = self.store();
        store.boot_id = boot.into();
        store
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.root) {
            eprintln!("cannot remove {}: {error}", self.root.display());
        }
    }
}

impl Deref for Host {
    type Target = Paths;

    fn deref(&self) -> &Paths {
        &self.paths
    }
}

pub(crate) fn name(text: &str) -> DomainName {
    DomainName::new(text).unwrap()
}

pub(crate) fn config(text: &str) -> DomainConfig {
    DomainConfig::new(name(text))
}

/// A uuid whose first eight digits are this number.
pub(crate) fn uuid(number: u32) -> DomainUuid {
    format!("{number:08x}-0000-4000-8000-000000000000").parse().unwrap()
}

pub(super) fn claim_of(text: &str, uuid: DomainUuid, managed: bool) -> Claim {
    Claim {
        uuid,
        name: name(text),
        managed,
        config: config(text),
        backend: "mock".into(),
        wanted: Wanted::Running,
        op: Op::Starting,
        image: None,
        domid: None,
        supervision: Record::default(),
    }
}

/// A transient domain, claimed.
pub(super) fn transient(store: &Store, text: &str, number: u32) -> LiveRow {
    store.claim(&claim_of(text, uuid(number), false)).unwrap()
}

/// A managed domain, registered and claimed.
pub(super) fn managed(store: &Store, text: &str, number: u32) -> LiveRow {
    store.define(&config(text), uuid(number)).unwrap();
    store.claim(&claim_of(text, uuid(number), true)).unwrap()
}
