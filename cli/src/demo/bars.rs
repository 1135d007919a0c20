//! Progress bars on a terminal.

use std::io::Write;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Maximum number of redraws a second.
const DRAWS_A_SECOND: u8 = 10;

/// Pause between two reads of the figures.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Three bars, one for each activity. Clones share the bars.
#[derive(Clone)]
pub(crate) struct Bars {
    all: MultiProgress,
    pub(crate) sent: ProgressBar,
    pub(crate) processed: ProgressBar,
    pub(crate) published: ProgressBar,
}

impl Bars {
    /// Creates bars on standard error, if it is a terminal and `shown`.
    pub(crate) fn new(shown: bool, flights: usize, messages: usize) -> Self {
        let target = match shown {
            true => ProgressDrawTarget::stderr_with_hz(DRAWS_A_SECOND),
            false => ProgressDrawTarget::hidden(),
        };
        let all = MultiProgress::with_draw_target(target);
        let bar = |what: &'static str, length: usize| {
            let style = ProgressStyle::with_template(
                "  {prefix:<11}{wide_bar:.cyan/dim} {human_pos:>7} / {human_len:<7} {per_sec:>12}",
            );
            let bar = ProgressBar::new(length as u64).with_prefix(what);
            all.add(match style {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            })
        };
        // Each flight is two events: one for its aircraft and one for its airport.
        let (sent, processed, published) =
            (bar("emitted", flights), bar("processed", flights * 2), bar("published", messages));
        Bars { all, sent, processed, published }
    }

    /// Prints a line on standard error, above the bars if they are visible.
    pub(crate) fn say(&self, line: &str) {
        // A closed terminal is ignored.
        let _ = match self.all.is_hidden() {
            true => writeln!(std::io::stderr(), "{line}"),
            false => self.all.println(line),
        };
    }

    /// Removes the bars from the terminal.
    pub(crate) fn clear(&self) {
        // A closed terminal is ignored.
        let _ = self.all.clear();
    }
}
