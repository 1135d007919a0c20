//! W7: lines over TCP into eventboxes, and lines out of eventboxes over TCP. W7b: HTTP requests that wait for answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use eventbox::peer::connectors::http::{HttpServer, HttpServerConfig};
use eventbox::peer::connectors::{LocalAddress, TcpServer, TcpServerConfig};
use eventbox::peer::framing::InterceptorSpec;
use eventbox::peer::{Mapping, Peer, Peers, StreamSignal, answer_to};
use eventbox::runtime::Runtime;
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer, Sender};
use sqlx::Pool;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::HANG_GUARD;
use super::cost::Cost;
use super::engine::{BATCH, Engine, Key};
use super::latency::percentile_ms;
use super::load::{self, CONNECTIONS, batchers};
use super::measure::{Bench, Line, Sample};
use super::spec::{Spec, Unit};
use super::wires::{self, ANSWER, ByHand, until};

/// Ids of the measured peers.
const LINES: &str = "lines";
const WEB: &str = "web";

/// Connections of the pool that peers have beside those of their turns.
const MORE_CONNECTIONS: u32 = 4;

/// Load of HTTP in requests a second.
const REQUESTS_A_SECOND: u32 = 500;

/// Clients that connect before the server's streams are looked at: fewer than the signals that wait.
const TOGETHER: usize = 100;

/// What one measurement found: seconds for all lines, cost, and whether the sums are right.
type Measured = (f64, Option<Cost>, bool);

/// The single task of a `Sender` sends this part of the lines: it waits for a commit after each, and the rate is the same.
const PART_OF_ONE_TASK: usize = 10;

/// Measures W7.
pub(crate) async fn lines<B: Engine>(bench: &Bench<'_, B>) -> Result<Vec<Line>> {
    wires::allow_many_files();
    let unit = |streams: &usize| match streams {
        1 => Unit::high("events/s, 1 stream"),
        streams => Unit::high(format!("events/s, {streams} streams")),
    };
    let rates = || -> Vec<Unit> { bench.scale.streams.iter().map(unit).collect() };
    let spec = |variant| Spec { workload: "W7", variant: Some(variant), units: rates() };
    let mut lines = bench
        .compare_two(
            [&spec("in, against a Sender"), &spec("in, against no database")],
            async |bench| each(bench, lines_in).await,
            async |bench| each(bench, through_a_sender).await,
            async |bench| each(bench, lines_in_by_hand).await,
        )
        .await?;
    lines.extend(
        bench
            .compare_two(
                [&spec("out, against a Sender"), &spec("out, against no database")],
                async |bench| each(bench, lines_out).await,
                async |bench| each(bench, through_a_sender).await,
                async |bench| each(bench, lines_out_by_hand).await,
            )
            .await?,
    );
    Ok(lines)
}

/// Measures W7b.
pub(crate) async fn requests<B: Engine>(bench: &Bench<'_, B>) -> Result<Vec<Line>> {
    let units = ["p50", "p99"].map(|percentile| Unit::low(format!("ms, {percentile}")));
    let spec = Spec { workload: "W7b", variant: None, units: units.into() };
    bench.compare(&spec, answers, answers_by_hand).await
}

