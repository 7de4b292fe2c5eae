//! Numbers and what is wanted of them.

use std::fmt;
use std::time::Duration;

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Milliseconds.
    Ms,
    /// Mebibytes.
    Mib,
    /// Gibibytes in a second.
    GibPerS,
    /// Things.
    Count,
}

impl Unit {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Ms => " ms",
            Self::Mib => " MiB",
            Self::GibPerS => " GiB/s",
            Self::Count => "",
        }
    }
}

/// Measurements of one thing.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    unit: Unit,
    values: Vec<f64>,
}

impl Series {
    /// An empty one.
    pub(crate) const fn new(unit: Unit) -> Self {
        Self { unit, values: Vec::new() }
    }

    /// One number.
    pub(crate) fn one(unit: Unit, value: f64) -> Self {
        Self { unit, values: vec![value] }
    }

    /// Adds a number.
    pub(crate) fn push(&mut self, value: f64) {
        let place = self.values.partition_point(|other| *other <= value);
        self.values.insert(place, value);
    }

    /// Adds a time; the series is in milliseconds.
    pub(crate) fn push_time(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1e3);
    }

    /// The value below which `share` (0 to 1) of all lie, by nearest rank. 0 when there are none.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "ranks of some thousand values"
    )]
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let rank = (share * self.values.len() as f64).ceil() as usize;
        self.values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// The middle value, or the mean of the two middle ones.
    pub(crate) fn median(&self) -> f64 {
        let half = self.values.len() / 2;
        match (self.values.get(half.wrapping_sub(1)), self.values.get(half)) {
            (Some(low), Some(high)) if self.values.len().is_multiple_of(2) => {
                f64::midpoint(*low, *high)
            }
            (_, Some(middle)) => *middle,
            _ => 0.0,
        }
    }

    /// The same series with `base` taken off each value.
    pub(crate) fn above(&self, base: f64) -> Self {
        Self { unit: self.unit, values: self.values.iter().map(|value| value - base).collect() }
    }

    /// The median with its unit.
    pub(crate) fn middle(&self) -> String {
        format!("{}{}", number(self.median()), self.unit.suffix())
    }
}

impl fmt::Display for Series {
    /// `12.3 ms (11.0..15.2, n 20)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.values.as_slice() {
            [] => f.write_str("-"),
            [_] => f.write_str(&self.middle()),
            [first, .., last] => write!(
                f,
                "{} ({}..{}, n {})",
                self.middle(),
                number(*first),
                number(*last),
                self.values.len()
            ),
        }
    }
}

/// Three digits that mean something.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    let digits = if size >= 100.0 || (value.fract() == 0.0 && size < 1e9) {
        0
    } else if size >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

/// What is wanted of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// At most so many times the baseline.
    Within(f64),
    /// At least so many times faster than the baseline.
    Faster(f64),
    /// The median, in its unit, below this.
    Below(f64),
    /// The median, in its unit, at most this.
    AtMost(f64),
    /// The median, in its unit, at least this.
    AtLeast(f64),
    /// Nothing: it is reported.
    Reported,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) what: String,
    /// The measurements.
    pub(crate) value: Series,
    /// User and system time of each, where that is known.
    pub(crate) cpu: Option<Series>,
    /// What it is compared with, by name.
    pub(crate) baseline: Option<(&'static str, Series)>,
    /// What is wanted.
    pub(crate) goal: Goal,
}

impl Figure {
    /// A figure with nothing beside it.
    pub(crate) fn new(what: impl Into<String>, value: Series, goal: Goal) -> Self {
        Self { what: what.into(), value, cpu: None, baseline: None, goal }
    }

    /// With what it is compared with.
    pub(crate) fn beside(mut self, name: &'static str, series: &Series) -> Self {
        self.baseline = Some((name, series.clone()));
        self
    }

    /// With the CPU time it took.
    pub(crate) fn cpu(mut self, series: &Series) -> Self {
        self.cpu = Some(series.clone());
        self
    }

