//! A night with five faults: two worker processes, a receiver that is away, and an operator who has only the commands.

use std::net::TcpListener;
use std::num::NonZeroU32;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use eventbox::emitter::DurableEmitter;
use eventbox::ingress::Ingress;
use eventbox::runtime::{LeaseConfig, Runtime, RuntimeConfig};
use eventbox::{BoxError, CloudEvent, Event, Outcome, PoisonPolicy, Recipient, Reducer};
use serde_json::Value;
use sqlx::{PgPool, Postgres};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::{Finished, on};
use crate::support::{SOON, TestDb, eventually, with_database};

const URL: &str = "EVENTBOX_STORY_URL";
const RECEIVER: &str = "EVENTBOX_STORY_RECEIVER";
const ADDRESS: &str = "EVENTBOX_STORY_ADDRESS";

/// A term that outlives the test: no other process takes the shards of a dead one.
const TERM: Duration = Duration::from_secs(600);

/// An order: the sum of its items. It tells the outside about each sum.
struct Order;

impl Reducer for Order {
    type State = i64;

    fn reduce(&self, order: &Recipient, events: &[Event], mut total: i64) -> Result<Outcome<i64>, BoxError> {
        for event in events {
            total += event.json::<i64>()?;
        }
        let message = CloudEvent::builder("orders", "order.totalled").subject(order.key()).json(&total).build()?;
        Ok(Outcome::to(total).consuming(events).publishing([message]))
    }
}

/// A worker process. It ends when it is killed, or with its parent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a child process of the test of this file"]
#[allow(clippy::print_stdout, reason = "the parent reads it")]
async fn worker() {
    let [url, receiver, address] = [URL, RECEIVER, ADDRESS].map(|name| std::env::var(name).unwrap());
    let pool = PgPool::connect_with(eventbox::postgres_options(&url).unwrap()).await.unwrap();
    let emitter = DurableEmitter::builder(pool.clone(), receiver.as_str()).build().unwrap();
    emitter.start().await.unwrap();
    let mut leases = LeaseConfig::default();
    leases.lease_ttl = TERM;
    (leases.renew_interval, leases.check_interval) = (Duration::from_millis(300), Duration::from_millis(100));
    let mut config = RuntimeConfig::default();
    (config.leases, config.address) = (Some(leases), address);
    config.poison = PoisonPolicy::Isolate { after: NonZeroU32::new(2).unwrap() };
    (config.backoff.base, config.backoff.cap) = (Duration::from_millis(50), Duration::from_secs(600));
    let runtime = Runtime::builder(pool).reducer("order", Order).emitter(emitter).config(config).start().await.unwrap();
    println!("\nworker {}", runtime.worker());
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await.unwrap().unwrap();
}

/// Starts a worker process and returns it with its id.
async fn start(db: &TestDb<Postgres>, address: &str, receiver: &str) -> (Child, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "operate::story::worker", "--ignored", "--nocapture"]);
    command.env(URL, db.url()).env(RECEIVER, receiver).env(ADDRESS, address);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    loop {
        let line = lines.next_line().await.unwrap().expect("the worker says its id");
        if let Some(id) = line.strip_prefix("worker ") {
            return (child, id.to_owned());
        }
    }
}

fn order(key: &str) -> Recipient {
    Recipient::new("order", key).unwrap()
}

/// What the operator sees and does: commands, and nothing else.
struct Night<'a>(&'a TestDb<Postgres>);

