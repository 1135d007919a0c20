//! How fast the emitter is, and that it loses nothing.
//!
//! ```text
//! cargo bench --bench emitter -- bare EVENTS               the batch client alone, with no database
//! cargo bench --bench emitter -- emit ENGINE EVENTS        emit, deliver, delete, from end to end, against `bare`
//! cargo bench --bench emitter -- drain ENGINE ROWS         an outbox after an outage of an hour, against `bare`
//! cargo bench --bench emitter -- drain ENGINE ROWS --latency-ms MS
//!     the same with a server that takes MS for each request
//! cargo bench --bench emitter -- chaos SECONDS             four processes on one Postgres table, with kills
//! ```
//!
//! ENGINE is `sqlite` or `postgres`. For `postgres`, DATABASE_URL names a server, on which the benchmark creates its
//! own database. The receiver is a separate process that only counts; for `chaos` it is `eventbox::ingress`. All
//! settings are the defaults. `bare` sends the same batches through the same client as the emitter.
//!
//! `drain` has two yardsticks. Without a latency the receiver costs little CPU, so the CPU time of the database
//! decides. With a latency the batch client's `max_concurrent_sends` decides, as over a network.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]
#![allow(clippy::cast_precision_loss, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use eventbox::chip::{BatchClient, BatchConfig, GrpcConfig, GrpcTransport, SendError};
use eventbox::emitter::DurableEmitter;
use eventbox::ingress::{Ingress, IngressHandle};
use eventbox::proto::chipingress::pb::chip_ingress_server::{ChipIngress, ChipIngressServer};
use eventbox::proto::chipingress::pb::{
    CloudEventBatch, EmptyRequest, PingResponse, PublishResponse, PublishResult, RegisterSchemaRequest,
    RegisterSchemaResponse, StreamEventsRequest, StreamEventsResponse,
};
use eventbox::{Backend, CloudEvent};
use sqlx::{AssertSqlSafe, Pool};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

const PAYLOAD_BYTES: usize = 200;
const CONCURRENT_EMITS: usize = 1_000;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["sink", latency_ms] => sink(Duration::from_millis(latency_ms.parse().unwrap())).await,
        ["bare", events] => {
            bare(events.parse().unwrap(), "0").await;
        }
        ["emit", "sqlite", events] => with_sqlite(async |pool| emit(pool, events.parse().unwrap()).await).await,
        ["emit", "postgres", events] => with_postgres(async |pool, _| emit(pool, events.parse().unwrap()).await).await,
        ["drain", engine, rows] => drain_on(engine, rows, "0").await,
        ["drain", engine, rows, "--latency-ms", latency_ms] => drain_on(engine, rows, latency_ms).await,
        ["chaos", seconds] => with_postgres(async |_, url| chaos(url, seconds.parse().unwrap()).await).await,
        ["worker", kind, name, url, address] => worker(kind, name, url, address).await,
        _ => println!("see the head of benches/emitter.rs for the arguments"),
    }
}

fn event(payload: &[u8]) -> CloudEvent {
    CloudEvent::builder("flights", "flight.departed").payload(payload.to_vec()).build().unwrap()
}

async fn drain_on(engine: &str, rows: &str, latency_ms: &str) {
    let rows = rows.parse().unwrap();
    match engine {
        "sqlite" => with_sqlite(async |pool| drain(pool, rows, latency_ms).await).await,
        "postgres" => with_postgres(async |pool, _| drain(pool, rows, latency_ms).await).await,
        _ => println!("see the head of benches/emitter.rs for the arguments"),
    }
}

/// A service that answers every call with success after the latency.
struct Counting {
    latency: Duration,
}

#[tonic::async_trait]
impl ChipIngress for Counting {
    type StreamEventsStream = tokio_stream::Empty<Result<StreamEventsResponse, Status>>;

    async fn publish(
        &self,
        _: Request<eventbox::proto::io::cloudevents::v1::CloudEvent>,
    ) -> Result<Response<PublishResponse>, Status> {
        Ok(Response::new(PublishResponse::default()))
    }

    async fn publish_batch(&self, request: Request<CloudEventBatch>) -> Result<Response<PublishResponse>, Status> {
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        let results = request.into_inner().events.into_iter();
        let results = results.map(|event| PublishResult { event_id: event.id, error: None }).collect();
        Ok(Response::new(PublishResponse { results }))
    }

    async fn ping(&self, _: Request<EmptyRequest>) -> Result<Response<PingResponse>, Status> {
        Ok(Response::new(PingResponse { message: "pong".to_owned() }))
    }

