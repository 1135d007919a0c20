//! A clock that a test moves.

use std::time::{Duration, SystemTime};

use eventbox::testing::{Clock, events_of};
use eventbox::{CloudEvent, Event, Recipient};

use crate::support::on_every_engine;

fn new_year() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_356_998_400)
}

on_every_engine! {
    async fn events_and_messages_carry_the_moved_time(db) {
        let airport = Recipient::new("airport", "JFK").unwrap();
        let clock = Clock::at(new_year());
        let message = clock
            .scope(async {
                for _ in 0..3 {
                    eventbox::emit(&db.pool, &airport, Event::new("x")).await.unwrap();
                }
                clock.advance(Duration::from_secs(60));
                let many = [(airport.clone(), Event::new("y")), (airport.clone(), Event::new("z"))];
                eventbox::emit_all(&db.pool, &many).await.unwrap();
                CloudEvent::builder("flights", "flight.delayed").build().unwrap()
            })
            .await;
        let minute_later = new_year() + Duration::from_secs(60);
        let events = events_of(&db.pool, &airport).await.unwrap();
        let times: Vec<_> = events.iter().map(|event| event.id().emitted_at()).collect();
        assert_eq!(times, [new_year(), new_year(), new_year(), minute_later, minute_later]);
        assert_eq!(message.recorded_time(), Some(minute_later));
        let values: Vec<_> = events.iter().map(Event::value).collect();
        assert_eq!(values, [b"x", b"x", b"x", b"y", b"z"], "emits at the same time keep their order");

        eventbox::emit(&db.pool, &airport, Event::new("now")).await.unwrap();
        let last = events_of(&db.pool, &airport).await.unwrap().pop().unwrap();
        let age = SystemTime::now().duration_since(last.id().emitted_at()).unwrap_or_default();
        assert!(age < Duration::from_secs(60), "outside the scope it is {age:?} ago");
    }
}

/// Ids keep growing when the clock is set back. A moved clock does not change the ids outside of its scope.
#[tokio::test]
async fn a_clock_can_be_set_back() {
    let db = crate::support::TestDb::<sqlx::Sqlite>::empty("set_back").await;
    eventbox::migrate(&db.pool).await.unwrap();
    let airport = Recipient::new("airport", "JFK").unwrap();
    let far_away = SystemTime::now() + Duration::from_secs(1_000_000);
    let clock = Clock::at(far_away);
    let emit = |value| eventbox::emit(&db.pool, &airport, Event::new(value));
    clock.scope(async { emit("first").await.unwrap() }).await;
    clock.set(new_year());
    assert_eq!(clock.now(), new_year());
    clock.scope(async { emit("second").await.unwrap() }).await;
    let values: Vec<_> =
        events_of(&db.pool, &airport).await.unwrap().iter().map(|event| event.value().to_vec()).collect();
    assert_eq!(values, [&b"first"[..], b"second"]);
    emit("by the real clock").await.unwrap();
    let oldest = &events_of(&db.pool, &airport).await.unwrap()[0];
    assert_eq!(oldest.value(), b"by the real clock");
    db.remove().await;
}
