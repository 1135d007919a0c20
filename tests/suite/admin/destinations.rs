//! Destinations as an operator sees them: pauses with their rehearsals and records, and breakers that are open.

use std::time::Duration;

use eventbox::admin::{self, Destination, DoctorOptions, MAX_DESTINATION_BYTES, Operator, Reason, Severity};
use eventbox::chip::BreakerConfig;
use eventbox::runtime::Runtime;
use eventbox::{BoxError, CloudEvent, Error, Event, Outcome, Recipient, Reducer, outbox};

use crate::support::receiver::{Fake, builder};
use crate::support::running::{STOP, config};
use crate::support::{SOON, TestDb, TestEngine, eventually, on_every_engine};

fn ana<B: TestEngine>(db: &TestDb<B>) -> Operator<B> {
    Operator::new(db.pool.clone(), "ana").because("a test")
}

fn message(source: &str, event_type: &str) -> CloudEvent {
    CloudEvent::builder(source, event_type).payload("x").build().unwrap()
}

fn order() -> Recipient {
    Recipient::new("order", "7").unwrap()
}

/// Publishes a message for each event.
struct Telling;

impl Reducer for Telling {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        Ok(Outcome::to(count + 1).consuming(events).publishing([message("shop", "paid")]))
    }
}

on_every_engine! {
    /// A rehearsal says what the repair says, changes nothing, and leaves no record.
    async fn a_pause_is_rehearsed_made_and_recorded(db) {
        for source in ["shop", "shop", "hotel"] {
            drop(outbox::publish_in(&db.pool, message(source, "paid")).await.unwrap());
        }
        let shop = Destination::all().source("shop").event_type("paid");
        let told = |done: admin::Done| (done.touched, done.waiting.unwrap().number);
        for (is_rehearsal, expected) in [(true, (1, 2)), (false, (1, 2)), (false, (0, 2))] {
            let operator = ana(db).rehearsing(is_rehearsal);
            assert_eq!(told(operator.pause_destination(&shop).await.unwrap()), expected, "{is_rehearsal}");
            let paused = admin::paused_destinations(&db.pool).await.unwrap();
            assert_eq!(paused.len(), usize::from(!is_rehearsal));
        }
        let paused = admin::paused_destinations(&db.pool).await.unwrap().pop().unwrap();
        assert_eq!((&paused.destination, paused.who.as_str(), paused.why.as_deref()), (&shop, "ana", Some("a test")));
        assert!(paused.paused_at.elapsed().unwrap() < SOON);
        let narrower = Destination::all().source("shop");
        assert_eq!(told(ana(db).resume_destination(&narrower).await.unwrap()), (0, 2), "it is another pause");
        let rehearsed = ana(db).rehearsing(true).resume_destination(&shop).await.unwrap();
        assert_eq!((told(rehearsed), db.count("eventbox_paused_destination").await), ((1, 2), 1));
        assert_eq!(told(ana(db).resume_destination(&shop).await.unwrap()), (1, 2));
        assert_eq!(db.count("eventbox_paused_destination").await, 0);
        let record = admin::operations(&db.pool, None, 10).await.unwrap();
        let told = |done: &'_ admin::Operation| (done.action.clone(), done.target.clone(), done.touched);
        let record: Vec<_> = record.iter().map(told).collect();
        let target = "messages with source=shop type=paid";
        assert_eq!(record, ["resume", "pause"].map(|action| (action.to_owned(), target.to_owned(), 1)));
        for wrong in [Destination::all().source(""), Destination::all().event_type("a\0"),
                      Destination::all().source("x".repeat(MAX_DESTINATION_BYTES + 1))] {
            let error = ana(db).pause_destination(&wrong).await.unwrap_err();
            assert!(matches!(error, Error::Misuse { .. }), "{error}");
        }
    }

    async fn every_view_tells_of_a_pause(db) {
        drop(outbox::publish_in(&db.pool, message("shop", "paid")).await.unwrap());
        drop(outbox::publish_in(&db.pool, message("hotel", "paid")).await.unwrap());
        admin::set_state(&db.pool, &order(), 0, None).await.unwrap();
        let shop = Destination::all().source("shop");
        ana(db).pause_destination(&shop).await.unwrap();

        let groups = admin::message_groups(&db.pool).await.unwrap();
        let paused: Vec<_> = groups.groups.iter().filter(|group| group.paused.is_some()).collect();
        assert_eq!((groups.groups.len(), paused.len(), groups.paused.len()), (2, 1, 1));
        assert_eq!(paused[0].source, "shop");
        let outbox = admin::overview(&db.pool).await.unwrap().outbox;
        assert_eq!((outbox.waiting.number, outbox.paused.number, outbox.paused_destinations.len()), (2, 1, 1));

        let why = admin::why(&db.pool, &order()).await.unwrap();
        let Reason::DestinationPaused { destination, waiting, ref who, .. } = why.reason else { panic!("{why:?}") };
        assert_eq!((destination, waiting.number, who.as_str()), (shop.clone(), 1, "ana"));
        assert_eq!(why.advice, "To go on: eventbox resume --source shop");
        let stranger = Recipient::new("order", "8").unwrap();
        let why = admin::why(&db.pool, &stranger).await.unwrap();
        assert!(matches!(why.reason, Reason::NothingPending { .. }), "it has published nothing: {why:?}");

        let findings = admin::doctor(&db.pool, &DoctorOptions::default()).await.unwrap();
        let pauses: Vec<_> = findings.iter().filter(|found| found.check == "pauses").collect();
        assert_eq!((pauses.len(), pauses[0].severity), (1, Severity::Note));
        assert!(pauses[0].sentence.contains("messages with source=shop, by ana: a test"), "{pauses:?}");
        ana(db).resume_destination(&shop).await.unwrap();
        assert!(matches!(admin::why(&db.pool, &order()).await.unwrap().reason, Reason::Processed { .. }));
    }

    /// A command that `why` and `doctor` advise can be run as it is.
    async fn the_advice_quotes_what_a_shell_would_change(db) {
        drop(outbox::publish_in(&db.pool, message("shop", "it's paid")).await.unwrap());
        admin::set_state(&db.pool, &order(), 0, None).await.unwrap();
        for (destination, advice) in [
            (Destination::all(), "To go on: eventbox resume --all-messages"),
            (Destination::all().event_type("it's paid"), r"To go on: eventbox resume --type 'it'\''s paid'"),
        ] {
            ana(db).pause_destination(&destination).await.unwrap();
            assert_eq!(admin::why(&db.pool, &order()).await.unwrap().advice, advice);
            ana(db).resume_destination(&destination).await.unwrap();
        }
    }

    /// A process tells of the breaker of its emitter while it is open, and not any more when it is closed.
    async fn an_open_breaker_is_told_until_it_closes(db) {
        let fake = Fake::failing(tonic::Code::Unavailable);
        let pool = db.open(8);
        let emitter = builder(&pool, &fake).configure(|config| {
            let cool_down = Duration::from_millis(20);
            let breaker = BreakerConfig::default().with_failures(std::num::NonZeroU32::MIN);
            config.batch.breaker = Some(breaker.with_cool_down(cool_down).with_max_cool_down(2 * cool_down));
        });
        let emitter = emitter.start().await.unwrap();
        let mut settings = config();
        settings.leases.get_or_insert_default();
        let runtime = Runtime::builder(pool.clone()).reducer("order", Telling).emitter(emitter.clone());
        let runtime = runtime.config(settings).start().await.unwrap();
        eventbox::emit(&db.pool, &order(), Event::new("x")).await.unwrap();

        let breakers = async || {
            let members = admin::members(&db.pool).await.unwrap();
            members.into_iter().flat_map(|member| member.breakers).collect::<Vec<_>>()
        };
        eventually(SOON, async || !breakers().await.is_empty()).await;
        let breaker = breakers().await.pop().unwrap();
        assert_eq!(breaker.endpoint, emitter.open_breakers()[0].endpoint);
        assert!(breaker.last_error.unwrap().contains("scripted"));
        let overview = admin::overview(&db.pool).await.unwrap();
        assert_eq!(overview.members[0].breakers.len(), 1);
        let reason = async || admin::why(&db.pool, &order()).await.unwrap().reason;
        eventually(SOON, async || matches!(reason().await, Reason::BreakerOpen { .. })).await;
        let findings = admin::doctor(&db.pool, &DoctorOptions::default()).await.unwrap();
        assert!(findings.iter().any(|found| found.check == "breakers" && found.severity == Severity::Warning));

        fake.become_ok();
        eventually(SOON, async || breakers().await.is_empty()).await;
        eventually(SOON, async || db.count("eventbox_outbox").await == 0).await;
        assert!(emitter.open_breakers().is_empty());
        assert!(matches!(admin::why(&db.pool, &order()).await.unwrap().reason, Reason::Processed { .. }));
        assert!(runtime.stop(STOP).await.complete);
        emitter.stop(STOP).await;
    }
}
