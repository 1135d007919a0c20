//! The ids of shards on the wire.

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

#[cfg(test)]
mod tests {
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
}
