//! The validation and the keeping of the events of one call.

use std::collections::HashSet;
use std::sync::Arc;

use prost::Message;
use sqlx::SqlitePool;
use tonic::{Code, Status};

use super::faults::FaultSwitch;
use super::sink::{Sink, Taken};
use super::store::{self, Arrival};
use super::validate::{IDEMPOTENCY_KEY, attribute_text, validate};
use super::writer::{NotKept, Writer};
use crate::error::Error;
use crate::proto::chipingress::pb::{PublishError, PublishErrorCode, PublishResponse, PublishResult};
use crate::proto::io::cloudevents::v1::CloudEvent;

/// The rules for an event in addition to its validity.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    /// Whether a schema must be registered for the subject of the event.
    pub(super) require_schemas: bool,
    /// The known sources; `None` makes every source known.
    pub(super) domains: Option<HashSet<String>>,
}

/// Returns the subject of the schema for the events of a source and a type.
///
/// # Examples
///
/// ```
/// assert_eq!(eventbox::ingress::schema_subject("shop", "order.paid"), "shop-order.paid");
/// ```
#[must_use]
pub fn schema_subject(source: &str, event_type: &str) -> String {
    format!("{source}-{event_type}")
}

/// The place where accepted events go.
#[derive(Clone)]
pub(super) enum Keeper {
    /// The log of the server.
    Log(Writer),
    /// A place of the user.
    Sink(Arc<dyn Sink>),
}

impl Keeper {
    /// Keeps the events without a verdict, returns after the commit, and sets the verdicts of those that were refused.
    async fn keep(
        &self,
        events: &[CloudEvent],
        verdicts: &mut [Option<PublishError>],
        all_or_nothing: bool,
    ) -> Result<(), Status> {
        let accepted = events.iter().zip(verdicts).filter(|(_, verdict)| verdict.is_none());
        match self {
            Keeper::Log(writer) => {
                let arrivals: Vec<Arrival> = accepted.map(|(event, _)| arrival(event)).collect();
                let rejected = (events.len() - arrivals.len()) as u64;
                writer.keep(arrivals, rejected).await.map_err(not_kept)
            }
            Keeper::Sink(sink) => {
                let (taken, verdicts): (Vec<CloudEvent>, Vec<_>) =
                    accepted.map(|(event, verdict)| (event.clone(), verdict)).unzip();
                give(sink.as_ref(), taken, verdicts, all_or_nothing).await
            }
        }
    }

    /// Notes the events of a transactional batch that failed as a whole.
    async fn reject(&self, rejected: u64) -> Result<(), Status> {
        match self {
            Keeper::Log(writer) => writer.keep(Vec::new(), rejected).await.map_err(not_kept),
            Keeper::Sink(_) => Ok(()),
        }
    }
}

async fn give(
    sink: &dyn Sink,
    events: Vec<CloudEvent>,
    verdicts: Vec<&mut Option<PublishError>>,
    all_or_nothing: bool,
) -> Result<(), Status> {
    if events.is_empty() {
        return Ok(());
    }
    let answers = sink.take(events, all_or_nothing).await?;
    if answers.len() != verdicts.len() {
        let text = format!("the sink of the ingress server answered {} of {} events", answers.len(), verdicts.len());
        return Err(Status::internal(text));
    }
    for (verdict, answer) in verdicts.into_iter().zip(answers) {
        if let Taken::Refused { code, reason } = answer {
            *verdict = Some(publish_error(code, reason));
        }
    }
    Ok(())
}

/// The part of the server that validates events and passes the accepted events to the keeper.
#[derive(Clone)]
pub(super) struct Publisher {
    keeper: Keeper,
    pool: SqlitePool,
    rules: Arc<Rules>,
    faults: FaultSwitch,
}

impl Publisher {
    pub(super) fn new(keeper: Keeper, pool: SqlitePool, rules: Rules, faults: FaultSwitch) -> Self {
        Publisher { keeper, pool, rules: Arc::new(rules), faults }
    }

