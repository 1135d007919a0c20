//! List, Apply and Unassign.

use eventbox::admin::ShardState;
use eventbox::proto::consumer::apply_request::Change;
use eventbox::proto::consumer::list_response::Shard;
use eventbox::proto::consumer::shard_spec::Source;
use eventbox::proto::consumer::{self, FsmHints};
use eventbox::shard_api::ShardClientError;
use prost_types::Duration;
use tonic::Code;

use super::*;
use crate::admin::shards::assign_and_fail;
use crate::support::on_every_engine;

fn upsert(spec: ShardSpec, expect_mod_revision: i64) -> Change {
    Change { expect_mod_revision, upsert: Some(spec), ..Change::default() }
}

fn delete(id: &str, expect_mod_revision: i64) -> Change {
    Change { expect_mod_revision, delete: id.to_owned(), ..Change::default() }
}

async fn one(client: &ShardClient, id: &str) -> Shard {
    client.list(including([label("id", id)])).await.unwrap().remove(0)
}

async fn revisions(client: &ShardClient, id: &str) -> (i64, i64) {
    let shard = one(client, id).await;
    (shard.create_revision, shard.mod_revision)
}

async fn ids(client: &ShardClient, selector: LabelSelector) -> Vec<String> {
    let listed = client.list(selector).await.unwrap();
    listed.into_iter().map(|shard| shard.spec.unwrap().id).collect()
}

