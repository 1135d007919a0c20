//! Stat: it waits for the work, at the holder of the shard.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use eventbox::admin::{self, Operator};
use eventbox::proto::consumer::header::Etcd;
use eventbox::proto::consumer::process_spec::Id;
use eventbox::proto::consumer::shard_client::ShardClient as Generated;
use eventbox::proto::consumer::{Header, StatRequest, StatResponse, Status};
use eventbox::shard_api::{Proxy, ShardClientError, shard_id};
use tonic::Code;

use super::*;
use crate::support::on_every_engine;

fn id_of(recipient: &Recipient) -> String {
    shard_id(recipient.shard())
}

fn of(key: impl Into<String>, value: i64) -> BTreeMap<String, i64> {
    [(key.into(), value)].into()
}

fn process_of(response: &StatResponse) -> String {
    response.header.clone().unwrap().process_id.unwrap().suffix
}

fn revision_of(response: &StatResponse) -> i64 {
    response.header.clone().unwrap().etcd.unwrap().revision
}

/// Asks as another process that sends a call on.
async fn proxied<B: TestEngine>(to: &Member<B>, shard: String, header: Header) -> Result<StatResponse, tonic::Status> {
    let endpoint = format!("http://{}", to.server.local_addr());
    let mut raw = Generated::connect(endpoint).await.unwrap();
    let request = StatRequest { header: Some(header), shard, ..StatRequest::default() };
    raw.stat(request).await.map(tonic::Response::into_inner)
}

fn header(suffix: impl Into<String>, revision: i64) -> Header {
    Header {
        process_id: Some(Id { suffix: suffix.into(), ..Id::default() }),
        etcd: Some(Etcd { revision, ..Etcd::default() }),
        ..Header::default()
    }
}

async fn ready<B: TestEngine>(member: &Member<B>) {
    eventually(SOON, async || member.runtime.shards() == 256).await;
}

