//! A processor is not called for a box without events, unless it asks to be.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};

use eventbox::{
    BoxError, EVersion, Error, Event, Mutation, Outcome, Processor, Recipient, Reducer, Transition, admin,
    process_batch, reduce_batch,
};

use eventbox::testing::{MAX_IDLE_TURNS, Violation, check_processor};

use crate::support::{CellEngine, Cells, create_cells, noting, on_every_engine};

const MANY: NonZeroU32 = NonZeroU32::new(100).unwrap();

fn cell() -> Recipient {
    Recipient::new("cell", "65").unwrap()
}

/// Saves a state on every call, and counts the calls of its methods.
#[derive(Default)]
struct Eager {
    asks: bool,
    loads: AtomicUsize,
    decisions: AtomicUsize,
}

impl Eager {
    fn calls(&self) -> (usize, usize) {
        (self.loads.load(Ordering::SeqCst), self.decisions.load(Ordering::SeqCst))
    }
}

impl<B: CellEngine> Processor<B> for Eager {
    type State = i64;

    fn runs_without_events(&self) -> bool {
        self.asks
    }

    async fn load_state(&self, conn: &mut B::Connection, to: &Recipient) -> Result<(i64, EVersion), BoxError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let (population, eversion) = B::load(conn, to.as_str()).await?;
        Ok((population, EVersion(eversion)))
    }

    async fn prepare_mutation(
        &self,
        _to: &Recipient,
        events: &[Event],
        population: &i64,
    ) -> Result<Mutation<B, i64>, BoxError> {
        self.decisions.fetch_add(1, Ordering::SeqCst);
        Ok(Transition::to(population + 1).consuming(events).into())
    }

    async fn fetch_eversion(&self, tx: &mut B::Connection, to: &Recipient) -> Result<EVersion, BoxError> {
        Ok(EVersion(B::load(tx, to.as_str()).await?.1))
    }

    async fn save_state(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
        population: &i64,
        eversion: EVersion,
    ) -> Result<(), BoxError> {
        Ok(B::save(tx, to.as_str(), *population, eversion.0).await?)
    }
}

/// Counts its calls, whatever it is given.
struct Calls;

impl Reducer for Calls {
    type State = i64;

    fn reduce(&self, _to: &Recipient, events: &[Event], calls: i64) -> Result<Outcome<i64>, BoxError> {
        Ok(Outcome::to(calls + 1).consuming(events))
    }
}

on_every_engine! {
    async fn a_box_without_events_makes_no_turn(db) {
        create_cells(db).await;
        let eager = Eager::default();
        for _ in 0..3 {
            let turn = process_batch(&db.pool, &cell(), &eager, MANY).await.unwrap();
            assert_eq!((turn.number, turn.more_remain), (None, false));
        }
        assert_eq!(eager.calls(), (0, 0), "it is asked before the load");
        assert_eq!(db.count("eventbox_state").await + db.count("cell").await, 0);
        eventbox::emit(&db.pool, &cell(), Event::new("+")).await.unwrap();
        let turn = process_batch(&db.pool, &cell(), &eager, MANY).await.unwrap();
        assert_eq!((turn.number, turn.consumed, turn.more_remain), (Some(1), 1, false));
        assert_eq!(process_batch(&db.pool, &cell(), &eager, MANY).await.unwrap().number, None);
        assert_eq!(eager.calls(), (1, 1));
    }

    async fn a_processor_that_asks_runs_without_events(db) {
        create_cells(db).await;
        let eager = Eager { asks: true, ..Eager::default() };
        for number in 1..=3 {
            let turn = process_batch(&db.pool, &cell(), &eager, MANY).await.unwrap();
            assert_eq!((turn.number, turn.consumed, turn.more_remain), (Some(number), 0, false));
        }
        assert_eq!(eager.calls(), (3, 3));
        assert_eq!(db.number("SELECT population FROM cell").await, 3);
    }

    async fn a_reducer_is_not_called_without_events(db) {
        for _ in 0..2 {
            assert_eq!(reduce_batch(&db.pool, &cell(), &Calls, MANY).await.unwrap().number, None);
        }
        eventbox::emit(&db.pool, &cell(), Event::new("+")).await.unwrap();
        assert_eq!(reduce_batch(&db.pool, &cell(), &Calls, MANY).await.unwrap().number, Some(1));
        assert_eq!(reduce_batch(&db.pool, &cell(), &Calls, MANY).await.unwrap().number, None);
        assert_eq!(eventbox::state::<i64>(&db.pool, &cell()).await.unwrap().unwrap().state, Some(1));
    }

    /// A timer is no event of the box yet, and a pause is reported with events and without them.
    async fn timers_and_pauses_do_not_call_it(db) {
        create_cells(db).await;
        let eager = Eager::default();
        let later = Event::new("+").due_in(std::time::Duration::from_secs(86_400));
        eventbox::emit(&db.pool, &cell(), later).await.unwrap();
        assert_eq!(process_batch(&db.pool, &cell(), &eager, MANY).await.unwrap().number, None);
        admin::pause(&db.pool, &cell()).await.unwrap();
        let error = process_batch(&db.pool, &cell(), &eager, MANY).await.unwrap_err();
        assert!(matches!(error, Error::Paused { .. }), "{error:?}");
        admin::resume(&db.pool, &cell()).await.unwrap();
        assert_eq!(process_batch(&db.pool, &cell(), &eager, MANY).await.unwrap().number, None);
        assert_eq!(eager.calls(), (0, 0));
    }

    /// Events that the processor left are events: it is called, and the page after the last event causes no call.
    async fn events_that_are_left_are_given_again_and_nothing_behind_them(db) {
        create_cells(db).await;
        let calls = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let noted = std::sync::Arc::clone(&calls);
        let leaving = Cells::<Engine>::deciding(move |_, events, _| {
            noted.lock().unwrap().push(events.len());
            Ok(Mutation::none())
        });
        for value in ["a", "b", "c", "d"] {
            eventbox::emit(&db.pool, &cell(), Event::new(value)).await.unwrap();
        }
        let two = NonZeroU32::new(2).unwrap();
        assert_eq!(process_batch(&db.pool, &cell(), &leaving, two).await.unwrap().number, None);
        assert_eq!(*calls.lock().unwrap(), [2, 2]);
    }
}

