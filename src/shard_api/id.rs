//! The ids of shards on the wire, and the positions of events.

use crate::eventbox::EventId;

/// Number of bits of an id behind its position: the variant of the UUID, and random bits.
const BITS_BEHIND: u32 = 64;

/// Number of bits of a position that count within a millisecond.
const BITS_WITHIN: u32 = 12;

/// Returns the id of a shard in the shard API: its number with three digits, so that ids sort as numbers do.
///
/// # Examples
///
/// ```
/// use eventbox::shard_api::{shard_id, shard_number};
///
/// assert_eq!(shard_id(7), "007");
/// assert_eq!((shard_number("007"), shard_number("7"), shard_number("256")), (Some(7), Some(7), None));
/// ```
#[must_use]
pub fn shard_id(shard: u8) -> String {
    format!("{shard:03}")
}

/// Returns the number of a shard by its id, which may lack zeros at its start. `None` when there is no such shard.
#[must_use]
pub fn shard_number(id: &str) -> Option<u8> {
    let is_number = (1..=3).contains(&id.len()) && id.bytes().all(|digit| digit.is_ascii_digit());
    if is_number { id.parse().ok() } else { None }
}

/// Returns the position of an event in its box, for the `read_through` of a Stat request.
///
/// An id is a UUIDv7, which does not fit into the 64 bits of `read_through`. The position has what the order of ids
/// depends on first: the 48 bits of the time, and the 12 bits after the version. So later events have greater positions,
/// or equal ones within a quarter of a microsecond, and any language can compute a position from an id.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{Event, Recipient, emit, shard_api};
///
/// let order = Recipient::new("order", "7")?;
/// let id = emit(&pool, &order, Event::new("a pencil")).await?.id().ok_or("it was added")?;
/// let position = shard_api::position(id);
/// assert_eq!(position >> 12, i64::try_from(id.0.as_u128() >> 80)?);
/// # Ok(()) }
/// ```
#[must_use]
pub fn position(event: EventId) -> i64 {
    let high = u64::try_from(event.0.as_u128() >> BITS_BEHIND).unwrap_or_default();
    let (time, within) = (high >> 16, high & ((1 << BITS_WITHIN) - 1));
    i64::try_from(time << BITS_WITHIN | within).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn ids_sort_as_numbers() {
        let ids: Vec<String> = (0..=u8::MAX).map(shard_id).collect();
        assert!(ids.is_sorted());
        assert!((0..=u8::MAX).all(|shard| shard_number(&shard_id(shard)) == Some(shard)));
        for wrong in ["", "256", "0007", "+7", "-1", "x", "7 "] {
            assert_eq!(shard_number(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn positions_grow_with_ids() {
        let first = EventId(Uuid::from_u128(0x0193_a1b2_7c3d_7fff_bfff_ffff_ffff_ffff));
        let next = EventId(Uuid::from_u128(0x0193_a1b2_7c3e_7000_8000_0000_0000_0000));
        assert_eq!((position(first), position(next)), (0x193_a1b2_7c3d_fff, 0x193_a1b2_7c3e_000));
        assert_eq!(position(EventId(Uuid::max())), 0x0fff_ffff_ffff_ffff);
    }
}
