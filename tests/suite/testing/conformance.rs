//! The conformance check finds each mistake of a processor, and none in a correct processor.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, Ordering};

use eventbox::testing::{LOAD_DEADLINE, Violation, check_processor};
use eventbox::{BoxError, CloudEvent, EVersion, Event, Mutation, Processor, Recipient, SideEffect, Transition};
use sqlx::Pool;

use crate::support::{CellEngine, TestDb, create_cells, on_every_engine};

const MANY: NonZeroU32 = NonZeroU32::new(100).unwrap();

#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    SaveForgetsVersion,
    SaveLosesState,
    LoadReadsElsewhere,
    FetchIsConstant,
    FetchIsOff,
    StateChanges,
    EmitsChange,
    MessagesChange,
    StopsDeciding,
    NeverSaves,
}

/// The processor of cells with one mistake.
struct Cells<B: CellEngine> {
    mistake: Mistake,
    elsewhere: Pool<B>,
    decisions: AtomicI64,
}

impl<B: CellEngine> Processor<B> for Cells<B> {
    type State = i64;

    async fn load_state(&self, conn: &mut B::Connection, to: &Recipient) -> Result<(i64, EVersion), BoxError> {
        let (population, eversion) = match self.mistake {
            Mistake::LoadReadsElsewhere => B::load(&mut *self.elsewhere.acquire().await?, to.as_str()).await?,
            _ => B::load(conn, to.as_str()).await?,
        };
        Ok((population, EVersion(eversion)))
    }

    async fn prepare_mutation(
        &self,
        _to: &Recipient,
        events: &[Event],
        population: &i64,
    ) -> Result<Mutation<B, i64>, BoxError> {
        let decision = self.decisions.fetch_add(1, Ordering::SeqCst);
        let when = |mistake| if self.mistake == mistake { decision } else { 0 };
        if when(Mistake::StopsDeciding) > 0 || events.is_empty() {
            return Ok(Mutation::none());
        }
        let neighbour = Recipient::new("cell", "neighbour")?;
        let hello = Event::new(format!("hello {}", when(Mistake::EmitsChange)));
        let message =
            CloudEvent::builder("cells", "cell.grown").payload(vec![when(Mistake::MessagesChange) as u8]).build()?;
        let transition = match self.mistake {
            Mistake::NeverSaves => Transition::stay(),
            _ => Transition::to(population + events.len() as i64 + when(Mistake::StateChanges)),
        };
        let effect = SideEffect::new(move |tx| Box::pin(async move { Ok(B::emit(tx, &neighbour, hello).await?) }));
        Ok(transition.consuming(events).side_effect(effect).publishing([message]).into())
    }

    async fn fetch_eversion(&self, tx: &mut B::Connection, to: &Recipient) -> Result<EVersion, BoxError> {
        let eversion = B::load(tx, to.as_str()).await?.1;
        Ok(EVersion(match self.mistake {
            Mistake::FetchIsConstant => 0,
            Mistake::FetchIsOff => eversion + 1,
            _ => eversion,
        }))
    }

    async fn save_state(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
        population: &i64,
        eversion: EVersion,
    ) -> Result<(), BoxError> {
        let (population, eversion) = match self.mistake {
            Mistake::SaveForgetsVersion => (*population, eversion.0 - 1),
            Mistake::SaveLosesState => (0, eversion.0),
            _ => (*population, eversion.0),
        };
        Ok(B::save(tx, to.as_str(), population, eversion).await?)
    }
}

async fn found<B: CellEngine>(db: &TestDb<B>, to: &Recipient, mistake: Mistake) -> Vec<Violation> {
    let cells = Cells { mistake, elsewhere: db.open(1), decisions: AtomicI64::new(0) };
    let tables = ["eventbox_event", "eventbox_state", "eventbox_outbox", "cell"];
    let mut before = Vec::new();
    for table in tables {
        before.push(db.count(table).await);
    }
    let violations = check_processor(&db.pool, to, &cells, MANY).await.unwrap();
    for (table, before) in tables.into_iter().zip(before) {
        assert_eq!(db.count(table).await, before, "{table} is unchanged");
    }
    cells.elsewhere.close().await;
    violations
}

on_every_engine! {
    async fn a_correct_processor_has_no_mistake(db) {
        create_cells(db).await;
        let to = Recipient::new("cell", "65").unwrap();
        for _ in 0..2 {
            eventbox::emit(&db.pool, &to, Event::new("+")).await.unwrap();
            assert_eq!(found(db, &to, Mistake::None).await, []);
            // The second pass runs on an entity that exists.
            let cells = Cells { mistake: Mistake::None, elsewhere: db.open(1), decisions: AtomicI64::new(0) };
            assert_eq!(eventbox::process_batch(&db.pool, &to, &cells, MANY).await.unwrap().consumed, 1);
        }
    }

    async fn each_mistake_is_found(db) {
        create_cells(db).await;
        let to = Recipient::new("cell", "65").unwrap();
        assert_eq!(found(db, &to, Mistake::None).await, [Violation::NothingSaved], "the box is empty");
        eventbox::emit(&db.pool, &to, Event::new("+")).await.unwrap();
        let repeats = |what| Violation::NotRepeatable { what };
        for (mistake, violation) in [
            (Mistake::SaveForgetsVersion, Violation::SaveForgetsVersion),
            (Mistake::SaveLosesState, Violation::StateIsLost),
            (Mistake::LoadReadsElsewhere, Violation::LoadReadsElsewhere),
            (Mistake::FetchIsConstant, Violation::FetchMissesVersion),
            (Mistake::FetchIsOff, Violation::VersionsDiffer),
            (Mistake::StateChanges, repeats("states")),
            (Mistake::EmitsChange, repeats("emitted events")),
            (Mistake::MessagesChange, repeats("published messages")),
            (Mistake::StopsDeciding, repeats("transitions: none at all")),
            (Mistake::NeverSaves, Violation::NothingSaved),
        ] {
            assert_eq!(found(db, &to, mistake).await, [violation]);
        }
        db.run("INSERT INTO cell (key, eversion, population) VALUES ('cell/65', 3, 8)").await;
        assert_eq!(found(db, &to, Mistake::FetchIsConstant).await, [Violation::VersionsDiffer]);
    }
}

/// The check finds a load that waits for a row which its own transaction has locked; it would never end.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_waits_for_its_own_transaction_is_found() {
    crate::support::with_database("load_waits", async |db: &TestDb<sqlx::Postgres>| {
        create_cells(db).await;
        let to = Recipient::new("cell", "65").unwrap();
        eventbox::emit(&db.pool, &to, Event::new("+")).await.unwrap();
        db.run("INSERT INTO cell (key, eversion, population) VALUES ('cell/65', 3, 8)").await;
        let started = std::time::Instant::now();
        assert_eq!(found(db, &to, Mistake::LoadReadsElsewhere).await, [Violation::LoadReadsElsewhere]);
        assert!(started.elapsed() >= LOAD_DEADLINE);
    })
    .await;
}
