//! The specs of shards, and what became of each.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use sqlx::Pool;
use uuid::Uuid;

use super::members::duration_of;
use crate::admin::time_of;
use crate::clock::micros;
use crate::error::Result;
use crate::shard::{LABEL_ID, ShardSet};
use crate::store::{Backend, Fault, LeaseRow, MemberRow, ShardRow, answered, hold};

/// Term of the leases of a member that does not tell it, because an older version of this library runs there.
const USUAL_TERM: Duration = Duration::from_secs(15);

/// What operators ask of a shard: [`Operator::apply_shards`](crate::admin::Operator::apply_shards) sets it. The default
/// asks nothing.
///
/// Members read the specs at every check of their leases, so a change takes
/// [`check_interval`](crate::runtime::LeaseConfig::check_interval). Processes without leases do not read them.
///
/// # Examples
///
/// ```
/// use eventbox::admin::ShardSpec;
///
/// let mut spec = ShardSpec::default();
/// spec.labels.insert("team".to_owned(), "ramp".to_owned());
/// spec.zone = Some("eu-1".to_owned());
/// assert!(!spec.is_disabled);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ShardSpec {
    /// Labels, to select shards by: at most [`MAX_LABELS`](crate::admin::MAX_LABELS), whose names and values have at
    /// most [`MAX_LABEL_BYTES`](crate::admin::MAX_LABEL_BYTES) bytes. The name `id` is reserved.
    pub labels: BTreeMap<String, String>,
    /// Whether no process works on the shard. Its events wait.
    pub is_disabled: bool,
    /// Preferred zone: the shard goes to a member of the zone that has room, and else to any member.
    pub zone: Option<String>,
}

/// State of a shard, or of one member that has to do with the shard. A later state is greater.
///
/// # Examples
///
/// ```
/// use eventbox::admin::ShardState;
///
/// assert!(ShardState::Failed > ShardState::Primary);
/// assert_eq!(ShardState::Standby.code(), 200);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum ShardState {
    /// The shard has no worker, or its holder has not begun yet.
    Idle,
    /// The member would be next. It keeps nothing of the shard.
    Standby,
    /// The member works on the shard.
    Primary,
    /// The shard failed for no fault of its recipients, and no process works on it now.
    Failed,
}

impl ShardState {
    /// Returns the number of the state on the wire: 0, 200, 300 or 400.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            ShardState::Idle => 0,
            ShardState::Standby => 200,
            ShardState::Primary => 300,
            ShardState::Failed => 400,
        }
    }
}

/// State of a shard in one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ShardStatus {
    /// The member.
    pub worker: Uuid,
    /// State of the shard there, at the last heartbeat of the member.
    pub state: ShardState,
    /// Errors of the shard there. Only a failed shard has some.
    pub errors: Vec<String>,
}

/// A shard: its spec, its lease, and its state in the members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ShardView {
    /// The shard, 0 to 255.
    pub shard: u8,
    /// The greatest state of the members; [`ShardState::Failed`] also when the holder of a failed shard is gone.
    pub state: ShardState,
    /// What operators ask of the shard.
    pub spec: ShardSpec,
    /// Revision at which the shard got a spec; 0 for a shard without one.
    pub create_revision: i64,
    /// Revision of the last change of the spec; 0 for a shard without one. Revisions grow over all shards.
    pub mod_revision: i64,
    /// The member that holds the shard. `None` when the shard is free or its lease has expired.
    pub holder: Option<Uuid>,
    /// The living member that would be next.
    pub standby: Option<Uuid>,
    /// The member that an operator gave the shard to.
    pub pinned: Option<Uuid>,
    /// Number of changes of the holder.
    pub generation: i64,
    /// Time until the lease expires, by the database's clock. `None` without a holder.
    #[serde(rename = "expires_in_seconds", serialize_with = "super::text::seconds_if_any")]
    pub expires_in: Option<Duration>,
    /// State in each member that has to do with the shard: first the holder, then standbys.
    pub statuses: Vec<ShardStatus>,
    /// Time of the last failure, by the database's clock. `None` once the shard has worked again.
    #[serde(serialize_with = "super::text::time_if_any")]
    pub failed_at: Option<SystemTime>,
    /// Failures in a row.
    pub attempts: u32,
    /// Time until the shard is tried again. `None` for a shard that is not failed, or that waits for an operator.
    #[serde(rename = "next_attempt_seconds", serialize_with = "super::text::seconds_if_any")]
    pub next_attempt_in: Option<Duration>,
    /// Errors of the last failure, each at most 2,048 characters and a note that it was cut. Empty for a shard that is
    /// not failed.
    pub errors: Vec<String>,
}

