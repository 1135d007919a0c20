//! The oracle: what senders and receivers noted in files, and the comparison with what the boxes have seen.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::super::report::Result;
use super::numbers::lane;

/// A file of notes. A dot ends each note, so that a note that a kill cut off is known.
pub(crate) struct Notes(File);

impl Notes {
    /// Opens the notes of a sender.
    pub(crate) fn of_sender(folder: &Path, lane: u64) -> Result<Self> {
        Self::open(&sent(folder, lane))
    }

    /// Opens the notes of a receiver.
    pub(crate) fn of_receiver(folder: &Path) -> Result<Self> {
        Self::open(&folder.join(format!("arrived-{}.txt", std::process::id())))
    }

    fn open(path: &Path) -> Result<Self> {
        Ok(Notes(OpenOptions::new().create(true).append(true).open(path)?))
    }

    pub(crate) fn add(&mut self, notes: &str) -> std::io::Result<()> {
        self.0.write_all(notes.as_bytes())
    }

    /// Notes that an emit begins.
    pub(crate) fn attempt(&mut self, number: u64) -> std::io::Result<()> {
        self.add(&format!("a {number}.\n"))
    }

    /// Notes that an emit is acknowledged.
    pub(crate) fn acknowledge(&mut self, number: u64) -> std::io::Result<()> {
        self.add(&format!("k {number}.\n"))
    }
}

/// Returns the note of a message: the number of its event, and the place of the event in its box.
pub(crate) fn arrival(subject: &str) -> String {
    format!("{subject}.\n")
}

fn sent(folder: &Path, lane: u64) -> PathBuf {
    folder.join(format!("sent-{lane}.txt"))
}

/// Returns the sizes of the notes of all senders.
pub(crate) fn sizes(folder: &Path, lanes: u64) -> Vec<u64> {
    let size = |lane| std::fs::metadata(sent(folder, lane)).map_or(0, |about| about.len());
    (0..lanes).map(size).collect()
}

/// Returns the complete notes of a file, each with the offset at which it begins.
fn notes_of(path: &Path) -> Result<Vec<(u64, String)>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let mut offset = 0;
    let mut notes = Vec::new();
    for line in text.split_inclusive('\n') {
        if let Some(note) = line.trim_end().strip_suffix('.') {
            notes.push((offset, note.to_owned()));
        }
        offset += line.len() as u64;
    }
    Ok(notes)
}

/// Returns the number of emits that the senders have acknowledged since their notes had these sizes.
pub(crate) fn acknowledged_since(folder: &Path, sizes: &[u64]) -> Result<usize> {
    let mut count = 0;
    for (lane, size) in (0..).zip(sizes) {
        let Ok(mut file) = File::open(sent(folder, lane)) else { continue };
        let mut text = String::new();
        file.seek(SeekFrom::Start(*size))?;
        file.read_to_string(&mut text)?;
        count += text.lines().filter(|note| note.starts_with('k')).count();
    }
    Ok(count)
}

/// The events and messages of a run.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// Step in which each event was first emitted.
    pub(crate) attempted: HashMap<u64, usize>,
    /// Numbers whose emit succeeded.
    pub(crate) acknowledged: HashSet<u64>,
    /// Number and place in the box of each message that arrived.
    pub(crate) arrived: HashSet<(u64, usize)>,
}

impl Oracle {
    /// Reads all notes. `ends` has the sizes of the notes at the end of each step.
    pub(crate) fn read(folder: &Path, lanes: u64, ends: &[Vec<u64>]) -> Result<Self> {
        let mut oracle = Oracle::default();
        for lane in 0..lanes {
            let at = usize::try_from(lane)?;
            for (offset, note) in notes_of(&sent(folder, lane))? {
                let step = ends.partition_point(|sizes| sizes.get(at).is_some_and(|size| *size <= offset));
                match note.split_once(' ') {
                    Some(("a", number)) => _ = oracle.attempted.entry(number.parse()?).or_insert(step),
                    Some(("k", number)) => _ = oracle.acknowledged.insert(number.parse()?),
                    _ => return Err(format!("a sender has noted {note}").into()),
                }
            }
        }
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("arrived-")) {
                for (_, note) in notes_of(&path)? {
                    let (number, place) = note.split_once('@').ok_or("a receiver has noted no place")?;
                    oracle.arrived.insert((number.parse()?, place.parse()?));
                }
            }
        }
        Ok(oracle)
    }
}