on_every_engine! {
    /// Case 10: what is to be read through blocks the call, which then succeeds.
    async fn stat_waits_until_it_is_read_through(db) {
        let one = member(db).await;
        ready(&one).await;
        let (to, receipt) = (counter(1), emit(db, &counter(1)).await);
        let stat = one.client.stat(id_of(&to), of(&receipt, 0)).await.unwrap();
        assert_eq!((stat.read_through, stat.header.is_some()), (of(&receipt, 1), true));
        assert_eq!(stat.publish_at, of(&receipt, 1), "the event caused no message");
        assert_eq!(eventbox::state::<u64>(&db.pool, &to).await.unwrap().unwrap().state, Some(1));

        let has_emitted = AtomicBool::new(false);
        let waiting = async {
            let stat = one.client.stat(id_of(&to), of(to.as_str(), 2)).await.unwrap();
            assert!(has_emitted.load(Ordering::SeqCst), "it did not wait");
            stat
        };
        let emitting = async {
            // The call has begun, and there is no second turn yet.
            let now = one.client.stat(id_of(&to), of(to.as_str(), 0)).await.unwrap();
            assert_eq!(now.read_through, of(to.as_str(), 1));
            has_emitted.store(true, Ordering::SeqCst);
            emit(db, &to).await;
        };
        let (stat, ()) = tokio::join!(waiting, emitting);
        assert_eq!(stat.read_through, of(to.as_str(), 2));
        one.runtime.stop(STOP).await;
    }

    async fn keys_of_other_shards_are_ignored_and_wrong_ones_refused(db) {
        let one = member(db).await;
        ready(&one).await;
        let to = counter(1);
        let other = (2..).map(counter).find(|other| other.shard() != to.shard()).unwrap();
        let keys = [(to.to_string(), 0), (other.to_string(), 9)].into();
        let stat = one.client.stat(id_of(&to), keys).await.unwrap();
        assert_eq!(stat.read_through, of(to.as_str(), 0));
        let many = (0..257).map(|key| (counter(key).to_string(), 0)).collect();
        for wrong in [of("no recipient", 0), of("", 0), many] {
            let refused = one.client.stat(id_of(&to), wrong).await;
            assert!(matches!(refused, Err(ShardClientError::Call { code: Code::InvalidArgument, .. })), "{refused:?}");
        }
        one.runtime.stop(STOP).await;
    }

    /// Case 10: an unknown shard, no primary, and a primary that stopped.
    async fn stat_says_what_is_not_there(db) {
        let (_server, client) = open(Shards::new(db.pool.clone())).await;
        for unknown in ["256", "", "x"] {
            let refused = client.stat(unknown, BTreeMap::new()).await.unwrap_err();
            assert_eq!(refused.status(), Some(Status::ShardNotFound));
        }
        let free = client.stat("007", BTreeMap::new()).await.unwrap_err();
        assert_eq!(free.status(), Some(Status::NoShardPrimary));
        let one = member(db).await;
        ready(&one).await;
        one.client.stat("007", BTreeMap::new()).await.unwrap();
        one.runtime.stop(STOP).await;
        let stopped = one.client.stat("007", BTreeMap::new()).await.unwrap_err();
        assert_eq!(stopped.status(), Some(Status::ShardStopped));
    }

    /// The number of calls that wait is bounded, and a call that ends makes room.
    async fn more_stats_than_may_wait_are_refused(db) {
        let runtime = counting(db, None).await;
        let api = Shards::new(db.pool.clone()).on(&runtime).max_waiting_stats(1.try_into().unwrap());
        let (_server, client) = open(api).await;
        eventually(SOON, async || runtime.shards() == 256).await;
        let to = counter(1);
        // Neither call can end: the recipient has no turn yet.
        let wait = || {
            let (client, to) = (client.clone(), to.clone());
            tokio::spawn(async move { client.stat(id_of(&to), of(to.as_str(), 1)).await })
        };
        let (mut one, mut two) = (wait(), wait());
        let (refused, waiting) = tokio::select! {
            refused = &mut one => (refused, two),
            refused = &mut two => (refused, one),
        };
        let refused = refused.unwrap().unwrap_err();
        assert!(matches!(refused, ShardClientError::Call { code: Code::ResourceExhausted, .. }), "{refused:?}");
        assert!(refused.to_string().contains("1 Stat calls wait here already"), "{refused}");
        emit(db, &to).await;
        assert_eq!(waiting.await.unwrap().unwrap().read_through, of(to.as_str(), 1));
        client.stat(id_of(&to), of(to.as_str(), 1)).await.unwrap();
        runtime.stop(STOP).await;
    }

    /// Case 10: a wait that no work ends is told at once.
    async fn stat_of_a_paused_recipient_does_not_wait(db) {
        let one = member(db).await;
        ready(&one).await;
        let to = counter(1);
        Operator::new(db.pool.clone(), "ana").pause(&to).await.unwrap();
        let receipt = emit(db, &to).await;
        let turn = admin::standing(&db.pool, &to).await.unwrap().turn;
        for key in [of(&receipt, 0), of(to.as_str(), turn + 1)] {
            let stopped = one.client.stat(id_of(&to), key).await.unwrap_err();
            assert_eq!(stopped.status(), Some(Status::ShardStopped));
        }
        one.runtime.stop(STOP).await;
    }

    /// Case 10: a primary elsewhere. The call is proxied once, and the answer names the process that gave it.
    async fn stat_is_proxied_once(db) {
        let (one, two) = (member(db).await, member(db).await);
        shared(&one.runtime, &two.runtime).await;
        let to = recipient_of(&two.runtime).await;
        let receipt = emit(db, &to).await;
        let stat = one.client.stat(id_of(&to), of(&receipt, 0)).await.unwrap();
        assert_eq!(stat.read_through, of(&receipt, 1));
        assert_eq!(process_of(&stat), two.runtime.worker().to_string());
        let generation = revision_of(&stat);
        assert!(generation > 0);
        // A process without a runtime sends the call on, too.
        let (_server, outside) = open(Shards::new(db.pool.clone())).await;
        let stat = outside.stat(id_of(&to), of(&receipt, 0)).await.unwrap();
        assert_eq!(process_of(&stat), two.runtime.worker().to_string());
        // Never twice: the first process was meant to have the shard, and does not.
        let again = proxied(&one, id_of(&to), header(one.runtime.worker(), generation)).await.unwrap();
        assert_eq!(again.status(), Status::NotShardPrimary);
        assert_eq!(process_of(&again), one.runtime.worker().to_string(), "an error names its author");
        one.runtime.stop(STOP).await;
        two.runtime.stop(STOP).await;
    }

    /// Case 10: a proxied call for another process, of another cluster, or of an older lease is refused.
    async fn a_proxied_stat_is_checked(db) {
        let one = member(db).await;
        ready(&one).await;
        let worker = one.runtime.worker();
        let generation = revision_of(&one.client.stat("007", BTreeMap::new()).await.unwrap());
        let right = proxied(&one, "007".to_owned(), header(worker, generation)).await.unwrap();
        assert_eq!((right.status(), revision_of(&right)), (Status::Ok, generation));
        let any = proxied(&one, "007".to_owned(), header("", generation)).await.unwrap();
        assert_eq!(any.status(), Status::Ok);
        let old = proxied(&one, "007".to_owned(), header(worker, generation - 1)).await.unwrap();
        assert_eq!(old.status(), Status::RevisionConflict);
        let wrong = proxied(&one, "007".to_owned(), header(uuid::Uuid::new_v4(), generation)).await.unwrap_err();
        assert!(wrong.code() == Code::FailedPrecondition && wrong.message().contains("process id"), "{wrong:?}");
        let mut elsewhere = header(worker, generation);
        elsewhere.etcd.as_mut().unwrap().cluster_id = 7;
        let wrong = proxied(&one, "007".to_owned(), elsewhere).await.unwrap_err();
        assert!(wrong.code() == Code::FailedPrecondition && wrong.message().contains("cluster id"), "{wrong:?}");
        one.runtime.stop(STOP).await;
    }

    /// The database names the endpoint of a holder, so it may be anything.
    async fn an_endpoint_that_is_no_server_of_http_is_not_called(db) {
        let (one, two) = (member(db).await, counting(db, Some("ftp://127.0.0.1:21".to_owned())).await);
        shared(&one.runtime, &two).await;
        let to = recipient_of(&two).await;
        let refused = one.client.stat(id_of(&to), BTreeMap::new()).await;
        let Err(ShardClientError::Call { code, message, .. }) = refused else { panic!("{refused:?}") };
        assert!(code == Code::Unavailable && message.contains("is not of the form http://host:port"), "{message}");
        for version in [http::Version::HTTP_11, http::Version::HTTP_2] {
            let request = http::Request::get("/").version(version).body(tonic::body::Body::empty()).unwrap();
            let refused = Proxy::new(&one.runtime).route(&to, request).await.unwrap_err();
            let cause = std::error::Error::source(&refused).unwrap().to_string();
            assert!(refused.http_status() == 502 && cause.contains("is not of the form"), "{cause}");
        }
        one.runtime.stop(STOP).await;
        two.stop(STOP).await;
    }

    async fn a_holder_without_an_endpoint_is_named(db) {
        let (one, two) = (member(db).await, counting(db, None).await);
        shared(&one.runtime, &two).await;
        let to = recipient_of(&two).await;
        let refused = one.client.stat(id_of(&to), BTreeMap::new()).await;
        let Err(ShardClientError::Call { code, message, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(code, Code::Unavailable);
        let (setting, worker) = ("RuntimeConfig::endpoint", two.worker().to_string());
        assert!(message.contains(setting) && message.contains(&worker), "{message}");
        one.runtime.stop(STOP).await;
        two.stop(STOP).await;
    }
}
