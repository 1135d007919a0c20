//! What only reads: lists, counts and scans.

use std::time::SystemTime;

use eventbox::{admin, outbox};
use sqlx::types::Uuid;

use super::engines::{Twin, steps};
use super::run::Run;
use super::table::{KINDS, STEP_US};

pub(super) async fn all<B: Twin>(run: &mut Run<'_, B>) {
    lists(run).await;
    of_recipients(run).await;
    names(run).await;
    counts(run).await;
    scans(run).await;
    rounds(run).await;
    everything(run).await;
}

fn since<B: Twin>(run: &Run<'_, B>, at: SystemTime) -> i64 {
    let at_us = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
    steps(i64::try_from(at_us).unwrap() - run.base_us)
}

async fn lists<B: Twin>(run: &mut Run<'_, B>) {
    for shard in [3, 67, 131, 195, 4] {
        for limit in [1, 3, 1_000] {
            let mut after = None;
            for page in 0..4 {
                let found = eventbox::pending(&run.pool, shard, after.as_ref(), limit).await.unwrap();
                run.note(format!("pending {shard} {limit} {page}"), &found);
                after = found.last().cloned();
            }
        }
    }
    for to in run.some(0, 1) {
        for limit in [1, 4, 1_000] {
            let events = admin::events(&run.pool, &to, None, limit).await.unwrap();
            run.note(format!("events {to} {limit}"), &events);
            let after = events.last().map(eventbox::Event::id);
            let behind = admin::events(&run.pool, &to, after, limit).await.unwrap();
            run.note(format!("events {to} {limit} behind"), behind);
        }
        let quarantined = admin::quarantined(&run.pool, &to, None, 2).await.unwrap();
        let after = quarantined.last().map(|quarantined| quarantined.event.id());
        let behind = admin::quarantined(&run.pool, &to, after, 100).await.unwrap();
        let of = |one: &admin::Quarantined| {
            (one.event.clone(), one.code.clone(), one.reason.clone(), one.attempts, since(run, one.quarantined_at))
        };
        let both = [quarantined.iter().map(of).collect::<Vec<_>>(), behind.iter().map(of).collect()];
        run.note(format!("quarantined {to}"), both);
    }
    for limit in [1, 7, 1_000] {
        let mut after = None;
        for page in 0..5 {
            let letters = outbox::dead_letters(&run.pool, after, limit).await.unwrap();
            after = letters.last().map(|letter| letter.id);
            let of = |one: &outbox::DeadLetter| {
                let what = (one.source.clone(), one.event_type.clone(), one.code.clone(), one.reason.clone());
                (one.id, what, one.attempts, since(run, one.dead_at))
            };
            run.note(format!("dead letters {limit} {page}"), letters.iter().map(of).collect::<Vec<_>>());
        }
    }
}

async fn of_recipients<B: Twin>(run: &mut Run<'_, B>) {
    for to in run.some(0, 1) {
        let (shard, recipient) = (i16::from(to.shard()), to.as_str());
        let standing = admin::standing(&run.pool, &to).await.unwrap();
        let times = [standing.updated_at, standing.next_attempt_at].map(|at| at.map(|at| since(run, at)));
        let flags = (standing.paused, standing.kind_paused);
        run.note(format!("standing {to}"), [(standing.turn, times, flags, standing.attempts, standing.error)]);
        run.note(format!("stored {to}"), [admin::stored_state(&run.pool, &to).await.unwrap()]);
        run.note(format!("backlog {to}"), [admin::backlog(&run.pool, &to).await.unwrap()]);
        let conn = &mut *run.conn().await;
        let turn = (
            B::read_turn(conn, shard, recipient).await.unwrap(),
            B::read_moment(conn, shard, recipient).await.unwrap().turn,
            B::read_state(conn, shard, recipient).await.unwrap(),
            B::newest_event(conn, shard, recipient).await.unwrap(),
            B::newest_timer(conn, shard, recipient).await.unwrap(),
            B::last_name(conn, shard, recipient).await.unwrap(),
        );
        run.note(format!("turn {to}"), [turn]);
        let mut sought = Vec::new();
        for table in ["eventbox_event", "eventbox_timer", "eventbox_dead_letter"] {
            let ids = run.ids_of(table, &to, 2);
            sought.extend(ids.iter().map(|id| (Some(*id), None)));
            let mut living = B::living_events(conn, shard, recipient, &[ids.clone(), ids].concat()).await.unwrap();
            living.sort();
            run.note(format!("living of {table} {to}"), living);
        }
        sought.extend(["a-1", "A-1", "a%b-1", "a_b-2", "\u{e4}-1", "Z-2"].map(|name| (None, Some(name))));
        for (id, name) in sought {
            let seen = B::read_status(conn, shard, recipient, id, name).await.unwrap();
            let place = format!("{:?}", seen.whereabouts);
            let place = place.split("due_at_us").next().map(str::to_owned);
            run.note(
                format!("status {to} {id:?} {name:?}"),
                [(place, seen.turn, seen.paused, seen.attempts, seen.error)],
            );
        }
    }
    let paused = admin::paused_kinds(&run.pool).await.unwrap();
    let paused: Vec<_> = paused.into_iter().map(|one| (one.kind, since(run, one.paused_at))).collect();
    run.note("paused kinds", paused);
}

