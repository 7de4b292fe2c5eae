//! `uptime`.

use super::getopt::Options;
use super::names::run;
use super::{Session, Target, print};
use crate::signals::local_time;
use crate::{facts, out};

/// Prints how long domains have been running.
pub(crate) fn uptime(session: &mut Session, args: &[String]) -> u8 {
    const UPTIME: Options = Options { short: "s", long: &[] };
    run(|| {
        let line = session.parse(UPTIME, args, 0)?;
        let targets = if line.operands.is_empty() {
            let live = session.live()?.into_iter().map(|row| Target::Live(Box::new(row)));
            std::iter::once(Target::Host).chain(live).collect()
        } else {
            let parse = |arg: &String| session.target(arg);
            line.operands.iter().map(parse).collect::<Result<Vec<_>, u8>>()?
        };
        let now = i64::try_from(facts::now_ms()).unwrap_or(i64::MAX);
        let short = line.has('s');
        let mut text = String::new();
        if !short {
            text.push_str(&format!("{:<33} {:>4} {}\n", "Name", "ID", "Uptime"));
        }
        for target in &targets {
            let (name, domid, seconds) = match target {
                Target::Host => ("Domain-0", 0, facts::uptime()),
                Target::Live(row) => {
                    let since = row.started_ms.unwrap_or(now);
                    let seconds = u64::try_from((now - since) / 1000).unwrap_or(0);
                    (row.name.as_str(), row.domid.map_or(0, |domid| domid.0), seconds)
                }
                Target::Missing(number) => {
                    out::complain(&format!("Error: Domain '{number}' does not exist.\n"));
                    continue;
                }
            };
            text.push_str(&entry(name, domid, seconds, short.then_some(now / 1000)));
        }
        Ok(print(&text))
    })
}

/// One line; `short` holds the time of day in seconds since the epoch.
fn entry(name: &str, domid: u32, seconds: u64, short: Option<i64>) -> String {
    let up = span(seconds, short.is_none());
    match short {
        None => format!("{name:<33} {domid:>4} {up}\n"),
        Some(now) => {
            let time = local_time(now);
            format!(
                " {:02}:{:02}:{:02} up {up}, {name} ({domid})\n",
                time.hour, time.minute, time.second
            )
        }
    }
}

fn span(seconds: u64, with_seconds: bool) -> String {
    let days = match seconds / 86_400 {
        0 => String::new(),
        1 => "1 day, ".to_owned(),
        days => format!("{days} days, "),
    };
    let (hours, minutes) = (seconds / 3_600 % 24, seconds / 60 % 60);
    if with_seconds {
        format!("{days}{hours:>2}:{minutes:02}:{:02}", seconds % 60)
    } else {
        format!("{days}{hours:>2}:{minutes:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_in_xl() {
        assert_eq!(span(59, true), " 0:00:59");
        assert_eq!(span(86_400 + 3_661, true), "1 day,  1:01:01");
        assert_eq!(span(2 * 86_400 + 43_200, false), "2 days, 12:00");
    }

    #[test]
    fn the_long_form_has_columns_and_the_short_one_a_clock() {
        assert_eq!(entry("web", 3, 61, None), "web                                  3  0:01:01\n");
        let short = entry("web", 3, 61, Some(0));
        assert!(short.ends_with(" up  0:01, web (3)\n"), "{short}");
        assert_eq!(short.as_bytes()[3], b':');
    }
}