/// The numbers that each box has seen, in order.
pub(crate) type Boxes = HashMap<(String, String), Vec<u64>>;

/// Broken promises of one step: its fault, and the events whose emit began before the next fault.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken {
    /// Acknowledged events that no box has seen.
    pub(crate) lost: usize,
    /// Events that a box has seen again.
    pub(crate) twice: usize,
    /// Applied events whose message did not arrive.
    pub(crate) undelivered: usize,
    /// Messages of turns that did not happen.
    pub(crate) of_no_turn: usize,
    /// Applied events that no sender emitted.
    pub(crate) of_nobody: usize,
    /// Events that came after a later event of their sender.
    pub(crate) out_of_order: usize,
}

impl Broken {
    /// Adds the broken promises of another step.
    pub(crate) fn add(&mut self, other: Broken) {
        self.lost += other.lost;
        self.twice += other.twice;
        self.undelivered += other.undelivered;
        self.of_no_turn += other.of_no_turn;
        self.of_nobody += other.of_nobody;
        self.out_of_order += other.out_of_order;
    }
}

/// The comparison of the oracle with the boxes.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) acknowledged: usize,
    pub(crate) applied: usize,
    pub(crate) arrived: usize,
    /// Broken promises by step, and in total.
    pub(crate) steps: BTreeMap<usize, Broken>,
    pub(crate) total: Broken,
    /// Some of the events of which a promise is broken, for a look at the logs.
    pub(crate) examples: Vec<String>,
}

/// Longest list of examples.
const EXAMPLES: usize = 20;

impl Verdict {
    pub(crate) fn of(oracle: &Oracle, boxes: &Boxes) -> Self {
        let mut verdict = Verdict { acknowledged: oracle.acknowledged.len(), ..Verdict::default() };
        verdict.arrived = oracle.arrived.iter().map(|(number, _)| number).collect::<HashSet<_>>().len();
        let mut places = HashMap::new();
        for ((kind, key), seen) in boxes {
            let mut last: HashMap<u64, u64> = HashMap::new();
            for (place, number) in seen.iter().enumerate() {
                let at = format!("{number} at {place} of {kind}/{key}");
                if places.insert(*number, place).is_some() {
                    verdict.note(oracle, *number, &format!("applied twice: {at}"), |broken| broken.twice += 1);
                }
                if !oracle.attempted.contains_key(number) {
                    verdict.note(oracle, *number, &format!("of nobody: {at}"), |broken| broken.of_nobody += 1);
                }
                // An emit whose answer was lost may commit after the next one.
                if oracle.acknowledged.contains(number) {
                    let before = last.entry(lane(*number)).or_default();
                    if *number < *before {
                        let text = format!("out of order: {at}, after {before}");
                        verdict.note(oracle, *number, &text, |broken| broken.out_of_order += 1);
                    }
                    *before = (*before).max(*number);
                }
            }
        }
        verdict.applied = places.len();
        for number in oracle.acknowledged.iter().filter(|number| !places.contains_key(number)) {
            verdict.note(oracle, *number, &format!("lost: {number}"), |broken| broken.lost += 1);
        }
        for (number, place) in &places {
            if !oracle.arrived.contains(&(*number, *place)) {
                verdict.note(oracle, *number, &format!("undelivered: {number}"), |broken| broken.undelivered += 1);
            }
        }
        for (number, place) in oracle.arrived.iter().filter(|(number, place)| places.get(number) != Some(place)) {
            let text = format!("of no turn: {number} at {place}, which is at {:?}", places.get(number));
            verdict.note(oracle, *number, &text, |broken| broken.of_no_turn += 1);
        }
        verdict
    }

    /// Adds a broken promise to its step and to the total.
    fn note(&mut self, oracle: &Oracle, number: u64, example: &str, count: impl Fn(&mut Broken)) {
        let step = oracle.attempted.get(&number).copied().unwrap_or_default();
        count(self.steps.entry(step).or_default());
        count(&mut self.total);
        if self.examples.len() < EXAMPLES {
            self.examples.push(format!("{example} (step {step})"));
        }
    }

    /// Returns the broken promises of a step.
    pub(crate) fn step(&self, step: usize) -> Broken {
        self.steps.get(&step).copied().unwrap_or_default()
    }
}