async fn names<B: Twin>(run: &mut Run<'_, B>) {
    let conn = &mut *run.conn().await;
    run.note("shards with names", B::list_tombstone_shards(conn).await.unwrap());
    for shard in [3, 67, 131, 195, 4] {
        run.note(format!("last name of {shard}"), [B::last_tombstone(conn, shard).await.unwrap()]);
    }
    for to in run.some(0, 1) {
        for limit in [1, 2, 100] {
            let delay_us = 3 * STEP_US + STEP_US / 2;
            let names = B::expired_names(conn, to.shard().into(), to.as_str(), delay_us, limit).await.unwrap();
            run.note(format!("expired names {to} {limit}"), names);
        }
    }
}

async fn counts<B: Twin>(run: &mut Run<'_, B>) {
    let backlog = eventbox::backlog(&run.pool, &KINDS).await.unwrap();
    run.note("backlog", backlog);
    let stats = outbox::queue_stats(&run.pool).await.unwrap();
    let numbers = [stats.depth, stats.total_rows, stats.payload_bytes];
    run.note("queue stats", [(numbers, stats.depth_is_at_least, stats.total_is_at_least)]);
    let conn = &mut *run.conn().await;
    for kinds in [&KINDS[..], &["zoo", "cell", "zoo", "none"], &[]] {
        for limit in [1, 5, 100_000] {
            let rows = B::count_backlog(conn, kinds, limit).await.unwrap();
            // The oldest of a count that was cut is any.
            let of = |kind: &str, events: i64, oldest: Option<Uuid>| {
                (kind.to_owned(), events, if events < limit { oldest } else { None })
            };
            run.note(
                format!("count {kinds:?} {limit}"),
                rows.iter().map(|row| of(&row.kind, row.events, row.oldest)).collect::<Vec<_>>(),
            );
        }
    }
    for (ttl, lead) in [(200, 50), (200, 10_000), (5, 0), (100_000, 100_000)] {
        let half = STEP_US / 2;
        let sample = B::observe_outbox(conn, ttl * STEP_US + half, lead * STEP_US).await.unwrap();
        let oldest = steps(sample.oldest_age_us);
        let numbers = [sample.undelivered, sample.payload_bytes, sample.near_ttl, sample.total_rows, oldest];
        run.note(format!("observe {ttl} {lead}"), numbers);
    }
    for limit in [1, 10, 100_000] {
        run.note(format!("messages up to {limit}"), [B::count_outbox(conn, limit).await.unwrap()]);
    }
    run.note("undelivered", [B::has_undelivered(conn).await.unwrap()]);
}

async fn scans<B: Twin>(run: &mut Run<'_, B>) {
    let recipients = run.some(0, 1);
    for shard in [3, 67, 131, 195, 4] {
        let mut own: Vec<_> = recipients.iter().filter(|to| i16::from(to.shard()) == shard).collect();
        own.sort_by_key(|to| to.as_str());
        let (middle, end) = (own.get(own.len() / 3), own.get(own.len() * 2 / 3));
        for kinds in [&KINDS[..], &["cell", "zoo"], &[]] {
            for limit in [1, 3, 20, 1_000] {
                let from_start = B::walk(&run.pool, (shard, "", None), limit, kinds).await;
                run.note(format!("scan {shard} {limit} {kinds:?}"), from_start);
                if let (Some(middle), Some(end)) = (middle, end) {
                    let goes_on = (shard, middle.as_str(), Some(end.as_str()));
                    let rows = B::walk(&run.pool, goes_on, limit, kinds).await;
                    run.note(format!("scan {shard} {limit} {kinds:?} from {middle} to {end}"), rows);
                }
            }
        }
    }
}

async fn rounds<B: Twin>(run: &mut Run<'_, B>) {
    let events = run.table.ids("eventbox_event");
    for (rows, small, bytes, wait) in [(1, 100, 1_000, 3), (3, 1_000, 100, 100), (1_000, 10_000, 100_000, 0)] {
        let parts: Vec<_> = run
            .some(0, 1)
            .iter()
            .enumerate()
            .map(|(place, to)| {
                let own = events.iter().filter(|(_, of, _)| of == to.as_str()).map(|(_, _, id)| *id);
                let after = if place % 3 == 0 { own.min() } else { None };
                (to.shard().into(), to.as_str().to_owned(), after.unwrap_or_default(), place % 4 == 0)
            })
            .collect();
        let wait_us = wait * STEP_US + STEP_US / 2;
        let rows_of_round = B::round(&run.pool, &parts, rows, [small, bytes], wait_us).await;
        run.note_sorted(format!("round of {rows} rows"), rows_of_round);
    }
}

async fn everything<B: Twin>(run: &mut Run<'_, B>) {
    let conn = &mut *run.conn().await;
    let mut ids = B::all_ids(conn).await.unwrap();
    ids.sort();
    run.note("all ids", ids);
    run.note("all events", B::all_events(conn).await.unwrap());
    let timers = B::all_timers(conn).await.unwrap();
    run.note("all timers", timers.into_iter().map(|(to, timer)| (to, timer.event)));
    run.note("all messages", B::all_messages(conn).await.unwrap());
}
