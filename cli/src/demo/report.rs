//! The report of a run, for a person and as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use console::style;
use serde::Serialize;

/// Maximum number of differences in a summary.
const SHOWN_DIFFERENCES: usize = 10;

/// The figures of a run. With `--json` they are one object, in this order.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) rows: usize,
    pub(crate) without_recipient: usize,
    pub(crate) recipients: usize,
    pub(crate) emitted: i64,
    pub(crate) resent: i64,
    pub(crate) duplicates: i64,
    pub(crate) turns: i64,
    pub(crate) events_consumed: i64,
    pub(crate) contention: i64,
    pub(crate) published: i64,
    pub(crate) ingress_duplicates: u64,
    pub(crate) dead_lettered: i64,
    pub(crate) legs: i64,
    pub(crate) cancelled: i64,
    pub(crate) delay_minutes: i64,
    pub(crate) airports: BTreeMap<String, i64>,
    pub(crate) verified: bool,
    pub(crate) seconds: f64,
    pub(crate) processes: Vec<ProcessReport>,
}

/// The work of one process.
#[derive(Debug, Serialize)]
pub(crate) struct ProcessReport {
    /// Number of the process, from 1.
    pub(crate) process: u32,
    /// Events of aircraft that its turns consumed.
    pub(crate) events: i64,
    /// Turns of aircraft.
    pub(crate) turns: i64,
    /// Number of times the process died and was restarted.
    pub(crate) restarts: u32,
}

/// Parts of the summary besides the figures.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// Location of the data, if it is kept.
    pub(crate) data: Option<String>,
    /// Location of the messages, if they are kept, or their receiver.
    pub(crate) messages: Option<String>,
    /// Whether the demo verified the messages. Otherwise the receiver must.
    pub(crate) messages_checked: bool,
    /// Differences to the expected result.
    pub(crate) differences: Vec<String>,
    /// Events consumed in this run.
    pub(crate) consumed_now: u64,
    /// Turns finished in this run.
    pub(crate) turns_now: u64,
    pub(crate) elapsed: Duration,
}

impl Report {
    /// Formats the summary for a person.
    pub(crate) fn summary(&self, around: &Surroundings) -> String {
        let mut lines = Vec::new();
        let mut line = |what: &str, text: String| lines.push(format!("  {:<12}{text}", style(what).dim()));
        line("input", format!("{} flights, {} without an aircraft", number(self.rows), number(self.without_recipient)));
        line(
            "emitted",
            format!(
                "{} events to {} recipients; {} sent again, {} duplicates refused",
                number(self.emitted),
                number(self.recipients),
                number(self.resent),
                number(self.duplicates)
            ),
        );
        line(
            "processed",
            format!(
                "{} events in {} turns; another worker came first {} times",
                number(self.events_consumed),
                number(self.turns),
                number(self.contention)
            ),
        );
        line(
            "published",
            format!(
                "{} messages; {} arrived again and were kept once; {} dead letters",
                number(self.published),
                number(self.ingress_duplicates),
                number(self.dead_lettered)
            ),
        );
        line(
            "aircraft",
            format!(
                "{} legs, {} cancelled, {} minutes late in all",
                number(self.legs),
                number(self.cancelled),
                number(self.delay_minutes)
            ),
        );
        let airports: Vec<_> =
            self.airports.iter().map(|(code, events)| format!("{code} {}", number(*events))).collect();
        line("airports", airports.join(", "));
        let seconds = around.elapsed.as_secs_f64();
        line(
            "speed",
            format!(
                "{} events and {} turns a second, {seconds:.1} s in all",
                rate(around.consumed_now, seconds),
                rate(around.turns_now, seconds)
            ),
        );
        if self.processes.len() > 1 {
            for process in &self.processes {
                line(&format!("process {}", process.process), self.share(process));
            }
        }
        for (what, place) in [("data", &around.data), ("messages", &around.messages)] {
            if let Some(place) = place {
                line(what, place.clone());
            }
        }
        lines.push(String::new());
        lines.push(self.verdict(around));
        lines.join("\n")
    }

    fn share(&self, process: &ProcessReport) -> String {
        let all: i64 = self.processes.iter().map(|process| process.events).sum();
        let percent = process.events * 100 / all.max(1);
        let mut text = format!(
            "{} aircraft events in {} turns, {percent} % of the work",
            number(process.events),
            number(process.turns)
        );
        if process.restarts > 0 {
            text.push_str(&format!("; died and was started again {} times", process.restarts));
        }
        text
    }

    fn verdict(&self, around: &Surroundings) -> String {
        if self.verified {
            let messages = if around.messages_checked {
                " and every message"
            } else {
                "; the messages are the receiver's to check"
            };
            return format!(
                "{} every aircraft, every airport{messages}, recomputed from the file.",
                style("Verified:").green().bold()
            );
        }
        let mut verdict = format!("{} what came out is not what the file says.", style("NOT verified:").red().bold());
        for difference in shown(&around.differences) {
            verdict.push_str("\n  - ");
            verdict.push_str(&difference);
        }
        verdict
    }
}

/// Returns the first differences, and the number of further ones.
pub(crate) fn shown(differences: &[String]) -> Vec<String> {
    let mut shown: Vec<String> = differences.iter().take(SHOWN_DIFFERENCES).cloned().collect();
    let hidden = differences.len() - shown.len();
    if hidden > 0 {
        shown.push(format!("and {hidden} more"));
    }
    shown
}

fn number(value: impl TryInto<u64>) -> indicatif::HumanCount {
    indicatif::HumanCount(value.try_into().unwrap_or(0))
}

fn rate(events: u64, seconds: f64) -> indicatif::HumanCount {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let rate = (events as f64 / seconds.max(0.001)) as u64;
    indicatif::HumanCount(rate)
}
