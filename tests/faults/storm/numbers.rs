//! The numbers of the events. A number says where its event goes, and whether it has a name.

/// Kinds of boxes: reducers in rounds, turns of single boxes, and boxes whose state is a row of the service.
pub(crate) const ROUNDS: &str = "rounds";
pub(crate) const TURNS: &str = "turns";
pub(crate) const ROWS: &str = "rows";
const KINDS: [&str; 3] = [ROUNDS, TURNS, ROWS];

/// Boxes of each kind in a generation.
const BOXES: u64 = 8;

/// Events that a lane sends to a box. Then the boxes of the next generation follow, so that states stay small.
const PER_BOX: u64 = 50;

/// Consecutive places of a lane whose events go to all boxes of a generation.
pub(crate) const ALL_BOXES: u64 = 3 * BOXES;

/// Numbers of a lane.
const LANE: u64 = 1 << 32;

/// One in so many events has no name.
const UNNAMED_EVERY: u64 = 7;

/// Returns the number at a place of a lane.
pub(crate) fn number(lane: u64, place: u64) -> u64 {
    lane * LANE + place
}

/// Returns the lane of a number.
pub(crate) fn lane(number: u64) -> u64 {
    number / LANE
}

/// Returns the kind and the key of the box that the event goes to.
pub(crate) fn box_of(number: u64) -> (&'static str, String) {
    let place = number % LANE;
    let generation = place / (ALL_BOXES * PER_BOX);
    let kind = KINDS[usize::try_from(place % 3).unwrap_or(0)];
    (kind, format!("{generation}-{}", place / 3 % BOXES))
}

/// Returns whether the event has a name, so that its sender may send it again.
pub(crate) fn is_named(number: u64) -> bool {
    number % LANE % UNNAMED_EVERY != 3
}
