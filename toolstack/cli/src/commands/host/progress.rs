//! How the work on many domains is shown: bars on a terminal, plain lines elsewhere, or events as
//! JSON, one a line.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use kxl_control::Moved;
use kxl_domain::Failure;
use kxl_engine::maintenance::{Course, Done, News, Outcome, Way, mib};
use serde_json::{Value, json};

use crate::{out, report};

/// Events of bytes moved are told so often for each domain at most.
const PACE: Duration = Duration::from_millis(250);

/// Shows what happens.
#[derive(Debug)]
pub(crate) struct Progress {
    names: Vec<String>,
    /// Who waits for others.
    held: Vec<usize>,
    face: Face,
}

#[derive(Debug)]
enum Face {
    Quiet,
    Lines,
    Json { told: HashMap<usize, Instant> },
    Bars(Box<Bars>),
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    each: HashMap<usize, ProgressBar>,
    moved: HashMap<usize, u64>,
    domains: usize,
    over: usize,
}

impl Progress {
    /// For domains of these names, of which about `bytes` are going to be moved.
    pub(crate) fn new(names: Vec<String>, bytes: u64, quiet: bool, json: bool) -> Self {
        let face = if json {
            Face::Json { told: HashMap::new() }
        } else if quiet {
            Face::Quiet
        } else if std::io::stderr().is_terminal() {
            Face::Bars(Box::new(Bars::new(names.len(), bytes)))
        } else {
            Face::Lines
        };
        Self { names, held: Vec::new(), face }
    }

    /// Shows one piece of news.
    pub(crate) fn tell(&mut self, news: &News<'_>) {
        match news {
            News::Begun(index, way) => self.begun(*index, *way),
            News::Moved(index, moved) => self.moved(*index, *moved),
            News::Failed(index, way, failure) => self.failed(*index, *way, failure),
            News::Ended(index, course) => self.ended(*index, course),
            News::Held(indices) => self.held(indices),
            News::Interrupted => self
                .remark("interrupted: what is in flight goes on to its end; once more gives it up"),
            News::GivingUp(why) => self.remark(&format!("{why}: what is in flight is given up")),
        }
    }

    /// Takes the bars off the screen.
    pub(crate) fn close(&mut self) {
        if let Face::Bars(bars) = &mut self.face {
            for (_, bar) in bars.each.drain() {
                bar.finish_and_clear();
            }
            bars.total.finish_and_clear();
        }
    }

    fn begun(&mut self, index: usize, way: Way) {
        let name = &self.names[index];
        match &mut self.face {
            Face::Quiet => {}
            Face::Lines => out::complain(&format!("{name}: {}\n", doing(way))),
            Face::Json { .. } => {
                event(&json!({ "event": "begin", "name": name, "way": way.as_str() }));
            }
            Face::Bars(bars) => bars.begun(index, name, way),
        }
    }

    fn moved(&mut self, index: usize, moved: Moved) {
        match &mut self.face {
            Face::Quiet | Face::Lines => {}
            Face::Json { told } => {
                let now = Instant::now();
                if told.get(&index).is_none_or(|last| now.duration_since(*last) >= PACE) {
                    told.insert(index, now);
                    event(&json!({
                        "event": "moved",
                        "name": self.names[index],
                        "done": moved.done,
                        "total": moved.total,
                    }));
                }
            }
            Face::Bars(bars) => bars.moved(index, moved),
        }
    }

    fn failed(&mut self, index: usize, way: Way, failure: &Failure) {
        let name = &self.names[index];
        if let Face::Json { .. } = self.face {
            event(&json!({
                "event": "failed",
                "name": name,
                "way": way.as_str(),
                "why": failure.to_string(),
            }));
        }
        match &self.face {
            Face::Bars(bars) => bars.all.suspend(|| report::failure(failure)),
            _ => report::failure(failure),
        }
    }

    fn ended(&mut self, index: usize, course: &Course) {
        let name = &self.names[index];
        let text = format!("{name}: {}\n", told(course));
        match &mut self.face {
            Face::Quiet => {}
            // It was said why when it was planned.
            Face::Lines if course.outcome == Outcome::Nothing => {}
            Face::Lines => out::complain(&text),
            Face::Json { .. } => {
                let mut value = course_json(name, course);
                value["event"] = json!("end");
                event(&value);
            }
            Face::Bars(bars) => bars.ended(index, course, &text),
        }
    }

    /// Who waits for others, where that has changed.
    fn held(&mut self, indices: &[usize]) {
        if self.held == indices {
            return;
        }
        let new = indices.iter().filter(|index| !self.held.contains(index));
        let new: Vec<_> = new.map(|index| self.names[*index].as_str()).collect();
        match &self.face {
            Face::Json { .. } => new.iter().for_each(|name| {
                event(&json!({ "event": "waits", "name": name }));
            }),
            Face::Quiet => {}
            _ if new.is_empty() => {}
            _ => self.remark(&format!("waiting for what they come after: {}", new.join(", "))),
        }
        self.held = indices.to_vec();
    }

