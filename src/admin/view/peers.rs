//! The peers of a database, and their open streams.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use sqlx::Pool;
use uuid::Uuid;

use super::count::Count;
use super::members::{self, Member};
use super::overview::MAX_KINDS;
use crate::admin::time_of;
use crate::clock::micros;
use crate::error::Result;
use crate::eventbox::{STREAM_KIND, backlog};
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, StreamCounts, StreamRow, answered, hold};

/// Largest number of peers of a list.
pub const MAX_PEERS: usize = 200;

/// Largest number of streams of a page.
pub const MAX_STREAMS: u32 = 1_000;

/// Largest number of streams that [`peers`] counts of a peer, and of events that [`streams`] counts of a stream.
pub const MAX_COUNTED_STREAMS: u32 = 10_000;

/// Silence after which the process of a stream counts as dead: the default of
/// [`lease_ttl`](crate::runtime::LeaseConfig). A process with a longer one may live.
pub const STREAM_SILENT_AFTER: Duration = Duration::from_secs(15);

/// A peer at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PeerView {
    /// Id of the peer.
    pub peer: String,
    /// Open streams, in all processes.
    pub streams: Count,
    /// Those whose process is silent.
    pub silent: Count,
    /// Start of the first of the counted streams.
    #[serde(serialize_with = "super::text::time_if_any")]
    pub first_started_at: Option<SystemTime>,
    /// Events that wait to be sent, of all its streams.
    pub waiting: Count,
    /// Processes that run the peer and sent a heartbeat in time.
    pub processes: Vec<PeerProcess>,
}

/// A process that runs a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PeerProcess {
    /// Id of the process as a member.
    pub worker: Uuid,
    /// Address of the process, as the process says itself.
    pub address: String,
}

/// An open stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StreamView {
    /// Id of the peer.
    pub peer: String,
    /// Id of the stream.
    pub stream: String,
    /// Process that has the connection.
    pub worker: Uuid,
    /// Address of that process. `None` when it is not a member any more.
    pub address: Option<String>,
    /// Whether that process sent a heartbeat within [`STREAM_SILENT_AFTER`].
    pub is_alive: bool,
    /// Time since its last heartbeat. `None` when it is not a member any more.
    #[serde(rename = "silent_seconds", serialize_with = "super::text::seconds_if_any")]
    pub silent_for: Option<Duration>,
    /// Start of the stream, by the database's clock.
    #[serde(serialize_with = "super::text::time")]
    pub started_at: SystemTime,
    /// Facts of the stream: the address of the other side, the path of a file.
    pub facts: BTreeMap<String, String>,
    /// Events that wait to be sent, counted up to [`MAX_COUNTED_STREAMS`].
    pub waiting: Count,
}

/// Lists the peers that have open streams or events that wait, or that a process runs, in the order of their ids.
///
/// # Units and limits
///
/// At most [`MAX_PEERS`].
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
/// use eventbox::{Event, Recipient, admin};
///
/// eventbox::emit(&pool, &Recipient::new("peer.chat", "session-7")?, Event::new("hello")).await?;
/// let peers = admin::peers(&pool).await?;
/// assert_eq!((peers[0].peer.as_str(), peers[0].streams.number, peers[0].waiting.number), ("chat", 0, 1));
/// assert!(peers[0].processes.is_empty(), "no process sends it");
/// # Ok(()) }
/// ```
pub async fn peers<B: Backend>(pool: &Pool<B>) -> Result<Vec<PeerView>> {
    let (members, _) = members::read(pool).await?;
    let read = answered(pool, async {
        let kinds = members.iter().flat_map(|member| member.kinds.iter().map(String::as_str));
        counted::<B>(&mut *hold(pool).await?, kinds, STREAM_SILENT_AFTER).await
    });
    let counted = read.await.map_err(|fault: Fault| fault.during("list the peers"))?;
    let kinds: Vec<String> = counted.iter().map(|(peer, _)| kind_of(peer)).collect();
    let waiting = backlog(pool, &Vec::from_iter(kinds.iter().map(String::as_str))).await?;
    let peers = counted.into_iter().zip(waiting);
    let view = |((peer, counts), waiting): ((String, StreamCounts), crate::eventbox::KindBacklog)| {
        let waiting = Count { number: waiting.events, precision: waiting.precision };
        peer_view(peer, counts, waiting, &members)
    };
    Ok(peers.map(view).collect())
}

/// Returns the peers of some kinds, and those that have events or open streams, with counts of their streams.
pub(in crate::admin) async fn counted<B: Backend>(
    conn: &mut B::Connection,
    kinds: impl Iterator<Item = &str> + Send,
    silent_after: Duration,
) -> std::result::Result<Vec<(String, StreamCounts)>, Fault> {
    let mut peers: BTreeSet<String> = kinds.filter_map(peer_of).collect();
    let there = B::list_kinds(conn, i64::from(MAX_KINDS) + 1).await?;
    peers.extend(there.iter().map(String::as_str).filter_map(peer_of));
    let mut after = String::new();
    while peers.len() < MAX_PEERS
        && let Some(peer) = B::next_peer(conn, &after).await?
    {
        peers.insert(peer.clone());
        after = peer;
    }
    let limit = i64::from(MAX_COUNTED_STREAMS) + 1;
    let mut counted = Vec::new();
    for peer in peers.into_iter().take(MAX_PEERS) {
        let counts = B::count_streams(conn, &peer, limit, micros(silent_after)).await?;
        counted.push((peer, counts));
    }
    Ok(counted)
}

