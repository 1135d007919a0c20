//! Stat: waits until recipients of a shard were processed, at the process that holds the shard.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};
use uuid::Uuid;

use super::convert::process;
use super::id::shard_number;
use super::shards::{Local, Shards, header, refusal};
use crate::admin;
use crate::clock;
use crate::error;
use crate::eventbox::{Receipt, Status as EventStatus};
use crate::proto::consumer::shard_client::ShardClient;
use crate::proto::consumer::{Header, Route, StatRequest, StatResponse, Status as Code};
use crate::recipient::Recipient;
use crate::retry::endless_pauses;
use crate::runtime::{Holder, Resolution, ResolveOptions, ResolveStatus};
use crate::store::Backend;

/// Longest wait of a Stat call. After it the call ends with DEADLINE_EXCEEDED.
pub const MAX_STAT_WAIT: Duration = Duration::from_secs(300);

/// Oldest event for which a Stat call looks whether everything that it caused is delivered.
pub const MAX_PUBLISHED_AGE: Duration = Duration::from_secs(600);

/// Most keys in the `read_through` of a Stat call.
pub const MAX_STAT_KEYS: usize = 256;

/// Most Stat calls that a process answers or waits for at once, unless [`Shards::max_waiting_stats`] sets another.
pub const MAX_WAITING_STATS: usize = 256;

/// Longest wait of a process for the lease that a proxied request names, and for the start of its own work on a shard.
pub(super) const CATCH_UP: Duration = Duration::from_secs(5);

/// First and longest pause between two looks at the turn of a recipient.
const LOOKS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// The places of the Stat calls in flight. A call that finds none is refused: it may wait for minutes, and looks into
/// the database again and again.
#[derive(Debug)]
pub(super) struct Places {
    limit: usize,
    free: Semaphore,
}

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Places { limit, free: Semaphore::new(limit) }
    }

    fn take(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.free.try_acquire().map_err(|_| {
            let limit = self.limit;
            Status::resource_exhausted(format!("{limit} Stat calls wait here already, the most at once: call again"))
        })
    }
}

/// What must be processed before the call returns.
enum Sought {
    /// The event of a receipt.
    Event(Receipt),
    /// A turn of a recipient.
    Turn(Recipient, i64),
}

impl Sought {
    fn read(key: &str, value: i64) -> error::Result<Self> {
        match key.parse::<Receipt>() {
            Ok(receipt) => Ok(Sought::Event(receipt)),
            Err(_) => Ok(Sought::Turn(key.parse()?, value)),
        }
    }

    fn recipient(&self) -> &Recipient {
        match self {
            Sought::Event(receipt) => receipt.to(),
            Sought::Turn(recipient, _) => recipient,
        }
    }
}

/// Returns what a request asks of a shard, by its keys.
fn sought_in(read_through: &BTreeMap<String, i64>, shard: u8) -> Result<Vec<(&String, Sought)>, Status> {
    if read_through.len() > MAX_STAT_KEYS {
        let (keys, limit) = (read_through.len(), MAX_STAT_KEYS);
        return Err(Status::invalid_argument(format!("read_through has {keys} keys, over the limit of {limit}")));
    }
    let mut sought = Vec::new();
    for (key, value) in read_through {
        let read = Sought::read(key, *value).map_err(|_| {
            let rule = "write the text of a receipt, or kind/key";
            Status::invalid_argument(format!("the key {key:?} of read_through is no recipient: {rule}"))
        })?;
        if read.recipient().shard() == shard {
            sought.push((key, read));
        }
    }
    Ok(sought)
}

/// The process to which a request goes.
struct Target {
    worker: Uuid,
    zone: String,
    endpoint: Option<String>,
    generation: i64,
}

impl Target {
    fn of(holder: &Holder, generation: i64) -> Self {
        let Holder { worker, zone, endpoint, .. } = holder.clone();
        Target { worker, zone, endpoint, generation }
    }

    /// Returns the header of requests to the process, or of its answers.
    fn header(&self) -> Header {
        let id = process(self.zone.as_str(), self.worker);
        let endpoints = vec![self.endpoint.clone().unwrap_or_default()];
        header(id.clone(), Route { members: vec![id], primary: 0, endpoints }, self.generation)
    }
}