impl Night<'_> {
    async fn run(&self, command: &str) -> Finished {
        on(self.0, &command.split_whitespace().collect::<Vec<_>>()).await
    }

    async fn json(&self, command: &str) -> Value {
        self.run(&format!("{command} --json")).await.json()
    }

    async fn why(&self, key: &str) -> Value {
        self.json(&format!("why order/{key}")).await
    }

    /// Does what `why` advises behind the colon.
    async fn follow(&self, why: &Value) {
        let advice = why["advice"].as_str().unwrap();
        let command = advice.split_once("eventbox ").unwrap_or_else(|| panic!("no command in {advice}")).1;
        self.run(&format!("{command} --yes")).await.done();
    }

    async fn total(&self, key: &str) -> Option<i64> {
        let shown = self.json(&format!("show order/{key}")).await;
        shown["state"]["json"].as_str().and_then(|json| json.parse().ok())
    }

    async fn becomes(&self, key: &str, total: i64) {
        eventually(SOON, async || self.total(key).await == Some(total)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_faults_are_found_and_mended_with_commands() {
    with_database("story", async |db: &TestDb<Postgres>| {
        // The receiver's address is taken, and nobody listens there.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (mut first, first_id) = start(db, "host-a", &address).await;
        let (second, second_id) = start(db, "host-b", &address).await;
        let night = Night(db);
        let shared = async || {
            let members = night.json("members").await;
            members.as_array().unwrap().iter().all(|member| member["shards"] == 128)
        };
        eventually(SOON, shared).await;
        let emit = async |key: &str, value: &str| {
            eventbox::emit(&db.pool, &order(key), Event::new(value.to_owned())).await.unwrap();
        };
        emit("works", "1").await;
        night.becomes("works", 1).await;

        // 1. Somebody paused the kind after a bad release, and went home.
        night.run("pause --kind order --why release-17 --yes").await.done();
        // The workers notice the pause at their next poll.
        let (mut paused, mut why) = (String::new(), Value::Null);
        for n in 0.. {
            paused = format!("paused-{n}");
            emit(&paused, "5").await;
            why = night.why(&paused).await;
            if why["reason"] != "processed" && why["reason"] != "in_line" {
                break;
            }
        }
        assert_eq!((why["reason"].as_str(), why["is_kind"].as_bool()), (Some("paused"), Some(true)), "{why}");
        let record = night.json("operations").await;
        assert_eq!((record[0]["who"].as_str(), record[0]["why"].as_str()), (Some("tester"), Some("release-17")));
        night.follow(&why).await;
        night.becomes(&paused, 5).await;

        // 2. A sender wrote an event that is no number.
        emit("poisoned", "seven").await;
        emit("poisoned", "7").await;
        night.becomes("poisoned", 7).await;
        let status = night.json("status").await;
        assert_eq!(status["kinds"][0]["quarantined"]["number"], 1, "{status}");
        let dead = night.json("dead list --events --code POISON").await;
        let id = dead[0]["id"].as_str().unwrap_or_else(|| panic!("{dead}")).to_owned();
        let shown = night.run(&format!("dead show {id}")).await;
        assert!(shown.done().contains("seven"), "{shown:?}");
        night.run(&format!("dead delete {id} --yes")).await.done();
        emit("poisoned", "70").await;
        night.becomes("poisoned", 77).await;

        // 3. A state was written that the reducer cannot read.
        let broken = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("story-{}.json", uuid::Uuid::new_v4()));
        std::fs::write(&broken, "12x").unwrap();
        let file = broken.to_str().unwrap();
        night.run(&format!("state set order/broken {file} --yes")).await.done();
        emit("broken", "3").await;
        // The workers do not blame the event, so no failure is stored. They tell of it all the same.
        eventually(SOON, async || night.why("broken").await["reason"] == "failing").await;
        let why = night.why("broken").await;
        assert!(why["error"].as_str().unwrap().contains("state"), "{why}");
        let status = night.json("status").await;
        assert!(status["kinds"][0]["trouble"].as_str().unwrap().starts_with("order/broken: "), "{status}");
        assert_eq!(night.run("state get order/broken").await.done(), "12x");
        std::fs::write(&broken, "12").unwrap();
        night.run(&format!("state set order/broken {file} --yes")).await.done();
        std::fs::remove_file(&broken).unwrap();
        night.becomes("broken", 15).await;

        // 4. A process was killed, and its leases are long.
        first.kill().await.unwrap();
        let orphan = |key: &String| {
            let key = key.clone();
            let of_first = &first_id;
            let night = &night;
            async move { night.json(&format!("show order/{key}")).await["lease"]["holder"] == of_first.as_str() }
        };
        let mut key = String::new();
        for n in 0.. {
            key = format!("orphan-{n}");
            if orphan(&key).await {
                break;
            }
        }
        emit(&key, "4").await;
        let shard = order(&key).shard();
        let held = night.json(&format!("show order/{key}")).await;
        assert_eq!(held["holder"]["address"], "host-a", "{held}");
        let silent = async || {
            let members = night.json("members").await;
            let host = members.as_array().unwrap().iter().find(|member| member["address"] == "host-a").cloned();
            host.is_some_and(|host| host["silent_seconds"].as_f64().unwrap() > 1.0)
        };
        eventually(SOON, silent).await;
        night.run(&format!("shards move {shard} {second_id} --yes")).await.done();
        night.becomes(&key, 4).await;

        // 5. The receiver was away all night.
        let waiting = night.json("outbox list").await;
        let group = &waiting["groups"][0];
        assert!(group["last_error"].as_str().is_some() && group["source"] == "orders", "{waiting}");
        let messages = group["messages"]["number"].as_u64().unwrap();
        let store = tempfile::tempdir().unwrap();
        let receiver =
            Ingress::builder().store_file(store.path().join("received.sqlite3")).serve(address.as_str()).await.unwrap();
        night.run("outbox retry --all --yes").await.done();
        let delivered = async || receiver.log().counts().await.unwrap().kept >= messages;
        eventually(SOON, delivered).await;
        eventually(SOON, async || night.json("status").await["outbox"]["waiting"]["number"] == 0).await;

        let why = night.why(&key).await;
        assert_eq!(why["reason"], "processed", "{why}");
        drop(second);
        receiver.stop(Duration::from_secs(10)).await;
    })
    .await;
}
