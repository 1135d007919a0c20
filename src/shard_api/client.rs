//! A client of the shard API, with helpers that turn a status other than OK into an error.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, ClientTlsConfig};
use tonic::{Request, Response, Status};

use super::channels::{CONNECT_TIMEOUT, url_of};
use super::convert::is_primary;
use super::error::ShardClientError;
use super::shards::{WHO_HEADER, WHY_HEADER};
use crate::proto::consumer::apply_request::Change;
use crate::proto::consumer::list_response::Shard;
use crate::proto::consumer::shard_client::ShardClient as Generated;
use crate::proto::consumer::{
    ApplyRequest, ApplyResponse, LabelSelector, ListRequest, ListResponse, StatRequest, StatResponse, Status as Code,
    UnassignRequest, UnassignResponse,
};
use crate::retry::endless_pauses;

/// Most changes of one Apply call of [`ShardClient::apply`].
pub const MAX_BATCH: usize = 127;

/// First and longest pause between two looks of [`ShardClient::wait_until_ready`].
const LOOKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A client of the shard API. Clones share its connection.
///
/// # Examples
///
/// ```no_run
/// # async fn label(url: &str) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use eventbox::proto::consumer::apply_request::Change;
/// use eventbox::proto::consumer::{LabelSelector, ShardSpec};
/// use eventbox::shard_api::ShardClient;
///
/// let client = ShardClient::connect(url).await?.acting("ana", "the ramp moves")?;
/// let spec = ShardSpec { id: "007".to_owned(), zone: "eu-1".to_owned(), ..ShardSpec::default() };
/// client.apply(&[Change { expect_mod_revision: -1, upsert: Some(spec), ..Change::default() }]).await?;
/// client.wait_until_ready(LabelSelector::default(), Duration::from_secs(30)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct ShardClient {
    client: Generated<Channel>,
    headers: MetadataMap,
    batch: NonZeroUsize,
}

impl ShardClient {
    /// Connects to a URL, or to `host:port` in plain text.
    ///
    /// The certificate of an `https` server is checked with the certificates of the system.
    ///
    /// # Errors
    ///
    /// [`ShardClientError::Setup`] when the server cannot be reached within [`CONNECT_TIMEOUT`].
    pub async fn connect(url: impl AsRef<str>) -> Result<Self, ShardClientError> {
        let failed = |error| ShardClientError::setup("cannot connect to the server", error);
        let endpoint = Channel::from_shared(url_of(url.as_ref()))
            .map_err(|error| ShardClientError::setup("the address is no URL", error))?;
        let mut endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        if endpoint.uri().scheme_str() == Some("https") {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(failed)?;
        }
        endpoint.connect().await.map(ShardClient::new).map_err(failed)
    }