on_every_engine! {
    /// Case 12: create, update and delete, each at the expected revision. A wrong one fails and changes nothing, and −1
    /// forces.
    async fn specs_are_applied_over_grpc(db) {
        let (_server, client) = open(Shards::new(db.pool.clone())).await;
        assert_eq!(revisions(&client, "007").await, (0, 0));
        client.apply(&[upsert(labelled("007", "ramp"), 0)]).await.unwrap();
        assert_eq!(revisions(&client, "007").await, (1, 1));
        let spec = ShardSpec { disable: true, zone: "eu-1".to_owned(), ..labelled("007", "gate") };
        client.apply(&[upsert(spec.clone(), 1)]).await.unwrap();
        assert_eq!((one(&client, "007").await.spec, revisions(&client, "007").await), (Some(spec), (1, 2)));
        for wrong in [upsert(labelled("007", "ramp"), 0), upsert(labelled("7", "ramp"), 1), delete("007", 3)] {
            let refused = client.apply(&[upsert(labelled("003", "ramp"), 0), wrong]).await.unwrap_err();
            assert_eq!(refused.status(), Some(consumer::Status::RevisionConflict), "{refused:?}");
        }
        assert_eq!((revisions(&client, "003").await, revisions(&client, "007").await), ((0, 0), (1, 2)));
        client.apply(&[upsert(labelled("7", "ramp"), -1)]).await.unwrap();
        assert_eq!(revisions(&client, "007").await, (1, 3));
        client.apply(&[delete("007", 3)]).await.unwrap();
        assert_eq!((revisions(&client, "007").await, one(&client, "007").await.spec.unwrap().disable), ((0, 0), false));
        client.apply(&[delete("007", -1)]).await.unwrap();
    }

    /// Case 12: invalid requests are refused as a whole, with a text. So is everything that this library does not have.
    async fn invalid_changes_are_refused(db) {
        let (_server, client) = open(Shards::new(db.pool.clone())).await;
        let spec = |change: &dyn Fn(&mut ShardSpec)| {
            let mut spec = labelled("007", "ramp");
            change(&mut spec);
            upsert(spec, -1)
        };
        let hints = Change { primary_hints: Some(FsmHints {}), ..upsert(labelled("007", "ramp"), -1) };
        let both = Change { delete: "007".to_owned(), ..upsert(labelled("007", "ramp"), -1) };
        let prefix = Label { prefix: true, ..label("team", "ra") };
        for (wrong, told) in [
            (Change::default(), "exactly one of upsert and delete"),
            (both, "exactly one of upsert and delete"),
            (hints, "primary_hints is set"),
            (delete("256", -1), "no shard \"256\""),
            (delete("007", 0), "revision 0"),
            (delete("007", -2), "-2"),
            (spec(&|spec| spec.id.clear()), "no shard \"\""),
            (spec(&|spec| spec.sources.push(Source::default())), "sources is set"),
            (spec(&|spec| spec.recovery_log_prefix = "logs".to_owned()), "recovery_log_prefix is set"),
            (spec(&|spec| spec.hint_prefix = "/hints".to_owned()), "hint_prefix is set"),
            (spec(&|spec| spec.hint_backups = 1), "hint_backups is set"),
            (spec(&|spec| spec.max_txn_duration = Some(Duration { seconds: 1, nanos: 0 })), "max_txn_duration is set"),
            (spec(&|spec| spec.min_txn_duration = Some(Duration { seconds: 0, nanos: 1 })), "min_txn_duration is set"),
            (spec(&|spec| spec.hot_standbys = 1), "hot_standbys is set"),
            (spec(&|spec| spec.disable_wait_for_ack = true), "disable_wait_for_ack is set"),
            (spec(&|spec| spec.ring_buffer_size = 1), "ring_buffer_size is set"),
            (spec(&|spec| spec.read_channel_size = 1), "read_channel_size is set"),
            (spec(&|spec| spec.labels = set([label("id", "8")])), "id"),
            (spec(&|spec| spec.labels = set([prefix.clone()])), "is a prefix"),
            (spec(&|spec| spec.labels = set([label("a", "1"), label("a", "2")])), "two values"),
        ] {
            let refused = client.apply(&[upsert(labelled("003", "ramp"), 0), wrong.clone()]).await;
            let Err(ShardClientError::Call { code, message, .. }) = refused else { panic!("{wrong:?}: {refused:?}") };
            assert!(code == Code::InvalidArgument && message.contains(told), "{wrong:?}: {message}");
        }
        assert_eq!((revisions(&client, "003").await, revisions(&client, "007").await), ((0, 0), (0, 0)));
        // Durations of zero are no durations.
        client.apply(&[spec(&|spec| spec.max_txn_duration = Some(Duration::default()))]).await.unwrap();
    }

    async fn a_selector_includes_and_excludes(db) {
        let (_server, client) = open(Shards::new(db.pool.clone())).await;
        let all: Vec<String> = (0..256).map(|id| format!("{id:03}")).collect();
        assert_eq!(ids(&client, LabelSelector::default()).await, all);
        let changes = [labelled("002", "ramp"), labelled("010", "gate"), labelled("100", "grid")];
        client.apply(&changes.map(|spec| upsert(spec, 0))).await.unwrap();
        let prefix = |name: &str, value: &str| Label { prefix: true, ..label(name, value) };
        for (include, exclude, selected) in [
            (vec![label("team", "ramp")], vec![], vec!["002"]),
            (vec![label("team", "")], vec![], vec!["002", "010", "100"]),
            (vec![label("team", "ramp"), label("team", "gate")], vec![], vec!["002", "010"]),
            (vec![prefix("team", "g")], vec![], vec!["010", "100"]),
            (vec![label("team", "")], vec![label("team", "gate")], vec!["002", "100"]),
            (vec![label("team", "")], vec![label("id", "2"), prefix("team", "gr")], vec!["010"]),
            (vec![label("team", ""), label("id", "100"), label("id", "3")], vec![], vec!["100"]),
            (vec![label("id", "010"), label("id", "11")], vec![label("team", "")], vec!["011"]),
            (vec![prefix("id", "25")], vec![], vec!["250", "251", "252", "253", "254", "255"]),
            (vec![label("size", "")], vec![], vec![]),
        ] {
            let selector = LabelSelector { include: set(include), exclude: set(exclude) };
            assert_eq!(ids(&client, selector.clone()).await, selected, "{selector:?}");
        }
        let unnamed = client.list(including([label("", "x")])).await;
        assert!(matches!(unnamed, Err(ShardClientError::Call { code: Code::InvalidArgument, .. })), "{unnamed:?}");
    }

    /// A shard is listed with the processes that have to do with it, and its state in each of them.
    async fn a_listing_names_the_members(db) {
        let (one, two) = (member(db).await, member(db).await);
        shared(&one.runtime, &two.runtime).await;
        let workers = [one.runtime.worker(), two.runtime.worker()].map(|worker| worker.to_string());
        eventually(SOON, async || {
            let listed = one.client.list(LabelSelector::default()).await.unwrap();
            listed.iter().all(|shard| {
                let (route, codes) = (shard.route.clone().unwrap(), shard.status.iter().map(|status| status.code));
                let primary = usize::try_from(route.primary).ok();
                let codes: Vec<i32> = codes.collect();
                let members: Vec<_> = route.members.iter().map(|member| member.suffix.clone()).collect();
                route.members.len() == 2
                    && members.is_sorted()
                    && workers.iter().all(|worker| members.contains(worker))
                    && primary.is_some_and(|at| codes[at] == ShardState::Primary.code())
                    && codes.contains(&ShardState::Standby.code())
                    && route.endpoints.iter().all(|endpoint| endpoint.starts_with("http://127.0.0.1:"))
                    && shard.generation > 0
            })
        })
        .await;
        let members = [&one, &two];
        for member in members {
            member.runtime.stop(STOP).await;
        }
    }

    /// Case 13: nothing assigned, only failed shards, failed and other shards, several shards, a dry run.
    async fn shards_are_unassigned_over_grpc(db) {
        assign_and_fail(db).await;
        let (_server, client) = open(Shards::new(db.pool.clone())).await;
        let of = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        assert_eq!(client.unassign(of(&["020", "021"]), false, false).await.unwrap(), of(&[]));
        assert_eq!(client.unassign(of(&["9", "0", "1"]), false, true).await.unwrap(), of(&["000", "001", "009"]));
        let failed = one(&client, "009").await;
        let told = failed.summary.unwrap();
        assert_eq!((told.code, told.errors.len()), (ShardState::Failed.code(), 1), "a failed shard without a holder");
        assert_eq!((failed.status.len(), failed.route.unwrap().primary), (0, -1));
        assert_eq!(one(&client, "001").await.status[0].errors, ["refused"]);
        assert_eq!(client.unassign(of(&["000", "001", "009"]), true, false).await.unwrap(), of(&["001", "009"]));
        assert_eq!(client.unassign(of(&["000", "001", "002"]), false, false).await.unwrap(), of(&["000", "002"]));
        let unknown = client.unassign(of(&["003", "256"]), false, false).await.unwrap_err();
        assert_eq!(unknown.status(), Some(consumer::Status::ShardNotFound));
        assert_eq!(client.unassign(of(&["003"]), false, true).await.unwrap(), of(&["003"]), "it was not unassigned");
    }
}
