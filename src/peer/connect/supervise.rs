//! Runs the connector of a peer: one life of its connection after the other.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::peer::connect::links::Demand;
use crate::peer::connect::session::Session;
use crate::peer::core::Core;
use crate::peer::error::ConnectorError;
use crate::peer::stream::id::StreamId;
use crate::text::Chain;

/// Runs lives until the peer stops, gives up, or is finished.
pub(in crate::peer) async fn run(core: Arc<Core>, stream: StreamId, stopping: CancellationToken) {
    let mut failures = 0_u32;
    loop {
        let session = Session::new(&core, stream.clone(), stopping.clone());
        let life = session.life();
        let ended = live(&core, session).await;
        let Err(error) = ended else {
            tracing::info!(peer = core.id(), %stream, "peer is finished");
            core.update_status(|status| status.is_finished = !stopping.is_cancelled());
            return;
        };
        if stopping.is_cancelled() {
            return;
        }
        failures = if life.was_healthy() { 1 } else { failures.saturating_add(1) };
        note_failure(&core, &stream, &error, life.was_connected());
        let attempts = core.status().attempts;
        let pause = core.declared.reconnect.pause(&attempts, failures, life.was_connected());
        let Some(pause) = pause.filter(|_| !error.is_permanent()) else {
            tracing::error!(peer = core.id(), %stream, error = %Chain(&error), "peer gives up: mend and restart it");
            core.update_status(|status| status.gave_up = true);
            return;
        };
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Runs one life. A panic of the connector ends this life alone, and its streams as lost.
async fn live(core: &Core, session: Session) -> Result<(), ConnectorError> {
    let connector = &core.declared.connector;
    let ended = AssertUnwindSafe(connector.run(session)).catch_unwind().await;
    ended.unwrap_or_else(|_| Err(ConnectorError::lost(connector.endpoint(), "the connector panicked")))
}

fn note_failure(core: &Core, stream: &StreamId, error: &ConnectorError, was_connected: bool) {
    let text = Chain(error).to_string();
    tracing::warn!(peer = core.id(), %stream, error = text, was_connected, "a connection failed");
    core.update_status(|status| {
        if !was_connected {
            status.attempts.failed();
        }
        status.error = Some(text);
    });
    if !was_connected {
        core.metrics.attempted(false);
    }
}

/// Runs a client once for each stream of the peers that link to it.
pub(in crate::peer) async fn run_linked(core: Arc<Core>, mut demands: mpsc::UnboundedReceiver<Demand>) {
    let mut lives = JoinSet::new();
    let mut open: HashMap<StreamId, CancellationToken> = HashMap::new();
    loop {
        tokio::select! {
            demand = demands.recv() => match demand {
                Some(Demand::Open(id)) => {
                    let stopping = core.stopping.child_token();
                    open.insert(id.clone(), stopping.clone());
                    let core = Arc::clone(&core);
                    lives.spawn(async move {
                        run(core, id.clone(), stopping).await;
                        id
                    });
                }
                Some(Demand::Close(id)) => {
                    if let Some(stopping) = open.remove(&id) {
                        close(&core, &id, &stopping);
                    }
                }
                None => break,
            },
            Some(ended) = lives.join_next() => {
                if let Ok(id) = ended {
                    open.remove(&id);
                }
            }
            () = core.stopping.cancelled() => break,
        }
    }
    while lives.join_next().await.is_some() {}
}

/// Lets a linked stream send what waits, and end.
fn close(core: &Core, id: &StreamId, stopping: &CancellationToken) {
    stopping.cancel();
    if let Some(stream) = core.stream(id.as_str()) {
        stream.delivery.close();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use tokio::time::Instant;

    use super::*;
    use crate::peer::boxes::door::closed::ClosedDoor;
    use crate::peer::connect::connector::{Connector, Role};
    use crate::peer::core::Declared;
    use crate::peer::declare::limits::PeerLimits;
    use crate::peer::declare::mapping::Mapping;
    use crate::peer::declare::reconnect::Reconnect;

    /// A client that connects, and loses its connection after a while.
    struct Dying {
        lives_for: Mutex<Duration>,
        lives: Mutex<Vec<Instant>>,
    }

    #[async_trait]
    impl Connector for Arc<Dying> {
        fn name(&self) -> &'static str {
            "dying"
        }

        fn endpoint(&self) -> String {
            "memory".to_owned()
        }

        fn role(&self) -> Role {
            Role::Client
        }

        async fn run(&self, session: Session) -> Result<(), ConnectorError> {
            self.lives.lock().unwrap().push(Instant::now());
            session.connected();
            let lives_for = *self.lives_for.lock().unwrap();
            tokio::time::sleep(lives_for).await;
            Err(ConnectorError::lost("memory", std::io::Error::other("it died")))
        }
    }

    fn core(connector: impl Connector, reconnect: Reconnect) -> Arc<Core> {
        let declared = Declared {
            id: "dying".to_owned(),
            connector: Arc::new(connector),
            codec: None,
            interceptors: Vec::new(),
            mapping: Mapping::none(),
            reconnect,
            limits: PeerLimits::default(),
            links: Vec::new(),
        };
        let (signals, _) = tokio::sync::broadcast::channel(1);
        let door = Arc::new(ClosedDoor);
        Arc::new(Core::new(declared, door, Arc::default(), signals, Arc::default(), CancellationToken::new()))
    }

    /// A connector whose first life panics.
    struct Panicking(AtomicUsize);

    #[async_trait]
    impl Connector for Panicking {
        fn name(&self) -> &'static str {
            "panicking"
        }

        fn endpoint(&self) -> String {
            "memory".to_owned()
        }

        fn role(&self) -> Role {
            Role::Client
        }

        async fn run(&self, session: Session) -> Result<(), ConnectorError> {
            assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "a mistake of the connector");
            session.connected();
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_one_life_and_not_the_peer() {
        let core = core(Panicking(AtomicUsize::new(0)), Reconnect::default());
        run(Arc::clone(&core), StreamId::main(), core.stopping.clone()).await;
        let attempts = core.status().attempts;
        assert_eq!((attempts.overall, attempts.successes), (2, 1));
    }

    /// Case 18 of the acceptance cases, and trap T-9: connections that die at once make the pauses longer, although
    /// each of them did connect. A connection that stood for long enough begins the pauses anew.
    #[tokio::test(start_paused = true)]
    async fn connect_and_die_is_no_hot_loop() {
        fastrand::seed(7);
        let reconnect = Reconnect::default();
        let dying = Arc::new(Dying { lives_for: Mutex::new(Duration::ZERO), lives: Mutex::default() });
        let core = core(Arc::clone(&dying), reconnect);
        let work = tokio::spawn(run(Arc::clone(&core), StreamId::main(), core.stopping.clone()));
        tokio::time::sleep(Duration::from_secs(600)).await;
        let lives = std::mem::take(&mut *dying.lives.lock().unwrap());
        let pauses: Vec<Duration> = lives.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (failures, pause) in (0_i32..).zip(&pauses) {
            let step = reconnect.initial.mul_f64(reconnect.growth.powi(failures.min(20))).min(reconnect.cap);
            // A timer is due at the next millisecond.
            assert!(*pause <= step + Duration::from_millis(1), "pause {failures} is {pause:?}, over {step:?}");
        }
        // With a mean of half the cap, 600 s have some 40 attempts; a hot loop has thousands.
        assert!((20..120).contains(&lives.len()), "{} attempts in 600 s", lives.len());
        assert_eq!(core.status().attempts.successes as usize, lives.len(), "each attempt did connect");

        *dying.lives_for.lock().unwrap() = reconnect.reset_after;
        tokio::time::sleep(Duration::from_secs(600)).await;
        let lives = std::mem::take(&mut *dying.lives.lock().unwrap());
        let pauses = lives.windows(2).skip(1).map(|pair| pair[1] - pair[0] - reconnect.reset_after);
        assert!(pauses.max().unwrap() <= reconnect.initial + Duration::from_millis(1), "healthy lives begin anew");
        core.stopping.cancel();
        work.await.unwrap();
    }
}
