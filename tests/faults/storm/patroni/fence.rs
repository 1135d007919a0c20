//! Writes straight to a node that leads no longer, as of a client that knows no fail-over.

use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::super::super::report::Result;

/// The write.
const WRITE: &str = "INSERT INTO faults_fence DEFAULT VALUES";

/// Longest wait of a new connection for its answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Pause between two connections.
const PAUSE: Duration = Duration::from_millis(200);

/// Numbers of writes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Writes {
    pub(crate) tried: usize,
    /// Writes that the old leader acknowledged although another node led.
    pub(crate) acknowledged: usize,
}

/// Writes to an old leader until they are told to stop.
pub(crate) struct Fence {
    over: watch::Sender<bool>,
    tasks: JoinSet<Writes>,
}

impl Fence {
    /// Opens a connection to the leader, which is `node`. When another node leads, this connection writes once, and new
    /// connections write again and again.
    pub(crate) async fn watch(url: &str, node: usize, leader: watch::Receiver<Option<usize>>) -> Result<Self> {
        let options = eventbox::postgres_options(url)?;
        let mut old = options.connect().await?;
        sqlx::query("CREATE TABLE IF NOT EXISTS faults_fence (at timestamptz DEFAULT now())").execute(&mut old).await?;
        let (over, mut tasks) = (watch::Sender::new(false), JoinSet::new());
        let (mut moved, mut is_over) = (leader.clone(), over.subscribe());
        let leads_again = move || *leader.borrow() == Some(node);
        let with_old = {
            let (mut moved, mut is_over, leads_again) = (moved.clone(), is_over.clone(), leads_again.clone());
            async move {
                let mut writes = Writes::default();
                if other_leads(&mut moved, node, &mut is_over).await {
                    writes.tried += 1;
                    tokio::select! {
                        done = sqlx::query(WRITE).execute(&mut old) => {
                            writes.acknowledged += usize::from(done.is_ok() && !leads_again());
                        }
                        _ = is_over.wait_for(|is_over| *is_over) => {}
                    }
                }
                writes
            }
        };
        let with_new = async move {
            let mut writes = Writes::default();
            let is_moved = other_leads(&mut moved, node, &mut is_over).await;
            while is_moved && !*is_over.borrow() {
                writes.tried += 1;
                let write = async {
                    let mut fresh: PgConnection = options.connect().await?;
                    sqlx::query(WRITE).execute(&mut fresh).await?;
                    fresh.close().await
                };
                let is_acknowledged = timeout(ANSWER, write).await.is_ok_and(|done| done.is_ok());
                writes.acknowledged += usize::from(is_acknowledged && !leads_again());
                sleep(PAUSE).await;
            }
            writes
        };
        tasks.spawn(with_old);
        tasks.spawn(with_new);
        Ok(Fence { over, tasks })
    }

    /// Ends the writes, and returns their numbers.
    pub(crate) async fn end(self) -> Writes {
        self.over.send_replace(true);
        let all = self.tasks.join_all().await;
        let sum = |count: fn(&Writes) -> usize| all.iter().map(count).sum();
        Writes { tried: sum(|writes| writes.tried), acknowledged: sum(|writes| writes.acknowledged) }
    }
}

/// Waits until another node leads; `false` when the writes are over before.
async fn other_leads(
    leader: &mut watch::Receiver<Option<usize>>,
    node: usize,
    is_over: &mut watch::Receiver<bool>,
) -> bool {
    tokio::select! {
        moved = leader.wait_for(|leader| leader.is_some_and(|leader| leader != node)) => moved.is_ok(),
        _ = is_over.wait_for(|is_over| *is_over) => false,
    }
}
