//! Lists of recipients.

use std::time::SystemTime;

use serde::Serialize;
use sqlx::Pool;

use super::count::Count;
use crate::admin::time_of;
use crate::error::Result;
use crate::eventbox::EventId;
use crate::recipient::Recipient;
use crate::store::{Backend, BoxRow, BoxesFrom, Fault, Listed, NEXT, answered, hold};

/// Largest number of recipients of one page.
pub const MAX_RECIPIENTS: u32 = 1_000;

/// Number of recipients that [`recipients`] looks at for an order other than that of the keys.
pub const MAX_RANKED: u32 = 20_000;

/// Number of events that a list counts of each recipient. There may be more.
pub const MAX_LISTED_COUNT: u32 = 10_000;

/// Number of events that are counted of each recipient to find the longest boxes.
const RANKED_COUNT: i64 = 100;

/// Number of recipients that one statement looks at.
const RANKED_SLICE: i64 = 1_000;

/// Which recipients a list shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Only {
    /// Recipients that ever had a turn, or another write that is no emit.
    All,
    /// Recipients with events in their eventbox.
    #[default]
    Waiting,
    /// Recipients whose last turns failed.
    Failing,
    /// Recipients that an operator paused.
    Paused,
    /// Recipients with events in quarantine.
    Quarantined,
}

/// Order of a list of recipients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// By shard, and by key within a shard. Only this order has further pages.
    #[default]
    Key,
    /// The oldest event first.
    Oldest,
    /// The most events first.
    Longest,
}

/// What [`recipients`] lists.
///
/// # Examples
///
/// See [`recipients`].
#[derive(Debug, Clone)]
pub struct RecipientQuery {
    kind: Option<String>,
    key_prefix: String,
    only: Only,
    order: Order,
    after: Option<Recipient>,
    limit: u32,
}

impl Default for RecipientQuery {
    fn default() -> Self {
        RecipientQuery {
            kind: None,
            key_prefix: String::new(),
            only: Only::default(),
            order: Order::default(),
            after: None,
            limit: 50,
        }
    }
}

impl RecipientQuery {
    /// Makes a query for the first 50 recipients of any kind that have events.
    #[must_use]
    pub fn new() -> Self {
        RecipientQuery::default()
    }

    /// Lists only recipients of this kind.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Lists only recipients whose keys begin so. Without a kind it has no effect.
    #[must_use]
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// Lists recipients in this condition.
    #[must_use]
    pub fn only(mut self, only: Only) -> Self {
        self.only = only;
        self
    }

    /// Lists in this order.
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Goes on behind this recipient, in the order of the keys.
    #[must_use]
    pub fn after(mut self, after: &Recipient) -> Self {
        self.after = Some(after.clone());
        self
    }

    /// Lists at most so many, and at most [`MAX_RECIPIENTS`].
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// Returns the first text of the range of recipients, and the first one behind it.
    fn range(&self) -> (String, String) {
        match &self.kind {
            None => (String::new(), char::MAX.to_string()),
            // `0` is the character behind the slash.
            Some(kind) if self.key_prefix.is_empty() => (format!("{kind}/"), format!("{kind}0")),
            Some(kind) => {
                let low = format!("{kind}/{}", self.key_prefix);
                let high = format!("{low}{}", char::MAX);
                (low, high)
            }
        }
    }

    fn listed(&self) -> Listed {
        match self.only {
            Only::All => Listed::Known,
            Only::Waiting => Listed::Waiting,
            Only::Failing => Listed::Failing,
            Only::Paused => Listed::Paused,
            Only::Quarantined => Listed::Quarantined,
        }
    }
}

/// A recipient in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecipientRow {
    /// The recipient.
    #[serde(serialize_with = "super::text::text")]
    pub recipient: Recipient,
    /// Events in its eventbox, counted up to [`MAX_LISTED_COUNT`].
    pub waiting: Count,
    /// Time of the emit of the oldest of them.
    #[serde(serialize_with = "super::text::time_if_any")]
    pub oldest_at: Option<SystemTime>,
    /// Number of failures in a row.
    pub attempts: u32,
    /// Time of the next retry, by the database's clock. `None` without a failure.
    #[serde(serialize_with = "super::text::time_if_any")]
    pub next_attempt_at: Option<SystemTime>,
    /// Last error.
    pub error: Option<String>,
    /// Whether an operator paused the recipient.
    pub is_paused: bool,
    /// Its events in quarantine, counted up to [`MAX_LISTED_COUNT`].
    pub quarantined: Count,
}

/// A page of recipients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecipientPage {
    /// The recipients, in the order of the query.
    pub rows: Vec<RecipientRow>,
    /// Where the next page goes on: pass it to [`RecipientQuery::after`]. `None` at the end.
    #[serde(serialize_with = "super::text::text_if_any")]
    pub next: Option<Recipient>,
    /// Whether the page is the first of all recipients in its order. An order other than that of the keys looks at
    /// [`MAX_RANKED`] recipients only.
    pub is_complete: bool,
}