impl<B: Backend> Shards<B> {
    pub(super) async fn stat_at_holder(&self, request: Request<StatRequest>) -> Result<StatResponse, Status> {
        let message = request.get_ref();
        let Some(shard) = shard_number(&message.shard) else { return self.told(Code::ShardNotFound, None).await };
        let sought = sought_in(&message.read_through, shard)?;
        let _place = self.places.take()?;
        let Some(local) = &self.local else { return self.stat_elsewhere(shard, request).await };
        let mut options = ResolveOptions::new();
        if let Some(proxied) = &message.header {
            check_addressee(proxied, local.worker)?;
            options = options.wait(CATCH_UP).generation(revision(proxied));
        }
        let mut found = local.resolve(shard, options).await?;
        if found.status == ResolveStatus::NoPrimary && found.holder.as_ref().is_some_and(|holder| holder.is_local) {
            let options = ResolveOptions::new().wait(CATCH_UP).generation(found.generation);
            found = local.resolve(shard, options).await?;
        }
        match (found.status, &found.holder) {
            (ResolveStatus::Ok, _) => self.stat_here(local, &found, sought).await,
            (ResolveStatus::NotPrimary, Some(holder)) if message.header.is_none() => {
                self.pass_on(request, &Target::of(holder, found.generation)).await
            }
            (status, _) => self.told(code_of(status), Some(&found)).await,
        }
    }

    /// Waits for the work of this process.
    async fn stat_here(
        &self,
        local: &Local<B>,
        found: &Resolution,
        sought: Vec<(&String, Sought)>,
    ) -> Result<StatResponse, Status> {
        let until = Instant::now() + MAX_STAT_WAIT;
        let mut response = self.told(Code::Ok, Some(found)).await?;
        for (key, sought) in sought {
            let reached = match &sought {
                Sought::Event(receipt) => local.wait_for_event(receipt, found.generation, until).await?,
                Sought::Turn(recipient, turn) => self.wait_for_turn(local, found, recipient, *turn, until).await?,
            };
            let Some(turn) = reached else { return self.told(Code::ShardStopped, Some(found)).await };
            response.read_through.insert(key.clone(), turn);
            if local.is_published(&sought).await {
                response.publish_at.insert(key.clone(), turn);
            }
        }
        Ok(response)
    }

    /// Returns the turn of a recipient once it is at least `turn`; `None` when it will not get there.
    async fn wait_for_turn(
        &self,
        local: &Local<B>,
        found: &Resolution,
        recipient: &Recipient,
        turn: i64,
        until: Instant,
    ) -> Result<Option<i64>, Status> {
        let mut pauses = endless_pauses(LOOKS.0, LOOKS.1);
        loop {
            let standing = admin::standing(&self.pool, recipient).await.map_err(|error| refusal(&error))?;
            let left = until.saturating_duration_since(Instant::now());
            match standing {
                standing if standing.turn >= turn => return Ok(Some(standing.turn)),
                standing if standing.paused || standing.kind_paused => return Ok(None),
                _ if left.is_zero() => return Err(late(recipient)),
                _ => {}
            }
            let options = ResolveOptions::new().generation(found.generation);
            if local.resolve(recipient.shard(), options).await?.status != ResolveStatus::Ok {
                return Ok(None);
            }
            sleep(pauses.next().unwrap_or(LOOKS.1).min(left)).await;
        }
    }

    /// Sends a request on, because this process works on no shards.
    async fn stat_elsewhere(&self, shard: u8, request: Request<StatRequest>) -> Result<StatResponse, Status> {
        if request.get_ref().header.is_some() {
            return self.told(Code::NotShardPrimary, None).await;
        }
        let view = self.views().await?.into_iter().find(|view| view.shard == shard);
        let held = view.and_then(|view| Some((view.holder?, view.generation)));
        let Some((worker, generation)) = held else { return self.told(Code::NoShardPrimary, None).await };
        let member = self.members().await?.into_iter().find(|member| member.worker == worker);
        let (zone, endpoint) = member.map(|member| (member.zone, member.endpoint)).unwrap_or_default();
        self.pass_on(request, &Target { worker, zone, endpoint, generation }).await
    }

    /// Sends a request to the holder of the shard, with the headers of the caller.
    async fn pass_on(&self, request: Request<StatRequest>, to: &Target) -> Result<StatResponse, Status> {
        let worker = to.worker;
        let Some(endpoint) = &to.endpoint else {
            return Err(Status::unavailable(format!(
                "the holder of the shard, {worker}, has no endpoint: set RuntimeConfig::endpoint there"
            )));
        };
        let away =
            |problem: String| Status::unavailable(format!("pass the call on to {worker} at {endpoint}: {problem}"));
        let channel = self.channels.to(endpoint).map_err(|error| away(error.to_string()))?;
        let (metadata, _, mut message) = request.into_parts();
        message.header = Some(to.header());
        let passed = Request::from_parts(passed_on(metadata), Extensions::default(), message);
        let answer = timeout(MAX_STAT_WAIT + CATCH_UP, ShardClient::new(channel).stat(passed)).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Status::new(status.code(), away(status.message().to_owned()).message())),
            Err(_) => Err(Status::deadline_exceeded(away("no answer in time".to_owned()).message())),
        }
    }

    /// Returns an answer of this process.
    async fn told(&self, status: Code, found: Option<&Resolution>) -> Result<StatResponse, Status> {
        let holder = found.and_then(|found| Some(Target::of(found.holder.as_ref()?, found.generation)));
        let mut header = holder.as_ref().map(Target::header).unwrap_or_default();
        let is_ours = holder.is_some_and(|holder| Some(holder.worker) == self.worker());
        if !is_ours {
            header.process_id = Some(self.own_id(&self.members().await?));
        }
        Ok(StatResponse { status: status.into(), header: Some(header), ..StatResponse::default() })
    }
}