    fn remark(&mut self, text: &str) {
        match &self.face {
            Face::Bars(bars) => bars.all.suspend(|| report::note(text)),
            _ => report::note(text),
        }
    }
}

impl Bars {
    fn new(domains: usize, bytes: u64) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let total = all.add(ProgressBar::new(bytes));
        total.set_style(style("total {bar:24} {bytes}/{total_bytes} {bytes_per_sec} {msg}"));
        total.set_message(format!("0/{domains} domains"));
        total.enable_steady_tick(Duration::from_millis(200));
        Self { all, total, each: HashMap::new(), moved: HashMap::new(), domains, over: 0 }
    }

    fn begun(&mut self, index: usize, name: &str, way: Way) {
        let bar = self.all.insert_before(&self.total, ProgressBar::new(0));
        bar.set_style(style(match way {
            Way::Save | Way::Restore => {
                "{prefix:16.bold} {msg:10} {bar:24} {bytes}/{total_bytes} {bytes_per_sec}"
            }
            _ => "{prefix:16.bold} {msg:10} {elapsed}",
        }));
        bar.set_prefix(name.to_owned());
        bar.set_message(doing(way));
        if let Some(old) = self.each.insert(index, bar) {
            old.finish_and_clear();
        }
    }

    fn moved(&mut self, index: usize, moved: Moved) {
        let before = self.moved.insert(index, moved.done).unwrap_or(0);
        self.total.inc(moved.done.saturating_sub(before));
        if let Some(bar) = self.each.get(&index) {
            bar.set_length(moved.total.max(moved.done));
            bar.set_position(moved.done);
        }
    }

    fn ended(&mut self, index: usize, course: &Course, text: &str) {
        if let Some(bar) = self.each.remove(&index) {
            bar.finish_and_clear();
        }
        if course.outcome != Outcome::Nothing {
            self.all.suspend(|| out::complain(text));
        }
        self.over += 1;
        self.total.set_message(format!("{}/{} domains", self.over, self.domains));
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// Prints one event. A reader that has gone away ends the telling, never the work.
pub(crate) fn event(value: &Value) {
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = writeln!(stdout, "{value}").and_then(|()| stdout.flush()) {
        tracing::debug!(%error, "an event was not told");
    }
}

/// What is being done, in a word.
pub(crate) const fn doing(way: Way) -> &'static str {
    match way {
        Way::Save => "saving",
        Way::Shutdown => "asked",
        Way::Destroy => "destroying",
        Way::Restore => "restoring",
        Way::Start => "starting",
    }
}

/// What became of a domain, in a word.
pub(crate) fn word(course: &Course) -> &'static str {
    match &course.outcome {
        Outcome::Done(_, Done::Saved(_)) => "saved",
        Outcome::Done(_, Done::Off) => "shut down",
        Outcome::Done(_, Done::Destroyed) => "destroyed",
        Outcome::Done(Way::Start, Done::Up(_)) => "started",
        Outcome::Done(_, Done::Up(_)) => "restored",
        Outcome::Done(_, Done::Already) => "was so already",
        Outcome::Failed => "FAILED",
        Outcome::NotDone(_) => "NOT DONE",
        Outcome::Nothing => "left",
    }
}

/// Whether somebody has to look after this domain.
pub(crate) const fn needs_attention(course: &Course) -> bool {
    matches!(course.outcome, Outcome::Failed | Outcome::NotDone(_))
}

/// What became of a domain, in a line.
fn told(course: &Course) -> String {
    let took = course.took.as_secs_f64();
    match &course.outcome {
        Outcome::Done(_, Done::Saved(saved)) => format!(
            "saved, {} in {took:.1} s, stood still for {:.1} s",
            mib(saved.bytes),
            saved.still_ms as f64 / 1000.0
        ),
        Outcome::NotDone(why) => format!("not done: {why}"),
        Outcome::Done(_, Done::Up(domid)) => {
            format!("{}, domid {domid}, in {took:.1} s", word(course))
        }
        Outcome::Done(..) => format!("{} in {took:.1} s", word(course)),
        Outcome::Failed | Outcome::Nothing => word(course).to_lowercase(),
    }
}

/// A course for programs.
pub(crate) fn course_json(name: &str, course: &Course) -> Value {
    let tried: Vec<_> = course
        .tried
        .iter()
        .map(|(way, failure)| json!({ "way": way.as_str(), "why": failure.to_string() }))
        .collect();
    let mut value = json!({
        "name": name,
        "outcome": word(course).to_lowercase().replace(' ', "-"),
        "attention": needs_attention(course),
        "seconds": course.took.as_secs_f64(),
        "tried": tried,
    });
    match &course.outcome {
        Outcome::Done(_, Done::Saved(saved)) => {
            value["image"] = json!(saved.image.to_string());
            value["bytes"] = json!(saved.bytes);
            value["still_ms"] = json!(saved.still_ms);
        }
        Outcome::Done(_, Done::Up(domid)) => value["domid"] = json!(domid.0),
        Outcome::NotDone(why) => value["why"] = json!(why),
        _ => {}
    }
    value
}
