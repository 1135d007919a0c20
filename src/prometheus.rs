//! The metrics of a process, as Prometheus reads them.
//!
//! One line in a service opens an address that Prometheus scrapes:
//!
//! ```standalone_crate
//! # use std::io::{Read, Write};
//! # use std::net::{SocketAddr, TcpListener, TcpStream};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
//! # let address: SocketAddr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
//! # let _ = r#"
//! let address = "127.0.0.1:9464".parse()?;
//! # "#;
//! eventbox::prometheus::install(address)?;
//! # let scrape = tokio::task::spawn_blocking(move || -> std::io::Result<String> {
//! #     let mut stream = TcpStream::connect(address)?;
//! #     stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
//! #     let mut text = String::new();
//! #     stream.read_to_string(&mut text)?;
//! #     Ok(text)
//! # });
//! # let text = scrape.await??;
//! # assert!(text.starts_with("HTTP/1.1 200"), "{text}");
//! # assert!(text.contains("# TYPE eventbox_send_group_events histogram"), "{text}");
//! # assert!(eventbox::prometheus::install("127.0.0.1:0".parse()?).is_err(), "a process has one recorder");
//! # Ok(()) }
//! ```
//!
//! A service with a server of its own serves [`Handle::render`]. Names, kinds, units and labels are those of the tables
//! of instruments ([`metrics::INSTRUMENTS`](crate::metrics::INSTRUMENTS) and its siblings). Prometheus knows no dots,
//! so `durable_emitter.queue.depth` is `durable_emitter_queue_depth`. A histogram `x` is `x_bucket`, `x_sum` and
//! `x_count`. Metrics that the service records itself are in the same text.
//!
//! The text has kinds of recipients, and sources and types of messages. It has no keys and no payload.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Level, Metadata, Recorder as _, SharedString, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::error::{Error, Result};
use crate::instrument::{Instrument, InstrumentKind, describe};

/// Content type of the text of [`Handle::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Time between two passes that sort recorded values into buckets. Without a pass or a scrape the values of histograms
/// take memory.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

const ATTEMPT: &str = "export metrics to Prometheus";

/// Returns all instruments that this build can record.
fn instruments() -> impl Iterator<Item = &'static Instrument> {
    let tables = [
        crate::eventbox::INSTRUMENTS,
        crate::admin::INSTRUMENTS,
        #[cfg(feature = "runtime")]
        crate::runtime::INSTRUMENTS,
        #[cfg(feature = "runtime")]
        crate::source::INSTRUMENTS,
        #[cfg(feature = "emitter")]
        crate::chip::INSTRUMENTS,
        #[cfg(feature = "emitter")]
        crate::emitter::INSTRUMENTS,
        #[cfg(feature = "peer")]
        crate::peer::INSTRUMENTS,
    ];
    tables.into_iter().flatten()
}

/// Records the metrics of this process, and serves them to Prometheus at this address, under every path.
///
/// Call it once, when the program starts. The address answers without a password, so bind it to a network that only
/// Prometheus reaches; see the [module](self) for what the text has.
///
/// # Errors
///
/// [`Error::Setup`] outside a tokio runtime, when the address is taken, or when the process has a recorder already.
///
/// # Examples
///
/// See the [module](self).
pub fn install(listen: SocketAddr) -> Result<Handle> {
    in_runtime()?;
    let build = builder()?.with_http_listener(listen).upkeep_timeout(UPKEEP_INTERVAL).build();
    let (recorder, exporter) = build.map_err(|error| Error::setup(ATTEMPT, format!("{listen}: {error}")))?;
    let recorder = Recorder::of(recorder);
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| Error::setup(ATTEMPT, error))?;
    tokio::spawn(async move {
        if let Err(error) = exporter.await {
            tracing::error!(?error, "metrics are not served to Prometheus any more");
        }
    });
    Ok(handle)
}

/// Makes a recorder that serves no address, with the descriptions and buckets of all instruments.
///
/// Use it in a service with an HTTP server of its own, or under a recorder of your own that passes on.
///
/// # Errors
///
/// [`Error::Setup`] when the exporter refuses the buckets of an instrument.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// let metrics = eventbox::prometheus::recorder()?.install()?;
///
/// // In the handler of GET /metrics, with the content type prometheus::CONTENT_TYPE:
/// let body = metrics.render();
/// assert!(body.contains("# TYPE eventbox_send_group_events histogram"));
/// # Ok(()) }
/// ```
pub fn recorder() -> Result<Recorder> {
    Ok(Recorder::of(builder()?.build_recorder()))
}

/// Refuses to go on outside a tokio runtime.
fn in_runtime() -> Result<()> {
    match tokio::runtime::Handle::try_current() {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::setup(ATTEMPT, "there is no tokio runtime: call it inside one")),
    }
}

/// Returns a builder with the buckets of all histograms.
fn builder() -> Result<PrometheusBuilder> {
    let mut builder = PrometheusBuilder::new();
    for instrument in instruments().filter(|instrument| !instrument.buckets.is_empty()) {
        let name = Matcher::Full(instrument.name.to_owned());
        let with_buckets = builder.set_buckets_for_metric(name, instrument.buckets);
        builder =
            with_buckets.map_err(|error| Error::setup(ATTEMPT, format!("buckets of {}: {error}", instrument.name)))?;
    }
    Ok(builder)
}

/// A recorder of the `metrics` facade that Prometheus can read.
#[derive(Debug)]
pub struct Recorder(PrometheusRecorder);

impl Recorder {
    /// Describes all instruments. Counters and histograms without labels begin at 0, so that the first increase shows.
    fn of(recorder: PrometheusRecorder) -> Self {
        const OURS: Metadata<'static> = Metadata::new("eventbox", Level::INFO, None);
        for instrument in instruments() {
            describe(&recorder, instrument);
            let key = Key::from_static_name(instrument.name);
            match instrument.kind {
                _ if !instrument.labels.is_empty() => {}
                InstrumentKind::Counter => drop(recorder.register_counter(&key, &OURS)),
                InstrumentKind::Histogram => drop(recorder.register_histogram(&key, &OURS)),
                InstrumentKind::Gauge => {}
            }
        }
        Recorder(recorder)
    }

    /// Returns the handle that renders what was recorded.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(self.0.handle())
    }

    /// Makes this the recorder of the process, and returns its handle.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] outside a tokio runtime, or when the process has a recorder already.
    ///
    /// # Examples
    ///
    /// See [`recorder`].
    pub fn install(self) -> Result<Handle> {
        in_runtime()?;
        let handle = self.handle();
        metrics::set_global_recorder(self).map_err(|error| Error::setup(ATTEMPT, error))?;
        let recorded = handle.0.clone();
        // The recorder lives as long as the process, and so does its upkeep.
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP_INTERVAL).await;
                recorded.run_upkeep();
            }
        });
        Ok(handle)
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_histogram(key, unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.0.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.0.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.0.register_histogram(key, metadata)
    }
}

/// Renders what a recorder has. Clones are the same handle.
#[derive(Clone)]
pub struct Handle(PrometheusHandle);

impl Handle {
    /// Returns the metrics in the text format of Prometheus, of the type [`CONTENT_TYPE`].
    ///
    /// It takes milliseconds for thousands of series: call it in `tokio::task::spawn_blocking` if you have so many.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}