fn peer_view(peer: String, counts: StreamCounts, waiting: Count, members: &[Member]) -> PeerView {
    let most = i64::from(MAX_COUNTED_STREAMS);
    let process = |member: &Member| PeerProcess { worker: member.worker, address: member.address.clone() };
    PeerView {
        streams: Count::up_to(most, counts.open),
        silent: Count::up_to(most, counts.silent),
        first_started_at: counts.first_started_at_us.map(time_of),
        waiting,
        processes: running(&peer, members).map(process).collect(),
        peer,
    }
}

/// Lists the open streams of a peer behind `after`, in the order of their ids, at most [`MAX_STREAMS`].
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
/// use eventbox::admin;
///
/// let first = admin::streams(&pool, "chat", None, 100).await?;
/// let next = match first.last() {
///     Some(last) => admin::streams(&pool, "chat", Some(&last.stream), 100).await?,
///     None => Vec::new(),
/// };
/// assert!(next.is_empty());
/// # Ok(()) }
/// ```
pub async fn streams<B: Backend>(
    pool: &Pool<B>,
    peer: &str,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<StreamView>> {
    let limit = i64::from(limit.clamp(1, MAX_STREAMS));
    let (members, _) = members::read(pool).await?;
    let read = answered(pool, async {
        let conn = &mut *hold(pool).await?;
        let rows = B::list_streams(conn, peer, after.unwrap_or_default(), limit, micros(STREAM_SILENT_AFTER)).await?;
        let mut views = Vec::with_capacity(rows.len());
        for row in rows {
            views.push(view::<B>(conn, row, &members).await?);
        }
        Ok(views)
    });
    read.await.map_err(|fault: Fault| fault.during(format!("list the streams of peer {peer}")))
}

/// Returns an open stream by its eventbox; `None` when it is not open, or the recipient is no stream.
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
/// use eventbox::{Recipient, admin};
///
/// assert!(admin::stream(&pool, &Recipient::new("peer.chat", "session-7")?).await?.is_none());
/// # Ok(()) }
/// ```
pub async fn stream<B: Backend>(pool: &Pool<B>, of: &Recipient) -> Result<Option<StreamView>> {
    let Some(peer) = of.kind().strip_prefix(STREAM_KIND) else { return Ok(None) };
    let (members, _) = members::read(pool).await?;
    let read = answered(pool, async {
        let conn = &mut *hold(pool).await?;
        match B::stream(conn, peer, of.key(), micros(STREAM_SILENT_AFTER)).await? {
            Some(row) => view::<B>(conn, row, &members).await.map(Some),
            None => Ok(None),
        }
    });
    read.await.map_err(|fault: Fault| fault.during(format!("look for the stream of {of}")))
}

async fn view<B: Backend>(
    conn: &mut B::Connection,
    row: StreamRow,
    members: &[Member],
) -> std::result::Result<StreamView, Fault> {
    let most = i64::from(MAX_COUNTED_STREAMS);
    let waiting = match Recipient::new(kind_of(&row.peer), &row.stream) {
        Ok(of) => B::count_box(conn, of.shard().into(), of.as_str(), most + 1).await?.0,
        // Only a foreign statement can have written such a row.
        Err(_) => 0,
    };
    let member = members.iter().find(|member| member.worker == row.worker);
    Ok(StreamView {
        worker: row.worker,
        address: member.map(|member| member.address.clone()),
        is_alive: row.is_alive,
        silent_for: member.map(|member| member.silent_for),
        started_at: time_of(row.started_at_us),
        facts: serde_json::from_str(&row.facts).unwrap_or_default(),
        waiting: Count::up_to(most, waiting),
        peer: row.peer,
        stream: row.stream,
    })
}

/// Returns the processes that run a peer and sent a heartbeat in time.
pub(in crate::admin) fn running<'a>(peer: &str, members: &'a [Member]) -> impl Iterator<Item = &'a Member> {
    let kind = kind_of(peer);
    let runs = move |member: &&Member| member.kinds.contains(&kind) && member.silent_for < STREAM_SILENT_AFTER;
    members.iter().filter(runs)
}

/// Returns the kind of the eventboxes of a peer's streams.
pub(in crate::admin) fn kind_of(peer: &str) -> String {
    format!("{STREAM_KIND}{peer}")
}

fn peer_of(kind: &str) -> Option<String> {
    kind.strip_prefix(STREAM_KIND).map(str::to_owned)
}
