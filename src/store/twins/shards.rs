//! Statements on members and leases.

use sqlx::Pool;
use uuid::Uuid;

use super::{HOUR, Transcript, hours};
use crate::store::macros::on_both_engines;
use crate::store::shards::lease::{MemberRow, ShardMask};
use crate::store::shards::report::MemberReport;
use crate::store::shards::spec::{FailureWrite, SpecWrite};

const TERM: i64 = 10 * HOUR;

on_both_engines! {
    use crate::store::shards::lease::LeaseTable;
    use crate::store::shards::spec::SpecTable;

    type Conn = <Engine as sqlx::Database>::Connection;

    pub(in crate::store::twins) async fn run(pool: &Pool<Engine>, transcript: &mut Transcript) {
        let mut conn = pool.acquire().await.unwrap();
        let [first, second] = [1, 2].map(Uuid::from_u128);
        for (worker, exiting) in [(second, false), (first, false), (second, true)] {
            let member = MemberRow {
                worker,
                address: "a".to_owned(),
                shard_limit: 9,
                exiting,
                silent_us: 0,
                report: MemberReport { kinds: vec!["a".to_owned()], ..MemberReport::default() },
                zone: "z".to_owned(),
                labels: [("l".to_owned(), "v".to_owned())].into(),
                endpoint: exiting.then(|| "http://b:1".to_owned()),
            };
            Engine::beat_member(&mut conn, &member).await.unwrap();
        }
        // A silent member, and one whose clock was ahead.
        for (worker, hours) in [(3, -30), (4, 30), (5, -5)] {
            let sql = concat!("INSERT INTO eventbox_member (worker, address, shard_limit, exiting, heartbeat_at_us)
                 VALUES ($1, 'b', 1, $3, $2 + ", now_us!(), ")");
            let query = sqlx::query::<Engine>(sql).bind(Uuid::from_u128(worker)).bind(hours * HOUR).bind(false);
            query.execute(&mut *conn).await.unwrap();
        }
        note(&mut conn, "members", transcript).await;
        transcript.note("delete_silent_members", Engine::delete_silent_members(&mut conn, TERM).await.unwrap());
        Engine::delete_member(&mut conn, Uuid::from_u128(5)).await.unwrap();
        let claim = async |conn: &mut Conn, shards: std::ops::Range<u8>, holder, term| {
            Engine::claim_leases(conn, &ShardMask::new(shards), holder, term).await.unwrap()
        };
        transcript.note("claim_leases", claim(&mut conn, 0..10, first, TERM).await);
        transcript.note("claim_leases of another", claim(&mut conn, 5..15, second, TERM).await);
        transcript.note("claim_leases again", claim(&mut conn, 0..10, first, TERM).await);
        // Leases that have expired, and leases that lie too far ahead.
        for (shard, hours) in [(1, -1), (2, 19), (3, 21), (4, 10), (12, -30)] {
            let sql = concat!("UPDATE eventbox_lease SET expires_at_us = $2 + ", now_us!(), " WHERE shard = $1");
            sqlx::query::<Engine>(sql).bind(shard).bind(hours * HOUR + HOUR / 4).execute(&mut *conn).await.unwrap();
        }
        note(&mut conn, "expired", transcript).await;
        transcript.note("claim_leases expired", claim(&mut conn, 0..20, second, TERM).await);
        note(&mut conn, "claimed", transcript).await;
        transcript.note("renew_leases", Engine::renew_leases(&mut conn, second, TERM * 2).await.unwrap());
        let some = ShardMask::new(0..8);
        transcript.note(
            "hand_over_leases",
            Engine::hand_over_leases(&mut conn, &some, first, second, TERM).await.unwrap(),
        );
        note(&mut conn, "handed over", transcript).await;
        transcript.note("release_leases", Engine::release_leases(&mut conn, &some, second).await.unwrap());
        transcript.note("release_leases again", Engine::release_leases(&mut conn, &some, second).await.unwrap());
        note(&mut conn, "released", transcript).await;
        specs(&mut conn, first, transcript).await;
    }

    async fn specs(conn: &mut Conn, holder: Uuid, transcript: &mut Transcript) {
        let labels = [("team".to_owned(), "ramp".to_owned())].into();
        for (shard, is_disabled, zone) in [(3, true, None), (4, false, Some("z")), (3, false, None)] {
            let revision = Engine::next_shard_revision(conn).await.unwrap();
            let spec = SpecWrite { shard, labels: &labels, is_disabled, zone };
            Engine::write_spec(conn, &spec, revision).await.unwrap();
        }
        Engine::claim_leases(conn, &ShardMask::new(6..8), holder, TERM).await.unwrap();
        for (shard, attempts, pause_us) in [(6, 0, Some(5 * HOUR)), (6, 0, None), (7, 0, None), (9, 0, None)] {
            let failure = FailureWrite { shard, holder, attempts, pause_us, errors: "refused" };
            transcript.note("fail_shard", Engine::fail_shard(conn, &failure).await.unwrap());
        }
        note_shards(conn, "specs", transcript).await;
        transcript.note("heal_shards", Engine::heal_shards(conn, &ShardMask::new(5..7)).await.unwrap());
        transcript.note("free_leases", Engine::free_leases(conn, &ShardMask::new(5..8)).await.unwrap());
        for shard in [4, 4, 200] {
            transcript.note("reset_spec", Engine::reset_spec(conn, shard).await.unwrap());
        }
        note_shards(conn, "specs after", transcript).await;
        note(conn, "freed", transcript).await;
    }

    async fn note_shards(conn: &mut Conn, title: &str, transcript: &mut Transcript) {
        for mut order in Engine::list_shard_orders(conn).await.unwrap() {
            order.wait_us = order.wait_us.map(hours);
            transcript.note(title, order);
        }
        for mut shard in Engine::list_shards(conn).await.unwrap() {
            shard.wait_us = shard.wait_us.map(hours);
            // The engines have clocks of their own.
            shard.failed_at_us = shard.failed_at_us.map(|_| 0);
            transcript.note(title, shard);
        }
    }

    async fn note(conn: &mut Conn, title: &str, transcript: &mut Transcript) {
        for mut member in Engine::list_members(conn).await.unwrap() {
            member.silent_us = hours(member.silent_us);
            transcript.note(title, member);
        }
        for mut lease in Engine::list_leases(conn).await.unwrap() {
            // A lease without any holder expired in 1970.
            lease.left_us = hours(lease.left_us).max(-1_000);
            transcript.note(title, lease);
        }
    }
}
