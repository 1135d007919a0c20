//! What writes on boxes, timers, names, turns and failures.

use std::num::NonZeroU32;
use std::time::Duration;

use eventbox::{Event, EventId, Recipient, admin, dsset};
use sqlx::types::Uuid;

use super::engines::Twin;
use super::run::Run;
use super::table::{KINDS, STEP_US, twice};
use crate::support::drain;

pub(super) async fn all<B: Twin>(run: &mut Run<'_, B>) {
    forget(run).await;
    move_timers(run).await;
    prune(run).await;
    fail_and_pause(run).await;
    take_aside(run).await;
    delete(run).await;
    emit(run).await;
    turns(run).await;
    prune(run).await;
}

async fn forget<B: Twin>(run: &mut Run<'_, B>) {
    for to in run.some(0, 2) {
        let forgotten = admin::forget(&run.pool, &to).await.unwrap();
        run.note(format!("forget {to}"), [forgotten]);
    }
    run.dump("forgotten").await;
}

/// Timers are due by a moment that is given, so the first of these moves also tells what is due exactly then.
async fn move_timers<B: Twin>(run: &mut Run<'_, B>) {
    let all: Vec<i16> = (0..=255).collect();
    for (shards, limit, now) in [
        (&all[..], 3, Some(-5)),
        (&[3, 67][..], 5, Some(-4)),
        (&all[..], 1, Some(-4)),
        (&all[..], 12, Some(-2)),
        (&[131][..], 1_000, Some(-1)),
        (&[4][..], 10, None),
        (&all[..], 1_000, None),
        (&all[..], 2, Some(2)),
    ] {
        let now_us = now.map(|steps| run.at(steps));
        let moved = B::move_timers(&run.pool, shards, limit, now_us).await.unwrap();
        let due = moved.iter().filter(|shard| shard.moved > 0).count();
        let part = (limit / i64::try_from(due).unwrap().max(1)).max(1);
        // A shard that gave its whole part may say that it has more to give.
        let shown = moved.iter().filter(|shard| shard.moved > 0 || shard.next_in_us.is_some()).map(|shard| {
            let wait = shard.next_in_us.filter(|_| now.is_some()).map(|wait| wait.max(0) / STEP_US);
            (shard.shard, shard.moved, if shard.moved >= part { None } else { wait })
        });
        let step = format!("move {limit} of {} shards by {now:?}", shards.len());
        run.note_sorted(&step, shown.collect::<Vec<_>>());
        run.dump(step).await;
    }
}

async fn prune<B: Twin>(run: &mut Run<'_, B>) {
    for (limit, delay) in [(2, 8), (1_000, 8), (1_000, 3)] {
        let delay = Duration::from_micros((delay * STEP_US + STEP_US / 2).unsigned_abs());
        for shard in [3, 67, 131, 195, 4] {
            let (mut after, limit) = (None, NonZeroU32::new(limit).unwrap());
            for slice in 0..3 {
                let mut tx = eventbox::begin(&run.pool).await.unwrap();
                let pruned = dsset::prune_slice::<B>(&mut tx, shard, after.as_ref(), limit, delay).await.unwrap();
                tx.commit().await.unwrap();
                after.clone_from(&pruned.next);
                run.note(format!("prune {shard} {limit} {slice}"), [pruned]);
            }
        }
        run.dump(format!("pruned {limit}")).await;
    }
}

async fn fail_and_pause<B: Twin>(run: &mut Run<'_, B>) {
    for (place, to) in run.some(0, 1).into_iter().enumerate() {
        let (shard, recipient) = (i16::from(to.shard()), to.as_str());
        let answer = match place % 5 {
            0 => {
                let conn = &mut *run.conn().await;
                let pauses = (STEP_US, 100 * STEP_US);
                format!("{:?}", B::count_failure(conn, shard, recipient, "it's \u{e4}", pauses).await.unwrap())
            }
            1 => {
                B::clear_failures(&mut *run.conn().await, shard, recipient).await.unwrap();
                "cleared".to_owned()
            }
            2 => format!("{:?}", admin::pause(&run.pool, &to).await.unwrap()),
            3 => format!("{:?}", admin::resume(&run.pool, &to).await.unwrap()),
            _ => String::new(),
        };
        run.note(format!("failure of {to}"), [answer]);
    }
    for kind in KINDS {
        let paused = admin::pause_kind(&run.pool, kind).await.unwrap();
        let resumed = if kind.len() == 4 { Some(admin::resume_kind(&run.pool, kind).await.unwrap()) } else { None };
        run.note(format!("pause {kind}"), [(paused, resumed)]);
    }
    run.dump("failed and paused").await;
    for kind in KINDS {
        admin::resume_kind(&run.pool, kind).await.unwrap();
    }
}

fn events(ids: &[Uuid]) -> Vec<EventId> {
    ids.iter().map(|id| EventId::from(*id)).collect()
}