    /// Value over baseline, by their medians.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let base = self.baseline.as_ref()?.1.median();
        (base > 0.0).then(|| self.value.median() / base)
    }

    /// Whether the goal is met; `None` where there is none, or nothing to compare with.
    pub(crate) fn met(&self) -> Option<bool> {
        match self.goal {
            Goal::Within(times) => self.ratio().map(|ratio| ratio <= times),
            Goal::Faster(times) => self.ratio().map(|ratio| ratio * times <= 1.0),
            Goal::Below(limit) => Some(self.value.median() < limit),
            Goal::AtMost(limit) => Some(self.value.median() <= limit),
            Goal::AtLeast(limit) => Some(self.value.median() >= limit),
            Goal::Reported => None,
        }
    }

    /// The ratio for people: `1.31x`, `1/12.5x`.
    pub(crate) fn ratio_text(&self) -> String {
        match self.ratio() {
            None => "-".into(),
            Some(ratio) if ratio >= 1.0 || ratio <= 0.0 => format!("{ratio:.2}x"),
            Some(ratio) => format!("1/{:.2}x", 1.0 / ratio),
        }
    }

    /// The goal for people.
    pub(crate) fn goal_text(&self) -> String {
        let unit = self.value.unit.suffix();
        match self.goal {
            Goal::Within(times) => format!("within {}x", number(times)),
            Goal::Faster(times) => format!("{}x faster", number(times)),
            Goal::Below(limit) => format!("under {}{unit}", number(limit)),
            Goal::AtMost(limit) => format!("at most {}{unit}", number(limit)),
            Goal::AtLeast(limit) => format!("at least {}{unit}", number(limit)),
            Goal::Reported => "reported".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        let mut series = Series::new(Unit::Ms);
        values.iter().for_each(|value| series.push(*value));
        series
    }

    #[test]
    fn medians_and_percentiles_do_not_depend_on_the_order_of_arrival() {
        let odd = series(&[9.0, 1.0, 5.0]);
        assert_eq!((odd.median(), odd.percentile(0.99)), (5.0, 9.0));
        assert_eq!(series(&[4.0, 1.0, 2.0, 100.0]).median(), 3.0);
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(series(&hundred).percentile(0.5), 50.0);
        assert_eq!(series(&hundred).percentile(0.99), 99.0);
        assert_eq!(series(&[]).median(), 0.0);
    }

    #[test]
    fn a_series_shows_its_spread_and_a_single_value_does_not() {
        assert_eq!(series(&[12.34, 11.0, 150.4]).to_string(), "12.3 ms (11..150, n 3)");
        assert_eq!(Series::one(Unit::Mib, 2.5).to_string(), "2.50 MiB");
        assert_eq!(Series::one(Unit::Count, 0.0).to_string(), "0");
    }

    #[test]
    fn a_goal_of_speed_needs_the_baseline() {
        let slow = series(&[100.0]);
        let figure = Figure::new("x", series(&[20.0]), Goal::Faster(4.0));
        assert_eq!(figure.met(), None);
        assert_eq!(figure.clone().beside("y", &slow).met(), Some(true));
        assert_eq!(figure.beside("y", &slow).ratio_text(), "1/5.00x");
        let slower = Figure::new("x", series(&[26.0]), Goal::Faster(4.0)).beside("y", &slow);
        assert_eq!(slower.met(), Some(false));
        let close = Figure::new("x", series(&[149.0]), Goal::Within(1.5)).beside("y", &slow);
        assert_eq!((close.met(), close.ratio_text().as_str()), (Some(true), "1.49x"));
    }

    #[test]
    fn below_excludes_the_limit_and_at_most_includes_it() {
        assert_eq!(Figure::new("x", series(&[3.0]), Goal::Below(3.0)).met(), Some(false));
        assert_eq!(Figure::new("x", series(&[3.0]), Goal::AtMost(3.0)).met(), Some(true));
        assert_eq!(Figure::new("x", series(&[3.0]), Goal::AtLeast(3.0)).met(), Some(true));
        assert_eq!(Figure::new("x", series(&[2.9]), Goal::AtLeast(3.0)).met(), Some(false));
        assert_eq!(Figure::new("x", series(&[3.0]), Goal::Reported).met(), None);
    }

    #[test]
    fn what_is_above_a_base_keeps_its_spread() {
        let above = series(&[3.0, 5.0]).above(2.0);
        assert_eq!(above.to_string(), "2 ms (1..3, n 2)");
    }
}
