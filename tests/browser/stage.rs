//! What a test has: a database, a runtime that works on it, the dashboard, and a browser.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventbox::dashboard::{DashboardHandle, DashboardOptions, serve};
use eventbox::emitter::DurableEmitter;
use eventbox::runtime::{LeaseConfig, Runtime, RuntimeConfig};
use eventbox::{
    Backend, BoxError, CloudEvent, EVersion, Event, Mutation, Outcome, PoisonPolicy, Processor, Recipient, Reducer,
    Transition,
};
use futures_util::FutureExt;
use sqlx::Pool;

use crate::browser::Browser;
use crate::support::{CellEngine, SOON, TestDb, TestEngine, eventually};

/// Longest time that the runtime and the dashboard may take to stop.
const STOP: Duration = Duration::from_secs(20);

/// Term of leases, and pause of a failing recipient: longer than a test.
const LONG: Duration = Duration::from_secs(600);

/// Address of the runtime, as the pages show it.
pub(crate) const HOST: &str = "host-b:7000";

/// An order: the sum of its numbers. It tells the outside about each sum.
pub(crate) struct Order;

impl Reducer for Order {
    type State = i64;

    fn reduce(&self, order: &Recipient, events: &[Event], mut total: i64) -> Result<Outcome<i64>, BoxError> {
        for event in events {
            total += event.json::<i64>()?;
        }
        let message = CloudEvent::builder("orders", "order.totalled").subject(order.key()).json(&total).build()?;
        Ok(Outcome::to(total).consuming(events).publishing([message]))
    }
}

/// Mail for a server that may be away.
struct Mail {
    is_away: Arc<AtomicBool>,
}

impl<B: Backend> Processor<B> for Mail {
    type State = ();

    async fn load_state(&self, _conn: &mut B::Connection, _to: &Recipient) -> Result<((), EVersion), BoxError> {
        Ok(((), EVersion(0)))
    }

    async fn prepare_mutation(&self, _to: &Recipient, mail: &[Event], _: &()) -> Result<Mutation<B, ()>, BoxError> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err("the mail server is away".into());
        }
        Ok(Transition::stay().consuming(mail).into())
    }

    async fn fetch_eversion(&self, _tx: &mut B::Connection, _to: &Recipient) -> Result<EVersion, BoxError> {
        Ok(EVersion(0))
    }

    async fn save_state(
        &self,
        _tx: &mut B::Connection,
        _to: &Recipient,
        _state: &(),
        _eversion: EVersion,
    ) -> Result<(), BoxError> {
        Ok(())
    }
}

/// How a test wants its stage.
pub(crate) struct Play<B: Backend> {
    pub(crate) options: DashboardOptions,
    /// Failures in a row before an event goes into quarantine.
    pub(crate) patience: NonZeroU32,
    pub(crate) emitter: Option<DurableEmitter<B>>,
    pub(crate) has_scripts: bool,
}

impl<B: Backend> Default for Play<B> {
    fn default() -> Self {
        let patience = NonZeroU32::new(2).unwrap();
        Play { options: DashboardOptions::default(), patience, emitter: None, has_scripts: true }
    }
}

/// A database, a runtime, a dashboard and a browser.
pub(crate) struct Stage<'a, B: TestEngine> {
    pub(crate) db: &'a TestDb<B>,
    pub(crate) runtime: Runtime<B>,
    /// Whether the server of the processor `mail` is away.
    pub(crate) mail_is_away: Arc<AtomicBool>,
    pub(crate) browser: Browser,
    dashboard: DashboardHandle,
}

/// Runs a test on a stage. A test that fails leaves a picture of its last page.
pub(crate) async fn on_stage<B: CellEngine>(db: &TestDb<B>, play: Play<B>, test: impl AsyncFnOnce(&Stage<'_, B>)) {
    let mail_is_away = Arc::new(AtomicBool::new(false));
    let mail = Mail { is_away: mail_is_away.clone() };
    let builder = builder(db.open(6), HOST, play.patience).processor("mail", mail);
    let builder = match play.emitter {
        Some(emitter) => builder.emitter(emitter),
        None => builder,
    };
    let runtime = builder.start().await.unwrap();
    eventually(SOON, async || runtime.shards() == 256).await;
    let dashboard = serve(db.open(4), play.options, "127.0.0.1:0").await.unwrap();
    let browser = Browser::start(dashboard.local_addr(), play.has_scripts).await;
    let stage = Stage { db, runtime, mail_is_away, browser, dashboard };
    if let Err(failure) = AssertUnwindSafe(test(&stage)).catch_unwind().await {
        let name = std::thread::current().name().unwrap_or("test").replace("::", "-");
        // The picture may fail too, when the browser is gone.
        let _ = AssertUnwindSafe(stage.browser.photograph(&format!("failed-{name}"))).catch_unwind().await;
        resume_unwind(failure);
    }
    stage.browser.end().await;
    assert!(stage.dashboard.stop(STOP).await.complete);
    assert!(stage.runtime.stop(STOP).await.complete);
}

/// Returns a runtime for orders whose leases and pauses outlast the test.
pub(crate) fn builder<B: Backend>(
    pool: Pool<B>,
    address: &str,
    patience: NonZeroU32,
) -> eventbox::runtime::RuntimeBuilder<B> {
    let mut leases = LeaseConfig::default();
    leases.lease_ttl = LONG;
    (leases.renew_interval, leases.check_interval) = (Duration::from_millis(300), Duration::from_millis(100));
    let mut config = RuntimeConfig::default();
    (config.leases, config.address) = (Some(leases), address.to_owned());
    config.poison = PoisonPolicy::Isolate { after: patience };
    (config.backoff.base, config.backoff.cap) = (LONG, LONG);
    Runtime::builder(pool).reducer("order", Order).config(config)
}

impl<B: CellEngine> Stage<'_, B> {
    /// Emits an event.
    pub(crate) async fn emit(&self, to: &Recipient, value: &str) {
        B::emit_on(&self.db.pool, to, Event::new(value.to_owned())).await.unwrap();
    }

    /// Emits an event to an order of a paused kind. First it emits zeros, until one stays there: the runtime notices a
    /// pause at its next poll.
    pub(crate) async fn emit_to_paused_kind(&self, to: &Recipient, value: &str) {
        let beat = async || self.db.number("SELECT max(heartbeat_at_us) FROM eventbox_member").await;
        eventually(SOON, async || {
            self.emit(to, "0").await;
            // Two heartbeats are further apart than two polls.
            for _ in 0..2 {
                let before = beat().await;
                eventually(SOON, async || beat().await > before).await;
            }
            self.db.count("eventbox_event").await > 0
        })
        .await;
        self.emit(to, value).await;
    }

    /// Waits until an order has a total.
    pub(crate) async fn totals(&self, key: &str, total: i64) {
        let of = order(key);
        let read = async || eventbox::state::<i64>(&self.db.pool, &of).await.ok().flatten().and_then(|at| at.state);
        eventually(SOON, async || read().await == Some(total)).await;
    }
}

/// Returns an order.
pub(crate) fn order(key: &str) -> Recipient {
    Recipient::new("order", key).unwrap()
}

/// Returns the address of the page of a recipient.
pub(crate) fn about(of: &Recipient) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("r", of.as_str()).finish();
    format!("/recipient?{query}")
}
