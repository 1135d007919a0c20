//! The journal, in turns and in rounds: what a way removes is noted in the transaction that removes it.

use eventbox::admin::{self, JournalEntry, JournalOutcome};
use eventbox::{Event, Outcome};

use super::by_every_way;
use super::reducers::{meddled, reduce, remember, seen};
use super::ways::{Bounds, Way, emit, it, turn_of_it};
use crate::support::{TestDb, TestEngine};

fn journaled() -> Bounds {
    Bounds { journaled: true, ..Bounds::default() }
}

/// Returns the journal of the recipient, the oldest event first.
async fn journal<B: TestEngine>(db: &TestDb<B>) -> Vec<JournalEntry> {
    let mut history = admin::history(&db.pool, &it(), None, 1_000).await.unwrap();
    history.reverse();
    history
}

by_every_way! {
    /// Consumed events and garbage are noted with the turn that removed them. An event that stays is not.
    async fn what_is_removed_is_noted(db, way) {
        emit(db, ["a", "b", "old", "stays"]).await;
        let events = admin::events(&db.pool, &it(), None, 10).await.unwrap();
        let deciding = reduce(|events: &[Event], _| match events {
            [a, b, old, _] => Ok(Outcome::stay().consuming([a, b]).garbage([old])),
            _ => Ok(Outcome::stay()),
        });
        let worked = way.work(db, deciding, journaled(), async |worked| worked.garbage > 0).await;
        assert_eq!((worked.contention, worked.failures), (0, 0), "{worked:?}");
        let noted: Vec<_> = journal(db).await.iter().map(|entry| (entry.id, entry.turn, entry.outcome)).collect();
        let [consumed, garbage] = [JournalOutcome::Consumed, JournalOutcome::Garbage];
        assert_eq!(noted, [(events[0].id(), 1, consumed), (events[1].id(), 1, consumed), (events[2].id(), 1, garbage)]);
        let mates = i64::try_from(way.mates()).unwrap();
        assert_eq!(db.count("eventbox_journal").await, 3 + mates, "the others of a round have entries, too");

        let audit = admin::audit(&db.pool, events.iter().map(|event| (it(), event.id()))).await.unwrap();
        assert_eq!((audit.consumed, audit.garbage, audit.waiting, audit.events()), (2, 1, 1, 4));
        assert!(audit.is_conserved(), "{audit:?}");
        let audit = admin::audit_kind(&db.pool, "cell").await.unwrap();
        assert!(audit.is_conserved() && audit.events() == 4 + way.mates(), "{audit:?}");
    }

    /// Without a wish for it, no way writes a journal.
    async fn nothing_is_noted_by_default(db, way) {
        emit(db, ["a", "b"]).await;
        way.drain(db, reduce(remember)).await;
        assert_eq!((seen(db).await.len(), db.count("eventbox_journal").await), (2, 0));
        assert_eq!(db.count("eventbox_journal_kind").await, 0);
    }

    /// A decision that loses its race notes nothing. The turn that wins notes each event once.
    async fn a_lost_race_notes_nothing(db, way) {
        emit(db, ["a", "b"]).await;
        let rival = db.open(1);
        let overtaken = meddled(reduce(remember), move |decision| {
            let rival = rival.clone();
            async move {
                if decision == 1 {
                    admin::set_state(&rival, &it(), 0, None).await.unwrap();
                    assert!(admin::history(&rival, &it(), None, 10).await.unwrap().is_empty());
                }
            }
        });
        let worked = way.drain_with(db, overtaken, journaled()).await;
        assert!(worked.contention >= 1, "{worked:?}");
        let turns: Vec<_> = journal(db).await.iter().map(|entry| entry.turn).collect();
        assert_eq!((turns, turn_of_it(db).await), (vec![2, 2], 2));
    }

    /// Of a batch that keeps failing, the poison event is noted as quarantined, and the others as consumed.
    async fn poison_is_noted_as_quarantined(db, way) {
        emit(db, ["a", "bad", "b"]).await;
        let events = admin::events(&db.pool, &it(), None, 10).await.unwrap();
        let refusing = reduce(|events: &[Event], seen| match events.iter().any(|event| event.value() == b"bad") {
            true => Err("a bad event".into()),
            false => remember(events, seen),
        });
        let bounds = Bounds { journaled: true, ..Bounds::isolating(2) };
        let worked = way.drain_with(db, refusing, bounds).await;
        assert_eq!(worked.quarantined, 1, "{worked:?}");
        let noted: Vec<_> = journal(db).await.iter().map(|entry| (entry.id, entry.outcome)).collect();
        let wanted = [JournalOutcome::Consumed, JournalOutcome::Quarantined, JournalOutcome::Consumed];
        assert_eq!(noted, events.iter().map(Event::id).zip(wanted).collect::<Vec<_>>());

        // It is replayed and consumed: the last outcome counts.
        assert_eq!(admin::replay(&db.pool, &it(), &[events[1].id()]).await.unwrap(), 1);
        let audit = admin::audit(&db.pool, [(it(), events[1].id())]).await.unwrap();
        assert_eq!((audit.waiting, audit.is_conserved()), (1, true));
        way.drain_with(db, reduce(remember), journaled()).await;
        let outcomes: Vec<_> = journal(db).await.iter().map(|entry| entry.outcome).collect();
        assert_eq!(outcomes, [JournalOutcome::Consumed; 3]);
    }
}