    /// Validates events, keeps the accepted events, and returns one result per event in the same order.
    ///
    /// With `all_or_nothing` a refused event fails the whole call.
    pub(super) async fn publish(&self, events: &[CloudEvent], all_or_nothing: bool) -> Result<PublishResponse, Status> {
        let mut verdicts = self.judge(events).await?;
        if all_or_nothing && let Some(refusal) = refusal(events, &verdicts) {
            self.keeper.reject(verdicts.iter().flatten().count() as u64).await?;
            return Err(refusal);
        }
        self.keeper.keep(events, &mut verdicts, all_or_nothing).await?;
        if all_or_nothing && let Some(refusal) = refusal(events, &verdicts) {
            return Err(refusal);
        }
        let results = events.iter().zip(verdicts);
        let results = results.map(|(event, error)| PublishResult { event_id: event.id.clone(), error }).collect();
        Ok(PublishResponse { results })
    }

    /// Returns the publish error of each event in order, or `None` for an accepted event.
    async fn judge(&self, events: &[CloudEvent]) -> Result<Vec<Option<PublishError>>, Status> {
        let mut verdicts: Vec<_> = events.iter().map(|event| self.judge_alone(event)).collect();
        if self.rules.require_schemas {
            let subjects = events.iter().map(subject_of).collect();
            let registered = store::registered(&self.pool, &subjects).await;
            let registered = registered.map_err(|error| store_failed(&error))?;
            for (event, verdict) in events.iter().zip(&mut verdicts).filter(|(_, verdict)| verdict.is_none()) {
                let subject = subject_of(event);
                if !registered.contains(&subject) {
                    let reason = format!("no schema is registered for the subject {subject:?}");
                    *verdict = Some(publish_error(PublishErrorCode::SchemaMissing, reason));
                }
            }
        }
        Ok(verdicts)
    }

    fn judge_alone(&self, event: &CloudEvent) -> Option<PublishError> {
        if let Err(reason) = validate(event) {
            return Some(publish_error(PublishErrorCode::ValidationFailed, reason));
        }
        if self.rules.domains.as_ref().is_some_and(|domains| !domains.contains(&event.source)) {
            let reason = format!("the source {:?} is not a known domain", event.source);
            return Some(publish_error(PublishErrorCode::DomainMisconfiguration, reason));
        }
        self.faults.publish_error(event)
    }
}

fn subject_of(event: &CloudEvent) -> String {
    schema_subject(&event.source, &event.r#type)
}

fn publish_error(code: PublishErrorCode, reason: impl Into<String>) -> PublishError {
    PublishError { error_code: code.into(), reason: reason.into() }
}

/// Returns the error of a transactional batch from its first refused event, or `None` without a refused event.
fn refusal(events: &[CloudEvent], verdicts: &[Option<PublishError>]) -> Option<Status> {
    let found = events.iter().zip(verdicts).enumerate();
    let (index, event, error) =
        found.filter_map(|(index, (event, verdict))| Some((index, event, verdict.as_ref()?))).next()?;
    let code = match error.error_code() {
        PublishErrorCode::SchemaMissing | PublishErrorCode::DomainMisconfiguration => Code::FailedPrecondition,
        PublishErrorCode::Unknown => Code::Unknown,
        PublishErrorCode::ValidationFailed | PublishErrorCode::EncodeError => Code::InvalidArgument,
    };
    let name = error.error_code().as_str_name();
    let text = format!("nothing of the batch was published: event {index} ({:?}): {name}: {}", event.id, error.reason);
    Some(Status::new(code, text))
}

fn arrival(event: &CloudEvent) -> Arrival {
    Arrival { key: attribute_text(event, IDEMPOTENCY_KEY).map(str::to_owned), encoded: event.encode_to_vec() }
}

/// Returns the status for the client of a batch that was not kept.
pub(super) fn not_kept(reason: NotKept) -> Status {
    match reason {
        NotKept::QueueFull => Status::unavailable("the ingress server is overloaded: try again later"),
        NotKept::Stopping => Status::unavailable("the ingress server is stopping"),
        NotKept::Store(error) => store_failed(&error),
    }
}

pub(super) fn store_failed(error: &Error) -> Status {
    let code = if error.is_transient() { Code::Unavailable } else { Code::Internal };
    Status::new(code, format!("the ingress server's store failed: {error}"))
}
