//! Child processes of the benchmark: the other side of W4, and the receiver of W5.
//!
//! A child is this program again. It reads its task from the first line of its input and reports on its output when
//! it is ready. It works until its input ends. Then it prints its result.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use eventbox::proto::chipingress::pb::chip_ingress_server::{ChipIngress, ChipIngressServer};
use eventbox::proto::chipingress::pb::{
    CloudEventBatch, EmptyRequest, PingResponse, PublishResponse, PublishResult, RegisterSchemaRequest,
    RegisterSchemaResponse, StreamEventsRequest, StreamEventsResponse,
};
use eventbox::proto::io::cloudevents::v1::CloudEvent;
use sqlx::{Postgres, Sqlite};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines, Stdin};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::HANG_GUARD;
use super::engine::Engine;
use super::latency::{Consumer, Side};
use super::load::CONNECTIONS;
use super::place::{self, Place};
use super::stamps::Stamps;

/// Maximum size of a request in bytes.
const MAX_REQUEST_BYTES: usize = 16 << 20;

/// The role of a child process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Handles the events of W4 with a runtime.
    ConsumeOurs,
    /// Handles the events of W4 by hand.
    ConsumeYardstick,
    /// Receives what W5 publishes, and counts it.
    Receive,
}

/// A running child process. Dropping the value ends the process.
pub(crate) struct Child {
    process: tokio::process::Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// Line that the child printed when it was ready.
    pub(crate) said: String,
}

impl Child {
    /// Starts a child and waits until it is ready.
    pub(crate) async fn start(part: Part, about: &str) -> Result<Self> {
        let name = match part {
            Part::ConsumeOurs => "consume-ours",
            Part::ConsumeYardstick => "consume-yardstick",
            Part::Receive => "receive",
        };
        let mut command = Command::new(std::env::current_exe().context("locate this program")?);
        command.args(["bench", "--part", name]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().context("start a child process of the benchmark")?;
        let (Some(mut input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            bail!("the child process has no input or output");
        };
        input.write_all(format!("{about}\n").as_bytes()).await.context("write to a child process of the benchmark")?;
        let mut output = BufReader::new(output).lines();
        let said = line(&mut output).await?.context("the child process ended before it was ready")?;
        Ok(Child { process, input, output, said })
    }

    /// Ends the child and returns its result.
    pub(crate) async fn finish(mut self) -> Result<String> {
        drop(self.input);
        let found = line(&mut self.output).await?.context("the child process returned no result")?;
        self.process.wait().await?;
        Ok(found)
    }
}

/// Reads the next line of a child. Returns `None` if the child has ended.
async fn line(output: &mut Lines<BufReader<ChildStdout>>) -> Result<Option<String>> {
    let line = tokio::time::timeout(HANG_GUARD, output.next_line()).await;
    Ok(line.with_context(|| format!("the child process printed nothing for {HANG_GUARD:?}"))??)
}

/// Runs as a child process.
pub(crate) async fn run(part: Part) -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let about = lines.next_line().await?.unwrap_or_default();
    let side = match part {
        Part::Receive => return receive(lines).await,
        Part::ConsumeOurs => Side::Ours,
        Part::ConsumeYardstick => Side::Yardstick,
    };
    let (engine, url) = about.split_once(' ').context("the first line names no engine and URL")?;
    match engine {
        "postgres" => consume(Place::<Postgres>::given(url.parse()?), side, lines).await,
        "sqlite" => {
            let file = url.trim_start_matches("sqlite://").split('?').next().unwrap_or_default();
            consume(Place::<Sqlite>::given(place::sqlite_file(file)), side, lines).await
        }
        other => bail!("unknown engine {other:?}"),
    }
}

async fn say(text: &str) -> Result<()> {
    let mut output = tokio::io::stdout();
    output.write_all(format!("{text}\n").as_bytes()).await?;
    Ok(output.flush().await?)
}

async fn until_end(lines: Lines<BufReader<Stdin>>) -> Result<()> {
    lines.into_inner().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn consume<B: Engine>(place: Place<B>, side: Side, lines: Lines<BufReader<Stdin>>) -> Result<()> {
    // One more than the turns of a yardstick, to listen with.
    let connections = if B::WRITES_ALONE && side == Side::Yardstick { 2 } else { CONNECTIONS };
    let (pool, stamps) = (place.open(connections, false).await?, Arc::new(Stamps::default()));
    let consumer = Consumer::start(pool, side, Arc::clone(&stamps), false).await?;
    say("ready").await?;
    until_end(lines).await?;
    consumer.stop().await?;
    say(&serde_json::to_string(&stamps.take())?).await
}

/// A service that answers every call with success.
struct Counting(Arc<AtomicU64>);

#[tonic::async_trait]
impl ChipIngress for Counting {
    type StreamEventsStream = tokio_stream::Empty<Result<StreamEventsResponse, Status>>;

    async fn publish(&self, _: Request<CloudEvent>) -> Result<Response<PublishResponse>, Status> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(PublishResponse::default()))
    }

    async fn publish_batch(&self, request: Request<CloudEventBatch>) -> Result<Response<PublishResponse>, Status> {
        let events = request.into_inner().events;
        self.0.fetch_add(events.len() as u64, Ordering::Relaxed);
        let results = events.into_iter().map(|event| PublishResult { event_id: event.id, error: None }).collect();
        Ok(Response::new(PublishResponse { results }))
    }

    async fn ping(&self, _: Request<EmptyRequest>) -> Result<Response<PingResponse>, Status> {
        Ok(Response::new(PingResponse { message: "pong".to_owned() }))
    }

    async fn stream_events(
        &self,
        _: Request<tonic::Streaming<StreamEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        Err(Status::unimplemented("it only counts"))
    }

    async fn register_schema(
        &self,
        _: Request<RegisterSchemaRequest>,
    ) -> Result<Response<RegisterSchemaResponse>, Status> {
        Err(Status::unimplemented("it only counts"))
    }
}

/// Starts a server that only counts, so that it costs little CPU in the measurement.
async fn receive(lines: Lines<BufReader<Stdin>>) -> Result<()> {
    let address = "127.0.0.1:0".parse()?;
    // Without TCP_NODELAY the answers wait for acknowledgements, 40 ms each time.
    let incoming = match TcpIncoming::bind(address) {
        Ok(incoming) => incoming.with_nodelay(Some(true)),
        Err(error) => bail!("listen for published messages: {error}"),
    };
    let bound = incoming.local_addr()?;
    let count = Arc::new(AtomicU64::new(0));
    let service = ChipIngressServer::new(Counting(Arc::clone(&count))).max_decoding_message_size(MAX_REQUEST_BYTES);
    let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
    let server = tokio::spawn(server);
    say(&bound.to_string()).await?;
    until_end(lines).await?;
    server.abort();
    say(&count.load(Ordering::Relaxed).to_string()).await
}
