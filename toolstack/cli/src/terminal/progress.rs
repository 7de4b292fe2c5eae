//! The bar that shows how a state moves: on standard error, on a terminal only.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kxl_control::Moved;

/// What a bar shows: whose state, how much of how much, how fast, how long still.
const LINE: &str =
    "{msg} [{wide_bar}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";

/// The same while it is not known how much there will be.
const OPEN_LINE: &str = "{msg} {binary_bytes}, {binary_bytes_per_sec}";

/// A bar, or nothing where none is wanted. Cheap to copy: the copies are the same bar.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// A bar that is not drawn before something moves. With `quiet`, without a terminal on
    /// standard error, or on a dumb one, it never is.
    pub(crate) fn new(quiet: bool, message: String) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let target = if quiet || dumb || !std::io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style(OPEN_LINE));
        bar.set_message(message);
        Self { bar }
    }

    /// Shows how far it is.
    pub(crate) fn moved(&self, moved: Moved) {
        if moved.total > 0 {
            if self.bar.length().is_none() {
                self.bar.set_style(style(LINE));
            }
            // A guest that rewrites its memory makes more than was expected.
            self.bar.set_length(moved.total.max(moved.done));
        }
        self.bar.set_position(moved.done);
    }

    /// Takes the bar off the terminal, for good.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_templates() {
        for line in [LINE, OPEN_LINE] {
            assert!(ProgressStyle::with_template(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn more_may_move_than_was_expected() {
        let bar = Bar::new(true, String::new());
        bar.moved(Moved { done: 10, total: 100 });
        bar.moved(Moved { done: 130, total: 100 });
        assert_eq!((bar.bar.position(), bar.bar.length()), (130, Some(130)));
    }
}
