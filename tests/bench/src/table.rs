//! The table that this program prints.

use crate::figure::Figure;

const HEAD: [&str; 7] = ["what", "median (min..max, n)", "cpu", "beside", "ratio", "goal", "met"];

/// Everything that was measured, and what could not be.
#[derive(Debug, Default)]
pub(crate) struct Table {
    figures: Vec<Figure>,
    skipped: Vec<String>,
}

impl Table {
    /// Adds a line.
    pub(crate) fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Says that something was not measured, and why.
    pub(crate) fn skip(&mut self, what: &str, why: &str) {
        self.skipped.push(format!("skipped: {what}: {why}"));
    }

    /// As text: columns as wide as their widest cell, then what was skipped.
    pub(crate) fn render(&self) -> String {
        let mut lines = vec![HEAD.map(str::to_owned)];
        lines.extend(self.figures.iter().map(cells));
        let width = |column: usize| {
            lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0)
        };
        let widths: [usize; 7] = std::array::from_fn(width);
        let rule = widths.map(|width| "-".repeat(width));
        lines.insert(1, rule);
        let mut text = String::new();
        for cells in &lines {
            let padded: Vec<String> =
                cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            text.push_str(padded.join(" | ").trim_end());
            text.push('\n');
        }
        for line in &self.skipped {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

fn cells(figure: &Figure) -> [String; 7] {
    let met = match figure.met() {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "-",
    };
    [
        figure.what.clone(),
        figure.value.to_string(),
        figure.cpu.as_ref().map_or_else(|| "-".into(), crate::figure::Series::middle),
        figure
            .baseline
            .as_ref()
            .map_or_else(|| "-".into(), |(name, series)| format!("{name}: {series}")),
        figure.ratio_text(),
        figure.goal_text(),
        met.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Goal, Series, Unit};

    #[test]
    fn every_line_has_its_columns_under_the_head() {
        let mut table = Table::default();
        let base = Series::one(Unit::Ms, 10.0);
        let figure = Figure::new("create", Series::one(Unit::Ms, 12.0), Goal::Within(1.5));
        table.add(figure.beside("raw QEMU", &base));
        table.add(Figure::new("a longer name", Series::one(Unit::Ms, 4.0), Goal::Below(3.0)));
        table.skip("virsh start", "virsh is not installed");
        let text = table.render();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        let bars = |line: &str| line.match_indices(" | ").map(|(at, _)| at).collect::<Vec<_>>();
        assert!(lines[..4].iter().all(|line| bars(line) == bars(lines[0])), "{text}");
        assert!(lines[2].ends_with("| 1.20x | within 1.50x | yes"), "{text}");
        assert!(lines[3].ends_with("NO"), "{text}");
        assert_eq!(lines[4], "skipped: virsh start: virsh is not installed");
    }
}
