//! Statements on the outbox and its dead letters.

use sqlx::Pool;
use uuid::Uuid;

use super::fixture::Twin;
use super::tables::{ORIGIN, SHARDS};
use super::{HOUR, Transcript, hours, label};
use crate::store::macros::on_both_engines;
use crate::store::operate::destination::PausedDestinationRow;
use crate::store::outgoing::outbox::{
    Claim, ClaimedRow, Longest, OutboxKey, OutboxRow, OutboxSample, Reschedule, RowCount, ToDeadLetter,
};

fn claimed(row: &ClaimedRow) -> String {
    let (key, size) = (row.key, row.payload.len());
    format!("{} {} {} {} {} {size}", key.shard, label(key.id), row.source, row.r#type, row.attempts)
}

fn tallies(rows: &[RowCount]) -> Vec<String> {
    rows.iter().map(|tally| format!("{} {} {}", tally.source, tally.r#type, tally.rows)).collect()
}

on_both_engines! {
    use crate::store::operate::destination::DestinationTable;
    use crate::store::outgoing::dead_letter::{DeadLetterDialect, DeadLetterTable};
    use crate::store::outgoing::marked::{MarkedDialect, MarkedWanted};
    use crate::store::outgoing::outbox::{OutboxDialect, OutboxTable};
    use crate::store::bound::Bound;

    pub(in crate::store::twins) async fn run(pool: &Pool<Engine>, transcript: &mut Transcript) {
        insert(pool, transcript).await;
        observe(pool, "all", transcript).await;
        let rows = claims(pool, transcript).await;
        <Engine as Twin>::dump(pool, "claimed", transcript).await;
        outcomes(pool, &rows, transcript).await;
        <Engine as Twin>::dump(pool, "outcomes", transcript).await;
        observe(pool, "after the outcomes", transcript).await;
        let mut conn = pool.acquire().await.unwrap();
        let longest = Longest { claim_us: 20 * HOUR + HOUR / 2, first_pause_us: HOUR, pause_us: 30 * HOUR + HOUR / 2 };
        for per_shard in [2, 1_000] {
            let recalled = Engine::recall_outbox(&mut conn, longest, per_shard).await.unwrap();
            transcript.note(format!("recall_outbox {per_shard}"), recalled);
        }
        drop(conn);
        <Engine as Twin>::dump(pool, "recalled", transcript).await;
        let mut conn = pool.acquire().await.unwrap();
        for (ttl, per_shard) in [(250 * HOUR + HOUR / 2, 2), (100 * HOUR + HOUR / 2, 50), (HOUR, 3)] {
            let expired = Engine::expire_outbox(&mut conn, ttl, per_shard).await.unwrap();
            transcript.note_unordered(format!("expire_outbox {ttl} {per_shard}"), tallies(&expired));
        }
        drop(conn);
        <Engine as Twin>::dump(pool, "expired", transcript).await;
        pauses(pool, transcript).await;
        dead(pool, transcript).await;
        marked(pool, transcript).await;
        let mut conn = pool.acquire().await.unwrap();
        transcript.note("purge_outbox", Engine::purge_outbox(&mut conn, 1_000_000).await.unwrap());
        transcript.note("has_undelivered", Engine::has_undelivered(&mut conn).await.unwrap());
        drop(conn);
        <Engine as Twin>::dump(pool, "purged", transcript).await;
        observe(pool, "at the end", transcript).await;
    }

    async fn observe(pool: &Pool<Engine>, title: &str, transcript: &mut Transcript) {
        let mut conn = pool.acquire().await.unwrap();
        transcript.note(format!("has_undelivered {title}"), Engine::has_undelivered(&mut conn).await.unwrap());
        for limit in [1, 10, 100_000] {
            transcript.note(
                format!("count_outbox {title} {limit}"),
                Engine::count_outbox(&mut conn, limit).await.unwrap(),
            );
        }
        for (ttl, lead) in [(100 * HOUR, HOUR / 2), (300 * HOUR, 120 * HOUR + HOUR / 2), (0, 0)] {
            let sample = Engine::observe_outbox(&mut conn, ttl, lead).await.unwrap();
            let sample = OutboxSample { oldest_age_us: hours(sample.oldest_age_us), ..sample };
            transcript.note(format!("observe_outbox {title} {ttl} {lead}"), sample);
        }
    }

    /// The fixture's ids end with small numbers, which are their marks.
    async fn marked(pool: &Pool<Engine>, transcript: &mut Transcript) {
        let mut conn = pool.acquire().await.unwrap();
        for (mark, since, shard, limit) in [(1, 0, 0, 100), (2, 0, 0, 1), (3, 1 << 64, 0, 100), (4, 0, 7, 100)] {
            let after = OutboxKey { shard, id: Uuid::nil() };
            let wanted = MarkedWanted { mark, since: Uuid::from_u128(since), after, limit };
            let found = Engine::marked_messages(&mut conn, wanted).await.unwrap();
            let found: Vec<_> = found.iter().map(|row| (row.key.shard, label(row.key.id), row.is_dead)).collect();
            transcript.note(format!("marked_messages {mark} {since} {shard} {limit}"), found);
        }
    }

    async fn insert(pool: &Pool<Engine>, transcript: &mut Transcript) {
        let row = |n: u128| OutboxRow {
            shard: SHARDS[n as usize % 4],
            id: Uuid::from_u128((1 << 64) + n),
            source: "new",
            r#type: "x",
            origin: n.is_multiple_of(2).then_some(ORIGIN),
            payload: b"payload",
        };
        let rows: Vec<_> = (0..9).map(row).collect();
        Engine::insert_outbox_on_pool(pool, &rows[..4], -HOUR).await.unwrap();
        let mut tx = pool.begin().await.unwrap();
        Engine::insert_outbox_in(&mut tx, &rows[4..8], 5 * HOUR).await.unwrap();
        Engine::insert_outbox(&mut *tx, &rows[8], 7 * HOUR).await.unwrap();
        tx.commit().await.unwrap();
        <Engine as Twin>::dump(pool, "messages", transcript).await;
    }

    async fn claims(pool: &Pool<Engine>, transcript: &mut Transcript) -> Vec<ClaimedRow> {
        let mut conn = pool.acquire().await.unwrap();
        let mut all = Vec::new();
        for (from_shard, per_shard, limit, bytes) in [
            (0, 1, 3, 100_000), (7, 2, 100, 100_000), (100, 50, 5, 2_000), (255, 3, 7, 1), (8, 1_000, 1_000, 30_000),
            (0, 1_000, 40, 10_000_000)
        ] {
            let claim = Claim { from_shard, per_shard, limit, bytes, claim_ttl_us: 10 * HOUR };
            let rows = Engine::claim_outbox(&mut conn, claim).await.unwrap();
            transcript.note_unordered(format!("claim_outbox {claim:?}"), rows.iter().map(claimed).collect());
            all.extend(rows);
        }
        all.sort_by_key(|row| row.key);
        all
    }

    /// Pauses, what claims and expiry leave of the outbox then, and the end of the pauses.
    async fn pauses(pool: &Pool<Engine>, transcript: &mut Transcript) {
        let mut conn = pool.acquire().await.unwrap();
        for (destination, why) in [(("shop", ""), Some("repairs")), (("Shop", "paid"), None), (("shop", ""), None)] {
            let changed = Engine::pause_destination(&mut conn, destination, "ana", why).await.unwrap();
            transcript.note(format!("pause_destination {destination:?}"), changed);
        }
        let rows = Engine::list_paused_destinations(&mut conn).await.unwrap();
        let row = |row: &PausedDestinationRow| {
            let destination = (row.source.clone(), row.r#type.clone());
            (destination, row.who.clone(), row.why.clone())
        };
        transcript.note("list_paused_destinations", rows.iter().map(row).collect::<Vec<_>>());
        for destination in [("", ""), ("shop", ""), ("", "paid"), ("Shop", "paid"), ("nobody", "")] {
            let looked = Engine::count_messages_of(&mut conn, destination, 1_000_000).await.unwrap();
            transcript.note(format!("count_messages_of {destination:?}"), looked);
        }
        transcript.note("count_paused_messages", Engine::count_paused_messages(&mut conn, 1_000_000).await.unwrap());
        let claim = Claim { from_shard: 0, per_shard: 1_000, limit: 1_000, bytes: 10_000_000, claim_ttl_us: 10 * HOUR };
        let rows = Engine::claim_outbox(&mut conn, claim).await.unwrap();
        transcript.note_unordered("claim_outbox in a pause", rows.iter().map(claimed).collect());
        let expired = Engine::expire_outbox(&mut conn, HOUR / 2, 1_000).await.unwrap();
        transcript.note_unordered("expire_outbox in a pause", tallies(&expired));
        for (kept_due, per_shard) in [(2, 3), (1, 1_000), (0, 0)] {
            let aside = Engine::set_aside_outbox(&mut conn, kept_due, per_shard, 15 * HOUR).await.unwrap();
            transcript.note(format!("set_aside_outbox {kept_due} {per_shard}"), aside);
        }
        drop(conn);
        <Engine as Twin>::dump(pool, "in a pause", transcript).await;
        let mut conn = pool.acquire().await.unwrap();
        for destination in [("shop", "paid"), ("shop", ""), ("Shop", "paid")] {
            let changed = Engine::resume_destination(&mut conn, destination).await.unwrap();
            transcript.note(format!("resume_destination {destination:?}"), changed);
        }
        let rows = Engine::claim_outbox(&mut conn, claim).await.unwrap();
        transcript.note_unordered("claim_outbox after the pauses", rows.iter().map(claimed).collect());
    }

    async fn outcomes(pool: &Pool<Engine>, rows: &[ClaimedRow], transcript: &mut Transcript) {
        let keys: Vec<OutboxKey> = rows.iter().map(|row| row.key).collect();
        let unknown = OutboxKey { shard: 0, id: Uuid::from_u128(3) };
        let of = |place: usize| -> Vec<OutboxKey> {
            keys.iter().copied().skip(place).step_by(4).chain([unknown]).collect()
        };
        for _ in 0..2 {
            transcript.note("delete_outbox", Engine::delete_outbox(pool, &of(0)).await.unwrap());
            transcript.note("mark_outbox", Engine::mark_outbox(pool, &of(1)).await.unwrap());
        }
        let attempts_of = |key: &OutboxKey| rows.iter().find(|row| row.key == *key).map_or(1, |row| row.attempts);
        let mut conn = pool.acquire().await.unwrap();
        // Every third row has been claimed again since.
        let later: Vec<_> = of(2).iter().enumerate().map(|(place, key)| Reschedule {
            key: *key,
            attempts: attempts_of(key) - i32::from(place % 3 == 2),
            delay_us: 25 * HOUR,
            code: "UNAVAILABLE".to_owned(),
            error: "no server".to_owned(),
        }).collect();
        transcript.note("reschedule_outbox", Engine::reschedule_outbox(&mut conn, &later).await.unwrap());
        let buried: Vec<_> = of(3).iter().enumerate().map(|(place, key)| ToDeadLetter {
            key: *key,
            attempts: attempts_of(key) - i32::from(place % 3 == 2),
            code: "TOO_LARGE".to_owned(),
            reason: "over the limit".to_owned(),
        }).collect();
        let done = Engine::move_to_dead_letters(&mut conn, &buried).await.unwrap();
        transcript.note_unordered("move_to_dead_letters", done.iter().map(|key| format!("{key:?}")).collect());
    }

    async fn dead(pool: &Pool<Engine>, transcript: &mut Transcript) {
        let mut conn = pool.acquire().await.unwrap();
        let after = OutboxKey { shard: -1, id: Uuid::nil() };
        let page = Engine::list_dead(&mut conn, after, Bound::new(1_000, 100_000_000)).await.unwrap();
        let keys: Vec<_> = page.rows.iter().map(|row| row.key).collect();
        let of = |place: usize| -> Vec<OutboxKey> { keys.iter().copied().skip(place).step_by(5).collect() };
        for _ in 0..2 {
            transcript.note("replay_dead", Engine::replay_dead(&mut conn, &of(0)).await.unwrap());
            transcript.note("delete_dead", Engine::delete_dead(&mut conn, &of(1)).await.unwrap());
        }
        drop(conn);
        <Engine as Twin>::dump(pool, "replayed", transcript).await;
        let mut conn = pool.acquire().await.unwrap();
        for (retention, limit) in [(280 * HOUR + HOUR / 2, 1_000_000), (100 * HOUR + HOUR / 2, 1_000_000)] {
            let pruned = Engine::prune_dead(&mut conn, retention, limit).await.unwrap();
            transcript.note(format!("prune_dead {retention} {limit}"), pruned);
        }
        drop(conn);
        <Engine as Twin>::dump(pool, "dead letters", transcript).await;
    }
}
