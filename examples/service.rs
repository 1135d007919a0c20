//! A whole service: it emits, works, publishes, and shows its metrics to Prometheus. `ops/compose.yaml` runs it.
//!
//! ```text
//! DATABASE_URL=postgres://… cargo run --example service --features prometheus
//! ```
//!
//! | Variable | Meaning | Default |
//! | --- | --- | --- |
//! | `DATABASE_URL` | Postgres, required | |
//! | `METRICS` | address that Prometheus scrapes | `127.0.0.1:9464` |
//! | `CHIP_INGRESS` | `host:port` of a Chip Ingress in plain text | messages are taken and dropped |
//! | `RATE` | events a second that this process emits | 20 |
//! | `SECONDS` | run for so long | until SIGINT or SIGTERM |
#![allow(clippy::print_stdout, reason = "the example prints to a terminal")]

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use eventbox::chip::NoopTransport;
use eventbox::emitter::{DurableEmitter, MetricsConfig};
use eventbox::runtime::{Runtime, RuntimeConfig};
use eventbox::{BoxError, CloudEvent, Event, Outcome, Recipient, Reducer};
use sqlx::Postgres;
use tokio::signal;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Time limit of each part of a stop.
const STOP: Duration = Duration::from_secs(10);

/// Number of orders that get the events.
const ORDERS: u32 = 200;

/// An order: the number of its items. It says so to the outside after every ten.
struct Orders;

impl Reducer for Orders {
    type State = u64;

    fn reduce(&self, order: &Recipient, events: &[Event], items: u64) -> Result<Outcome<u64>, BoxError> {
        let now = items + events.len() as u64;
        let grown = (now / 10 > items / 10)
            .then(|| CloudEvent::builder("shop", "order.grown").subject(order.key()).payload(now.to_string()).build());
        Ok(Outcome::to(now).consuming(events).publishing(grown.transpose()?))
    }
}

/// Reads a variable of the environment, or takes its default.
fn variable<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    name: &str,
    default: &str,
) -> Result<T, BoxError> {
    let text = std::env::var(name).unwrap_or_else(|_| default.to_owned());
    text.parse().map_err(|error| format!("{name}={text}: {error}").into())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let url = std::env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL=postgres://USER@HOST/DATABASE")?;
    eventbox::prometheus::install(variable("METRICS", "127.0.0.1:9464")?)?;
    let options = eventbox::postgres_options(&url)?;
    let pool = eventbox::pool_options::<Postgres>().max_connections(20).connect_with(options).await?;
    eventbox::migrate(&pool).await?;

    let builder = match std::env::var("CHIP_INGRESS") {
        Ok(address) => DurableEmitter::builder(pool.clone(), address),
        Err(_) => DurableEmitter::builder(pool.clone(), Arc::new(NoopTransport) as Arc<dyn eventbox::chip::Transport>),
    };
    let emitter = builder.configure(|config| config.metrics = Some(MetricsConfig::default())).start().await?;
    let mut config = RuntimeConfig::default();
    config.address = std::env::var("HOSTNAME").unwrap_or_default();
    let runtime = Runtime::builder(pool.clone()).reducer("order", Orders).emitter(emitter.clone()).config(config);
    let runtime = runtime.start().await?;

    tokio::select! {
        done = emit(&pool) => done?,
        done = told_to_stop() => done?,
    }
    let (worked, sent) = (runtime.stop(STOP).await, emitter.stop(STOP).await);
    println!("stopped: {} recipients and {} messages are left for the next start", worked.left, sent.left);
    println!("done");
    Ok(())
}

/// Emits events until the end of time.
async fn emit(pool: &sqlx::PgPool) -> Result<(), BoxError> {
    let rate: u32 = variable("RATE", "20")?;
    let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number: u32 = 0;
    loop {
        ticks.tick().await;
        number = number.wrapping_add(1);
        let order = Recipient::new("order", (number % ORDERS).to_string())?;
        // A service that goes on while the database is away.
        if let Err(error) = eventbox::emit(pool, &order, Event::new("a pencil")).await {
            println!("{error}");
        }
    }
}

/// Waits for a signal, or for the end of the time that `SECONDS` gives.
async fn told_to_stop() -> Result<(), BoxError> {
    let seconds: u64 = variable("SECONDS", &u64::from(u32::MAX).to_string())?;
    let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate())?;
    tokio::select! {
        done = signal::ctrl_c() => done?,
        _ = terminate.recv() => {}
        () = sleep(Duration::from_secs(seconds)) => {}
    }
    Ok(())
}