/// Counts up to a limit and then rests, and asks to be called without events.
struct UpTo(i64);

impl<B: CellEngine> Processor<B> for UpTo {
    type State = i64;

    fn runs_without_events(&self) -> bool {
        true
    }

    async fn load_state(&self, conn: &mut B::Connection, to: &Recipient) -> Result<(i64, EVersion), BoxError> {
        let (population, eversion) = B::load(conn, to.as_str()).await?;
        Ok((population, EVersion(eversion)))
    }

    async fn prepare_mutation(
        &self,
        _to: &Recipient,
        events: &[Event],
        population: &i64,
    ) -> Result<Mutation<B, i64>, BoxError> {
        if events.is_empty() && *population >= self.0 {
            return Ok(Mutation::none());
        }
        Ok(Transition::to(population + 1).consuming(events).into())
    }

    async fn fetch_eversion(&self, tx: &mut B::Connection, to: &Recipient) -> Result<EVersion, BoxError> {
        Ok(EVersion(B::load(tx, to.as_str()).await?.1))
    }

    async fn save_state(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
        population: &i64,
        eversion: EVersion,
    ) -> Result<(), BoxError> {
        Ok(B::save(tx, to.as_str(), *population, eversion.0).await?)
    }
}

on_every_engine! {
    /// It is found with events and without them; nothing stays.
    async fn a_processor_that_never_rests_is_found(db) {
        create_cells(db).await;
        let eager = Eager { asks: true, ..Eager::default() };
        let never = || Violation::NeverRests { turns: MAX_IDLE_TURNS };
        assert_eq!(check_processor(&db.pool, &cell(), &eager, MANY).await.unwrap(), [never()]);
        eventbox::emit(&db.pool, &cell(), Event::new("+")).await.unwrap();
        assert_eq!(check_processor(&db.pool, &cell(), &eager, MANY).await.unwrap(), [never()]);
        assert_eq!(db.count("eventbox_event").await, 1);
        assert_eq!(db.count("eventbox_state").await + db.count("cell").await, 0);

        // One that does not ask has its events, and rests behind them.
        assert_eq!(check_processor(&db.pool, &cell(), &Eager::default(), MANY).await.unwrap(), []);
        // One that saves a state for events that it leaves commits as often as it is called, too.
        let leaving = Cells::<Engine>::deciding(|_, _, population| Ok(Transition::to(population + 1).into()));
        assert_eq!(check_processor(&db.pool, &cell(), &leaving, MANY).await.unwrap(), [never()]);
        let noting = Cells::<Engine>::deciding(|_, _, _| Ok(Transition::stay().side_effect(noting("again")).into()));
        let found = check_processor(&db.pool, &cell(), &noting, MANY).await.unwrap();
        assert_eq!(found, [Violation::NothingSaved, never()]);
        assert_eq!(db.count("effect").await, 0);
    }

    async fn a_processor_that_rests_after_some_turns_is_right(db) {
        create_cells(db).await;
        for turns in [1, 7] {
            assert_eq!(check_processor(&db.pool, &cell(), &UpTo(turns), MANY).await.unwrap(), []);
        }
        eventbox::emit(&db.pool, &cell(), Event::new("+")).await.unwrap();
        assert_eq!(check_processor(&db.pool, &cell(), &UpTo(7), MANY).await.unwrap(), []);
        // Events that fail, and a box that is emptied one by one, are rests and progress.
        for value in ["a", "b", "bad"] {
            eventbox::emit(&db.pool, &cell(), Event::new(value)).await.unwrap();
        }
        let first = Cells::<Engine>::deciding(|_, events, population| match events.first() {
            Some(event) if event.value() == b"bad" => Err("a bad one".into()),
            Some(event) => Ok(Transition::to(population + 1).consuming([event]).into()),
            None => Ok(Mutation::none()),
        });
        assert_eq!(check_processor(&db.pool, &cell(), &first, MANY).await.unwrap(), []);
    }
}
