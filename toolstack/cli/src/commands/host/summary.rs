//! The plan before, and the table after.

use kxl_engine::maintenance::{Course, Done, Order, Outcome, Plan, Task, Way, mib};
use serde_json::{Value, json};

use super::progress::{course_json, needs_attention, word};
use crate::text::add;

/// The plan, for people.
pub(crate) fn plan(plan: &Plan, order: &Order) -> String {
    let mut out = format!("{:<20} {:<10} {:>10}  {}\n", "NAME", "PLAN", "SIZE", "THEN, OR WHY");
    for wave in &plan.waves {
        for index in wave {
            let task = &plan.tasks[*index];
            let size = if task.bytes > 0 { mib(task.bytes) } else { "-".into() };
            let first =
                task.ways.first().map_or(if task.stuck { "STUCK" } else { "left" }, |w| w.as_str());
            let line = format!("{:<20} {first:<10} {size:>10}  {}", task.name, note(task));
            add(&mut out, format_args!("{}\n", line.trim_end()));
        }
    }
    let disk = &plan.disk;
    if plan.bytes > 0 {
        let how = if disk.measured { "measured" } else { "assumed" };
        add(
            &mut out,
            format_args!(
                "{} to {}, about {:.0} s at {} a second ({how}); {} are free there\n",
                mib(plan.bytes),
                disk.place.display(),
                plan.seconds.ceil(),
                mib(disk.bandwidth),
                mib(disk.free)
            ),
        );
    }
    if plan.waves.len() > 1 && *order == Order::Priority {
        add(&mut out, format_args!("in {} waves, one after the other\n", plan.waves.len()));
    }
    out
}

/// What follows the first way, and why it is not the policy's first.
fn note(task: &Task) -> String {
    let then: Vec<_> = task.ways.iter().skip(1).map(|way| way.as_str()).collect();
    match (then.is_empty(), task.why.is_empty()) {
        (true, _) => task.why.clone(),
        (false, true) => format!("else {}", then.join(", ")),
        (false, false) => format!("else {}; {}", then.join(", "), task.why),
    }
}

/// The plan, for programs.
pub(crate) fn plan_json(plan: &Plan) -> Value {
    let mut value = json!(plan);
    value["event"] = json!("plan");
    value
}

/// Who needs attention: also what nothing could be planned for.
pub(crate) fn attention(courses: &[Course], tasks: &[Task]) -> usize {
    let stuck = |index: usize| tasks.get(index).is_some_and(|task| task.stuck);
    courses
        .iter()
        .enumerate()
        .filter(|(index, course)| needs_attention(course) || stuck(*index))
        .count()
}

/// The table of what happened to each.
pub(crate) fn table(names: &[String], courses: &[Course], tasks: &[Task]) -> String {
    let mut out =
        format!("{:<20} {:<14} {:>10} {:>8}  {}\n", "NAME", "OUTCOME", "SIZE", "TIME", "NOTE");
    for (index, (name, course)) in names.iter().zip(courses).enumerate() {
        let task = tasks.get(index);
        let stuck = task.is_some_and(|task| task.stuck);
        let size = match &course.outcome {
            Outcome::Done(_, Done::Saved(saved)) => mib(saved.bytes),
            _ => "-".into(),
        };
        let outcome = if stuck { "STUCK" } else { word(course) };
        let note = match (&course.outcome, course.tried.last()) {
            (Outcome::NotDone(why), None) => (*why).to_owned(),
            (Outcome::NotDone(why), Some((way, failure))) => format!("{why}; {way}: {failure}"),
            (_, Some((way, failure))) => format!("{way}: {failure}"),
            (Outcome::Nothing, None) => task.map(|task| task.why.clone()).unwrap_or_default(),
            (Outcome::Done(Way::Shutdown | Way::Destroy, _), None) => {
                task.map(|task| task.why.clone()).unwrap_or_default()
            }
            _ => String::new(),
        };
        let took = format!("{:.1} s", course.took.as_secs_f64());
        let line = format!("{name:<20} {outcome:<14} {size:>10} {took:>8}  {note}");
        add(&mut out, format_args!("{}\n", line.trim_end()));
    }
    out
}

/// The last event, for programs.
pub(crate) fn table_json(names: &[String], courses: &[Course], tasks: &[Task]) -> Value {
    let domains: Vec<_> = names
        .iter()
        .zip(courses)
        .enumerate()
        .map(|(index, (name, course))| {
            let mut value = course_json(name, course);
            if let Some(task) = tasks.get(index) {
                value["attention"] = json!(needs_attention(course) || task.stuck);
                if !task.why.is_empty() {
                    value["planned_because"] = json!(task.why);
                }
            }
            value
        })
        .collect();
    json!({ "event": "summary", "attention": attention(courses, tasks), "domains": domains })
}
