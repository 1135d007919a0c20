//! Statements that only read.

use sqlx::Pool;
use uuid::Uuid;

use super::tables::{PAUSED_KIND, SHARDS, boxes};
use super::{HOUR, Transcript, hours, label};
use crate::store::bound::{Bound, Page};
use crate::store::inbox::event::ListedRow;
use crate::store::macros::on_both_engines;
use crate::store::turns::round::{RoundFrom, RoundRow, WalkFrom};

/// Limits of rows and of bytes.
const BOUNDS: [(i64, usize); 4] = [(1, 100_000), (5, 2_000), (7, 100_000), (1_000, 10_000_000)];

pub(super) fn event(row: &ListedRow) -> String {
    format!("{} {:?} {:?} {:?} {}", label(row.id), row.name, row.traceparent, row.origin, row.value.len())
}

pub(super) fn page<T>(page: &Page<T>, text: impl Fn(&T) -> String) -> (bool, Vec<String>) {
    (page.is_cut, page.rows.iter().map(text).collect())
}

fn round(row: &RoundRow) -> String {
    let events: Vec<_> = row.events.iter().map(event).collect();
    let state = row.state.as_ref().map(Vec::len);
    let is_cut = row.is_cut;
    format!("{} {} {state:?} {} {} {is_cut} {events:?}", row.place, row.turn, row.hindered, row.failing)
}

