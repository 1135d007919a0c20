//! A long, mixed table, the same for every engine.

use std::collections::BTreeMap;

use eventbox::Recipient;
use sqlx::types::Uuid;

/// The step of all times of the table, in microseconds: a test never takes as long.
pub(super) const STEP_US: i64 = 600_000_000;

/// Words that another order than that of their bytes, or a pattern, would mix up.
const WORDS: [&str; 14] = ["a", "A", "ä", "a%b", "a_b", "a/b", "a b", "B", "b", "Z", "it's", "é", "\u{1f980}", "~"];

/// Kinds whose names begin alike.
pub(super) const KINDS: [&str; 5] = ["cel", "cell", "Cell", "cell-x", "zoo"];

/// Shards of the outbox, the first and the last among them.
const SHARDS: [i64; 4] = [0, 3, 128, 255];

/// A value of a row.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Int(i64),
    Bool(bool),
    Text(String),
    Id(Uuid),
    Bytes(Vec<u8>),
    /// Steps after the moment at which the table is made.
    Time(i64),
}

use Value::{Bool, Bytes, Id, Int, Null, Text, Time};

/// A generator of numbers that are the same on every machine.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn from(&mut self, low: i64, high: i64) -> i64 {
        low + i64::try_from(self.below(usize::try_from(high - low).unwrap())).unwrap()
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn id(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.next(), self.next())
    }

    fn bytes(&mut self, lengths: &[usize]) -> Value {
        let length = self.pick(lengths);
        Bytes((0..length).map(|_| self.next().to_le_bytes()[0]).collect())
    }
}

/// The rows, by table and columns.
pub(super) struct Table {
    pub(super) recipients: Vec<Recipient>,
    pub(super) rows: BTreeMap<&'static str, Vec<Vec<Value>>>,
}

const EVENT: &str = "eventbox_event (shard, recipient, id, name, traceparent, value)";
const TIMER: &str = "eventbox_timer (shard, recipient, id, name, traceparent, value, due_at_us)";
const TOMBSTONE: &str = "eventbox_tombstone (shard, recipient, id, name, gone_at_us)";
const STATE: &str = "eventbox_state (shard, recipient, turn, token, updated_at_us, state)";
const FAILURE: &str = "eventbox_failure (shard, recipient, attempts, next_attempt_at_us, error, paused)";
const PAUSED_KIND: &str = "eventbox_paused_kind (kind, paused_at_us)";
const OUTBOX: &str = "eventbox_outbox (shard, id, source, type, attempts, created_at_us, next_attempt_at_us, \
                      delivered_at_us, last_code, last_error, payload)";
const QUARANTINE: &str = "eventbox_dead_letter (shard, recipient, id, name, traceparent, payload, code, reason, \
                          attempts, dead_at_us)";
const DEAD: &str = "eventbox_dead_letter (shard, id, source, type, code, reason, attempts, dead_at_us, payload)";

impl Table {
    /// Makes a table of so many recipients and twice as many messages.
    pub(super) fn new(recipients: usize, numbers: &mut Numbers) -> Self {
        let mut table = Table { recipients: (0..recipients).map(recipient).collect(), rows: BTreeMap::new() };
        for to in table.recipients.clone() {
            table.add_events(&to, numbers);
            table.add_standing(&to, numbers);
        }
        if recipients > 0 {
            table.add(PAUSED_KIND, vec![Text("zoo".to_owned()), Time(-3)]);
            table.add(PAUSED_KIND, vec![Text("Cell".to_owned()), Time(-1)]);
            table.add_foreign(&mut Numbers(4));
        }
        for place in 0..2 * i64::try_from(recipients).unwrap() {
            table.add_message(place, numbers);
        }
        table
    }

    fn add(&mut self, to: &'static str, row: Vec<Value>) {
        self.rows.entry(to).or_default().push(row);
    }

    /// Adds events in the box, later ones, events in quarantine, and names of all three and of events that are gone.
    fn add_events(&mut self, to: &Recipient, numbers: &mut Numbers) {
        let owner = [Int(to.shard().into()), Text(to.as_str().to_owned())];
        let mut names = 0;
        for (table, counts) in
            [(EVENT, [0, 1, 1, 2, 5, 30]), (TIMER, [0, 0, 1, 1, 2, 6]), (QUARANTINE, [0, 0, 0, 1, 2, 3])]
        {
            for _ in 0..numbers.pick(&counts) {
                let id = Id(numbers.id());
                let mut row = owner.to_vec();
                row.push(id.clone());
                if numbers.below(2) == 0 {
                    let name = name(&mut names, numbers);
                    row.push(name.clone());
                    let gone = if numbers.below(3) == 0 { Time(-2) } else { Null };
                    self.add(TOMBSTONE, [&owner[..], &[id, name, gone]].concat());
                } else {
                    row.push(Null);
                }
                row.push(if numbers.below(3) == 0 { Text(format!("00-{}", numbers.below(9))) } else { Null });
                row.push(numbers.bytes(&[0, 1, 9, 300, 5_000]));
                match table {
                    TIMER => row.push(Time(numbers.from(-6, 6))),
                    QUARANTINE => {
                        row.extend(["QUARANTINED", "a reason"].map(|text| Text(text.to_owned())));
                        row.extend([Int(numbers.from(0, 5)), Time(numbers.from(-9, 0))]);
                    }
                    _ => {}
                }
                self.add(table, row);
            }
        }
        for _ in 0..numbers.below(5) {
            let name = name(&mut names, numbers);
            let gone = match numbers.from(-12, 3) {
                0 => Null,
                steps => Time(steps),
            };
            self.add(TOMBSTONE, [&owner[..], &[Id(numbers.id()), name, gone]].concat());
        }
    }

