//! The progress bar on a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::spec::Spec;

/// One bar for the whole run.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Creates a bar with `steps` steps. It is visible on standard error if `shown`.
    pub(crate) fn new(shown: bool, steps: usize) -> Self {
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
        let style = ProgressStyle::with_template("  {bar:30.cyan/dim} {elapsed_precise} {msg}");
        if shown {
            bar.enable_steady_tick(std::time::Duration::from_millis(250));
        }
        Progress(match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        })
    }

    /// Moves to the next step: a round of one side.
    pub(crate) fn at(&self, spec: &Spec, engine: &str, round: usize, side: &str) {
        let round = if round == 0 { "warming up".to_owned() } else { format!("round {round}") };
        let variant = spec.variant.map(|variant| format!(" {variant}")).unwrap_or_default();
        self.0.set_message(format!("{}{variant} on {engine}, {round}: {side}", spec.workload));
        self.0.inc(1);
    }

    /// Shows another message.
    pub(crate) fn say(&self, message: String) {
        self.0.set_message(message);
    }

    /// Removes the bar from the terminal.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}