impl<B: Backend> Local<B> {
    async fn resolve(&self, shard: u8, options: ResolveOptions) -> Result<Resolution, Status> {
        self.resolver.resolve_shard(shard.into(), options).await.map_err(|error| refusal(&error))
    }

    /// Returns whether everything that an event caused is known to be delivered. The answer is a hint, and costs a look
    /// at all younger messages: there is none for an old event, or when the look fails.
    async fn is_published(&self, sought: &Sought) -> bool {
        let Sought::Event(receipt) = sought else { return false };
        let made_at = receipt.id().and_then(|id| id.0.get_timestamp()).map_or(0, |at| at.to_unix().0);
        let now = clock::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let is_young = now.saturating_sub(made_at) <= MAX_PUBLISHED_AGE.as_secs();
        is_young && self.resolver.is_published(receipt).await.is_ok_and(|published| published == Some(true))
    }

    /// Returns the turn that includes the event of a receipt; `None` when the event will not be processed here.
    async fn wait_for_event(&self, receipt: &Receipt, generation: i64, until: Instant) -> Result<Option<i64>, Status> {
        let left = until.saturating_duration_since(Instant::now());
        let options = ResolveOptions::new().wait(left).generation(generation).read_through(receipt.clone());
        let found = self.resolver.resolve(receipt.to(), options).await.map_err(|error| refusal(&error))?;
        match (found.status, found.read_through) {
            (ResolveStatus::Ok, Some(EventStatus::Done { turn })) => Ok(Some(turn)),
            (ResolveStatus::NotReadThrough, Some(EventStatus::Quarantined { .. } | EventStatus::Paused)) => Ok(None),
            (ResolveStatus::NotReadThrough, _) => Err(late(receipt.to())),
            _ => Ok(None),
        }
    }
}

fn late(recipient: &Recipient) -> Status {
    Status::deadline_exceeded(format!("{recipient} was not processed as far within {MAX_STAT_WAIT:?}: call again"))
}

/// Refuses a request that another process was meant to get.
fn check_addressee(header: &Header, worker: Uuid) -> Result<(), Status> {
    if header.etcd.is_some_and(|etcd| etcd.cluster_id != 0) {
        return Err(Status::failed_precondition("the cluster id of the request doesn't match our own, which is 0"));
    }
    match header.process_id.as_ref().map(|id| id.suffix.as_str()) {
        None | Some("") => Ok(()),
        Some(suffix) if suffix == worker.to_string() => Ok(()),
        Some(suffix) => Err(Status::failed_precondition(format!(
            "the process id of the request, {suffix}, doesn't match our own, {worker}: resolve again"
        ))),
    }
}

fn revision(header: &Header) -> i64 {
    header.etcd.map_or(0, |etcd| etcd.revision)
}

fn code_of(status: ResolveStatus) -> Code {
    match status {
        ResolveStatus::Ok => Code::Ok,
        ResolveStatus::ShardNotFound => Code::ShardNotFound,
        ResolveStatus::NoPrimary => Code::NoShardPrimary,
        ResolveStatus::NotPrimary => Code::NotShardPrimary,
        ResolveStatus::WrongGeneration => Code::RevisionConflict,
        _ => Code::ShardStopped,
    }
}

/// Returns the headers that the holder gets too: those of the caller, such as its credential, and its deadline.
fn passed_on(metadata: MetadataMap) -> MetadataMap {
    let mut headers = metadata.into_headers();
    let of_the_connection: Vec<_> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            matches!(name, "te" | "content-type" | "content-length" | "host" | "user-agent")
                || (name.starts_with("grpc-") && name != "grpc-timeout")
        })
        .cloned()
        .collect();
    for name in of_the_connection {
        headers.remove(name);
    }
    MetadataMap::from_headers(headers)
}
