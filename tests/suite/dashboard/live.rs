//! Live updates: server-sent events from one shared reader.

use std::time::Duration;

use eventbox::Event;
use eventbox::admin::{self, ShardSelector, ShardSpec};
use eventbox::dashboard::{DashboardOptions, MAX_LISTENERS};
use eventbox::runtime::Runtime;
use futures_util::StreamExt;

use super::{Browser, order};
use crate::support::running::{STOP, config};
use crate::support::{SOON, eventually, on_every_engine};

/// Reads a stream of updates until it has a text.
async fn wait_for(body: &mut axum::body::BodyDataStream, text: &str) {
    let mut read = String::new();
    let found = tokio::time::timeout(SOON, async {
        while !read.contains(text) {
            let chunk = body.next().await.expect("the stream goes on").unwrap();
            read.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    });
    assert!(found.await.is_ok(), "no {text} in {read}");
}

on_every_engine! {
    async fn an_emit_is_seen_by_a_page_that_listens(db) {
        let browser = Browser::new(db, DashboardOptions::default());
        let answer = browser.open("/live").await;
        let form = answer.headers()["content-type"].to_str().unwrap();
        assert_eq!((answer.status().as_u16(), form), (200, "text/event-stream"));
        let mut updates = answer.into_body().into_data_stream();
        wait_for(&mut updates, "event: overview\ndata: {\"html\":").await;
        eventbox::emit(&db.pool, &order("<script>"), Event::new("secret")).await.unwrap();
        wait_for(&mut updates, "/recipients?kind=order").await;
        db.run("DROP TABLE eventbox_event").await;
        wait_for(&mut updates, "data: {\"problem\":").await;
    }

    async fn listeners_are_bounded(db) {
        let browser = Browser::new(db, DashboardOptions::default());
        let mut open = Vec::new();
        for _ in 0..MAX_LISTENERS {
            open.push(browser.open("/live").await);
        }
        assert!(open.iter().all(|answer| answer.status() == 200));
        assert_eq!(browser.get("/live").await.status, 503);
        open.pop();
        assert_eq!(browser.open("/live").await.status(), 200, "a page that was closed leaves its place");
    }

    /// A failed shard is shown with its error, and is unassigned. The dry run changes nothing.
    async fn a_failed_shard_is_shown_and_unassigned(db) {
        let browser = Browser::new(db, DashboardOptions::default());
        browser.get("/shards").await.has_not("id=\"trouble\"");
        let csrf = browser.csrf().await;
        let all = [("csrf", csrf.as_str()), ("action", "unassign-failed")];
        browser.post("/confirm", &all).await.has("No shard has failed.");
        db.run("UPDATE eventbox_shard SET failed_at_us = 1, attempts = 3, errors = 'a <b> table' WHERE shard IN (3, 4)")
            .await;
        let shown = browser.get("/shards").await;
        shown.has("id=\"trouble\"").has("FAILED").has("a &lt;b&gt; table").has("not tried again");
        let failed = || db.number("SELECT count(*) FROM eventbox_shard WHERE attempts > 0");
        let one = [("csrf", csrf.as_str()), ("action", "unassign-shard"), ("shard", "3")];
        browser.post("/confirm", &one).await.has("This takes shard 3 from its holder");
        assert_eq!(failed().await, 2);
        assert_eq!(browser.post("/do", &one).await.status, 303);
        assert_eq!(failed().await, 1);
        browser.post("/confirm", &all).await.has("This takes 1 failed shard from their holders");
        assert_eq!(failed().await, 1);
        assert_eq!(browser.post("/do", &all).await.status, 303);
        assert_eq!(failed().await, 0);
        browser.get("/shards").await.has_not("id=\"trouble\"");
        assert_eq!(db.number("SELECT count(*) FROM eventbox_operation").await, 2, "each is recorded");
    }

    /// The page changes specs as the command line and the shard API do, at the expected revision.
    async fn a_shard_gets_a_spec_and_is_set_back(db) {
        let browser = Browser::new(db, DashboardOptions::default());
        let seven = async || {
            let id = ShardSelector::all().label("id", "7");
            admin::list_shards(&db.pool, &id).await.unwrap().remove(0)
        };
        let labels = ("labels", "team=ramp\r\nsize=<b>");
        let fields = [("shard", "7"), labels, ("zone", "eu-1"), ("disable", "yes"), ("revision", "0")];
        let (asked, done) = browser.act("apply-shard", &fields).await;
        asked.has("This replaces the whole spec of shard 7 by: 2 labels, the zone eu-1, disabled: its events wait.");
        done.has("The spec of the shard is changed.").has("size=&lt;b&gt;, team=ramp, prefers zone eu-1");
        let view = seven().await;
        let labels = [("size", "<b>"), ("team", "ramp")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!((view.spec.labels, view.spec.zone.as_deref()), (labels.into(), Some("eu-1")));
        assert!(view.spec.is_disabled);
        let csrf = browser.csrf().await;
        let late = [("csrf", csrf.as_str()), ("action", "apply-shard"), ("shard", "7"), ("revision", "0")];
        let refused = browser.post("/do", &late).await;
        assert_eq!(refused.status, 409);
        refused.has("shard 7 is at revision 1, and not at 0");
        let (_, done) = browser.act("reset-shard", &[("shard", "7"), ("revision", "1")]).await;
        done.has("The shard is set back.");
        assert_eq!((seven().await.mod_revision, seven().await.spec), (0, ShardSpec::default()));
        let again = [("csrf", csrf.as_str()), ("action", "reset-shard"), ("shard", "7")];
        browser.post("/confirm", &again).await.has("Shard 7 has no spec.");
    }

    /// A member that takes no shards gets none: one that has gone, for instance.
    async fn a_shard_is_not_moved_to_a_member_that_takes_none(db) {
        let browser = Browser::new(db, DashboardOptions::default());
        let (csrf, gone) = (browser.csrf().await, uuid::Uuid::from_u128(1).to_string());
        let moved = [("csrf", csrf.as_str()), ("action", "move-shard"), ("shard", "7"), ("member", &gone)];
        browser.post("/confirm", &moved).await.has("The member takes no shards");
        assert_eq!(browser.post("/do", &moved).await.status, 409);
        assert_eq!(db.number("SELECT count(*) FROM eventbox_lease WHERE pinned IS NOT NULL").await, 0);
    }

    /// The map of the shards and the members come from a runtime that works.
    async fn a_member_and_its_shards_are_shown_and_moved(db) {
        let runtime = Runtime::builder(db.open(4)).reducer("order", Count).config(config()).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        let browser = Browser::new(db, DashboardOptions::default());
        let overview = browser.get("/").await;
        overview.has("id=\"overview-members\"").has("256 shards (0–255)").has("class=\"h0\"").has_not("id=\"unowned\"");
        let shards = browser.get("/shards").await;
        let member = shards.between("<option value=\"", "\"");
        shards.has(&member).has("id=\"leases\"");
        let csrf = browser.csrf().await;
        let release = [("csrf", csrf.as_str()), ("action", "release-shard"), ("shard", "17")];
        browser.post("/confirm", &release).await.has("This frees shard 17");
        let generation = || db.number("SELECT generation FROM eventbox_lease WHERE shard = 17");
        let before = generation().await;
        assert_eq!(browser.post("/do", &release).await.status, 303);
        eventually(SOON, async || runtime.shards() == 256 && generation().await > before).await;
        let moved = [("csrf", csrf.as_str()), ("action", "move-shard"), ("shard", "17"), ("member", &member)];
        assert_eq!(browser.post("/confirm", &moved).await.status, 200);
        let is_held = || db.number("SELECT count(*) FROM eventbox_lease WHERE shard = 17 AND holder IS NOT NULL");
        eventually(SOON, async || is_held().await == 1).await;
        let unassign = [("csrf", csrf.as_str()), ("action", "unassign-shard"), ("shard", "17")];
        browser.post("/confirm", &unassign).await.has("This takes shard 17 from its holder");
        let before = generation().await;
        assert_eq!(browser.post("/do", &unassign).await.status, 303);
        eventually(SOON, async || is_held().await == 1 && generation().await > before).await;
        assert!(runtime.stop(STOP).await.complete);
    }
}

/// Counts events.
struct Count;

impl eventbox::Reducer for Count {
    type State = u64;

    fn reduce(
        &self,
        _to: &eventbox::Recipient,
        events: &[Event],
        count: u64,
    ) -> Result<eventbox::Outcome<u64>, eventbox::BoxError> {
        Ok(eventbox::Outcome::to(count + events.len() as u64).consuming(events))
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_dashboard() {
    let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await.unwrap();
    eventbox::migrate(&pool).await.unwrap();
    let browser = Browser::on(eventbox::dashboard::router(pool, DashboardOptions::default()));
    let answer = browser.open("/live").await;
    drop(browser);
    let rest = tokio::time::timeout(Duration::from_secs(10), axum::body::to_bytes(answer.into_body(), usize::MAX));
    assert!(rest.await.unwrap().is_ok());
}