/// Lists recipients by kind, prefix of the key and condition, a page at a time.
///
/// # What comes back
///
/// In the order of the keys, recipients are sorted by shard first, because this order needs no sort of all of them. A
/// recipient that comes or goes meanwhile may be missing; no other recipient is.
///
/// # Units and limits
///
/// A page has at most [`MAX_RECIPIENTS`] recipients. [`Order::Oldest`] and [`Order::Longest`] rank the first
/// [`MAX_RANKED`] recipients, the latter by up to 100 events of each.
///
/// # Errors
///
/// Transient and database errors.
///
/// # Cancel safety
///
/// Safe: it only reads.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::admin::{self, Order, RecipientQuery};
/// use eventbox::{Event, Recipient};
///
/// eventbox::emit(&pool, &Recipient::new("aircraft", "N14228")?, Event::new("departed")).await?;
/// let longest = RecipientQuery::new().kind("aircraft").key_prefix("N1").order(Order::Longest).limit(10);
/// let page = admin::recipients(&pool, &longest).await?;
/// assert_eq!((page.rows[0].recipient.key(), page.rows[0].waiting.number), ("N14228", 1));
/// # Ok(()) }
/// ```
pub async fn recipients<B: Backend>(pool: &Pool<B>, query: &RecipientQuery) -> Result<RecipientPage> {
    let limit = query.limit.clamp(1, MAX_RECIPIENTS);
    let during = |fault: Fault| fault.during("list recipients");
    let page = match query.order {
        Order::Key => answered(pool, by_key(pool, query, limit)).await,
        Order::Oldest | Order::Longest => by_rank(pool, query, limit as usize).await,
    };
    page.map_err(during)
}

/// Lists recipients of a kind that have events, each with its oldest event, behind a recipient in the order of shards.
#[cfg(feature = "peer")]
pub(crate) async fn waiting_boxes<B: Backend>(
    pool: &Pool<B>,
    kind: &str,
    after: Option<&Recipient>,
    limit: u32,
) -> Result<Vec<(Recipient, EventId)>> {
    let query = RecipientQuery::new().kind(kind).only(Only::Waiting);
    let rows = answered(pool, slice(pool, &query, after, i64::from(limit), 1)).await;
    let rows = rows.map_err(|fault: Fault| fault.during(format!("list recipients of kind {kind} that have events")))?;
    Ok(rows.into_iter().filter_map(|row| Some((row.recipient.parse().ok()?, row.oldest?.into()))).collect())
}

async fn by_key<B: Backend>(pool: &Pool<B>, query: &RecipientQuery, limit: u32) -> Result<RecipientPage, Fault> {
    let rows = slice(pool, query, query.after.as_ref(), i64::from(limit) + 1, i64::from(MAX_LISTED_COUNT) + 1).await?;
    let mut rows: Vec<_> = rows.into_iter().filter_map(row_of).collect();
    let has_more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| has_more).map(|row| row.recipient.clone());
    Ok(RecipientPage { rows, next, is_complete: true })
}

async fn by_rank<B: Backend>(pool: &Pool<B>, query: &RecipientQuery, limit: usize) -> Result<RecipientPage, Fault> {
    let (mut ranked, mut after, mut looked_at): (Vec<BoxRow>, Option<Recipient>, usize) = (Vec::new(), None, 0);
    let is_complete = loop {
        let found = answered(pool, slice(pool, query, after.as_ref(), RANKED_SLICE, RANKED_COUNT + 1)).await?;
        let is_last = found.len() < usize::try_from(RANKED_SLICE).unwrap_or(usize::MAX);
        looked_at += found.len();
        after = found.last().and_then(|row| row.recipient.parse().ok()).or(after);
        ranked.extend(found);
        match query.order {
            Order::Longest => ranked.sort_by_key(|row| (-row.events, row.oldest)),
            _ => ranked.sort_by_key(|row| (row.oldest.is_none(), row.oldest)),
        }
        ranked.truncate(limit);
        if is_last || looked_at >= MAX_RANKED as usize {
            break is_last;
        }
    };
    // The few that are shown are counted to the end.
    let counted = answered(pool, async {
        let conn = &mut *hold(pool).await?;
        for row in ranked.iter_mut().filter(|row| row.events > RANKED_COUNT) {
            let Ok(recipient) = row.recipient.parse::<Recipient>() else { continue };
            let shard = recipient.shard().into();
            (row.events, _) = B::count_box(conn, shard, &row.recipient, i64::from(MAX_LISTED_COUNT) + 1).await?;
        }
        Ok(ranked)
    });
    let mut ranked = counted.await?;
    if query.order == Order::Longest {
        ranked.sort_by_key(|row| (-row.events, row.oldest));
    }
    Ok(RecipientPage { rows: ranked.into_iter().filter_map(row_of).collect(), next: None, is_complete })
}

async fn slice<B: Backend>(
    pool: &Pool<B>,
    query: &RecipientQuery,
    after: Option<&Recipient>,
    limit: i64,
    count_limit: i64,
) -> Result<Vec<BoxRow>, Fault> {
    let (low, high) = query.range();
    let (shard, first) = match after {
        Some(after) => (after.shard().into(), low.clone().max(format!("{after}{NEXT}"))),
        None => (0, low.clone()),
    };
    let listed = query.listed();
    let from = BoxesFrom { listed, shard, first: &first, low: &low, high: &high, limit, count_limit };
    B::list_boxes(&mut *hold(pool).await?, from).await
}

/// Returns the row of a list; `None` for a text that only a foreign statement can have written.
fn row_of(row: BoxRow) -> Option<RecipientRow> {
    let most = i64::from(MAX_LISTED_COUNT);
    Some(RecipientRow {
        recipient: row.recipient.parse().ok()?,
        waiting: Count::up_to(most, row.events),
        oldest_at: row.oldest.map(|id| EventId::from(id).emitted_at()),
        attempts: u32::try_from(row.attempts).unwrap_or_default(),
        next_attempt_at: (row.attempts > 0).then(|| time_of(row.next_attempt_at_us)),
        error: row.error,
        is_paused: row.paused,
        quarantined: Count::up_to(most, row.quarantined),
    })
}
