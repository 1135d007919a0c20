//! The numbers of the events. A number says where its event goes, and how it is emitted.

/// Boxes of each kind.
pub(crate) const BOXES: u64 = 8;

/// Kinds of boxes that senders emit to.
pub(crate) const KINDS: u64 = 3;

/// Distance between two numbers of a box in a lane.
pub(crate) const STEP: u64 = KINDS * BOXES;

/// Boxes of reducers, whose events are consumed in rounds.
pub(crate) const ROUNDS: &str = "rounds";

/// Boxes whose state is kept by the library, consumed in the way of a processor.
pub(crate) const TURNS: &str = "turns";

/// Boxes whose state is a row of a table of the service.
pub(crate) const ROWS: &str = "rows";

/// Boxes that get events from turns of [`ROUNDS`] only.
pub(crate) const HOPS: &str = "hops";

/// One in so many events of a box of [`ROUNDS`] is emitted again, to a box of [`HOPS`].
const HOP_EVERY: u64 = 5;

/// Distance between two numbers of a box of [`HOPS`] in a lane.
pub(crate) const HOP_STEP: u64 = HOP_EVERY * STEP;

/// Numbers of a lane.
const LANE: u64 = 1 << 32;

/// Returns the number at a place of a lane.
pub(crate) fn number(lane: u64, place: u64) -> u64 {
    lane * LANE + place
}

/// Returns the place of a number in its lane.
pub(crate) fn place(number: u64) -> u64 {
    number % LANE
}

/// Returns the kind and the key of the box that the event goes to.
pub(crate) fn box_of(number: u64) -> (&'static str, u64) {
    let place = place(number);
    let kind = match place % KINDS {
        0 => ROUNDS,
        1 => TURNS,
        _ => ROWS,
    };
    (kind, place / KINDS % BOXES)
}

/// Returns whether the turn that consumes the event emits another one, to a box of [`HOPS`].
pub(crate) fn hops(number: u64) -> bool {
    box_of(number).0 == ROUNDS && (place(number) / STEP).is_multiple_of(HOP_EVERY)
}

/// Returns whether the event has a name, so that its sender may send it again.
pub(crate) fn is_named(number: u64) -> bool {
    place(number) % 7 != 5
}

/// Returns the milliseconds until the event is due, if it is a timer.
pub(crate) fn due_in_ms(number: u64) -> Option<u64> {
    let place = place(number);
    (place % 10 == 7).then_some(place % 2_000)
}
