//! The hot paths, and how many events each takes.

use super::work::Work;
use crate::bench::drains::Variant;

/// A hot path.
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) work: Work,
    /// The two amounts. Both fill whole groups, rounds and turns.
    pub(crate) events: [usize; 2],
}

const fn path(name: &'static str, work: Work, events: [usize; 2]) -> Path {
    Path { name, work, events }
}

/// Events of two recipients, as many in a round as a turn takes of each.
const fn many(variant: Variant) -> Work {
    Work::Drain { variant, recipients: 2 }
}

/// One event of each recipient.
const fn singles(variant: Variant) -> Work {
    Work::Drain { variant, recipients: usize::MAX }
}

/// Events of one recipient.
const HOT: Work = Work::Drain { variant: Variant::Reducer, recipients: 1 };

const SINGLE_EMITS: [usize; 2] = [200, 600];

/// Groups of 1,000 events, and batches of 500 events or messages.
const GROUPS: [usize; 2] = [1_000, 3_000];

/// One and five rounds of two recipients, or twice as many turns of one.
const ROUNDS: [usize; 2] = [500, 2_500];

/// One and five rounds of reducers.
const ROUNDS_OF_REDUCERS: [usize; 2] = [500, 2_500];

/// One and five rounds of processors.
const ROUNDS_OF_PROCESSORS: [usize; 2] = [100, 500];

pub(crate) const PATHS: [Path; 15] = [
    path("W1 plain", Work::Plain, SINGLE_EMITS),
    path("W1 named", Work::Named, SINGLE_EMITS),
    path("W1 timed", Work::Timed, SINGLE_EMITS),
    path("W1 sender", Work::Sender, GROUPS),
    path("W2", Work::Batches, GROUPS),
    path("W3 reducer", many(Variant::Reducer), ROUNDS),
    path("W3 processor", many(Variant::Processor), ROUNDS),
    path("W3 processor, batched", many(Variant::Batched), ROUNDS),
    path("W3 reducer, journaled", many(Variant::Journaled), ROUNDS),
    path("W3b reducer", singles(Variant::Reducer), ROUNDS_OF_REDUCERS),
    path("W3b processor", singles(Variant::Processor), ROUNDS_OF_PROCESSORS),
    path("W3b processor, batched", singles(Variant::Batched), ROUNDS_OF_PROCESSORS),
    path("W3c", HOT, ROUNDS),
    path("W5 turns that publish", many(Variant::Publishing), ROUNDS),
    path("W5 delivery of a backlog", Work::Delivery, GROUPS),
];