/// Selects shards by their labels. The default selects all.
///
/// Every shard has the label `id`, its number. Of several values of one label a shard has one; labels of different
/// names must all be there.
///
/// # Examples
///
/// ```
/// use eventbox::admin::ShardSelector;
///
/// let two_of_ramp = ShardSelector::all().label("team", "ramp").label("id", "7").label("id", "8");
/// assert_ne!(two_of_ramp, ShardSelector::default());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardSelector {
    /// The accepted values of each label.
    labels: BTreeMap<String, Vec<String>>,
}

impl ShardSelector {
    /// Selects all shards.
    #[must_use]
    pub fn all() -> Self {
        ShardSelector::default()
    }

    /// Selects shards that have this label too, with this value or another one that was given for the name.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.entry(name.into()).or_default().push(value.into());
        self
    }

    fn selects(&self, row: &ShardRow) -> bool {
        self.labels.iter().all(|(name, values)| match name.as_str() {
            LABEL_ID => values.contains(&row.shard.to_string()),
            name => row.labels.get(name).is_some_and(|value| values.contains(value)),
        })
    }
}

/// Lists shards with their specs, holders, standbys and states, in order.
///
/// Use it to look at what [`Operator::apply_shards`](crate::admin::Operator::apply_shards) has set, and what became of
/// it. States and standbys are those of the last heartbeats of the members, which send one after every change.
///
/// # Errors
///
/// Transient and database errors.
///
/// # Cancel safety
///
/// Safe: it only reads.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::admin::{self, ShardSelector, ShardState};
///
/// assert_eq!(admin::list_shards(&pool, &ShardSelector::all()).await?.len(), 256);
/// let seven = &admin::list_shards(&pool, &ShardSelector::all().label("id", "7")).await?[0];
/// assert_eq!((seven.shard, seven.state, seven.mod_revision), (7, ShardState::Idle, 0));
/// # Ok(()) }
/// ```
pub async fn list_shards<B: Backend>(pool: &Pool<B>, selector: &ShardSelector) -> Result<Vec<ShardView>> {
    let listed = answered(pool, async { read::<B>(&mut *hold(pool).await?, selector).await }).await;
    Ok(listed.map_err(|fault: Fault| fault.during("list the shards"))?.0)
}

/// Returns the selected shards, and all members.
pub(in crate::admin) async fn read<B: Backend>(
    conn: &mut B::Connection,
    selector: &ShardSelector,
) -> Result<(Vec<ShardView>, Vec<MemberRow>), Fault> {
    let (shards, leases) = (B::list_shards(conn).await?, B::list_leases(conn).await?);
    let members = B::list_members(conn).await?;
    let living: Vec<Told> = members.iter().filter_map(Told::of).collect();
    let leases: BTreeMap<i16, LeaseRow> = leases.into_iter().map(|lease| (lease.shard, lease)).collect();
    let selected = shards.into_iter().filter(|row| selector.selects(row));
    let views = selected.map(|row| view(leases.get(&row.shard), row, &living)).collect();
    Ok((views, members))
}

/// What a living member told of its shards.
struct Told {
    worker: Uuid,
    /// `None` when an older version does not say.
    works_on: Option<ShardSet>,
    standby_of: ShardSet,
}

impl Told {
    fn of(member: &MemberRow) -> Option<Self> {
        let report = &member.report;
        (is_living(member) && !member.exiting).then(|| Told {
            worker: member.worker,
            works_on: report.works_on(),
            standby_of: report.standby_of(),
        })
    }
}

