//! Specs, changes and listings, between the wire and `admin`.

use std::collections::BTreeMap;

use tonic::Status;
use uuid::Uuid;

use super::id::{shard_id, shard_number};
use crate::admin::{Member, ShardChange, ShardSpec, ShardState, ShardView};
use crate::proto::consumer::apply_request::Change;
use crate::proto::consumer::process_spec::Id;
use crate::proto::consumer::{self, Label, LabelSet, ReplicaStatus, Route, list_response};

/// Returns the change of a request, or what is wrong with it.
pub(super) fn change(change: &Change) -> Result<ShardChange, Status> {
    let wrong = |problem: String| Status::invalid_argument(format!("a change: {problem}"));
    if change.primary_hints.is_some() {
        return Err(wrong("primary_hints is set, and there are no recovery logs: leave it out".to_owned()));
    }
    let changed = match (&change.upsert, change.delete.as_str()) {
        (Some(spec), "") => {
            let shard = existing(&spec.id).map_err(wrong)?;
            ShardChange::upsert(shard, self::spec(spec).map_err(|problem| wrong(format!("{}: {problem}", spec.id)))?)
        }
        (None, id) if !id.is_empty() => ShardChange::delete(existing(id).map_err(wrong)?),
        _ => return Err(wrong("set exactly one of upsert and delete".to_owned())),
    };
    Ok(changed.expecting(change.expect_mod_revision))
}

fn existing(id: &str) -> Result<u8, String> {
    shard_number(id).ok_or_else(|| format!("there is no shard {id:?}: shards are 000 to 255"))
}

/// Why a spec has no durations.
const BY_KIND: &str = "rounds have durations by kind, which RuntimeBuilder::round_durations sets";

/// Returns the spec of a message. Refuses what this library does not have.
fn spec(from: &consumer::ShardSpec) -> Result<ShardSpec, String> {
    let refused = [
        ("sources", !from.sources.is_empty(), "a shard has the recipients whose hash it is"),
        ("recovery_log_prefix", !from.recovery_log_prefix.is_empty(), "events and states are in the database"),
        ("hint_prefix", !from.hint_prefix.is_empty(), "there are no recovery logs"),
        ("hint_backups", from.hint_backups != 0, "there are no recovery logs"),
        ("max_txn_duration", from.max_txn_duration.is_some_and(is_set), BY_KIND),
        ("min_txn_duration", from.min_txn_duration.is_some_and(is_set), BY_KIND),
        ("hot_standbys", from.hot_standbys != 0, "each shard has a standby where there is a second process"),
        ("disable_wait_for_ack", from.disable_wait_for_ack, "events have no acknowledgements to wait for"),
        ("ring_buffer_size", from.ring_buffer_size != 0, "events are listed from the database"),
        ("read_channel_size", from.read_channel_size != 0, "events are listed from the database"),
    ];
    if let Some((field, _, why)) = refused.into_iter().find(|(_, is_set, _)| *is_set) {
        return Err(format!("{field} is set, and {why}: leave it out"));
    }
    let zone = Some(from.zone.clone()).filter(|zone| !zone.is_empty());
    let mut spec = ShardSpec { is_disabled: from.disable, zone, ..ShardSpec::default() };
    for label in from.labels.iter().flat_map(|set| &set.labels) {
        if label.prefix {
            return Err(format!("the label {:?} is a prefix, which only selectors have", label.name));
        }
        if spec.labels.insert(label.name.clone(), label.value.clone()).is_some() {
            return Err(format!("the label {:?} has two values: a label has one", label.name));
        }
    }
    Ok(spec)
}

fn is_set(duration: prost_types::Duration) -> bool {
    duration != prost_types::Duration::default()
}

/// Returns the message of a shard. Its route has the members in the order of zone and id.
pub(super) fn shard(view: &ShardView, members: &[Member]) -> list_response::Shard {
    let placed = route_of(view, members);
    list_response::Shard {
        spec: Some(spec_of(view)),
        mod_revision: view.mod_revision,
        route: Some(placed.route),
        status: placed.statuses,
        create_revision: view.create_revision,
        summary: Some(ReplicaStatus { code: view.state.code(), errors: view.errors.clone() }),
        generation: view.generation,
    }
}

fn spec_of(view: &ShardView) -> consumer::ShardSpec {
    consumer::ShardSpec {
        id: shard_id(view.shard),
        disable: view.spec.is_disabled,
        labels: Some(labels(&view.spec.labels)),
        zone: view.spec.zone.clone().unwrap_or_default(),
        ..consumer::ShardSpec::default()
    }
}

fn labels(labels: &BTreeMap<String, String>) -> LabelSet {
    let label = |(name, value): (&String, &String)| Label { name: name.clone(), value: value.clone(), prefix: false };
    LabelSet { labels: labels.iter().map(label).collect() }
}

/// The members that have to do with a shard, and its state in each of them.
struct Placed {
    route: Route,
    statuses: Vec<ReplicaStatus>,
}

fn route_of(view: &ShardView, members: &[Member]) -> Placed {
    let mut replicas: Vec<_> = view
        .statuses
        .iter()
        .map(|status| {
            let member = members.iter().find(|member| member.worker == status.worker);
            let (zone, endpoint) =
                member.map(|member| (member.zone.clone(), member.endpoint.clone())).unwrap_or_default();
            (process(zone, status.worker), endpoint.unwrap_or_default(), status)
        })
        .collect();
    replicas.sort_by(|(one, ..), (other, ..)| (&one.zone, &one.suffix).cmp(&(&other.zone, &other.suffix)));
    let primary = replicas.iter().position(|(.., status)| Some(status.worker) == view.holder);
    let statuses =
        replicas.iter().map(|(.., status)| ReplicaStatus { code: status.state.code(), errors: status.errors.clone() });
    let statuses = statuses.collect();
    let (members, endpoints) = replicas.into_iter().map(|(id, endpoint, _)| (id, endpoint)).unzip();
    let primary = primary.and_then(|at| i32::try_from(at).ok()).unwrap_or(-1);
    Placed { route: Route { members, primary, endpoints }, statuses }
}

/// Returns the id of a process on the wire.
pub(super) fn process(zone: impl Into<String>, worker: Uuid) -> Id {
    Id { zone: zone.into(), suffix: worker.to_string() }
}

/// Returns whether all members of a message agree that a process works on the shard.
pub(super) fn is_primary(shard: &list_response::Shard) -> bool {
    let greatest = shard.status.iter().map(|status| status.code).max();
    greatest == Some(ShardState::Primary.code())
}