    async fn stream_events(
        &self,
        _: Request<tonic::Streaming<StreamEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn register_schema(
        &self,
        _: Request<RegisterSchemaRequest>,
    ) -> Result<Response<RegisterSchemaResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

async fn sink(latency: Duration) {
    // Without TCP_NODELAY the answers wait for acknowledgements, 40 ms each time.
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
    println!("{}", incoming.local_addr().unwrap());
    let service = ChipIngressServer::new(Counting { latency }).max_decoding_message_size(16 << 20);
    tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
}

fn this_program(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(args).kill_on_drop(true);
    command
}

/// The receiver and its address.
async fn start_sink(latency_ms: &str) -> (Child, String) {
    let mut child = this_program(&["sink", latency_ms]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.next_line().await.unwrap().unwrap();
    (child, address)
}

async fn with_sqlite(body: impl AsyncFnOnce(Pool<sqlx::Sqlite>)) {
    let directory = tempfile::tempdir().unwrap();
    let options = eventbox::sqlite_options(directory.path().join("bench.sqlite3"));
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
    eventbox::migrate(&pool).await.unwrap();
    body(pool).await;
}

async fn with_postgres(body: impl AsyncFnOnce(Pool<sqlx::Postgres>, &str)) {
    let server = std::env::var("DATABASE_URL").expect("DATABASE_URL names a Postgres server");
    let admin = sqlx::PgPool::connect(&server).await.unwrap();
    let name = format!("eventbox_bench_{}", uuid::Uuid::new_v4().simple());
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&admin).await.unwrap();
    let (base, _) = server.rsplit_once('/').unwrap();
    let url = format!("{base}/{name}");
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(12).connect(&url).await.unwrap();
    eventbox::migrate(&pool).await.unwrap();
    let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&pool).await.unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{backend}/stat")).unwrap_or_default();
    let parent = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(1)?.parse().ok());
    if let Some(parent) = parent {
        POSTMASTER.set(parent).unwrap();
    }
    body(pool, &url).await;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&admin).await.unwrap();
}

/// Returns the first process of the Postgres server, if the server runs on this machine.
static POSTMASTER: OnceLock<u64> = OnceLock::new();

/// The start values of a measurement.
struct Begun {
    at: Instant,
    sink: Option<u32>,
    cpu: [f64; 3],
}

impl Begun {
    fn now(sink: &Child) -> Self {
        let mut begun = Begun { at: Instant::now(), sink: sink.id(), cpu: [0.0; 3] };
        begun.cpu = begun.cpu_us();
        begun
    }

    /// CPU times of this process, the receiver and the Postgres server. On a busy machine they say more than the
    /// rate.
    fn cpu_us(&self) -> [f64; 3] {
        let mut sums = [0.0; 3];
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = process.file_name().to_string_lossy().parse::<u32>().ok();
            let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
            let fields: Vec<u64> = fields.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
            let (parent, ticks) = (fields[1], (fields[11] + fields[12]) as f64);
            let whose = [
                pid == Some(std::process::id()),
                pid.is_some() && pid == self.sink,
                POSTMASTER.get().is_some_and(|postmaster| parent == *postmaster),
            ];
            if let Some(whose) = whose.iter().position(|is_it| *is_it) {
                sums[whose] += ticks * 10_000.0;
            }
        }
        sums
    }

    /// Prints a rate and returns it.
    fn report(&self, what: &str, events: usize) -> f64 {
        let (took, cpu, count) = (self.at.elapsed().as_secs_f64(), self.cpu_us(), events as f64);
        let [own, sink, postgres] = [0, 1, 2].map(|whose| (cpu[whose] - self.cpu[whose]) / count);
        println!(
            "{what}: {events} events in {took:.2} s, {:.0} events/s; CPU per event: {own:.1} us here, \
             {sink:.1} us receiver, {postgres:.1} us Postgres",
            count / took
        );
        count / took
    }
}

async fn bare(events: usize, latency_ms: &str) -> f64 {
    let (sink, address) = start_sink(latency_ms).await;
    let transport = Arc::new(GrpcTransport::new(&GrpcConfig::new(address)).unwrap());
    let client = BatchClient::new(transport, BatchConfig::durable()).unwrap();
    client.start();
    let delivered = Arc::new(AtomicUsize::new(0));
    let payload = vec![7; PAYLOAD_BYTES];
    let begun = Begun::now(&sink);
    for _ in 0..events {
        loop {
            let delivered = Arc::clone(&delivered);
            let callback = Box::new(move |sent: eventbox::chip::SendOutcome| {
                delivered.fetch_add(usize::from(sent.result.is_ok()), Ordering::Relaxed);
            });
            match client.queue(event(&payload), Some(callback)) {
                Ok(()) => break,
                Err(SendError::BufferFull) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => panic!("{error}"),
            }
        }
    }
    client.stop(Duration::from_secs(600)).await;
    assert_eq!(delivered.load(Ordering::Relaxed), events);
    begun.report("batch client, no database", events)
}