/// Returns whether a member has sent a heartbeat within the term of its leases.
pub(in crate::admin) fn is_living(member: &MemberRow) -> bool {
    let told_us = member.report.lease_ttl_us;
    member.lives(if told_us > 0 { told_us } else { micros(USUAL_TERM) })
}

fn view(lease: Option<&LeaseRow>, row: ShardRow, living: &[Told]) -> ShardView {
    let (shard, is_failed) = (u8::try_from(row.shard).unwrap_or_default(), row.is_failed());
    let errors: Vec<String> = row.errors.into_iter().filter(|_| is_failed).collect();
    let held = lease.filter(|lease| lease.left_us > 0).and_then(|lease| Some((lease, lease.holder?)));
    let holder = held.map(|(_, holder)| holder);
    let mut statuses = Vec::new();
    if let Some(worker) = holder {
        let told = living.iter().find(|told| told.worker == worker).and_then(|told| told.works_on);
        let state = match told {
            _ if is_failed => ShardState::Failed,
            Some(works_on) if !works_on.contains(shard) => ShardState::Idle,
            _ => ShardState::Primary,
        };
        statuses.push(ShardStatus { worker, state, errors: errors.clone() });
    }
    let standbys = living.iter().filter(|told| told.standby_of.contains(shard) && Some(told.worker) != holder);
    let standbys =
        standbys.map(|told| ShardStatus { worker: told.worker, state: ShardState::Standby, errors: Vec::new() });
    statuses.extend(standbys);
    let state = statuses.iter().map(|status| status.state).max().unwrap_or(ShardState::Idle);
    ShardView {
        shard,
        state: if is_failed { ShardState::Failed } else { state },
        spec: ShardSpec { labels: row.labels, is_disabled: row.is_disabled, zone: row.zone },
        create_revision: row.create_revision,
        mod_revision: row.mod_revision,
        holder,
        standby: statuses.iter().find(|status| status.state == ShardState::Standby).map(|status| status.worker),
        pinned: lease.and_then(|lease| lease.pinned),
        generation: lease.map_or(0, |lease| lease.generation),
        expires_in: held.and_then(|(lease, _)| duration_of(lease.left_us)),
        statuses,
        failed_at: row.failed_at_us.map(time_of),
        attempts: u32::try_from(row.attempts).unwrap_or_default(),
        next_attempt_in: row.wait_us.filter(|_| is_failed).and_then(duration_of),
        errors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(labels: &[(&str, &str)]) -> ShardRow {
        ShardRow {
            shard: 7,
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            is_disabled: false,
            zone: None,
            create_revision: 0,
            mod_revision: 0,
            failed_at_us: None,
            attempts: 0,
            wait_us: None,
            errors: None,
        }
    }

    #[test]
    fn a_selector_compares_labels_and_the_id() {
        let (all, row) = (ShardSelector::all(), row(&[("team", "ramp"), ("id", "9")]));
        for (selector, wanted) in [
            (all.clone(), true),
            (all.clone().label("team", "ramp"), true),
            (all.clone().label("team", "gate").label("team", "ramp"), true),
            (all.clone().label("team", "gate"), false),
            (all.clone().label("team", "ramp").label("id", "7"), true),
            (all.clone().label("team", "ramp").label("id", "9"), false),
            (all.label("size", ""), false),
        ] {
            assert_eq!(selector.selects(&row), wanted, "{selector:?}");
        }
    }

    #[test]
    fn a_failed_shard_keeps_its_state_without_a_holder() {
        let mut failed = row(&[]);
        (failed.attempts, failed.errors) = (2, Some("refused".to_owned()));
        let view_of = |row| view(None, row, &[]);
        let shown = view_of(failed.clone());
        assert_eq!(
            (shown.state, shown.errors, shown.next_attempt_in),
            (ShardState::Failed, vec!["refused".to_owned()], None)
        );
        failed.wait_us = Some(-1);
        let tried = view_of(failed);
        assert_eq!((tried.state, tried.errors.len(), tried.attempts), (ShardState::Idle, 0, 2));
    }
}