on_both_engines! {
    use crate::store::operate::backlog::BacklogDialect;
    use crate::store::outgoing::dead_letter::DeadLetterTable;
    use crate::store::inbox::event::EventTable;
    use crate::store::turns::failure::FailureTable;
    use crate::store::inbox::item::ItemTable;
    use crate::store::outgoing::outbox::OutboxKey;
    use crate::store::operate::quarantine::QuarantineTable;
    use crate::store::turns::round::RoundDialect;
    use crate::store::turns::round_of_one::RoundOfOneTable;
    use crate::store::turns::state::StateTable;
    use crate::store::inbox::status::{StatusTable, Location};
    use crate::store::inbox::timer::TimerTable;
    use crate::store::inbox::tombstone::TombstoneTable;
    use crate::store::turns::turn::TurnTable;

    type Conn = <Engine as sqlx::Database>::Connection;

    pub(in crate::store::twins) async fn run(pool: &Pool<Engine>, transcript: &mut Transcript) {
        let mut conn = pool.acquire().await.unwrap();
        for (shard, recipient) in boxes() {
            one_box(&mut conn, shard, recipient, transcript).await;
        }
        for shard in SHARDS {
            one_shard(&mut conn, shard, transcript).await;
        }
        walks(pool, transcript).await;
        rounds(&mut conn, transcript).await;
        for limit in [1, 7, 100_000] {
            for kinds in [&["cell"][..], &["cell", "cello", "order", "Order", "none"]] {
                let mut rows = Engine::count_backlog(&mut conn, kinds, limit).await.unwrap();
                rows.sort_by(|left, right| left.kind.cmp(&right.kind));
                transcript.note(format!("count_backlog {kinds:?} {limit}"), rows);
            }
        }
        transcript.note("list_tombstone_shards", Engine::list_tombstone_shards(&mut conn).await.unwrap());
        for (rows, bytes) in BOUNDS {
            let mut after = OutboxKey { shard: -1, id: Uuid::nil() };
            for _ in 0..3 {
                let found = Engine::list_dead(&mut conn, after, Bound::new(rows, bytes)).await.unwrap();
                after = found.rows.last().map_or(after, |row| row.key);
                let text = page(&found, |row| {
                    let (attempts, age) = (row.attempts, hours(row.dead_at_us - now_us()));
                    let size = row.payload.len();
                    format!(
                        "{:?} {} {} {:?} {} {} {attempts} {age} {size}",
                        row.key, row.source, row.r#type, row.origin, row.code, row.reason,
                    )
                });
                transcript.note(format!("list_dead {rows} {bytes}"), text);
            }
        }
    }

    fn now_us() -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        since.as_micros() as i64
    }

    async fn one_box(conn: &mut Conn, shard: i16, recipient: &str, transcript: &mut Transcript) {
        let of = format!("{shard} {recipient}");
        let all =
            Engine::list_events(conn, shard, recipient, Uuid::nil(), Bound::new(1_000, 10_000_000)).await.unwrap();
        let middle = all.rows.get(all.rows.len() / 2).map_or(Uuid::nil(), |row| row.id);
        for (rows, bytes) in BOUNDS {
            for after in [Uuid::nil(), middle, Uuid::max()] {
                let call = format!("{of} {rows} {bytes} after {}", label(after));
                let bound = Bound::new(rows, bytes);
                let found = Engine::list_events(conn, shard, recipient, after, bound).await.unwrap();
                transcript.note(format!("list_events {call}"), page(&found, event));
                let opened = Engine::open_turn(conn, shard, recipient, after, bound).await.unwrap();
                let events: Vec<_> = opened.events.iter().map(event).collect();
                let (has_token, wait) = (opened.token.is_some(), hours(opened.wait_us));
                let rest = (opened.turn, has_token, opened.paused, opened.failing, wait, opened.is_cut);
                transcript.note(format!("open_turn {call}"), (rest, events));
                let found = Engine::list_timers(conn, shard, recipient, after, bound).await.unwrap();
                let text = page(&found, |row| format!("{} {}", hours(row.due_at_us - now_us()), event(&row.event)));
                transcript.note(format!("list_timers {call}"), text);
                let found = Engine::list_quarantined(conn, shard, recipient, after, bound).await.unwrap();
                let text = page(&found, |row| format!(
                    "{} {:?} {:?} {:?} {} {} {} {} {}",
                    label(row.id), row.name, row.traceparent, row.origin, row.value.len(), row.code, row.reason,
                    row.attempts, hours(row.dead_at_us - now_us()),
                ));
                transcript.note(format!("list_quarantined {call}"), text);
            }
            let found = Engine::list_items(conn, shard, recipient, Bound::new(rows, bytes)).await.unwrap();
            let text = page(&found, |row| format!("{} {} {}", label(row.id), row.name, row.value.len()));
            transcript.note(format!("list_items {of} {rows} {bytes}"), text);
        }
        transcript.note(format!("measure_box {of}"), Engine::measure_box(conn, shard, recipient).await.unwrap());
        transcript.note(format!("newest_event {of}"), Engine::newest_event(conn, shard, recipient).await.unwrap());
        transcript.note(format!("newest_timer {of}"), Engine::newest_timer(conn, shard, recipient).await.unwrap());
        transcript.note(format!("read_turn {of}"), Engine::read_turn(conn, shard, recipient).await.unwrap());
        transcript.note(format!("read_moment {of}"), Engine::read_moment(conn, shard, recipient).await.unwrap().turn);
        transcript.note(format!("read_state {of}"), Engine::read_state(conn, shard, recipient).await.unwrap());
        transcript.note(format!("last_name {of}"), Engine::last_name(conn, shard, recipient).await.unwrap());
        for (delay, limit) in [(0, 1), (HOUR * 61 / 2, 100), (HOUR * 1_000, 100), (-HOUR * 121 / 2, 100)] {
            let names = Engine::expired_names(conn, shard, recipient, delay, limit).await.unwrap();
            transcript.note(format!("expired_names {of} {delay} {limit}"), names);
        }
        let mut standing = Engine::read_standing(conn, shard, recipient).await.unwrap();
        standing.updated_at_us = standing.updated_at_us.map(|us| hours(us - now_us()));
        if standing.next_attempt_at_us > 0 {
            standing.next_attempt_at_us = hours(standing.next_attempt_at_us - now_us());
        }
        transcript.note(format!("read_standing {of}"), standing);
        for row in all.rows.iter().take(3) {
            for name in [None, row.name.as_deref()] {
                let id = name.is_none().then_some(row.id);
                let found = Engine::read_status(conn, shard, recipient, id, name).await.unwrap();
                transcript.note(format!("read_status {of} {id:?} {name:?}"), found);
            }
        }
        for name in ["n0", "n1", "N1", "ñ2", "n%3", "n_2", "nothing", "n"] {
            let mut found = Engine::read_status(conn, shard, recipient, None, Some(name)).await.unwrap();
            if let Location::Timer { due_at_us } = &mut found.location {
                *due_at_us = hours(*due_at_us - now_us());
            }
            transcript.note(format!("read_status {of} {name}"), found);
        }
    }

    async fn one_shard(conn: &mut Conn, shard: i16, transcript: &mut Transcript) {
        for after in ["", "cell/A", "cell/a", "cell/a_", "cell/zz", "zzz"] {
            for limit in [1, 3, 100] {
                let found = Engine::list_recipients(conn, shard, after, limit).await.unwrap();
                transcript.note(format!("list_recipients {shard} {after} {limit}"), found);
            }
        }
        transcript.note(format!("last_tombstone {shard}"), Engine::last_tombstone(conn, shard).await.unwrap());
    }

    async fn walks(pool: &Pool<Engine>, transcript: &mut Transcript) {
        for kinds in [&["cell"][..], &["cell", "order"], &[PAUSED_KIND], &["cel"]] {
            for per_shard in [1, 3, 100] {
                for (after, last) in
                    [("", None), ("cell/a", None), ("cell/a", Some("cell/z")), ("cell/z", Some("cell/a"))]
                {
                    // With a shard that has no events.
                    let from = SHARDS.into_iter().chain([100]).map(|shard| {
                        WalkFrom { shard, after: after.to_owned(), last: last.map(str::to_owned) }
                    });
                    let from: Vec<_> = from.collect();
                    let found = Engine::walk_recipients(pool, &from, per_shard, kinds).await.unwrap();
                    let call = format!("walk_recipients {kinds:?} {per_shard} after {after:?} to {last:?}");
                    let rows: Vec<_> = found.iter().map(|row| {
                        let (first, wait) = (label(row.first), hours(row.wait_us));
                        let last = &row.last;
                        format!("{} {} {first} {last:?} {} {wait}", row.shard, row.recipient, row.paused)
                    }).collect();
                    // In order within a shard.
                    for shard in SHARDS {
                        let of_shard: Vec<_> =
                            rows.iter().filter(|row| row.starts_with(&format!("{shard} "))).collect();
                        transcript.note(format!("{call}: {shard}"), of_shard);
                    }
                    transcript.note(call, rows.len());
                }
            }
        }
    }

    async fn rounds(conn: &mut Conn, transcript: &mut Transcript) {
        for is_known in [false, true] {
            for (rows, bytes) in BOUNDS {
                for longest_wait in [HOUR / 2, HOUR * 61 / 2, HOUR * 1_000] {
                    let from: Vec<_> =
                        boxes()
                            .map(|(shard, recipient)| RoundFrom { shard, recipient, after: Uuid::nil(), is_known })
                            .collect();
                    let call = format!("{is_known} {rows} {bytes} {longest_wait}");
                    let found = Engine::list_round(conn, &from, Bound::new(rows, bytes), longest_wait).await.unwrap();
                    transcript.note(format!("list_round {call}"), found.iter().map(round).collect::<Vec<_>>());
                    for one in from.iter().take(14) {
                        let found = Engine::list_one(conn, one, Bound::new(rows, bytes), longest_wait).await.unwrap();
                        transcript.note(format!("list_one {call} {one:?}"), round(&found));
                    }
                }
            }
        }
    }
}