    /// Makes a client of a connection that you have opened, for instance with TLS.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        let batch = NonZeroUsize::new(MAX_BATCH).unwrap_or(NonZeroUsize::MIN);
        ShardClient { client: Generated::new(channel), headers: MetadataMap::new(), batch }
    }

    /// Sends this header with every call.
    ///
    /// # Errors
    ///
    /// [`ShardClientError::Setup`] when the name or the value is not one of a header.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, ShardClientError> {
        let key: AsciiMetadataKey =
            name.parse().map_err(|error| ShardClientError::setup("the name of a header is wrong", error))?;
        let value: AsciiMetadataValue =
            value.parse().map_err(|error| ShardClientError::setup("the value of a header is wrong", error))?;
        self.headers.insert(key, value);
        Ok(self)
    }

    /// Sends a user and a password with every call.
    ///
    /// # Errors
    ///
    /// None in practice: the text of the header is made of valid characters.
    pub fn basic(self, user: &str, password: &str) -> Result<Self, ShardClientError> {
        let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
        self.header("authorization", &format!("Basic {encoded}"))
    }

    /// Says who changes shards, and why, for the record of operations.
    ///
    /// # Errors
    ///
    /// [`ShardClientError::Setup`] when a text is not one of ASCII.
    pub fn acting(self, who: &str, why: &str) -> Result<Self, ShardClientError> {
        self.header(WHO_HEADER, who)?.header(WHY_HEADER, why)
    }

    /// Sends at most this many changes in one call, instead of [`MAX_BATCH`]. A larger number counts as that.
    #[must_use]
    pub fn batch(mut self, changes: NonZeroUsize) -> Self {
        self.batch = changes.min(NonZeroUsize::new(MAX_BATCH).unwrap_or(changes));
        self
    }

    /// Lists the selected shards, in the order of their ids.
    ///
    /// # Errors
    ///
    /// [`ShardClientError::Call`] and [`ShardClientError::Refused`].
    pub async fn list(&self, selector: LabelSelector) -> Result<Vec<Shard>, ShardClientError> {
        let request = ListRequest { selector: Some(selector), ..ListRequest::default() };
        let answer = self.client.clone().list(self.request(request)).await;
        Ok(checked("list shards", answer, ListResponse::status)?.shards)
    }

    /// Waits until a shard was processed as far as `read_through` says, and returns how far it was.
    ///
    /// A key is a recipient with the turn that it must have reached, or the text of a
    /// [`Receipt`](crate::Receipt) with any number.
    ///
    /// # Errors
    ///
    /// [`ShardClientError::Call`]; [`ShardClientError::Refused`] when no process works on the shard, or when it will
    /// not get that far.
    pub async fn stat(
        &self,
        shard: impl Into<String>,
        read_through: BTreeMap<String, i64>,
    ) -> Result<StatResponse, ShardClientError> {
        let request = StatRequest { shard: shard.into(), read_through, ..StatRequest::default() };
        let attempt = format!("stat shard {:?}", request.shard);
        checked(&attempt, self.client.clone().stat(self.request(request)).await, StatResponse::status)
    }

    /// Applies changes, in batches of at most [`MAX_BATCH`] (or [`batch`](ShardClient::batch)). Each batch is applied
    /// whole or not at all.
    ///
    /// # Errors
    ///
    /// The error of the first failed batch: as it is when it was the first one, and as
    /// [`ShardClientError::PartlyApplied`] when others were applied before. The batches behind it are not sent.
    ///
    /// # Cancel safety
    ///
    /// The batches that were sent may be applied.
    pub async fn apply(&self, changes: &[Change]) -> Result<(), ShardClientError> {
        let mut applied = 0;
        for batch in changes.chunks(self.batch.get()) {
            let request = ApplyRequest { changes: batch.to_vec(), ..ApplyRequest::default() };
            let answer = self.client.clone().apply(self.request(request)).await;
            match checked("apply changes", answer, ApplyResponse::status) {
                Ok(_) => applied += batch.len(),
                Err(error) if applied == 0 => return Err(error),
                Err(error) => {
                    let (changes, source) = (changes.len(), Box::new(error));
                    return Err(ShardClientError::PartlyApplied { applied, changes, source });
                }
            }
        }
        Ok(())
    }

    /// Takes shards from their holders, and returns those that were taken. A dry run only returns them.
    ///
    /// # Errors
    ///
    /// [`ShardClientError::Call`] and [`ShardClientError::Refused`].
    pub async fn unassign(
        &self,
        shards: impl IntoIterator<Item = String> + Send,
        only_failed: bool,
        dry_run: bool,
    ) -> Result<Vec<String>, ShardClientError> {
        let request = UnassignRequest { shards: shards.into_iter().collect(), only_failed, dry_run };
        let answer = self.client.clone().unassign(self.request(request)).await;
        Ok(checked("unassign shards", answer, UnassignResponse::status)?.shards)
    }

    /// Waits until a process works on each selected shard, at most `limit`.
    ///
    /// A disabled shard ends the wait with an error at once, because no process will work on the shard. To wait for the
    /// others, exclude it: by a label, or by its label `id`.
    ///
    /// # Errors
    ///
    /// [`ShardClientError::Disabled`] with the disabled shards; [`ShardClientError::NotReady`] with the shards that are
    /// not ready after `limit`; the errors of [`list`](ShardClient::list).
    pub async fn wait_until_ready(&self, selector: LabelSelector, limit: Duration) -> Result<(), ShardClientError> {
        let until = Instant::now() + limit;
        let mut pauses = endless_pauses(LOOKS.0, LOOKS.1);
        let mut shards = Vec::new();
        loop {
            let Ok(listed) = timeout_at(until, self.list(selector.clone())).await else {
                return Err(ShardClientError::NotReady { shards, limit });
            };
            let listed = listed?;
            let disabled = ids(listed.iter().filter(|shard| shard.spec.as_ref().is_some_and(|spec| spec.disable)));
            if !disabled.is_empty() {
                return Err(ShardClientError::Disabled { shards: disabled });
            }
            shards = ids(listed.iter().filter(|shard| !is_primary(shard)));
            if shards.is_empty() {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ShardClientError::NotReady { shards, limit });
            }
            sleep(pauses.next().unwrap_or(LOOKS.1).min(left)).await;
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        request
    }
}

fn ids<'a>(shards: impl Iterator<Item = &'a Shard>) -> Vec<String> {
    shards.map(|shard| shard.spec.as_ref().map_or_else(String::new, |spec| spec.id.clone())).collect()
}

/// Returns the message of an answer whose status is OK.
fn checked<T>(
    attempt: &str,
    answer: Result<Response<T>, Status>,
    status: impl FnOnce(&T) -> Code,
) -> Result<T, ShardClientError> {
    let attempt = attempt.to_owned();
    match answer {
        Ok(answer) => match status(answer.get_ref()) {
            Code::Ok => Ok(answer.into_inner()),
            status => Err(ShardClientError::Refused { attempt, status }),
        },
        Err(status) => {
            Err(ShardClientError::Call { attempt, code: status.code(), message: status.message().to_owned() })
        }
    }
}
