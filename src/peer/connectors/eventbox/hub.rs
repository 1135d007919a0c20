//! The database at the other end.

use sqlx::Pool;

use super::delivered::Delivered;
use crate::error::{Error, Result};
use crate::eventbox::{Event, EventId, emit_all_in, in_transaction, pool_options};
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, begin_tx, in_time};

/// Most connections to a hub. Batches of one stream go one after the other.
pub const HUB_CONNECTIONS: u32 = 2;

/// The row of the hub's checkpoints that belongs to a stream of an edge.
pub(super) struct Source {
    peer: String,
    stream: String,
}

impl Source {
    pub(super) fn new(edge: &str, peer: &str, stream: &str) -> Self {
        Source { peer: format!("from:{edge}"), stream: format!("{peer}/{stream}") }
    }
}

/// An event on its way, with its id at the edge.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) id: EventId,
    pub(super) to: Recipient,
    pub(super) event: Event,
}

/// A pool of connections to the hub.
pub(super) enum Hub {
    #[cfg(feature = "postgres")]
    Postgres(Pool<sqlx::Postgres>),
    #[cfg(feature = "sqlite")]
    Sqlite(Pool<sqlx::Sqlite>),
}

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres:") || url.starts_with("postgresql:")
}

/// Checks that the engine of a URL is built in.
pub(super) fn check(url: &str) -> Result<(), String> {
    if url.is_empty() {
        return Err("`url` is empty".to_owned());
    }
    let (is_there, feature) = match is_postgres(url) {
        true => (cfg!(feature = "postgres"), "postgres"),
        false => (cfg!(feature = "sqlite"), "sqlite"),
    };
    if is_there { Ok(()) } else { Err(format!("the engine of `url` is not built in: switch on the feature {feature}")) }
}

/// Returns a URL without the user, the password and the options.
pub(super) fn shown(url: &str) -> String {
    if !is_postgres(url) {
        return url.to_owned();
    }
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.to_owned(),
    }
}

impl Hub {
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let attempt = "connect to the hub";
        #[cfg(feature = "postgres")]
        if is_postgres(url) {
            let options = pool_options::<sqlx::Postgres>().max_connections(HUB_CONNECTIONS);
            let pool = options.connect_with(crate::eventbox::postgres_options(url)?).await;
            return pool.map(Hub::Postgres).map_err(|error| Fault::from(error).during(attempt));
        }
        #[cfg(feature = "sqlite")]
        if !is_postgres(url) {
            // A hub that is not there is a wrong path, and not a new hub.
            let path = match url.strip_prefix("sqlite://").or(url.strip_prefix("sqlite:")) {
                // The options of a connection are the library's own.
                Some(path) => path.split('?').next().unwrap_or(path),
                None => url,
            };
            let file = crate::eventbox::sqlite_options(path).create_if_missing(false);
            let pool = pool_options::<sqlx::Sqlite>().max_connections(HUB_CONNECTIONS).connect_with(file).await;
            return pool.map(Hub::Sqlite).map_err(|error| Fault::from(error).during(attempt));
        }
        Err(Error::setup(attempt, "its engine is not built in"))
    }

    /// Emits those events that the hub does not have, and returns after the commit.
    ///
    /// `oldest` is the oldest event that may still be in the box at the edge.
    pub(super) async fn deliver(&self, from: &Source, oldest: Option<EventId>, events: Vec<Sent>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        match self {
            #[cfg(feature = "postgres")]
            Hub::Postgres(pool) => deliver(pool, from, oldest, events).await,
            #[cfg(feature = "sqlite")]
            Hub::Sqlite(pool) => deliver(pool, from, oldest, events).await,
        }
    }

    pub(super) async fn close(&self) {
        match self {
            #[cfg(feature = "postgres")]
            Hub::Postgres(pool) => pool.close().await,
            #[cfg(feature = "sqlite")]
            Hub::Sqlite(pool) => pool.close().await,
        }
    }
}