    /// Adds what only a foreign statement writes: recipients without a slash, and a name of two events in quarantine.
    fn add_foreign(&mut self, numbers: &mut Numbers) {
        for to in ["foreign", "foreign", "foreign/1", "gate", "zoo", "zoo/1", "zoo/2"] {
            let row = [Int(4), Text(to.to_owned()), Id(numbers.id()), Null, Null, Bytes(vec![1])];
            self.add(EVENT, row.to_vec());
        }
        let to = twice();
        for _ in 0..2 {
            let owner = [Int(to.shard().into()), Text(to.as_str().to_owned()), Id(numbers.id())];
            let event = [Text("same".to_owned()), Null, Bytes(Vec::new())];
            let why = [Text("QUARANTINED".to_owned()), Text("a reason".to_owned()), Int(1), Time(-1)];
            self.add(QUARANTINE, [&owner[..], &event, &why].concat());
        }
    }

    /// Adds the turn of a recipient, with or without a state, its failures and its pause.
    fn add_standing(&mut self, to: &Recipient, numbers: &mut Numbers) {
        let owner = [Int(to.shard().into()), Text(to.as_str().to_owned())];
        if numbers.below(3) > 0 {
            let state = if numbers.below(2) == 0 { Null } else { numbers.bytes(&[0, 2, 700]) };
            let updated = numbers.pick(&[-1, -3, -8, -20, -400]);
            let turn = [Int(numbers.from(1, 9)), Id(numbers.id()), Time(updated), state];
            self.add(STATE, [&owner[..], &turn].concat());
        }
        if numbers.below(3) == 0 {
            let error = if numbers.below(2) == 0 { Null } else { Text("it's wrong".to_owned()) };
            let next = Time(numbers.from(-9, 9));
            let failure = [Int(numbers.pick(&[0, 1, 2, 29, 30, 40])), next, error, Bool(numbers.below(2) == 0)];
            self.add(FAILURE, [&owner[..], &failure].concat());
        }
    }

    /// Adds a message that waits, is claimed, is kept after its delivery, is old, or lies far ahead; and dead ones,
    /// some with the key of a message that waits.
    ///
    /// No two messages of a shard have the same due time, so that the order is the same everywhere.
    fn add_message(&mut self, place: i64, numbers: &mut Numbers) {
        let (shard, id) = (Int(numbers.pick(&SHARDS)), Id(numbers.id()));
        let text = |text: &str| Text(text.to_owned());
        let (source, kind) = (text(numbers.pick(&WORDS[..4])), text(numbers.pick(&["t", "T"])));
        let (next, delivered, age) = match numbers.below(6) {
            0 => (Int(i64::MAX), Time(-place - 1), numbers.from(0, 4_000)),
            1 => (Time(place + 1), Null, numbers.from(0, 300)),
            2 => (Time(100_000 + place), Null, numbers.from(0, 300)),
            3 => (Time(numbers.pick(&[-1, 1]) * (10_000 + place)), Null, 1_000 + place),
            _ => (Time(-place - 1), Null, numbers.from(0, 300)),
        };
        let is_failing = numbers.below(2) == 0;
        let last = |word: &str| if is_failing { text(word) } else { Null };
        let payload = numbers.bytes(&[0, 1, 50, 4_000]);
        let attempts = Int(numbers.pick(&[0, 1, 2, 5, 29, 30, 31]));
        let key = [shard, id];
        let times = [Time(-age), next, delivered];
        let row =
            [&key[..], &[source.clone(), kind.clone(), attempts], &times, &[last("BUSY"), last("later")]].concat();
        self.add(OUTBOX, [&row[..], std::slice::from_ref(&payload)].concat());
        if numbers.below(3) == 0 {
            let key = if numbers.below(3) == 0 { key } else { [Int(numbers.pick(&SHARDS)), Id(numbers.id())] };
            let code = text(numbers.pick(&["EXPIRED", "TOO_LARGE", "INVALID"]));
            let why = [code, text("no"), Int(numbers.from(0, 9)), Time(-numbers.from(0, 60))];
            self.add(DEAD, [&key[..], &[source, kind], &why, &[payload]].concat());
        }
    }

    /// Returns the ids of a table with the shard and the recipient of each; the last is empty for messages.
    pub(super) fn ids(&self, table: &str) -> Vec<(i16, String, Uuid)> {
        let rows = self.rows.iter().filter(|(columns, _)| columns.starts_with(table)).flat_map(|(_, rows)| rows);
        rows.filter_map(|row| match &row[..3] {
            [Int(shard), Text(to), Id(id)] => Some((i16::try_from(*shard).unwrap(), to.clone(), *id)),
            [Int(shard), Id(id), _] => Some((i16::try_from(*shard).unwrap(), String::new(), *id)),
            _ => None,
        })
        .collect()
    }
}

fn name(count: &mut usize, numbers: &mut Numbers) -> Value {
    *count += 1;
    Text(format!("{}-{count}", numbers.pick(&WORDS)))
}

/// Returns the recipient that has two events of one name in quarantine.
pub(super) fn twice() -> Recipient {
    Recipient::new("cell", "twice").unwrap()
}

/// Returns the recipient of a place: of few shards, with a key that ends in what brings it there.
fn recipient(place: usize) -> Recipient {
    let (kind, word) = (KINDS[place % KINDS.len()], WORDS[place % WORDS.len()]);
    let keys = (place * 1_000..).map(|n| format!("{word}-{n}"));
    let mut found = keys.map(|key| Recipient::new(kind, &key).unwrap());
    found.find(|to| to.shard() % 64 == 3).unwrap()
}