async fn take_aside<B: Twin>(run: &mut Run<'_, B>) {
    for to in run.some(1, 2) {
        let in_box: Vec<_> = run.ids_of("eventbox_event", &to, 2);
        let taken = admin::quarantine(&run.pool, &to, &events(&in_box), "no good").await.unwrap();
        let aside = run.ids_of("eventbox_dead_letter", &to, 1);
        let (first, rest) = aside.split_at(aside.len() / 2);
        let back = admin::replay(&run.pool, &to, &events(first)).await.unwrap();
        let gone = admin::discard(&run.pool, &to, &events(rest)).await.unwrap();
        let again = admin::replay(&run.pool, &to, &events(&in_box[..in_box.len() / 2])).await.unwrap();
        run.note(format!("quarantine of {to}"), [taken, back, gone, again]);
    }
    let to = twice();
    let both: Vec<_> = admin::quarantined(&run.pool, &to, None, 10).await.unwrap();
    let both: Vec<_> = both.iter().map(|quarantined| quarantined.event.id()).collect();
    run.note("replay of one name", [admin::replay(&run.pool, &to, &both).await.unwrap()]);
    run.dump("taken aside").await;
}

async fn delete<B: Twin>(run: &mut Run<'_, B>) {
    for (place, to) in run.some(0, 3).into_iter().enumerate() {
        let (shard, recipient) = (i16::from(to.shard()), to.as_str());
        let names: Vec<String> = ["a", "A", "ä", "a%b", "a_b", "it's"].map(|word| format!("{word}-1")).to_vec();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut deleted = Vec::new();
        match place % 4 {
            0 => {
                let ids = [run.ids_of("eventbox_event", &to, 3), run.ids_of("eventbox_timer", &to, 2)].concat();
                deleted.push(admin::purge(&run.pool, &to, &events(&ids)).await.unwrap());
            }
            1 => deleted.push(admin::purge_all(&run.pool, &to).await.unwrap()),
            2 => {
                let mut tx = eventbox::begin(&run.pool).await.unwrap();
                deleted.push(B::delete_named_events(&mut tx, shard, recipient, &names).await.unwrap());
                for limit in [0, 1, 2] {
                    let until = B::newest_event(&mut tx, shard, recipient).await.unwrap().unwrap_or_default();
                    deleted.push(B::purge_events(&mut tx, shard, recipient, until, limit).await.unwrap());
                    let until = B::newest_timer(&mut tx, shard, recipient).await.unwrap().unwrap_or_default();
                    deleted.push(B::purge_timers(&mut tx, shard, recipient, until, limit).await.unwrap());
                }
                tx.commit().await.unwrap();
            }
            _ => {
                for name in names {
                    let cancelled = B::cancel_timer_on_pool(&run.pool, shard, recipient, name).await.unwrap();
                    deleted.push(cancelled.into());
                }
            }
        }
        run.note(format!("delete from {to}"), deleted);
    }
    run.dump("deleted").await;
}

/// Emits of every size that has a statement of its own, with new names, remembered names and timers.
async fn emit<B: Twin>(run: &mut Run<'_, B>) {
    let recipients = run.some(0, 1);
    if recipients.is_empty() {
        return;
    }
    for count in [1_usize, 9, 10, 11, 99, 101, 499, 501, 700] {
        let event = |place: usize| (recipients[place * 7 % recipients.len()].clone(), Event::new(format!("{place}")));
        let emitted = B::emit_all(&run.pool, &(0..count).map(event).collect::<Vec<_>>()).await;
        run.note(format!("emit {count}"), [emitted.len()]);
    }
    let (mut named, names) = (Vec::new(), ["a-1", "A-1", "\u{e4}-1", "a%b-1", "a_b-2", "it's-2", "new"]);
    for (place, to) in recipients.iter().enumerate() {
        for (n, name) in names.iter().enumerate() {
            let event = Event::new(format!("{place}")).named(*name);
            let later = Duration::from_secs(6_000);
            named.push((to.clone(), if (place + n) % 3 == 0 { event.due_in(later) } else { event }));
        }
        named.push((to.clone(), Event::new("unnamed")));
    }
    for part in named.chunks(800) {
        for attempt in ["first", "second"] {
            let emitted = B::emit_all(&run.pool, part).await;
            let shown = emitted.iter().map(|one| format!("{one:?}").split('(').next().map(str::to_owned));
            run.note(format!("emit with names, {attempt}"), shown.collect::<Vec<_>>());
        }
    }
    run.dump("emitted").await;
}

/// Turns, of which each claims the next and removes what it has seen; their number shows how the box was cut.
async fn turns<B: Twin>(run: &mut Run<'_, B>) {
    for to in run.some(0, 2) {
        admin::resume(&run.pool, &to).await.unwrap();
        let seen = drain(&run.pool, &to).await;
        run.note(
            format!("turns of {to}"),
            seen.iter().map(|event| (event.name().map(str::to_owned), event.value().to_vec())),
        );
    }
    let to = Recipient::new("cell", "never").unwrap();
    let conn = &mut *run.conn().await;
    let (shard, recipient, token) = (i16::from(to.shard()), to.as_str(), Uuid::from_u128(7));
    let mut moved = Vec::new();
    for turn in [1, 0, 0, 1, 5, 2] {
        moved.push(B::advance_turn(conn, shard, recipient, turn, token).await.unwrap());
    }
    run.note("advance", moved);
    let saved = B::save_state(conn, shard, recipient, Some(b"x")).await.unwrap();
    let settled = B::settle_turn(conn, shard, recipient, token).await.unwrap();
    let ours = B::is_turn_of(conn, shard, recipient, Uuid::from_u128(8)).await.unwrap();
    let next = B::move_turn(conn, shard, recipient, token).await.unwrap();
    run.note("settle", [format!("{saved} {settled:?} {ours} {next}")]);
    run.dump("turns").await;
}
