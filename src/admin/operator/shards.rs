//! Repairs of many shards: their specs, and whom they are taken from.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Done, Operator};
use crate::admin::view::shards::ShardSpec;
use crate::error::{Error, Misuse, Result};
use crate::shard::{check_labels, check_zone};
use crate::store::{Backend, Fault, ShardMask, ShardRow, SpecWrite, Tx, answered, begin_tx};

/// Expected revision of a change that does not care which one the shard has.
pub const ANY_REVISION: i64 = -1;

/// A change of the spec of one shard, for [`Operator::apply_shards`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardChange {
    /// The shard, 0 to 255.
    pub shard: u8,
    /// The [`mod_revision`](crate::admin::ShardView::mod_revision) that the shard must have: 0 for a shard without a
    /// spec, [`ANY_REVISION`] for any.
    pub expect_mod_revision: i64,
    /// The new spec, instead of the whole spec before. `None` sets the shard back to the default, without revisions.
    pub spec: Option<ShardSpec>,
}

impl ShardChange {
    /// Gives a shard a spec, whatever spec it has.
    #[must_use]
    pub fn upsert(shard: u8, spec: ShardSpec) -> Self {
        ShardChange { shard, expect_mod_revision: ANY_REVISION, spec: Some(spec) }
    }

    /// Sets a shard back to the default, whatever spec it has.
    #[must_use]
    pub fn delete(shard: u8) -> Self {
        ShardChange { shard, expect_mod_revision: ANY_REVISION, spec: None }
    }

    /// Makes the change only while the spec has this revision.
    #[must_use]
    pub fn expecting(mut self, mod_revision: i64) -> Self {
        self.expect_mod_revision = mod_revision;
        self
    }

    fn check(&self) -> Result<(), String> {
        let expected = self.expect_mod_revision;
        if expected < ANY_REVISION {
            return Err(format!("the expected revision is {expected}: give one of a listing"));
        }
        let spec = match &self.spec {
            Some(spec) => spec,
            None if expected == 0 => return Err("a shard without a spec (revision 0) cannot be set back".to_owned()),
            None => return Ok(()),
        };
        check_labels(&spec.labels)?;
        match &spec.zone {
            Some(zone) if zone.is_empty() => Err("the zone is empty: leave it out".to_owned()),
            Some(zone) => check_zone(zone),
            None => Ok(()),
        }
    }

    /// Returns the conflict with the stored revisions, if there is one.
    fn conflict(&self, stored: &[ShardRow]) -> Option<Conflict> {
        let (shard, expected) = (self.shard, self.expect_mod_revision);
        let found = stored.iter().find(|row| row.shard == i16::from(shard)).map_or(0, |row| row.mod_revision);
        (expected != ANY_REVISION && expected != found).then_some(Conflict { shard, expected, found })
    }

    async fn write<B: Backend>(&self, tx: &mut Tx<B>, revision: i64) -> Result<bool, Fault> {
        let shard = i16::from(self.shard);
        let Some(spec) = &self.spec else { return B::reset_spec(tx, shard).await };
        let write =
            SpecWrite { shard, labels: &spec.labels, is_disabled: spec.is_disabled, zone: spec.zone.as_deref() };
        B::write_spec(tx, &write, revision).await?;
        Ok(true)
    }
}

/// A change that expects another revision than the stored one.
struct Conflict {
    shard: u8,
    expected: i64,
    found: i64,
}

/// Result of [`Operator::unassign`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unassigned {
    /// Number of shards that were taken from their holders, or would be taken.
    #[serde(flatten)]
    pub done: Done,
    /// These shards, in order.
    pub shards: Vec<u8>,
}

