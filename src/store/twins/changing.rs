//! Statements that change boxes.

use sqlx::Pool;
use uuid::Uuid;

use super::fixture::Twin;
use super::reading::event;
use super::tables::{Dice, ORIGIN, PAUSED_KIND, RECIPIENTS, SHARDS, boxes};
use super::{HOUR, Transcript, hours, label};
use crate::store::bound::Bound;
use crate::store::inbox::event::{DueRow, Durability, EventRow};
use crate::store::inbox::tombstone::Slice;
use crate::store::macros::on_both_engines;
use crate::store::operate::quarantine::Verdict;
use crate::store::turns::round::{Removed, RoundWrite, StateWrite};

/// Longest wait for a lock. No other process uses the database.
const LOCK_WAIT_MS: u32 = 1_000;

on_both_engines! {
    use crate::store::inbox::event::{EventDialect, EventTable};
    use crate::store::turns::failure::FailureTable;
    use crate::store::operate::inspect::InspectTable;
    use crate::store::inbox::item::ItemDialect;
    use crate::store::operate::kind::KindTable;
    use crate::store::operate::quarantine::{QuarantineDialect, QuarantineTable};
    use crate::store::turns::round::RoundDialect;
    use crate::store::turns::round_of_one::RoundOfOneDialect;
    use crate::store::turns::state::StateTable;
    use crate::store::inbox::timer::{TimerDialect, TimerTable};
    use crate::store::inbox::tombstone::{TombstoneDialect, TombstoneTable};
    use crate::store::turns::turn::TurnDialect;

    type Conn = <Engine as sqlx::Database>::Connection;

    pub(in crate::store::twins) async fn run(pool: &Pool<Engine>, transcript: &mut Transcript) {
        inserts(pool, transcript).await;
        <Engine as Twin>::dump(pool, "inserted", transcript).await;
        {
            let mut conn = pool.acquire().await.unwrap();
            items(&mut conn, transcript).await;
            failures(&mut conn, transcript).await;
        }
        <Engine as Twin>::dump(pool, "failures", transcript).await;
        {
            let mut conn = pool.acquire().await.unwrap();
            turns(&mut conn, transcript).await;
        }
        <Engine as Twin>::dump(pool, "turns", transcript).await;
        {
            let mut conn = pool.acquire().await.unwrap();
            rounds(&mut conn, transcript).await;
        }
        <Engine as Twin>::dump(pool, "rounds", transcript).await;
        {
            let mut conn = pool.acquire().await.unwrap();
            quarantine(&mut conn, transcript).await;
        }
        <Engine as Twin>::dump(pool, "quarantine", transcript).await;
        timers(pool, transcript).await;
        <Engine as Twin>::dump(pool, "timers", transcript).await;
        let mut conn = pool.acquire().await.unwrap();
        prune(&mut conn, transcript).await;
        purge(&mut conn, transcript).await;
        forget(&mut conn, transcript).await;
        let mut ids = Engine::all_ids(&mut conn).await.unwrap();
        ids.sort();
        transcript.note("all_ids", ids.into_iter().map(label).collect::<Vec<_>>());
        let mut events: Vec<_> = Engine::all_events(&mut conn).await.unwrap();
        events.sort_by_key(|(_, row)| row.id);
        let text: Vec<_> = events.iter().map(|(recipient, row)| format!("{recipient} {}", event(row))).collect();
        transcript.note("all_events", text);
        transcript.note("all_timers", Engine::all_timers(&mut conn).await.unwrap().len());
        transcript.note("all_messages", Engine::all_messages(&mut conn).await.unwrap().len());
        drop(conn);
        <Engine as Twin>::dump(pool, "pruned", transcript).await;
    }

    async fn begin(conn: &mut Conn) {
        sqlx::raw_sql("BEGIN").execute(conn).await.unwrap();
    }

    async fn end(conn: &mut Conn, commits: bool) {
        sqlx::raw_sql(if commits { "COMMIT" } else { "ROLLBACK" }).execute(conn).await.unwrap();
    }

    async fn ids_of(conn: &mut Conn, shard: i16, recipient: &str) -> Vec<Uuid> {
        let page =
            Engine::list_events(conn, shard, recipient, Uuid::nil(), Bound::new(1_000, 10_000_000)).await.unwrap();
        page.rows.iter().map(|row| row.id).collect()
    }

    async fn inserts(pool: &Pool<Engine>, transcript: &mut Transcript) {
        let mut dice = Dice::new(11);
        for size in [1, 2, 40] {
            let names: Vec<String> = (0..size).map(|_| format!("n{}", dice.below(30))).collect();
            let ids: Vec<Uuid> = (0..size).map(|_| dice.id()).collect();
            let mut place = || (SHARDS[dice.below(4) as usize], RECIPIENTS[dice.below(15) as usize]);
            let places: Vec<_> = (0..size).map(|_| place()).collect();
            let row = |place: usize| EventRow {
                shard: places[place].0,
                recipient: places[place].1,
                id: ids[place],
                name: (!place.is_multiple_of(3)).then_some(names[place].as_str()),
                traceparent: None,
                origin: place.is_multiple_of(2).then_some(ORIGIN),
                value: b"inserted",
                due: match place % 4 {
                    0 => Some(DueRow::InUs(HOUR * 5)),
                    1 => Some(DueRow::InUs(-HOUR)),
                    _ => None,
                },
            };
            let rows: Vec<_> = (0..size).map(row).collect();
            let next = |id: Uuid| Uuid::from_u128(id.as_u128() + 1);
            let again: Vec<_> = rows.iter().map(|row| EventRow { id: next(row.id), ..*row }).collect();
            let durability = if size == 2 { Durability::Deferred } else { Durability::Immediate };
            let inserted = Engine::insert_all_on_pool(pool, &rows, durability).await.unwrap();
            transcript.note(format!("insert_events {size}"), inserted);
            let mut tx = pool.begin().await.unwrap();
            transcript.note(
                format!("insert_events again {size}"),
                Engine::insert_events(&mut tx, &again).await.unwrap(),
            );
            tx.commit().await.unwrap();
        }
    }

    async fn items(conn: &mut Conn, transcript: &mut Transcript) {
        for (shard, recipient) in boxes() {
            let of = format!("{shard} {recipient}");
            let mut ids = ids_of(conn, shard, recipient).await;
            ids.extend([Uuid::from_u128(1), Uuid::max()]);
            begin(conn).await;
            let living = Engine::living_events(conn, shard, recipient, &ids).await.unwrap();
            transcript.note_unordered(format!("living_events {of}"), living.into_iter().map(label).collect());
            let names = ["n0", "N1", "ñ2", "none"];
            let deleted = Engine::delete_named_events(conn, shard, recipient, &names).await.unwrap();
            transcript.note(format!("delete_named_events {of}"), deleted);
            let deleted = Engine::delete_events(conn, shard, recipient, &ids).await.unwrap();
            transcript.note(format!("delete_events {of}"), deleted);
            end(conn, false).await;
        }
    }

    async fn failures(conn: &mut Conn, transcript: &mut Transcript) {
        for (place, (shard, recipient)) in boxes().enumerate() {
            let of = format!("{shard} {recipient}");
            match place % 5 {
                0 => {
                    for _ in 0..3 {
                        let pause = (HOUR, HOUR * 30);
                        let attempts = Engine::count_failure(conn, shard, recipient, "too late", pause).await.unwrap();
                        transcript.note(format!("count_failure {of}"), attempts);
                    }
                }
                1 => Engine::clear_failures(conn, shard, recipient).await.unwrap(),
                2 => {
                    for _ in 0..2 {
                        let done = Engine::pause_recipient(conn, shard, recipient).await.unwrap();
                        transcript.note(format!("pause_recipient {of}"), done);
                    }
                }
                3 => {
                    for _ in 0..2 {
                        let done = Engine::resume_recipient(conn, shard, recipient).await.unwrap();
                        transcript.note(format!("resume_recipient {of}"), done);
                    }
                }
                _ => {
                    let turn = Engine::move_turn(conn, shard, recipient, Uuid::from_u128(5)).await.unwrap();
                    transcript.note(format!("move_turn {of}"), turn);
                }
            }
        }
        for kind in [PAUSED_KIND, "Order", "Order"] {
            transcript.note(format!("pause_kind {kind}"), Engine::pause_kind(conn, kind).await.unwrap());
        }
        for kind in ["Order", "Order", "none"] {
            transcript.note(format!("resume_kind {kind}"), Engine::resume_kind(conn, kind).await.unwrap());
        }
    }

    async fn turns(conn: &mut Conn, transcript: &mut Transcript) {
        let token = Uuid::from_u128(77);
        for (place, (shard, recipient)) in boxes().enumerate() {
            let of = format!("{shard} {recipient}");
            let turn = Engine::read_turn(conn, shard, recipient).await.unwrap();
            let ids = ids_of(conn, shard, recipient).await;
            let (first, last) = (ids.first().copied(), ids.last().copied());
            let some: Vec<Uuid> = ids.iter().step_by(2).copied().collect();
            let mut removed = vec![
                ("ids", turn, Removed::Ids(&some)),
                ("lost", turn + 1, Removed::Ids(&some)),
                ("none", turn, Removed::Ids(&[]))
            ];
            let missing = [Uuid::from_u128(3)];
            removed.push(("missing", turn, Removed::Ids(&missing)));
            if let (Some(first), Some(last)) = (first, last) {
                removed.push(("range", turn, Removed::Range { first, last, count: ids.len() }));
                removed.push(("short", turn, Removed::Range { first, last, count: ids.len() + 1 }));
            }
            for (what, turn, removed) in removed {
                begin(conn).await;
                let claimed = Engine::claim_turn(conn, shard, recipient, turn, token, removed).await.unwrap();
                let left = ids_of(conn, shard, recipient).await.len();
                let is_ours = Engine::is_turn_of(conn, shard, recipient, token).await.unwrap();
                transcript.note(format!("claim_turn {of} {what}"), (claimed, left, is_ours));
                end(conn, false).await;
            }
            begin(conn).await;
            let too_far = Engine::advance_turn(conn, shard, recipient, turn + 1, token).await.unwrap();
            let advanced = (too_far, Engine::advance_turn(conn, shard, recipient, turn, token).await.unwrap());
            let settled = Engine::settle_turn(conn, shard, recipient, token).await.unwrap();
            let other = Engine::settle_turn(conn, shard, recipient, Uuid::from_u128(78)).await.unwrap();
            transcript.note(format!("advance_turn {of}"), (advanced, settled, other));
            let state = (place % 2 == 0).then_some(&b"saved"[..]);
            let saved = Engine::save_state(conn, shard, recipient, state).await.unwrap();
            transcript.note(format!("save_state {of}"), saved);
            end(conn, place % 3 > 0).await;
        }
    }

    async fn rounds(conn: &mut Conn, transcript: &mut Transcript) {
        let mut boxes: Vec<_> = boxes().collect();
        boxes.sort();
        for pass in 0..3_usize {
            let mut listed = Vec::new();
            for (shard, recipient) in &boxes {
                let turn = Engine::read_turn(conn, *shard, recipient).await.unwrap();
                let mut ids = ids_of(conn, *shard, recipient).await;
                ids.truncate(4);
                listed.push((turn, ids));
            }
            let writes: Vec<_> =
                boxes.iter().zip(&listed).enumerate().map(|(place, ((shard, recipient), (turn, ids)))| {
                    let removed = match (ids.first(), ids.last()) {
                        (Some(first), Some(last)) if place % 2 == 0 =>
                            Removed::Range { first: *first, last: *last, count: ids.len() },
                        _ => Removed::Ids(ids),
                    };
                    let states = [StateWrite::Keep, StateWrite::Remove, StateWrite::Set(b"round")];
                    let (turn, state) = (*turn + i64::from(place % 7 == 3), states[(place + pass) % 3]);
                    let token = (place % 5 == 4).then_some(Uuid::from_u128(0x100 + pass as u128 - 1));
                    RoundWrite { shard: *shard, recipient, turn, token, state, removed }
                }).collect();
            let token = Uuid::from_u128(0x100 + pass as u128);
            begin(conn).await;
            let lost = Engine::write_round(conn, &writes, token, LOCK_WAIT_MS).await.unwrap();
            let lost = lost.unwrap().iter().map(|place| format!("{place:3}")).collect();
            transcript.note_unordered(format!("write_round {pass}"), lost);
            end(conn, true).await;
        }
        // Each alone, and a shortfall.
        for (place, (shard, recipient)) in boxes.iter().enumerate() {
            let turn = Engine::read_turn(conn, *shard, recipient).await.unwrap() + i64::from(place % 4 == 3);
            let mut ids = ids_of(conn, *shard, recipient).await;
            ids.truncate(2);
            if place % 3 == 2 {
                ids.push(Uuid::from_u128(3));
                ids.sort();
            }
            // Each attempt has a token of its own.
            for (attempt, token, state) in
                [(0x200, None, StateWrite::Set(b"alone")), (0x201, Some(Uuid::from_u128(9)), StateWrite::Keep)]
            {
                let write = RoundWrite { shard: *shard, recipient, turn, token, state, removed: Removed::Ids(&ids) };
                begin(conn).await;
                let won = Engine::write_one(conn, &write, Uuid::from_u128(attempt), LOCK_WAIT_MS).await.unwrap();
                transcript.note(format!("write_one {shard} {recipient} {token:?}"), won);
                end(conn, won.is_some()).await;
            }
            // One that emits: it wins, it is too late, or it removes an event that is gone.
            let now = Engine::read_turn(conn, *shard, recipient).await.unwrap() + i64::from(place % 4 == 1);
            let mut left = ids_of(conn, *shard, recipient).await;
            left.truncate(usize::from(place % 4 != 2));
            left.extend((place % 4 == 2).then_some(Uuid::from_u128(3)));
            let (state, removed) = (StateWrite::Set(b"emits"), Removed::Ids(&left));
            let write = RoundWrite { shard: *shard, recipient, turn: now, token: None, state, removed };
            let (name, traceparent, origin, due) = (None, None, Some("[]"), None);
            let emitted = [1, 0].map(|behind| Uuid::from_u128(u128::MAX - 2 * place as u128 - behind));
            let row = |id| EventRow { shard: *shard, recipient, id, name, traceparent, origin, value: b"emitted", due };
            let (emitted, token) = (emitted.map(row), Uuid::from_u128(0x2ff));
            begin(conn).await;
            let won = Engine::write_one_and_emit(conn, &write, &emitted, token, LOCK_WAIT_MS).await.unwrap();
            transcript.note(format!("write_one_and_emit {shard} {recipient}"), won);
            end(conn, won.is_some()).await;
            transcript.note(format!("events of {shard} {recipient}"), ids_of(conn, *shard, recipient).await);
            let (state, removed) = (StateWrite::Keep, Removed::Ids(&ids));
            let write = RoundWrite { shard: *shard, recipient, turn, token: None, state, removed };
            begin(conn).await;
            let lost = Engine::write_round(conn, &[write], Uuid::from_u128(0x300), LOCK_WAIT_MS).await.unwrap();
            transcript.note(format!("write_round of one {shard} {recipient}"), lost);
            end(conn, false).await;
        }
    }

    async fn quarantine(conn: &mut Conn, transcript: &mut Transcript) {
        for (place, (shard, recipient)) in boxes().enumerate() {
            let of = format!("{shard} {recipient}");
            let mut ids: Vec<_> = ids_of(conn, shard, recipient).await.into_iter().step_by(3).collect();
            ids.push(Uuid::from_u128(3));
            let verdict = Verdict { code: "POISON", reason: "no plan", attempts: 5 };
            begin(conn).await;
            let moved = Engine::quarantine_events(conn, shard, recipient, &ids, verdict).await.unwrap();
            end(conn, true).await;
            let bound = Bound::new(100, 1_000_000);
            let page = Engine::list_quarantined(conn, shard, recipient, Uuid::nil(), bound).await.unwrap();
            let dead: Vec<_> = page.rows.iter().map(|row| row.id).skip(place % 3).step_by(2).collect();
            begin(conn).await;
            let replayed = Engine::replay_events(conn, shard, recipient, &dead).await.unwrap();
            let deleted = Engine::delete_quarantined(conn, shard, recipient, &dead).await.unwrap();
            let others = page.rows.iter().map(|row| row.id).take(1).collect::<Vec<_>>();
            let rest = Engine::delete_quarantined(conn, shard, recipient, &others).await.unwrap();
            end(conn, true).await;
            transcript.note(format!("quarantine {of}"), (moved, replayed, deleted, rest));
        }
    }

    async fn timers(pool: &Pool<Engine>, transcript: &mut Transcript) {
        for (shard, recipient) in boxes() {
            for name in ["n0", "N1", "ñ2"] {
                let done = Engine::cancel_timer_on_pool(pool, shard, recipient, name).await.unwrap();
                transcript.note(format!("cancel_timer {shard} {recipient} {name}"), done);
            }
        }
        {
            let mut conn = pool.acquire().await.unwrap();
            for (shard, recipient) in boxes().step_by(3) {
                let page = Engine::list_timers(&mut conn, shard, recipient, Uuid::nil(), Bound::new(2, 1_000_000))
                    .await
                    .unwrap();
                let mut ids: Vec<_> = page.rows.iter().map(|row| row.event.id).collect();
                ids.push(Uuid::from_u128(3));
                let deleted = Engine::delete_timers(&mut conn, shard, recipient, &ids).await.unwrap();
                transcript.note(format!("delete_timers {shard} {recipient}"), deleted);
            }
        }
        let ahead = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64
            + 30 * HOUR
            + HOUR / 4;
        let shards: Vec<i16> = SHARDS.into_iter().chain([100]).collect();
        for (limit, now) in [
            (1, None), (6, None), (17, None), (100_000, None), (5, Some(ahead)), (100_000, Some(ahead)), (10, None)
        ] {
            let mut moved = Engine::move_timers(pool, &shards, limit, now).await.unwrap();
            moved.sort_by_key(|row| row.shard);
            let rows = moved.iter().map(|row| (row.shard, row.moved, row.next_in_us.map(hours)));
            transcript.note(format!("move_timers {limit} {}", now.is_some()), rows.collect::<Vec<_>>());
            <Engine as Twin>::dump(pool, "moved", transcript).await;
        }
    }

    async fn prune(conn: &mut Conn, transcript: &mut Transcript) {
        for shard in SHARDS {
            let last = Engine::last_tombstone(conn, shard).await.unwrap();
            let Some((recipient, name)) = last else { continue };
            for (delay, limit) in [(HOUR * 1_000, 5), (HOUR * 61 / 2, 7), (HOUR * 61 / 2, 10_000)] {
                let mut after = (String::new(), String::new());
                loop {
                    let slice = Slice {
                        shard, after: (&after.0, &after.1), until: (&recipient, &name), limit, delay_us: delay
                    };
                    begin(conn).await;
                    let pruned = Engine::prune_tombstones(conn, slice).await.unwrap();
                    end(conn, true).await;
                    transcript.note(format!("prune_tombstones {shard} {delay} {limit}"), &pruned);
                    match pruned.last {
                        Some(last) if pruned.walked > 0 => after = last,
                        _ => break,
                    }
                }
            }
        }
    }

    async fn purge(conn: &mut Conn, transcript: &mut Transcript) {
        for (shard, recipient) in boxes().step_by(4) {
            let ids = ids_of(conn, shard, recipient).await;
            let until = ids.get(ids.len() * 2 / 3).copied().unwrap_or(Uuid::max());
            for limit in [0, 2, 100] {
                let events = Engine::purge_events(conn, shard, recipient, until, limit).await.unwrap();
                let timers = Engine::purge_timers(conn, shard, recipient, until, limit).await.unwrap();
                transcript.note(format!("purge {shard} {recipient} {limit}"), (events, timers));
            }
        }
    }

    async fn forget(conn: &mut Conn, transcript: &mut Transcript) {
        for idle in [HOUR * 1_000, HOUR * 61 / 2, 0] {
            for (shard, recipient) in boxes().chain([(3, "cell/never")]) {
                begin(conn).await;
                let found = Engine::forget_recipient(conn, shard, recipient, idle).await.unwrap();
                end(conn, true).await;
                transcript.note(format!("forget_recipient {shard} {recipient} {idle}"), found);
            }
        }
    }
}