/// Measures with each number of streams.
async fn each<B: Engine>(
    bench: &Bench<'_, B>,
    measure: impl AsyncFn(&Bench<'_, B>, usize) -> Result<Measured>,
) -> Result<Sample> {
    let mut sample = Sample { figures: Vec::new(), verified: true, cost: None };
    for streams in bench.scale.streams {
        let (seconds, cost, verified) = measure(bench, streams).await?;
        let one = Sample::rate(bench.scale.lines, (seconds, cost), verified);
        sample.figures.extend(one.figures);
        sample.verified &= one.verified;
        // The cost of a line is that with the most streams.
        sample.cost = one.cost;
    }
    Ok(sample)
}

/// A running server of lines with its clients.
struct Site<B: Engine> {
    pool: Pool<B>,
    peers: Peers<B>,
    clients: Vec<TcpStream>,
    /// Ids of the streams.
    streams: Vec<String>,
}

impl<B: Engine> Site<B> {
    async fn start(bench: &Bench<'_, B>, streams: usize) -> Result<Self> {
        bench.clear().await?;
        let pool = bench.open(CONNECTIONS + MORE_CONNECTIONS).await?;
        let server = TcpServer::new(TcpServerConfig::new("127.0.0.1:0"))?;
        let address = server.local_address();
        let peer = Peer::new(LINES, server)
            .interceptors([InterceptorSpec::named("lines")?])
            .mapping(Mapping::to("order/{stream}").map_err(anyhow::Error::msg)?);
        let peers = Peers::builder(pool.clone()).peer(peer).start().await?;
        let address = bound(&peers, &address).await?;
        let mut site = Site { pool, peers, clients: Vec::new(), streams: Vec::new() };
        let mut signals = site.peers.observe();
        while site.clients.len() < streams {
            for _ in 0..TOGETHER.min(streams - site.clients.len()) {
                site.clients.push(wires::connect(address).await?);
            }
            while site.streams.len() < site.clients.len() {
                let signal = tokio::time::timeout(HANG_GUARD, signals.recv()).await;
                if let StreamSignal::Started { stream, .. } = signal.context("wait for a stream")?? {
                    site.streams.push(stream.to_string());
                }
            }
        }
        Ok(site)
    }

    /// Stops the clock, and then the peers, whose connections are counted.
    async fn end(self, bench: &Bench<'_, B>, watch: super::measure::Watch) -> Result<(f64, Option<Cost>, bool)> {
        let seconds = watch.since.elapsed().as_secs_f64();
        let is_complete = self.peers.stop(HANG_GUARD).await.complete;
        let (_, cost) = bench.end(watch, bench.scale.lines, &[&self.pool]).await?;
        Ok((seconds, cost, is_complete))
    }
}

async fn bound<B: Engine>(peers: &Peers<B>, address: &LocalAddress) -> Result<SocketAddr> {
    peers.ready(HANG_GUARD).await?;
    address.get().context("the server is not bound")
}

/// Returns the number of events in all eventboxes.
async fn stored<B: Engine>(bench: &Bench<'_, B>) -> Result<usize> {
    Ok(usize::try_from(B::processor_sums(&bench.admin).await?.left)?)
}

/// Lines of all clients, until every one of them is committed.
async fn lines_in<B: Engine>(bench: &Bench<'_, B>, streams: usize) -> Result<Measured> {
    let (mut site, total) = (Site::start(bench, streams).await?, bench.scale.lines);
    let watch = bench.begin().await?;
    wires::send_all(&mut site.clients, total).await?;
    until("store all lines", async || Ok(stored(bench).await? >= total)).await?;
    let (seconds, cost, is_complete) = site.end(bench, watch).await?;
    Ok((seconds, cost, is_complete && stored(bench).await? == total))
}

/// Named emits through a `Sender`, each task with one at a time.
async fn through_a_sender<B: Engine>(bench: &Bench<'_, B>, tasks: usize) -> Result<Measured> {
    bench.clear().await?;
    let part = if tasks == 1 { PART_OF_ONE_TASK } else { 1 };
    let (pool, total) = (bench.open(CONNECTIONS + MORE_CONNECTIONS).await?, bench.scale.lines / part);
    let sender = Sender::new(pool.clone());
    let watch = bench.begin().await?;
    let mut emits = JoinSet::new();
    for (task, share) in wires::shares(total, tasks).enumerate() {
        let (sender, to, value) = (sender.clone(), Recipient::new("order", task.to_string())?, wires::line());
        emits.spawn(async move {
            for number in 0..share {
                sender.emit(&to, Event::new(value.clone()).named(format!("lines:{task}:{number}"))).await?;
            }
            anyhow::Ok(())
        });
    }
    wires::ended(emits).await?;
    let seconds = watch.since.elapsed().as_secs_f64();
    sender.stop(HANG_GUARD).await;
    let (_, cost) = bench.end(watch, total, &[&pool]).await?;
    #[allow(clippy::cast_precision_loss, reason = "there are some thousands of lines")]
    let all_lines = bench.scale.lines as f64 / total as f64;
    Ok((seconds * all_lines, cost, stored(bench).await? == total))
}

/// The same lines to a server that only counts them.
async fn lines_in_by_hand<B: Engine>(bench: &Bench<'_, B>, streams: usize) -> Result<Measured> {
    bench.clear().await?;
    let (mut clients, servers) = ByHand::bind().await?.connected(streams).await?;
    let watch = bench.begin().await?;
    let (count, reading) = wires::read_all(servers);
    wires::send_all(&mut clients, bench.scale.lines).await?;
    until("read all lines", async || Ok(count.load(Ordering::Relaxed) >= bench.scale.lines)).await?;
    let (seconds, cost) = bench.end(watch, bench.scale.lines, &[]).await?;
    drop(clients);
    wires::ended(reading).await?;
    Ok((seconds, cost, count.load(Ordering::Relaxed) == bench.scale.lines))
}

/// Events to all streams, from the first emit until each client has its lines.
async fn lines_out<B: Engine>(bench: &Bench<'_, B>, streams: usize) -> Result<Measured> {
    let (mut site, total) = (Site::start(bench, streams).await?, bench.scale.lines);
    let (count, reading) = wires::read_all(std::mem::take(&mut site.clients));
    let keys = site.streams.iter().map(|stream| {
        let to = Recipient::new(format!("peer.{LINES}"), stream)?;
        Ok(Key { shard: to.shard().into(), to })
    });
    let keys = Arc::new(keys.collect::<eventbox::Result<Vec<_>>>()?);
    let watch = bench.begin().await?;
    load::emit_batches(&site.pool, &keys, total, BATCH, batchers::<B>()).await?;
    until("send all lines", async || Ok(count.load(Ordering::Relaxed) >= total)).await?;
    let (seconds, cost, is_complete) = site.end(bench, watch).await?;
    wires::ended(reading).await?;
    let is_exact = count.load(Ordering::Relaxed) == total && stored(bench).await? == 0;
    Ok((seconds, cost, is_complete && is_exact))
}

/// The same lines from memory.
async fn lines_out_by_hand<B: Engine>(bench: &Bench<'_, B>, streams: usize) -> Result<Measured> {
    bench.clear().await?;
    let (clients, servers) = ByHand::bind().await?.connected(streams).await?;
    let (count, reading) = wires::read_all(clients);
    let watch = bench.begin().await?;
    wires::ended(wires::serve_all(servers, bench.scale.lines)).await?;
    until("send all lines", async || Ok(count.load(Ordering::Relaxed) >= bench.scale.lines)).await?;
    let (seconds, cost) = bench.end(watch, bench.scale.lines, &[]).await?;
    wires::ended(reading).await?;
    Ok((seconds, cost, count.load(Ordering::Relaxed) == bench.scale.lines))
}

/// Answers every request on the stream on which it came.
struct Answering;

impl Reducer for Answering {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        let mut answers = Vec::new();
        for event in events {
            answers.extend(answer_to(event).into_iter().map(|stream| (stream, Event::new(ANSWER).caused_by(event))));
        }
        Ok(Outcome::to(count + events.len() as u64).consuming(events).emitting(answers))
    }
}