async fn deliver<B: Backend>(pool: &Pool<B>, from: &Source, oldest: Option<EventId>, events: Vec<Sent>) -> Result<()> {
    let attempt = format!("deliver {} events of {} {}", events.len(), from.peer, from.stream);
    let during = |fault: Fault| fault.during(&attempt);
    in_transaction(async {
        let mut tx = begin_tx(pool, B::BEGIN_WRITE, false).await.map_err(during)?;
        let read = in_time::<B, _>(B::checkpoint(&mut tx, &from.peer, &from.stream)).await.map_err(during)?;
        let known = read.as_deref().map(str::parse::<Delivered>).transpose();
        let known = known.map_err(|problem| Error::setup(&attempt, problem))?.unwrap_or_default();
        let next = known.with(oldest, events.iter().map(|sent| sent.id)).to_string();
        // The move comes first: it locks the row, so that two senders of one stream come one after the other.
        let moving = B::move_checkpoint(&mut tx, &from.peer, &from.stream, read.as_deref(), &next);
        if !in_time::<B, _>(moving).await.map_err(during)? {
            return Err(Error::contention(&attempt));
        }
        let new = events.into_iter().filter(|sent| !known.has(sent.id));
        let new: Vec<(Recipient, Event)> = new.map(|sent| (sent.to, sent.event)).collect();
        emit_all_in::<B>(&mut tx, &new).await?;
        tx.commit().await.map_err(|fault| fault.during_commit(&attempt))
    })
    .await
}

#[cfg(test)]
#[cfg(feature = "sqlite")]
mod tests {
    use super::*;

    async fn hub() -> (tempfile::TempDir, Pool<sqlx::Sqlite>) {
        let directory = tempfile::tempdir().unwrap();
        let file = crate::eventbox::sqlite_options(directory.path().join("hub.sqlite3"));
        let pool = pool_options::<sqlx::Sqlite>().max_connections(2).connect_with(file).await.unwrap();
        crate::eventbox::migrate(&pool).await.unwrap();
        (directory, pool)
    }

    fn sent(number: u128) -> Sent {
        let id = EventId::from(uuid::Uuid::from_u128(number));
        let event = Event::new(number.to_string()).named(format!("edge:{id}"));
        Sent { id, to: Recipient::new("order", "7").unwrap(), event }
    }

    async fn values(pool: &Pool<sqlx::Sqlite>) -> Vec<String> {
        let to = Recipient::new("order", "7").unwrap();
        let events = crate::admin::events(pool, &to, None, 100).await.unwrap();
        events.iter().map(|event| String::from_utf8_lossy(event.value()).into_owned()).collect()
    }

    /// The same event as it comes when the hub has forgotten its name.
    fn renamed(number: u128) -> Sent {
        let Sent { id, to, event } = sent(number);
        Sent { id, to, event: event.named(format!("again:{id}")) }
    }

    #[tokio::test]
    async fn a_re_send_after_the_names_are_gone_changes_nothing() {
        let (_directory, pool) = hub().await;
        let source = Source::new("edge", "hub", "main");
        let oldest = Some(sent(1).id);
        deliver(&pool, &source, oldest, vec![sent(1), sent(3)]).await.unwrap();
        assert_eq!(values(&pool).await, ["1", "3"]);
        // The edge died before it noted the commit. Meanwhile an event with a smaller id was committed there.
        deliver(&pool, &source, oldest, vec![renamed(1), sent(2), renamed(3), sent(4)]).await.unwrap();
        assert_eq!(values(&pool).await, ["1", "3", "2", "4"]);
        deliver(&pool, &source, Some(sent(5).id), vec![sent(5)]).await.unwrap();
        assert_eq!(values(&pool).await, ["1", "3", "2", "4", "5"]);
        // Another stream and another edge have rows of their own.
        deliver(&pool, &Source::new("other", "hub", "main"), oldest, vec![renamed(1)]).await.unwrap();
        assert_eq!(values(&pool).await.len(), 6);
    }

    #[tokio::test]
    async fn an_event_that_is_not_emitted_is_not_remembered() {
        let (_directory, pool) = hub().await;
        let source = Source::new("edge", "hub", "main");
        let mut wrong = sent(1);
        wrong.event = Event::new("x").named("");
        assert!(deliver(&pool, &source, None, vec![wrong]).await.is_err());
        deliver(&pool, &source, None, vec![sent(1)]).await.unwrap();
        assert_eq!(values(&pool).await, ["1"]);
    }

    #[test]
    fn no_secret_is_shown() {
        assert_eq!(shown("postgres://truck:se@cret@hub:5432/fleet?sslmode=require"), "postgres://hub:5432/fleet");
        assert_eq!(shown("postgres://hub/fleet"), "postgres://hub/fleet");
        assert_eq!(shown("/var/hub.sqlite3"), "/var/hub.sqlite3");
        assert!(check("").is_err());
    }
}
