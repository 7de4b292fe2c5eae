//! Lists of host CPUs: `0-3,^1`, `nodes:0,6`, `all`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A list of host CPUs as written: its parts, applied from left to right onto an empty set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(Vec<Part>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    exclude: bool,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    All,
    /// CPUs from, to.
    Cpus(u32, u32),
    /// The CPUs of the NUMA nodes from, to.
    Nodes(u32, u32),
}

/// Text that is no list of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{part}\" in the cpu list \"{list}\": {why}")]
pub struct InvalidCpuList {
    /// The whole list.
    pub list: String,
    /// The part that is wrong.
    pub part: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl CpuList {
    /// The CPUs meant on a host with the CPUs 0 to `cpus` - 1; what lies beyond is left out.
    ///
    /// `node_cpus` tells the CPUs of a NUMA node (none for a node that does not exist). The result
    /// may be empty, as that of `^0` is.
    pub fn evaluate(&self, cpus: u32, node_cpus: impl Fn(u32) -> Vec<u32>) -> BTreeSet<u32> {
        let mut set = BTreeSet::new();
        // No host has more NUMA nodes than CPUs, so the loop is bounded by the host, not the text.
        let clamp = |to: u32| to.min(cpus.saturating_sub(1));
        for part in &self.0 {
            let meant: Vec<u32> = match part.what {
                What::All => (0..cpus).collect(),
                What::Cpus(from, to) => (from..=clamp(to)).collect(),
                What::Nodes(from, to) => (from..=clamp(to)).flat_map(&node_cpus).collect(),
            };
            for cpu in meant.into_iter().filter(|cpu| *cpu < cpus) {
                if part.exclude {
                    set.remove(&cpu);
                } else {
                    set.insert(cpu);
                }
            }
        }
        set
    }
}

impl FromStr for CpuList {
    type Err = InvalidCpuList;

    fn from_str(list: &str) -> Result<Self, InvalidCpuList> {
        let bad = |part: &str, why| InvalidCpuList { list: list.into(), part: part.into(), why };
        let parts: Vec<Part> = list
            .split(',')
            .map(|part| part.trim_start_matches(' '))
            .filter(|part| !part.is_empty())
            .map(|part| parse_part(part).map_err(|why| bad(part, why)))
            .collect::<Result<_, _>>()?;
        if parts.is_empty() { Err(bad("", "it names no cpu")) } else { Ok(Self(parts)) }
    }
}

fn parse_part(part: &str) -> Result<Part, &'static str> {
    let (exclude, rest) = match part.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, part),
    };
    let node = rest.strip_prefix("nodes:").or_else(|| rest.strip_prefix("node:"));
    let rest = node.unwrap_or(rest);
    if rest == "all" {
        return match exclude {
            true => Err("all cannot be taken away"),
            false => Ok(Part { exclude, what: What::All }),
        };
    }
    let (from, to) = rest.split_once('-').unwrap_or((rest, rest));
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u32>().unwrap_or(u32::MAX))
    };
    match (number(from), number(to)) {
        (Some(from), Some(to)) if from > to => Err("the range runs backwards"),
        (Some(from), Some(to)) if node.is_some() => {
            Ok(Part { exclude, what: What::Nodes(from, to) })
        }
        (Some(from), Some(to)) => Ok(Part { exclude, what: What::Cpus(from, to) }),
        _ => Err("expected N, N-M or all, with ^ or nodes: in front"),
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let caret = if part.exclude { "^" } else { "" };
            write!(f, "{comma}{caret}")?;
            match part.what {
                What::All => write!(f, "all")?,
                What::Cpus(a, b) if a == b => write!(f, "{a}")?,
                What::Cpus(a, b) => write!(f, "{a}-{b}")?,
                What::Nodes(a, b) if a == b => write!(f, "node:{a}")?,
                What::Nodes(a, b) => write!(f, "nodes:{a}-{b}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn on_eight(list: &str) -> Vec<u32> {
        let nodes = |node| match node {
            0 => vec![0, 1, 2, 3],
            1 => vec![4, 5, 6, 7],
            _ => vec![],
        };
        list.parse::<CpuList>().unwrap().evaluate(8, nodes).into_iter().collect()
    }

    #[test]
    fn parts_apply_from_left_to_right() {
        let rows: &[(&str, &[u32])] = &[
            ("0", &[0]),
            ("0-3", &[0, 1, 2, 3]),
            ("0-3,^1", &[0, 2, 3]),
            ("^1,0-3", &[0, 1, 2, 3]),
            ("all,^7", &[0, 1, 2, 3, 4, 5, 6]),
            ("^7,all", &[0, 1, 2, 3, 4, 5, 6, 7]),
            ("nodes:1", &[4, 5, 6, 7]),
            ("node:0-1,^node:0", &[4, 5, 6, 7]),
            ("nodes:9", &[]),
            ("^0", &[]),
            ("6-100", &[6, 7]),
            ("4294967295", &[]),
            ("99999999999999999999", &[]),
            ("1, 2,,3,", &[1, 2, 3]),
        ];
        for (list, want) in rows {
            assert_eq!(on_eight(list), *want, "{list}");
        }
    }

    #[test]
    fn junk_is_refused_with_the_part_it_stands_in() {
        for (list, part) in [
            ("", ""),
            (",", ""),
            ("^all", "^all"),
            ("0-", "0-"),
            ("-1", "-1"),
            ("1x", "1x"),
            ("0,3-1", "3-1"),
            ("cpus:1", "cpus:1"),
            ("1-2-3", "1-2-3"),
            ("^^1", "^^1"),
        ] {
            let error = list.parse::<CpuList>().unwrap_err();
            assert_eq!(error.part, part, "{list}");
        }
    }

    #[test]
    fn a_host_without_cpus_has_no_range() {
        assert!("0-5".parse::<CpuList>().unwrap().evaluate(0, |_| vec![]).is_empty());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_is_printed_reads_the_same(list in "[-^,0-9a-z: ]{0,24}") {
            if let Ok(parsed) = list.parse::<CpuList>() {
                let _set = parsed.evaluate(16, |node| vec![node]);
                prop_assert_eq!(&parsed.to_string().parse::<CpuList>().unwrap(), &parsed);
            }
        }
    }
}
