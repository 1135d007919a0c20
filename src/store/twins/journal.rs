//! Statements on the journal, and on the places of events.

use sqlx::Pool;
use uuid::Uuid;

use super::fixture::Twin;
use super::tables::{Dice, ORIGIN, SHARDS, boxes};
use super::{HOUR, Transcript, hours, label};
use crate::store::macros::on_both_engines;
use crate::store::operate::fate::{AuditFrom, EventKey, FateLimits};
use crate::store::operate::journal::{JournalOutcome, JournalWrite, PurgedFrom};
use crate::store::operate::quarantine::Verdict;

const OUTCOMES: [JournalOutcome; 4] =
    [JournalOutcome::Consumed, JournalOutcome::Garbage, JournalOutcome::Quarantined, JournalOutcome::Purged];

on_both_engines! {
    use crate::store::operate::fate::{FateDialect, FateTable};
    use crate::store::operate::journal::{JournalDialect, JournalTable};
    use crate::store::operate::quarantine::QuarantineTable;
    use crate::store::operate::view::recipient::RecipientViewTable;
    use crate::store::bound::Bound;

    type Conn = <Engine as sqlx::Database>::Connection;

    pub(in crate::store::twins) async fn run(pool: &Pool<Engine>, transcript: &mut Transcript) {
        {
            let mut conn = pool.acquire().await.unwrap();
            kinds(&mut conn, transcript).await;
            note(&mut conn, transcript).await;
        }
        <Engine as Twin>::dump(pool, "noted", transcript).await;
        {
            let mut conn = pool.acquire().await.unwrap();
            remove(&mut conn, transcript).await;
        }
        <Engine as Twin>::dump(pool, "removed and noted", transcript).await;
        {
            let mut conn = pool.acquire().await.unwrap();
            look(&mut conn, transcript).await;
            audit(&mut conn, transcript).await;
            prune(&mut conn, transcript).await;
        }
        <Engine as Twin>::dump(pool, "journal pruned", transcript).await;
    }

    async fn kinds(conn: &mut Conn, transcript: &mut Transcript) {
        for (kind, keep) in [("order", 7), ("cell", HOUR), ("order", 0), ("Order", 1)] {
            Engine::note_journal_kind(conn, kind, keep).await.unwrap();
        }
        transcript.note("list_journal_kinds", Engine::list_journal_kinds(conn).await.unwrap());
        for (shard, recipient) in boxes() {
            let turn = Engine::journal_turn(conn, shard, recipient).await.unwrap();
            transcript.note(format!("journal_turn {shard} {recipient}"), turn);
        }
    }

    async fn note(conn: &mut Conn, transcript: &mut Transcript) {
        let mut dice = Dice::new(13);
        for (place, (shard, recipient)) in boxes().enumerate() {
            let ids: Vec<Uuid> = (0..4).map(|_| dice.id()).collect();
            let row = |at: usize, turn: i64| JournalWrite {
                shard,
                recipient,
                id: ids[at],
                name: (at > 1).then_some("ñ\"2"),
                origin: (at % 2 == 1).then_some(ORIGIN),
                turn,
                outcome: OUTCOMES[(place + at + usize::from(turn > 1)) % 4],
            };
            Engine::note_journal(conn, &[row(0, 1), row(1, 1), row(2, 1), row(3, 1)]).await.unwrap();
            Engine::note_journal(conn, &[row(1, 2), row(3, 2)]).await.unwrap();
            let turn = Engine::journal_turn(conn, shard, recipient).await.unwrap();
            transcript.note(format!("journal_turn of noted {shard} {recipient}"), turn);
        }
    }

    async fn remove(conn: &mut Conn, transcript: &mut Transcript) {
        for (place, (shard, recipient)) in boxes().enumerate() {
            let events = Engine::event_heads(conn, shard, recipient, Uuid::nil(), 9).await.unwrap();
            let timers = Engine::timer_heads(conn, shard, recipient, 9, 9).await.unwrap();
            let dead = Engine::list_quarantined(conn, shard, recipient, Uuid::nil(), Bound::new(9, 1_000_000));
            let dead = dead.await.unwrap();
            let events: Vec<Uuid> = events.iter().map(|head| head.id).step_by(2).collect();
            let mut timers: Vec<Uuid> = timers.iter().map(|head| head.event.id).collect();
            timers.sort();
            let timers: Vec<Uuid> = timers.into_iter().step_by(2).collect();
            let dead: Vec<Uuid> = dead.rows.iter().map(|row| row.id).step_by(2).collect();
            let turn = 100 + i64::try_from(place).unwrap();
            let of = format!("{shard} {recipient}");
            for (from, ids) in
                [(PurgedFrom::Box, &timers), (PurgedFrom::Timers, &timers), (PurgedFrom::Quarantine, &dead)]
            {
                let purged = Engine::purge_noted(conn, from, shard, recipient, ids, turn).await.unwrap();
                transcript.note(format!("purge_noted {of} {from:?}"), purged);
            }
            let (some, others) = events.split_at(events.len() / 2);
            let purged = Engine::purge_noted(conn, PurgedFrom::Box, shard, recipient, some, turn).await.unwrap();
            let verdict = Verdict { code: "POISON", reason: "no plan", attempts: 5 };
            let moved = Engine::quarantine_noted(conn, shard, recipient, others, verdict, turn + 1).await.unwrap();
            transcript.note(format!("purge_noted and quarantine_noted {of}"), (purged, moved));
        }
    }

    async fn look(conn: &mut Conn, transcript: &mut Transcript) {
        let now_us = Engine::database_time_us(conn).await.unwrap();
        let mut all = Vec::new();
        for (shard, recipient) in boxes() {
            let of = format!("{shard} {recipient}");
            let mut ids = vec![Uuid::from_u128(3)];
            for (before, limit) in [(Uuid::max(), 1), (Uuid::max(), 100), (Uuid::from_u128(1 << 46), 100)] {
                let rows = Engine::list_journal(conn, shard, recipient, before, limit).await.unwrap();
                let text: Vec<_> = rows.iter().map(|row| {
                    let (turn, outcome, age) = (row.turn, row.outcome, hours(row.at_us - now_us));
                    format!("{} {:?} {:?} {turn} {outcome:?} {age}", label(row.id), row.name, row.origin)
                }).collect();
                transcript.note(format!("list_journal {of} {} {limit}", label(before)), text);
                ids.extend(rows.iter().map(|row| row.id).take(5));
            }
            let events = Engine::event_heads(conn, shard, recipient, Uuid::nil(), 3).await.unwrap();
            ids.extend(events.iter().map(|head| head.id));
            let timers = Engine::timer_heads(conn, shard, recipient, 3, 3).await.unwrap();
            ids.extend(timers.iter().map(|head| head.event.id));
            ids.sort();
            let sought = ids.iter().map(|id| (Some(*id), None));
            let names = ["ñ\"2", "n0", "twice", "none"].map(|name| (None, Some(name)));
            for (id, name) in sought.chain(names) {
                let limits = FateLimits { named: 100, ahead: 2 };
                let mut fate = Engine::read_fate(conn, shard, recipient, id, name, limits).await.unwrap();
                fate.due_at_us = fate.due_at_us.map(|us| hours(us - now_us));
                fate.noted = fate.noted.map(|(turn, outcome, us)| (turn, outcome, hours(us - now_us)));
                transcript.note(format!("read_fate {of} {id:?} {name:?}"), fate);
            }
            all.extend(ids.into_iter().map(|id| EventKey { shard, recipient, id }));
        }
        transcript.note("locate_events", Engine::locate_events(conn, &all).await.unwrap());
        transcript.note("locate_events of none", Engine::locate_events(conn, &[]).await.unwrap());
    }

    async fn audit(conn: &mut Conn, transcript: &mut Transcript) {
        for (first, behind) in [("cell/", "cell0"), ("order/", "order0"), ("none/", "none0")] {
            let shards = Engine::list_audited_shards(conn, first, behind).await.unwrap();
            transcript.note(format!("list_audited_shards {first}"), shards);
            for shard in SHARDS {
                for limit in [3, 1_000] {
                    let mut after = (first.to_owned(), Uuid::nil());
                    for _ in 0..4 {
                        let from = AuditFrom { shard, behind, after: (&after.0, after.1), limit };
                        let rows = Engine::list_audited(conn, from).await.unwrap();
                        transcript.note(format!("list_audited {shard} {first} {limit} {after:?}"), &rows);
                        let Some(last) = rows.last() else { break };
                        after = (last.recipient.clone(), last.id);
                    }
                }
            }
        }
    }

    async fn prune(conn: &mut Conn, transcript: &mut Transcript) {
        // Rows of two ages.
        for (turn, age) in [(1_i64, 20 * HOUR), (2, 10 * HOUR)] {
            let query = sqlx::query::<Engine>("UPDATE eventbox_journal SET at_us = at_us - $1 WHERE turn = $2");
            query.bind(age).bind(turn).execute(&mut *conn).await.unwrap();
        }
        for (kind, keep) in [("cell", 15 * HOUR), ("cell", 15 * HOUR), ("order", 5 * HOUR), ("Order", -HOUR), ("ce", 0)]
        {
            let pruned = Engine::prune_journal(conn, kind, keep).await.unwrap();
            transcript.note(format!("prune_journal {kind} {keep}"), pruned);
        }
    }
}
