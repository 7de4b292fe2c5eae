use kxl_domain::{Kind, Reason, State, Wanted};

use super::{Host, claim_of, config, managed, name, transient, uuid};
use crate::{Defined, ManagedChange, StoreError};

#[test]
fn a_defined_domain_rests_halted_and_is_found_by_name_and_uuid() {
    let host = Host::new();
    let store = host.store();
    assert_eq!(store.define(&config("a"), uuid(1)).unwrap(), Defined::New);
    let row = store.managed_by_name(&name("a")).unwrap().unwrap();
    assert_eq!((row.state, row.reason), (State::Halted, Some(Reason::New)));
    assert_eq!((row.wanted, row.autostart, row.boot_id.clone()), (Wanted::Halted, false, None));
    assert_eq!(row.config.uuid, Some(uuid(1)), "the stored configuration knows its uuid");
    assert_eq!(store.managed(uuid(1)).unwrap(), Some(row));
    for text in ["a", &uuid(1).to_string()] {
        assert_eq!(store.find(text).unwrap().unwrap().uuid, uuid(1));
    }
    assert!(store.find("1").unwrap().is_none(), "digits are a domid only");
}

#[test]
fn a_replaced_definition_keeps_wish_age_and_reason() {
    let host = Host::new();
    let store = host.store();
    store.define(&config("a"), uuid(1)).unwrap();
    let before = store.managed(uuid(1)).unwrap().unwrap();
    let change = ManagedChange {
        wanted: Some(Wanted::Running),
        reason: Some(Some(Reason::Crash)),
        autostart: Some(true),
        ..ManagedChange::default()
    };
    store.set_managed(uuid(1), change).unwrap();
    let mut config = config("b");
    config.memory_mib = 77;
    assert_eq!(store.define(&config, uuid(1)).unwrap(), Defined::Replaced);
    let after = store.managed(uuid(1)).unwrap().unwrap();
    assert_eq!((after.name.as_str(), after.memory_mib), ("b", 77));
    assert_eq!((after.wanted, after.reason), (Wanted::Running, Some(Reason::Crash)));
    assert!(after.autostart, "a configuration that does not speak of it changes nothing");
    config.maintenance.autostart = Some(false);
    store.define(&config, uuid(1)).unwrap();
    assert!(!store.managed(uuid(1)).unwrap().unwrap().autostart);
    assert_eq!(after.created_ms, before.created_ms);
    assert!(store.find("a").unwrap().is_none());
}

#[test]
fn a_failed_domain_that_is_defined_again_is_halted() {
    let host = Host::new();
    let store = host.store();
    store.define(&config("a"), uuid(1)).unwrap();
    let failed = ManagedChange {
        state: Some(State::Failed),
        reason: Some(Some(Reason::StartFailed)),
        detail: Some("no such disk".into()),
        ..ManagedChange::default()
    };
    store.set_managed(uuid(1), failed).unwrap();
    store.define(&config("a"), uuid(1)).unwrap();
    let row = store.managed(uuid(1)).unwrap().unwrap();
    assert_eq!(
        (row.state, row.reason, row.detail.as_str()),
        (State::Halted, Some(Reason::New), "")
    );
}

#[test]
fn a_name_belongs_to_one_domain_whether_managed_or_live() {
    let host = Host::new();
    let store = host.store();
    store.define(&config("a"), uuid(1)).unwrap();
    let live = transient(&store, "t", 2);

    let error = store.define(&config("a"), uuid(3)).unwrap_err();
    assert!(
        matches!(&error, StoreError::NameTaken { owner, domid: None, .. } if *owner == uuid(1)),
        "{error}"
    );
    let error = store.define(&config("t"), uuid(3)).unwrap_err();
    assert!(matches!(error, StoreError::NameTaken { owner, domid, .. }
            if owner == uuid(2) && domid == Some(live.domid)));
    let error = store.claim(&claim_of("a", uuid(4), false)).unwrap_err();
    assert!(error.to_string().contains("the name \"a\" is taken by managed domain"), "{error}");
    let error = store.claim(&claim_of("t", uuid(4), false)).unwrap_err();
    assert!(error.to_string().contains("taken by domid 1"), "{error}");
}

