//! What the planner decides.

use super::*;

const MIB: u64 = 1 << 20;

fn member(name: &str) -> Member {
    Member {
        uuid: DomainUuid::random(),
        name: name.parse().unwrap(),
        domid: Some(DomId(1)),
        managed: true,
        wanted: Wanted::Running,
        state: State::Running,
        waits: false,
        backend: "mock".into(),
        memory: 256 * MIB,
        touched: 100 * MIB,
        can_save: true,
        can_shutdown: true,
        priority: 500,
        after: Vec::new(),
        stop_command: Vec::new(),
        script_time: None,
    }
}

fn disk(free: u64) -> Disk {
    Disk { place: "/images".into(), free, bandwidth: 100 * MIB, measured: true }
}

fn request(policy: &[Way]) -> Request {
    Request {
        policy: policy.to_vec(),
        deadline: None,
        patience: Duration::from_secs(60),
        order: Order::Priority,
    }
}

const SOFT: &[Way] = &[Way::Save, Way::Shutdown];

#[test]
fn with_room_and_time_everything_is_saved_in_the_order_of_stopping() {
    let members = [
        Member { priority: 10, ..member("db") },
        member("web"),
        Member { after: vec!["web".parse().unwrap()], ..member("proxy") },
    ];
    let plan = plan(&members, disk(10 << 30), &request(SOFT)).unwrap();
    assert_eq!(plan.waves, [[2], [1], [0]]);
    assert!(plan.tasks.iter().all(|task| task.ways == SOFT && task.why.is_empty()));
    assert_eq!(plan.bytes, 3 * 108 * MIB);
    assert!((3.0..4.5).contains(&plan.seconds), "{}", plan.seconds);
}

#[test]
fn space_goes_to_those_that_start_first_and_the_others_are_shut_down() {
    let members = [member("web"), Member { priority: 10, ..member("db") }];
    let plan = plan(&members, disk(SPARE + 150 * MIB), &request(SOFT)).unwrap();
    assert_eq!(plan.tasks[1].ways, SOFT);
    assert_eq!(plan.tasks[0].ways, [Way::Shutdown]);
    assert_eq!(
        plan.tasks[0].why,
        "its image needs 108 MiB, and 42 MiB are left beside 64 MiB to spare"
    );
    assert!(!plan.tasks[0].stuck);
}

#[test]
fn what_the_deadline_does_not_allow_is_not_begun() {
    let members = [member("a"), member("b")];
    let soon = Request { deadline: Some(Duration::from_secs(2)), ..request(SOFT) };
    let plan = plan(&members, disk(10 << 30), &soon).unwrap();
    assert_eq!(plan.tasks[0].ways, SOFT);
    assert_eq!(plan.tasks[1].ways, [Way::Shutdown]);
    assert_eq!(plan.tasks[1].why, "saving it takes 1.3 s, and the deadline leaves 0.7 s");
}

#[test]
fn what_cannot_be_saved_takes_the_next_way_at_once_and_is_stuck_without_one() {
    let none = Member { can_save: false, can_shutdown: false, ..member("pdp") };
    let stopped = Member { stop_command: vec!["/bin/stop".into()], ..none.clone() };
    let paused = Member { state: State::Paused, can_save: false, ..member("p") };
    let plan1 = plan(&[none.clone(), stopped, paused], disk(1 << 40), &request(SOFT)).unwrap();
    assert!(plan1.tasks[0].stuck);
    assert_eq!(
        plan1.tasks[0].why,
        "backend \"mock\" does not offer save-state; backend \"mock\" has no power button"
    );
    assert_eq!((&plan1.tasks[1].ways[..], plan1.tasks[1].stuck), (&[Way::Shutdown][..], false));
    assert!(plan1.tasks[2].stuck && plan1.tasks[2].why.ends_with("its guest cannot hear"));
    let hard = plan(&[none], disk(1 << 40), &request(Way::POLICY)).unwrap();
    assert_eq!((&hard.tasks[0].ways[..], hard.tasks[0].stuck), (&[Way::Destroy][..], false));
}

#[test]
fn what_has_no_process_is_left_as_it_is_and_nothing_is_wrong_with_that() {
    let waits = Member { state: State::Halted, waits: true, ..member("w") };
    let plan_of = plan(&[waits], disk(10 << 30), &request(SOFT)).unwrap();
    assert_eq!(plan_of.tasks[0].ways, [Way::Destroy], "there is nothing to be saved");
    assert!(!plan_of.tasks[0].stuck);
    let off = Member { domid: None, state: State::Suspended, ..member("off") };
    let kept = Member { state: State::Shutdown, ..member("kept") };
    let plan = plan(&[off, kept], disk(1 << 40), &request(SOFT)).unwrap();
    for (task, why) in plan.tasks.iter().zip(["it is suspended", "its guest has ended"]) {
        assert!(task.ways.is_empty() && !task.stuck, "{task:?}");
        assert!(task.why.starts_with(why), "{task:?}");
    }
}

#[test]
fn the_order_can_be_given_up_or_begin_with_names() {
    let members = [Member { priority: 1, ..member("a") }, member("b"), member("c")];
    let order =
        |order| plan(&members, disk(1 << 40), &Request { order, ..request(SOFT) }).unwrap().waves;
    assert_eq!(order(Order::None), [[0, 1, 2]]);
    let first = Order::First(vec!["a".parse().unwrap(), "gone".parse().unwrap()]);
    assert_eq!(order(first), [vec![0], vec![1, 2]]);
}

#[test]
fn a_circle_is_an_error_and_not_a_plan() {
    let one = Member { after: vec!["b".parse().unwrap()], ..member("a") };
    let two = Member { after: vec!["a".parse().unwrap()], ..member("b") };
    plan(&[one, two], disk(1 << 40), &request(SOFT)).unwrap_err();
}
