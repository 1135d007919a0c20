//! What was noted outside the database, and what the boxes have seen.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::process::notes_of;

#[allow(dead_code, reason = "the service shares the module and uses more of it")]
#[path = "../../../tests/upgrade/numbers.rs"]
mod numbers;

/// The notes of the senders and of the receivers.
#[derive(Default)]
pub(super) struct Oracle {
    /// Numbers that a sender has tried to emit.
    attempted: HashSet<u64>,
    /// Numbers whose emit succeeded.
    acknowledged: HashSet<u64>,
    /// Emits that were refused because the event was there already.
    duplicates: u64,
    /// Numbers whose message arrived.
    arrived: HashSet<u64>,
    /// Messages that arrived again.
    repeated: u64,
}

impl Oracle {
    /// Reads the notes in a folder.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let mut oracle = Oracle::default();
        for entry in fs::read_dir(folder).context("list the notes")? {
            let path = entry.context("list the notes")?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("sent-") {
                notes_of(&path)?.iter().try_for_each(|line| oracle.sent(line))?;
            } else if name.starts_with("arrived-") {
                for line in notes_of(&path)? {
                    let is_new = oracle.arrived.insert(line.parse().context("read a message that arrived")?);
                    oracle.repeated += u64::from(!is_new);
                }
            }
        }
        Ok(oracle)
    }

    fn sent(&mut self, line: &str) -> Result<()> {
        let (sort, number) = note(line)?;
        match sort {
            "a" => self.attempted.insert(number),
            "k" | "d" => {
                self.duplicates += u64::from(sort == "d");
                self.acknowledged.insert(number)
            }
            other => bail!("a sender has noted {other}"),
        };
        Ok(())
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }
}

/// Returns the sort and the number of a sender's note.
fn note(line: &str) -> Result<(&str, u64)> {
    let (sort, number) = line.split_once(' ').with_context(|| format!("read the note {line}"))?;
    Ok((sort, number.parse().with_context(|| format!("read the note {line}"))?))
}

/// Returns the place behind the last one that a lane has tried.
pub(super) fn fresh_place(notes: &Path) -> Result<u64> {
    let mut fresh = 0;
    for line in notes_of(notes)? {
        if let ("a", number) = note(&line)? {
            fresh = fresh.max(numbers::place(number) + 1);
        }
    }
    Ok(fresh)
}

/// What the boxes have seen.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Counted {
    seen: HashSet<u64>,
    hops: HashSet<u64>,
    /// Numbers that were applied again.
    twice: Vec<u64>,
}

impl Counted {
    /// Reads what the service prints.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut counted = Counted::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |word: &str| word.parse::<u64>().with_context(|| format!("read the count {line}"));
            match words.as_slice() {
                ["twice", twice] => counted.twice.push(number(twice)?),
                [sort @ ("seen" | "hop"), first, last, step] => {
                    let into = if *sort == "hop" { &mut counted.hops } else { &mut counted.seen };
                    let step = usize::try_from(number(step)?).context("read a step")?.max(1);
                    for one in (number(first)?..=number(last)?).step_by(step) {
                        if !into.insert(one) {
                            counted.twice.push(one);
                        }
                    }
                }
                _ => bail!("the service has counted {line}"),
            }
        }
        Ok(counted)
    }

    pub(super) fn applied(&self) -> usize {
        self.seen.len()
    }
}

/// The comparison of both.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) acknowledged: usize,
    pub(super) applied: usize,
    pub(super) arrived: usize,
    duplicates: u64,
    repeated: u64,
    /// Acknowledged events that no box has seen.
    lost: usize,
    twice: usize,
    /// Events that a box has seen, and that no sender emitted.
    of_nobody: usize,
    /// Events that a turn had to emit, and that no box has seen.
    hops_lost: usize,
    /// Events of turns that never happened.
    hops_of_no_turn: usize,
    undelivered: usize,
    /// Messages of turns that never happened.
    messages_of_no_turn: usize,
}

impl Verdict {
    pub(super) fn of(oracle: &Oracle, counted: &Counted) -> Self {
        let hops: HashSet<u64> = counted.seen.iter().copied().filter(|number| numbers::hops(*number)).collect();
        Verdict {
            acknowledged: oracle.acknowledged.len(),
            applied: counted.seen.len(),
            arrived: oracle.arrived.len(),
            duplicates: oracle.duplicates,
            repeated: oracle.repeated,
            lost: oracle.acknowledged.difference(&counted.seen).count(),
            twice: counted.twice.len(),
            of_nobody: counted.seen.difference(&oracle.attempted).count(),
            hops_lost: hops.difference(&counted.hops).count(),
            hops_of_no_turn: counted.hops.difference(&hops).count(),
            undelivered: counted.seen.difference(&oracle.arrived).count(),
            messages_of_no_turn: oracle.arrived.difference(&counted.seen).count(),
        }
    }