async fn emit<B: Backend>(pool: Pool<B>, events: usize) {
    let alone = bare(events, "0").await;
    let (sink, address) = start_sink("0").await;
    let emitter = DurableEmitter::builder(pool, address).start().await.unwrap();
    let left = Arc::new(AtomicUsize::new(events));
    let begun = Begun::now(&sink);
    let emitting = (0..CONCURRENT_EMITS).map(|_| {
        let (emitter, left) = (emitter.clone(), Arc::clone(&left));
        tokio::spawn(async move {
            let payload = vec![7; PAYLOAD_BYTES];
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                emitter.publish(event(&payload)).await.unwrap();
            }
        })
    });
    for task in emitting.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    begun.report(&format!("{}: emitted", B::NAME), events);
    assert!(emitter.flush(Duration::from_secs(600)).await.unwrap());
    let rate = begun.report(&format!("{}: emitted, delivered and deleted", B::NAME), events);
    println!("{:.2} of the rate without a database; {:?}", rate / alone, emitter.stats());
    emitter.close().await;
}

async fn drain<B: Backend + Fill>(pool: Pool<B>, rows: usize, latency_ms: &str) {
    let alone = bare(rows, latency_ms).await;
    let (sink, address) = start_sink(latency_ms).await;
    B::fill(&pool, event(&[7; PAYLOAD_BYTES]).encode(), i64::try_from(rows).unwrap()).await;
    println!("{}: {rows} rows of an hour are due; resident {} MiB", B::NAME, resident_mib());
    let begun = Begun::now(&sink);
    let emitter = DurableEmitter::builder(pool, address).start().await.unwrap();
    let (mut next, mut most) = (begun.at + Duration::from_secs(5), 0);
    while !emitter.flush(Duration::ZERO).await.unwrap() {
        most = most.max(resident_mib());
        if Instant::now() >= next {
            next += Duration::from_secs(5);
            println!(
                "  {:>4} s: {} delivered, resident {} MiB",
                begun.at.elapsed().as_secs(),
                emitter.stats().delivered,
                resident_mib()
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let rate = begun.report(&format!("{}: drained", B::NAME), rows);
    println!("{:.2} of the rate without a database; {:?}", rate / alone, emitter.stats());
    emitter.close().await;
    println!("resident {most} MiB at most, {} MiB in the end", resident_mib());
}

/// Inserts due rows with SQL: equally many for each second of the last hour, each with the attempts that the breaker
/// allowed.
trait Fill: Backend {
    async fn fill(pool: &Pool<Self>, payload: Vec<u8>, rows: i64);
}

impl Fill for sqlx::Postgres {
    async fn fill(pool: &Pool<Self>, payload: Vec<u8>, rows: i64) {
        // The ids are in the order of time, as the ids of `emit` are.
        let fill = "INSERT INTO eventbox_outbox
                        (shard, id, source, type, attempts, created_at_us, next_attempt_at_us, payload)
                    SELECT n % 256,
                           (lpad(to_hex(us / 1000), 12, '0') || '7' ||
                            right(replace(gen_random_uuid()::text, '-', ''), 19))::uuid,
                           'flights', 'flight.departed', 3, us, us + 10000000, $1
                    FROM (SELECT n, (extract(epoch FROM now()) * 1000000)::int8 - 3600000000 + n * 3590000000 / $2 AS us
                          FROM generate_series(1, $2) n) AS rows";
        sqlx::query(fill).bind(payload).bind(rows).execute(pool).await.unwrap();
        sqlx::query("VACUUM ANALYZE eventbox_outbox").execute(pool).await.unwrap();
    }
}

impl Fill for sqlx::Sqlite {
    async fn fill(pool: &Pool<Self>, payload: Vec<u8>, rows: i64) {
        let fill = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $2)
                    INSERT INTO eventbox_outbox
                        (shard, id, source, type, attempts, created_at_us, next_attempt_at_us, payload)
                    SELECT i % 256, unhex(printf('%012x7', us / 1000) || substr(hex(randomblob(10)), 2)),
                           'flights', 'flight.departed', 3, us, us + 10000000, $1
                    FROM (SELECT i, (unixepoch() - 3600) * 1000000 + i * 3590000000 / $2 AS us FROM n)";
        sqlx::query(fill).bind(payload).bind(rows).execute(pool).await.unwrap();
    }
}

fn resident_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    (pages * 4096) >> 20
}

/// Emits named events until it is killed, and prints the stored ones.
async fn worker(kind: &str, name: &str, url: &str, address: &str) {
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(6).connect(url).await.unwrap();
    let emitter = DurableEmitter::builder(pool, address).configure(|config| {
        config.retransmit = kind == "host";
        config.retransmit_interval = Duration::from_millis(500);
        config.claim_ttl = Duration::from_secs(3);
        config.batch.publish_timeout = Duration::from_secs(2);
    });
    let emitter = emitter.start().await.unwrap();
    for number in 0.. {
        let key = format!("{name}/{number}");
        let event = CloudEvent::builder("flights", "flight.departed").payload(key.clone()).idempotency_key(&key);
        emitter.publish(event.build().unwrap()).await.unwrap();
        // The line proves that the event is stored. A stored event without a line may arrive as well.
        println!("{key}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Counts each row that is left after a kill, by its key. The killed process may have sent the row.
async fn note_unacknowledged(pool: &sqlx::PgPool, left: &mut BTreeMap<String, u64>) {
    let rows: Vec<Vec<u8>> = sqlx::query_scalar("SELECT payload FROM eventbox_outbox").fetch_all(pool).await.unwrap();
    for row in rows {
        let key = CloudEvent::decode(&row).unwrap().idempotency_key().unwrap().to_owned();
        *left.entry(key).or_default() += 1;
    }
}

/// Returns how often each key arrived again.
async fn copies(server: &IngressHandle) -> BTreeMap<String, u64> {
    let (mut copies, mut after) = (BTreeMap::new(), 0);
    loop {
        let page = server.log().events(after, 1_000).await.unwrap();
        let Some(last) = page.last() else { return copies };
        after = last.sequence;
        copies
            .extend(page.into_iter().filter(|event| event.copies > 0).map(|event| (event.key.unwrap(), event.copies)));
    }
}

async fn chaos(url: &str, seconds: u64) {
    let server = Ingress::builder().serve("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().to_string();
    let stored = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let mut born = 0;
    let mut spawn = |kind: &'static str| {
        born += 1;
        let mut child = this_program(&["worker", kind, &format!("{kind}{born}"), url, &address])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stored, mut lines) = (Arc::clone(&stored), BufReader::new(child.stdout.take().unwrap()).lines());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                stored.lock().unwrap().push(line);
            }
        });
        (kind, child)
    };
    let mut workers: Vec<_> = ["host", "host", "plugin", "plugin"].map(&mut spawn).into();
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let (mut kills, mut left) = (0, BTreeMap::<String, u64>::new());
    let pool = sqlx::PgPool::connect(url).await.unwrap();
    while Instant::now() < deadline {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (kind, mut child) = workers.remove(0);
        child.kill().await.unwrap();
        kills += 1;
        note_unacknowledged(&pool, &mut left).await;
        workers.push(spawn(kind));
    }
    for (_, child) in &mut workers {
        child.kill().await.unwrap();
    }
    note_unacknowledged(&pool, &mut left).await;
    // The last emitter delivers all remaining rows.
    let last = DurableEmitter::builder(pool, address.as_str()).start().await.unwrap();
    assert!(last.flush(Duration::from_secs(60)).await.unwrap());
    last.close().await;
    let arrived: std::collections::HashSet<String> = server.log().keys().await.unwrap().into_iter().collect();
    let stored = stored.lock().unwrap().clone();
    let missing = stored.iter().filter(|key| !arrived.contains(*key)).count();
    let copies = copies(&server).await;
    let unexplained = copies.iter().filter(|(key, copies)| left.get(*key).copied().unwrap_or(0) < **copies).count();
    println!(
        "{kills} kills; {} acknowledged emits, {} arrived, {missing} missing; {} were unacknowledged \
         at a kill, {} of them arrived again, at most {} times; {unexplained} others arrived again; {:?}",
        stored.len(),
        arrived.len(),
        left.len(),
        copies.len(),
        copies.values().max().unwrap_or(&0),
        server.log().counts().await.unwrap()
    );
    assert_eq!((missing, unexplained), (0, 0));
    server.stop(Duration::from_secs(5)).await;
}
