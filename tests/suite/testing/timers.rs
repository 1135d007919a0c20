//! A test fires timers when it wants, without waiting.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use eventbox::testing::{Clock, drain, events_of, fire_timers};
use eventbox::{
    BoxError, Emitted, Event, Outcome, Recipient, Reducer, ReducerAsProcessor, Status, status,
    timer::{move_due, timers},
};

use crate::support::on_every_engine;

const DAY: Duration = Duration::from_secs(86_400);
const MANY: NonZeroU32 = NonZeroU32::new(100).unwrap();

fn order(key: &str) -> Recipient {
    Recipient::new("order", key).unwrap()
}

/// A reducer that counts reminders and emits the next reminder, up to three.
struct Reminders;

impl Reducer for Reminders {
    type State = u32;

    fn reduce(&self, to: &Recipient, events: &[Event], reminders: u32) -> Result<Outcome<u32>, BoxError> {
        let reminders = reminders + events.len() as u32;
        let again = (reminders < 3).then(|| (to.clone(), Event::new("again").due_in(30 * DAY)));
        Ok(Outcome::to(reminders).consuming(events).emitting(again))
    }
}

on_every_engine! {
    async fn a_timer_of_thirty_days_fires_at_once(db) {
        let before = SystemTime::now();
        let mut receipts = Vec::new();
        for (key, wait) in [("early", DAY), ("7", 30 * DAY), ("late", 60 * DAY)] {
            let event = Event::new(key).named(key).due_in(wait);
            receipts.push(eventbox::emit(&db.pool, &order(key), event).await.unwrap());
        }
        assert_eq!(fire_timers(&db.pool, before).await.unwrap(), 0);
        assert_eq!(fire_timers(&db.pool, before + 31 * DAY).await.unwrap(), 2);
        for (key, events) in [("early", 1), ("7", 1), ("late", 0)] {
            assert_eq!(events_of(&db.pool, &order(key)).await.unwrap().len(), events, "{key}");
        }
        assert_eq!(timers(&db.pool, &order("late"), None, 10).await.unwrap().len(), 1);
        assert_eq!(status(&db.pool, &receipts[1]).await.unwrap(), Status::Waiting);
        let again = eventbox::emit(&db.pool, &order("7"), Event::new("7").named("7")).await.unwrap();
        assert_eq!(again, Emitted::Duplicate, "the timer keeps its name and id");
        assert_eq!(fire_timers(&db.pool, before + 31 * DAY).await.unwrap(), 0);
    }

    /// All due timers fire, in all shards. They keep the ids, and so the order, of their emits.
    async fn all_due_timers_fire(db) {
        let events: Vec<_> = (0..300u64)
            .map(|number| {
                (
                    order(&(number % 100).to_string()),
                    Event::new(number.to_string()).due_in(DAY * (1 + (number % 3) as u32)),
                )
            })
            .collect();
        eventbox::emit_all(&db.pool, &events).await.unwrap();
        assert_eq!(fire_timers(&db.pool, SystemTime::now() + 10 * DAY).await.unwrap(), 300);
        for key in 0..100u64 {
            let values: Vec<_> = events_of(&db.pool, &order(&key.to_string()))
                .await
                .unwrap()
                .iter()
                .map(|event| event.value().to_vec())
                .collect();
            assert_eq!(values, [key, key + 100, key + 200].map(|number| number.to_string().into_bytes()));
        }
        assert_eq!(db.count("eventbox_timer").await, 0);
    }

    /// A chain of reminders fires by a clock that is years away from the clock of the database.
    async fn delays_count_from_the_moved_clock(db) {
        let clock = Clock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_356_998_400));
        let reminders = ReducerAsProcessor::new(&Reminders);
        clock.scope(async {
            eventbox::emit(&db.pool, &order("7"), Event::new("not paid yet?").due_in(30 * DAY)).await.unwrap();
            for reminder in 1..=3u32 {
                clock.advance(30 * DAY - Duration::from_secs(1));
                assert_eq!(fire_timers(&db.pool, clock.now()).await.unwrap(), 0, "reminder {reminder} is not due yet");
                let all: Vec<u8> = (0..=255).collect();
                assert_eq!(move_due(&db.pool, &all, MANY).await.unwrap().moved, 0);
                clock.advance(Duration::from_secs(1));
                // In the scope of a clock, `move_due` uses this clock, too.
                let fired = match reminder {
                    2 => move_due(&db.pool, &all, MANY).await.unwrap().moved,
                    _ => fire_timers(&db.pool, clock.now()).await.unwrap(),
                };
                assert_eq!(fired, 1);
                assert_eq!(drain(&db.pool, &order("7"), &reminders, MANY, MANY).await.unwrap().turns, 1);
            }
        }).await;
        assert_eq!(eventbox::state::<u32>(&db.pool, &order("7")).await.unwrap().unwrap().state, Some(3));
        assert_eq!(db.count("eventbox_timer").await, 0);
    }
}