    /// Returns whether everything that was acknowledged has had its effects. Later nothing more may happen.
    pub(super) fn is_complete(&self) -> bool {
        self.lost == 0 && self.hops_lost == 0 && self.undelivered == 0
    }

    /// Returns the promises that are broken.
    pub(super) fn problems(&self) -> Vec<String> {
        let broken = [
            (self.lost, "acknowledged events are lost"),
            (self.twice, "events were applied twice"),
            (self.of_nobody, "events were applied that nobody emitted"),
            (self.hops_lost, "events that a turn emitted are lost"),
            (self.hops_of_no_turn, "events are of turns that never happened"),
            (self.undelivered, "messages did not arrive"),
            (self.messages_of_no_turn, "messages are of turns that never happened"),
        ];
        let broken = broken.into_iter().filter(|(count, _)| *count > 0);
        let mut problems: Vec<String> = broken.map(|(count, what)| format!("{count} {what}")).collect();
        if self.acknowledged == 0 {
            problems.push("nothing was acknowledged, so nothing was tested".to_owned());
        }
        problems
    }

    pub(super) fn line(&self) -> String {
        format!(
            "acknowledged {}, applied {}, lost {}, twice {}; arrived {}, of no turn {}, undelivered {}; \
             {} repeated emits refused, {} messages arrived again",
            self.acknowledged,
            self.applied,
            self.lost + self.hops_lost,
            self.twice,
            self.arrived,
            self.messages_of_no_turn + self.hops_of_no_turn,
            self.undelivered,
            self.duplicates,
            self.repeated
        )
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "acknowledged": self.acknowledged, "applied": self.applied, "arrived": self.arrived,
            "repeated_emits_refused": self.duplicates, "messages_arrived_again": self.repeated,
            "lost": self.lost, "twice": self.twice, "of_nobody": self.of_nobody,
            "emitted_by_turns_lost": self.hops_lost, "emitted_by_no_turn": self.hops_of_no_turn,
            "undelivered": self.undelivered, "messages_of_no_turn": self.messages_of_no_turn,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the verdict on these notes, messages and counts.
    fn verdict(notes: &[&str], arrived: &[u64], counts: &str) -> Result<Verdict> {
        let mut oracle = Oracle { arrived: arrived.iter().copied().collect(), ..Oracle::default() };
        notes.iter().try_for_each(|line| oracle.sent(line))?;
        Ok(Verdict::of(&oracle, &Counted::parse(counts)?))
    }

    #[test]
    fn what_keeps_every_promise_has_no_problem() -> Result<()> {
        // The last attempt was killed: it may have had its effect or not. 0 is emitted again by its turn.
        let notes = ["a 0", "k 0", "a 24", "d 24", "a 48"];
        for counts in ["seen 0 24 24\nhop 0 0 120", "seen 0 48 24\nhop 0 0 120"] {
            let arrived: &[u64] = if counts.contains("48") { &[0, 24, 48] } else { &[0, 24] };
            let verdict = verdict(&notes, arrived, counts)?;
            assert_eq!(verdict.problems(), Vec::<String>::new());
            assert!(verdict.is_complete());
        }
        Ok(())
    }

    #[test]
    fn every_broken_promise_is_found() -> Result<()> {
        let notes = ["a 0", "k 0", "a 24", "k 24"];
        for (arrived, counts, problem) in [
            (vec![0], "seen 0 0 24\nhop 0 0 120", "1 acknowledged events are lost"),
            (vec![0, 24], "seen 0 24 24\nhop 0 0 120\ntwice 24", "1 events were applied twice"),
            (vec![0, 24], "seen 0 24 24\nseen 24 24 24\nhop 0 0 120", "1 events were applied twice"),
            (vec![0, 24, 48], "seen 0 48 24\nhop 0 0 120", "1 events were applied that nobody emitted"),
            (vec![0, 24], "seen 0 24 24", "1 events that a turn emitted are lost"),
            (vec![0, 24], "seen 0 24 24\nhop 0 0 120\nhop 120 120 120", "1 events are of turns that never happened"),
            (vec![0], "seen 0 24 24\nhop 0 0 120", "1 messages did not arrive"),
            (vec![0, 24, 72], "seen 0 24 24\nhop 0 0 120", "1 messages are of turns that never happened"),
        ] {
            assert_eq!(verdict(&notes, &arrived, counts)?.problems(), [problem], "{counts}");
        }
        assert!(!verdict(&[], &[], "")?.problems().is_empty());
        Ok(())
    }

    #[test]
    fn a_note_that_was_cut_off_is_left_out() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("sent-0.txt");
        fs::write(&path, "a 5.\nk 5.\na 9\na 7.\na 1")?;
        assert_eq!(fresh_place(&path)?, 8);
        assert_eq!(fresh_place(&folder.path().join("none"))?, 0);
        Ok(())
    }
}
