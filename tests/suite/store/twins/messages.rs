//! What writes on the outbox and on the dead letters.

use std::collections::{BTreeMap, HashMap};

use eventbox::outbox::{self, DeadLetterId};

use super::engines::{Claim, Key, Twin};
use super::run::Run;
use super::table::STEP_US;

pub(super) async fn all<B: Twin>(run: &mut Run<'_, B>) {
    // What the others write has the same due time for many messages, of which a limit takes any.
    expire(run, &[(1_000, 1), (900, 3)]).await;
    claim(run).await;
    recall(run).await;
    settle(run).await;
    expire(run, &[(250, 1_000), (100_000, 1_000)]).await;
    purge(run).await;
    dead(run).await;
}

/// Returns every `step`th message, from `from` on, with the attempts that it has or, for some, with others.
async fn keys<B: Twin>(run: &Run<'_, B>, from: usize, step: usize) -> Vec<(Key, i32)> {
    let columns = format!("{} || '|' || CAST(attempts AS text)", B::digits("id", true));
    let attempts = B::texts(&run.pool, format!("SELECT {columns} FROM eventbox_outbox")).await;
    let attempts: HashMap<_, _> = attempts.iter().filter_map(|row| row.split_once('|')).collect();
    let mut keys = Vec::new();
    for (shard, _, id) in run.table.ids("eventbox_outbox").into_iter().skip(from).step_by(step) {
        let made: i32 = attempts.get(id.simple().to_string().as_str()).map_or(0, |made| made.parse().unwrap());
        keys.push(((shard, id), made + i32::from(keys.len() % 4 == 3)));
    }
    keys
}

async fn claim<B: Twin>(run: &mut Run<'_, B>) {
    let whole = Claim { from_shard: 0, per_shard: 1_000, limit: 1_000, hold_us: 20 * STEP_US, bytes: 1 << 30 };
    for claim in [
        Claim { per_shard: 1, ..whole },
        Claim { from_shard: 4, per_shard: 2, ..whole },
        Claim { limit: 3, ..whole },
        Claim { bytes: 3_000, ..whole },
        Claim { bytes: 0, ..whole },
        Claim { from_shard: 255, limit: 5, bytes: 5_000, ..whole },
        Claim { limit: 0, ..whole },
        Claim { per_shard: 5, limit: 7, hold_us: -STEP_US, ..whole },
    ] {
        let claimed = B::claim(&run.pool, claim).await;
        run.note_sorted(format!("{claim:?}"), claimed);
        run.dump(format!("{claim:?}")).await;
    }
}

async fn recall<B: Twin>(run: &mut Run<'_, B>) {
    let half = STEP_US / 2;
    for (longest, per_shard) in [([90_000, 1, 99_000], 2), ([90_000, 1, 1_000], 1_000), ([30, 4, 50], 1_000)] {
        // A limit takes any of those that lie too far ahead.
        let mut counts = Vec::new();
        while counts.last() != Some(&0) {
            counts.push(B::recall(&run.pool, longest.map(|steps| steps * STEP_US + half), per_shard).await);
        }
        run.note(format!("recall {longest:?} {per_shard}"), counts);
        run.dump(format!("recall {longest:?} {per_shard}")).await;
    }
}

async fn settle<B: Twin>(run: &mut Run<'_, B>) {
    let tally = |rows: Vec<(String, String, i64)>| {
        let mut tallies = BTreeMap::new();
        for (source, kind, count) in rows {
            *tallies.entry((source, kind)).or_insert(0) += count;
        }
        tallies
    };
    for (name, from) in [("MARK_OUTBOX", 0), ("DELETE_OUTBOX", 1), ("MARK_OUTBOX", 0)] {
        let keys: Vec<Key> = keys(run, from, 7).await.into_iter().map(|(key, _)| key).collect();
        let settled = tally(B::settle(&run.pool, name, &keys).await);
        run.note(format!("{name} {from}"), settled);
        run.dump(name).await;
    }
    let rescheduled = B::reschedule(&run.pool, &keys(run, 2, 5).await, 7 * STEP_US).await;
    run.note("reschedule", [rescheduled]);
    run.dump("reschedule").await;
    let mut buried = B::bury(&run.pool, &keys(run, 3, 4).await).await;
    buried.sort();
    run.note("bury", buried);
    run.dump("bury").await;
}

async fn expire<B: Twin>(run: &mut Run<'_, B>, bounds: &[(i64, i64)]) {
    for (ttl, per_shard) in bounds {
        let mut tx = eventbox::begin(&run.pool).await.unwrap();
        let expired = B::expire_outbox(&mut tx, ttl * STEP_US + STEP_US / 2, *per_shard).await.unwrap();
        tx.commit().await.unwrap();
        run.note_sorted(format!("expire {ttl} {per_shard}"), expired);
        run.dump(format!("expire {ttl} {per_shard}")).await;
    }
}

async fn purge<B: Twin>(run: &mut Run<'_, B>) {
    for limit in [0, 2, 1_000] {
        let purged = B::purge_outbox(&mut *run.conn().await, limit).await.unwrap();
        run.note(format!("purge {limit}"), [purged]);
        // Of what the test has marked, all were delivered at the same moment for it.
        if limit != 2 {
            run.dump(format!("purge {limit}")).await;
        }
    }
}

async fn dead<B: Twin>(run: &mut Run<'_, B>) {
    let ids: Vec<_> = run.table.ids("eventbox_dead_letter").into_iter().map(|(shard, _, id)| (shard, id)).collect();
    let outbox: Vec<_> = run.table.ids("eventbox_outbox").into_iter().map(|(shard, _, id)| (shard, id)).collect();
    let ids: Vec<_> = [ids, outbox]
        .concat()
        .into_iter()
        .map(|(shard, id)| DeadLetterId::new(shard.try_into().unwrap(), id))
        .collect();
    let part = |from: usize| ids.iter().copied().skip(from).step_by(3).collect::<Vec<_>>();
    let replayed = outbox::replay_dead_letters(&run.pool, &part(0)).await.unwrap();
    run.note("replay", [replayed]);
    run.dump("replay").await;
    let deleted = outbox::delete_dead_letters(&run.pool, &part(1)).await.unwrap();
    run.note("delete dead letters", [deleted]);
    run.dump("delete dead letters").await;
    for (age, limit) in [(100_000, 10), (30, 0), (30, 100_000), (0, 3)] {
        let pruned = B::prune_dead(&mut *run.conn().await, age * STEP_US + STEP_US / 2, limit).await.unwrap();
        run.note(format!("prune dead letters {age} {limit}"), [pruned]);
        if limit != 3 {
            run.dump(format!("prune dead letters {age} {limit}")).await;
        }
    }
}