/// Requests whose answers are emitted by turns.
async fn answers<B: Engine>(bench: &Bench<'_, B>) -> Result<Sample> {
    bench.clear().await?;
    let pool = bench.open(2 * CONNECTIONS + MORE_CONNECTIONS).await?;
    let server = HttpServer::new(HttpServerConfig::at("127.0.0.1:0"))?;
    let address = server.local_address();
    let mapping = Mapping::to("order/{/order}").map_err(anyhow::Error::msg)?;
    let turns = Runtime::builder(pool.clone()).reducer("order", Answering).start().await?;
    let peers = Peers::builder(pool.clone()).peer(Peer::new(WEB, server).mapping(mapping)).start().await?;
    let address = bound(&peers, &address).await?;
    let lanes = HttpServerConfig::default().lanes;
    until("open the lanes", async || Ok(peers.streams(WEB) == lanes)).await?;
    until("own all shards", async || Ok(turns.shards() == usize::from(eventbox::limits::SHARDS))).await?;
    let (watch, requests) = (bench.begin().await?, bench.scale.timed);
    let latencies = wires::ask(address, requests, REQUESTS_A_SECOND).await?;
    until("consume all answers", async || Ok(stored(bench).await? == 0)).await?;
    let is_complete = peers.stop(HANG_GUARD).await.complete;
    turns.stop(HANG_GUARD).await;
    let (_, cost) = bench.end(watch, usize::try_from(requests)?, &[&pool]).await?;
    latency_sample(latencies, requests, is_complete, cost)
}

/// The same requests to a server that answers at once.
async fn answers_by_hand<B: Engine>(bench: &Bench<'_, B>) -> Result<Sample> {
    bench.clear().await?;
    let (server, requests) = (ByHand::bind().await?, bench.scale.timed);
    let address = server.address;
    let watch = bench.begin().await?;
    let server = tokio::spawn(server.answer());
    let latencies = wires::ask(address, requests, REQUESTS_A_SECOND).await?;
    server.abort();
    let (_, cost) = bench.end(watch, usize::try_from(requests)?, &[]).await?;
    latency_sample(latencies, requests, true, cost)
}

fn latency_sample(mut latencies: Vec<u64>, requests: u32, is_right: bool, cost: Option<Cost>) -> Result<Sample> {
    ensure!(!latencies.is_empty(), "no request was answered");
    let verified = is_right && latencies.len() == usize::try_from(requests)?;
    latencies.sort_unstable();
    Ok(Sample { figures: [50, 99].map(|percent| percentile_ms(&latencies, percent)).into(), verified, cost })
}
