//! Accepting connections: a permit first, a back-off after an error, a task for each connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::peer::{Session, StreamFacts};

/// First pause after a connection could not be accepted.
const FIRST_ACCEPT_PAUSE: Duration = Duration::from_millis(5);

/// Longest pause after a connection could not be accepted, for example because the process has no file descriptors.
const LONGEST_ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Something that accepts connections.
pub(crate) trait Accept: Send + Sync + 'static {
    /// A connection.
    type Io: Send + 'static;

    /// Waits for the next connection. Cancel safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, StreamFacts)>> + Send;
}

/// How many connections a server takes, and until when.
pub(crate) struct Bounds {
    /// Number of connections at a time. The system holds back further ones.
    pub(crate) connections: usize,
    /// Ends the accepting.
    pub(crate) stopping: CancellationToken,
    /// Address of the server, for the log.
    pub(crate) endpoint: Arc<str>,
}

impl Bounds {
    pub(crate) fn new(session: &Session, endpoint: &Arc<str>) -> Self {
        Bounds {
            connections: session.limits().streams.get(),
            stopping: session.stopping(),
            endpoint: Arc::clone(endpoint),
        }
    }
}

/// Accepts connections until the stop, and waits until all of them have ended. Dropped, it ends them at once.
pub(crate) async fn listen<A, F>(listener: A, bounds: Bounds, handle: impl Fn(A::Io, StreamFacts) -> F)
where
    A: Accept,
    F: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(bounds.connections.max(1)));
    let mut tasks = JoinSet::new();
    let mut pause = None;
    while let Some((permit, accepted)) = next(&listener, &permits, &bounds.stopping, &mut tasks).await {
        match accepted {
            Ok((io, facts)) => {
                pause = None;
                let connection = handle(io, facts);
                tasks.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => rest(&mut pause, &error, &bounds).await,
        }
    }
    // Before the connections have ended, so that new clients are refused at once.
    drop(listener);
    while let Some(done) = tasks.join_next().await {
        report(done);
    }
}

/// Returns the next connection and its permit; `None` at the stop.
async fn next<A: Accept>(
    listener: &A,
    permits: &Arc<Semaphore>,
    stopping: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Option<(OwnedSemaphorePermit, io::Result<(A::Io, StreamFacts)>)> {
    loop {
        let accepting = async {
            let permit = Arc::clone(permits).acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        tokio::select! {
            biased;
            () = stopping.cancelled() => return None,
            Some(done) = tasks.join_next(), if !tasks.is_empty() => report(done),
            accepted = accepting => return accepted,
        }
    }
}

fn report(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        tracing::error!(%error, "the task of a connection panicked: its stream is lost");
    }
}

/// Waits before the next attempt: twice as long after each failure, and not past the stop.
async fn rest(pause: &mut Option<Duration>, error: &io::Error, bounds: &Bounds) {
    if pause.is_none() {
        tracing::warn!(endpoint = %bounds.endpoint, %error, "cannot accept a connection: the server tries again");
    }
    let now = pause.map_or(FIRST_ACCEPT_PAUSE, |last| (last * 2).min(LONGEST_ACCEPT_PAUSE));
    *pause = Some(now);
    tokio::select! {
        () = tokio::time::sleep(now) => {}
        () = bounds.stopping.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::{Notify, mpsc};

    use super::*;

    /// Fails some times, and then gives connections without end.
    struct Failing {
        left: AtomicUsize,
        accepted: Arc<AtomicUsize>,
    }

    impl Accept for Failing {
        type Io = usize;

        async fn accept(&self) -> io::Result<(usize, StreamFacts)> {
            if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                return Err(io::Error::from_raw_os_error(24));
            }
            Ok((self.accepted.fetch_add(1, Ordering::Relaxed), StreamFacts::new()))
        }
    }

    fn bounds(connections: usize) -> Bounds {
        Bounds { connections, stopping: CancellationToken::new(), endpoint: "test".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_of_accept_backs_off_and_ends_nothing() {
        let (failing, bounds) = (Failing { left: 12.into(), accepted: Arc::default() }, bounds(1));
        let (stopping, started) = (bounds.stopping.clone(), tokio::time::Instant::now());
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let server = tokio::spawn(listen(failing, bounds, move |io, _| {
            let sender = sender.clone();
            async move { sender.send(io).unwrap() }
        }));
        assert_eq!(receiver.recv().await, Some(0), "the first connection after the errors");
        let waited = started.elapsed();
        assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&waited), "{waited:?}");
        stopping.cancel();
        server.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn no_connection_is_accepted_without_a_permit() {
        let accepted = Arc::new(AtomicUsize::new(0));
        let (failing, bounds) = (Failing { left: 0.into(), accepted: Arc::clone(&accepted) }, bounds(3));
        let stopping = bounds.stopping.clone();
        let (ends, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (ended, served) = (Arc::clone(&end), Arc::clone(&ends));
        let server = tokio::spawn(listen(failing, bounds, move |_, _| {
            let (end, ends) = (Arc::clone(&ended), Arc::clone(&served));
            async move {
                end.notified().await;
                ends.notify_one();
            }
        }));
        let settle = || tokio::time::sleep(Duration::from_secs(1));
        settle().await;
        assert_eq!(accepted.load(Ordering::Relaxed), 3);
        end.notify_one();
        ends.notified().await;
        settle().await;
        assert_eq!(accepted.load(Ordering::Relaxed), 4, "the end of a connection lets one in");
        stopping.cancel();
        settle().await;
        assert!(!server.is_finished(), "a stop waits for the connections");
        for _ in 0..3 {
            end.notify_one();
            ends.notified().await;
        }
        server.await.unwrap();
    }
}