impl<B: Backend> Operator<B> {
    /// Changes the specs of shards: all of them, or none.
    ///
    /// Use it to label shards, to disable some, or to prefer a zone. All changes of a call get the same new revision.
    /// Members follow within [`check_interval`](crate::runtime::LeaseConfig::check_interval): the holder of a disabled
    /// shard gives it up at once. [`Done::touched`] is the number of shards that got a spec or were set back.
    ///
    /// # Units and limits
    ///
    /// Each shard at most once in a call, so at most 256 changes.
    ///
    /// # Errors
    ///
    /// See [`Operator`]; [`Error::RevisionConflict`] when a shard has another revision than its change expects;
    /// [`Error::Misuse`] before any SQL for a change that cannot be made.
    ///
    /// # Cancel safety
    ///
    /// Safe: the transaction commits whole or not at all.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    /// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
    /// # eventbox::migrate(&pool).await?;
    /// use eventbox::Error;
    /// use eventbox::admin::{self, Operator, ShardChange, ShardSelector, ShardSpec};
    ///
    /// let ana = Operator::new(pool.clone(), "ana").because("the ramp moves");
    /// let mut spec = ShardSpec::default();
    /// spec.labels.insert("team".to_owned(), "ramp".to_owned());
    /// let create = ShardChange::upsert(7, spec).expecting(0);
    /// assert_eq!(ana.apply_shards(&[create.clone()]).await?.touched, 1);
    ///
    /// let listed = admin::list_shards(&pool, &ShardSelector::all().label("team", "ramp")).await?;
    /// assert_eq!((listed[0].shard, listed[0].mod_revision), (7, 1));
    /// let again = ana.apply_shards(&[create]).await;
    /// assert!(matches!(again, Err(Error::RevisionConflict { shard: 7, found: 1, .. })));
    /// # Ok(()) }
    /// ```
    pub async fn apply_shards(&self, changes: &[ShardChange]) -> Result<Done> {
        let mut changes: Vec<&ShardChange> = changes.iter().collect();
        // In the order of their rows, as all statements on several shards.
        changes.sort_by_key(|change| change.shard);
        let entry = self.entry("apply specs of", shards(changes.iter().map(|change| change.shard)))?;
        let wrong = |shard, problem| Error::misuse(&entry, Misuse::ShardSpec { shard, problem });
        for change in &changes {
            change.check().map_err(|problem| wrong(change.shard, problem))?;
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = changes.iter().find(|change| !seen.insert(change.shard)) {
            return Err(wrong(twice.shard, "it is in two changes of one call".to_owned()));
        }
        let write = answered(&self.pool, async {
            let mut tx = begin_tx(&self.pool, B::BEGIN_WRITE, false).await?;
            let revision = B::next_shard_revision(&mut tx).await?;
            let stored = B::list_shards(&mut tx).await?;
            if let Some(conflict) = changes.iter().find_map(|change| change.conflict(&stored)) {
                return Ok((tx, Err(conflict)));
            }
            let mut touched = 0_u64;
            for change in &changes {
                touched += u64::from(change.write::<B>(&mut tx, revision).await?);
            }
            self.record(&mut tx, &entry, touched).await?;
            Ok((tx, Ok(touched)))
        });
        let (tx, applied) = write.await.map_err(|fault: Fault| fault.during(&entry))?;
        match applied {
            Ok(touched) => self.end(tx, &entry, touched).await,
            Err(Conflict { shard, expected, found }) => {
                tx.rollback().await;
                Err(Error::RevisionConflict { attempt: entry.to_string(), shard, expected, found })
            }
        }
    }

    /// Takes shards from their holders, and forgets their failures: the member that should have a shard takes it at its
    /// next check.
    ///
    /// Use it for a failed shard that is not tried again, once the cause of the failure is gone. With `only_failed` the
    /// other shards stay where they are. Standbys stay standbys, and pins stay. The holder works on a shard until
    /// the next one does. Two members on one shard are harmless.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    ///
    /// # Cancel safety
    ///
    /// Safe: the transaction commits whole or not at all.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    /// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
    /// # eventbox::migrate(&pool).await?;
    /// use eventbox::admin::Operator;
    ///
    /// let ana = Operator::new(pool, "ana").because("the disk has room again");
    /// // No process works here, so nothing is assigned.
    /// assert!(ana.unassign(&[7, 8], true).await?.shards.is_empty());
    /// # Ok(()) }
    /// ```
    pub async fn unassign(&self, of: &[u8], only_failed: bool) -> Result<Unassigned> {
        let of: BTreeSet<u8> = of.iter().copied().collect();
        let which = if only_failed { " that failed" } else { "" };
        let entry = self.entry("unassign", format_args!("{}{which}", shards(of.iter().copied())))?;
        let write = answered(&self.pool, async {
            let mut tx = begin_tx(&self.pool, B::BEGIN_WRITE, false).await?;
            let failed = B::list_shards(&mut tx).await?.into_iter().filter(ShardRow::is_failed).map(|row| row.shard);
            let failed: BTreeSet<i16> = failed.collect();
            let leases = B::list_leases(&mut tx).await?.into_iter().filter(|lease| lease.holder.is_some());
            let held: BTreeSet<i16> = leases.map(|lease| lease.shard).collect();
            let is_affected = |shard: &u8| {
                let shard = i16::from(*shard);
                failed.contains(&shard) || (!only_failed && held.contains(&shard))
            };
            let affected: Vec<u8> = of.iter().copied().filter(is_affected).collect();
            let mask = ShardMask::new(affected.iter().copied());
            B::free_leases(&mut tx, &mask).await?;
            B::heal_shards(&mut tx, &mask).await?;
            self.record(&mut tx, &entry, count(&affected)).await?;
            Ok((tx, affected))
        });
        let (tx, affected) = write.await.map_err(|fault: Fault| fault.during(&entry))?;
        let done = self.end(tx, &entry, count(&affected)).await?;
        Ok(Unassigned { done, shards: affected })
    }
}

fn count(shards: &[u8]) -> u64 {
    u64::try_from(shards.len()).unwrap_or(u64::MAX)
}

/// Names shards in ascending order, in ranges: `shards 0-3 7`.
fn shards(numbers: impl Iterator<Item = u8>) -> String {
    format!("shards {}", ranges(numbers))
}

/// Returns numbers in ascending order as ranges, as the command line takes them: `0-3 7`.
pub(in crate::admin) fn ranges(numbers: impl Iterator<Item = u8>) -> String {
    let mut ranges: Vec<(u8, u8)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let texts = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    texts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_named_in_ranges() {
        assert_eq!(shards([0, 1, 2, 7, 254, 255].into_iter()), "shards 0-2 7 254-255");
    }

    #[test]
    fn a_change_that_cannot_be_made_is_known_without_the_database() {
        let spec = |change: fn(&mut ShardSpec)| {
            let mut spec = ShardSpec::default();
            change(&mut spec);
            ShardChange::upsert(7, spec)
        };
        for wrong in [
            ShardChange::delete(7).expecting(0),
            ShardChange::delete(7).expecting(-2),
            spec(|spec| spec.zone = Some(String::new())),
            spec(|spec| spec.labels = [("id".to_owned(), "8".to_owned())].into()),
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
        for right in
            [ShardChange::delete(7), ShardChange::delete(7).expecting(3), spec(|_| ()), spec(|_| ()).expecting(0)]
        {
            assert_eq!(right.check(), Ok(()), "{right:?}");
        }
    }
}