#[test]
fn a_live_domain_is_neither_redefined_nor_undefined() {
    let host = Host::new();
    let store = host.store();
    managed(&store, "a", 1);
    for refused in
        [store.define(&config("a"), uuid(1)).map(drop), store.undefine(uuid(1)).map(drop)]
    {
        let error = refused.unwrap_err();
        assert!(matches!(error, StoreError::AlreadyLive { .. }), "{error}");
        assert_eq!(error.kind(), Kind::Denied);
    }
    assert!(store.managed(uuid(1)).unwrap().is_some());
}

#[test]
fn an_undefined_domain_is_gone_with_its_configuration_and_its_name_is_free() {
    let host = Host::new();
    let store = host.store();
    store.define(&config("a"), uuid(1)).unwrap();
    assert!(store.undefine(uuid(1)).unwrap());
    assert!(!store.undefine(uuid(1)).unwrap());
    assert!(store.list().unwrap().is_empty());
    store.define(&config("a"), uuid(2)).unwrap();
}

#[test]
fn a_change_to_a_domain_that_is_gone_says_so() {
    let host = Host::new();
    let store = host.store();
    let error = store.set_managed(uuid(1), ManagedChange::default()).unwrap_err();
    assert!(matches!(error, StoreError::NotManaged { .. }), "{error}");
    assert_eq!(error.kind(), Kind::NoSuchDomain);
}

#[test]
fn a_change_touches_only_what_it_names() {
    let host = Host::new();
    let store = host.store();
    store.define(&config("a"), uuid(1)).unwrap();
    let before = store.managed(uuid(1)).unwrap().unwrap();
    let mut wider = before.config.clone();
    wider.vcpus = 8;
    let change = ManagedChange { config: Some(wider.clone()), ..ManagedChange::default() };
    store.set_managed(uuid(1), change).unwrap();
    let after = store.managed(uuid(1)).unwrap().unwrap();
    assert_eq!((after.vcpus, &after.config), (8, &wider));
    assert_eq!((after.wanted, after.state), (before.wanted, before.state));
    assert_eq!((after.reason, after.detail), (before.reason, before.detail));
}

#[test]
fn two_uuids_that_would_share_a_runtime_directory_are_refused() {
    let host = Host::new();
    let store = host.store();
    store.define(&config("a"), uuid(1)).unwrap();
    transient(&store, "t", 2);
    for number in [1, 2] {
        let twin = format!("{number:08x}-ffff-4000-8000-000000000000").parse().unwrap();
        let refused = [
            store.define(&config("b"), twin).map(drop),
            store.claim(&claim_of("b", twin, false)).map(drop),
        ];
        for error in refused.map(Result::unwrap_err) {
            assert!(error.to_string().contains("same first eight digits"), "{error}");
        }
    }
}

#[test]
fn the_list_has_live_domains_by_domid_and_then_resting_ones_by_name() {
    let host = Host::new();
    let store = host.store();
    for (text, number) in [("z", 1), ("b", 2), ("y", 3)] {
        store.define(&config(text), uuid(number)).unwrap();
    }
    transient(&store, "x", 4);
    store.claim(&claim_of("b", uuid(2), true)).unwrap();
    let list = store.list().unwrap();
    let names: Vec<_> =
        list.iter().map(|row| (row.name.as_str(), row.domid.map(|d| d.0))).collect();
    assert_eq!(names, [("x", Some(1)), ("b", Some(2)), ("y", None), ("z", None)]);
    assert_eq!(list.iter().map(|row| row.managed).collect::<Vec<_>>(), [false, true, true, true]);
    for row in list {
        assert_eq!(store.find(row.name.as_str()).unwrap().as_ref(), Some(&row));
        if let Some(domid) = row.domid {
            assert_eq!(store.find(&domid.to_string()).unwrap(), Some(row));
        }
    }
}

#[test]
fn a_number_too_large_for_a_domid_finds_nothing() {
    let host = Host::new();
    transient(&host.store(), "a", 1);
    assert!(host.store().find("99999999999999999999").unwrap().is_none());
    assert!(host.store().find("").unwrap().is_none());
}
