//! A number that says how it is known.

use std::fmt;

use serde::Serialize;

use crate::eventbox::Precision;
use crate::store::Looked;

/// A number of things, with its [`Precision`]. It is shown as `1,234`, `about 1,234` or `at least 1,234`.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::admin::{self, DeadFilter};
///
/// let dead = admin::count_dead(&pool, &DeadFilter::new()).await?;
/// assert_eq!((dead.number, dead.to_string()), (0, "0".to_owned()));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Count {
    /// The number.
    pub number: u64,
    /// How the number is known.
    pub precision: Precision,
}

impl Count {
    /// The number of things that were counted up to `limit` and one more.
    pub(in crate::admin) fn up_to(limit: i64, counted: i64) -> Self {
        let precision = if counted > limit { Precision::AtLeast } else { Precision::Exact };
        Count { number: u64::try_from(counted.min(limit)).unwrap_or_default(), precision }
    }

    /// The number of things that were found among the first `limit` and one more.
    pub(in crate::admin) fn looked(limit: i64, looked: Looked) -> Self {
        let precision = if looked.at > limit { Precision::AtLeast } else { Precision::Exact };
        Count { number: u64::try_from(looked.found).unwrap_or_default(), precision }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = match self.precision {
            Precision::Exact => "",
            Precision::Estimate => "about ",
            Precision::AtLeast => "at least ",
        };
        write!(f, "{before}{}", Grouped(self.number))
    }
}

/// A number with a comma before every three digits.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            number @ ..1_000 => write!(f, "{number}"),
            number => write!(f, "{},{:03}", Grouped(number / 1_000), number % 1_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_says_how_it_is_known() {
        for (limit, counted, shown) in
            [(10, 10, "10"), (10, 11, "at least 10"), (10_000_000, 1_002_003, "1,002,003"), (9_999, 1_000, "1,000")]
        {
            assert_eq!(Count::up_to(limit, counted).to_string(), shown);
        }
        let estimate = Count { number: 1_200_000, precision: Precision::Estimate };
        assert_eq!(estimate.to_string(), "about 1,200,000");
        let json = serde_json::to_string(&Count::up_to(1, 2)).unwrap();
        assert_eq!(json, r#"{"number":1,"precision":"at_least"}"#);
    }
}
