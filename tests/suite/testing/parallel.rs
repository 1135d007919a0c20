//! Tests that share a database do not affect each other's checks.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};

use eventbox::testing::{check_processor, rehearse};
use eventbox::{Event, Recipient, Transition};

use crate::support::{CellEngine, Cells, create_cells, on_every_engine};

const MANY: NonZeroU32 = NonZeroU32::new(100).unwrap();

on_every_engine! {
    /// While other tasks emit without a pause, a correct processor passes, and only its own events are reported.
    async fn a_correct_processor_passes_while_others_write(db) {
        create_cells(db).await;
        let (to, neighbour) = (Recipient::new("cell", "1").unwrap(), Recipient::new("cell", "neighbour").unwrap());
        Engine::emit_on(&db.pool, &to, Event::new("grows")).await.unwrap();
        let done = AtomicBool::new(false);
        let others = async {
            let pool = db.open(2);
            for n in 0_u64.. {
                if done.load(Ordering::SeqCst) {
                    return n;
                }
                let to = Recipient::new("other", (n % 50).to_string()).unwrap();
                Engine::emit_on(&pool, &to, Event::new("noise")).await.unwrap();
            }
            0
        };
        let checked = async {
            let told = neighbour.clone();
            let cells = Cells::<Engine>::deciding(move |_, events, population| {
                if events.is_empty() {
                    return Ok(eventbox::Mutation::none());
                }
                let hello = (told.clone(), Event::new("hello"));
                Ok(Transition::to(population + 1).consuming(events).emitting([hello.clone(), hello]).into())
            });
            for _ in 0..20 {
                assert_eq!(check_processor(&db.pool, &to, &cells, MANY).await.unwrap(), []);
                let rehearsal = rehearse(&db.pool, &to, &cells, MANY).await.unwrap().unwrap();
                let emitted: Vec<_> = rehearsal.emitted.iter().map(|(to, event)| (to, event.value())).collect();
                assert_eq!(emitted, [(&neighbour, &b"hello"[..]), (&neighbour, &b"hello"[..])]);
            }
            done.store(true, Ordering::SeqCst);
        };
        let (written, ()) = tokio::join!(others, checked);
        assert!(written > 0);
        assert_eq!(db.number("SELECT count(*) FROM eventbox_event WHERE recipient = 'cell/neighbour'").await, 0);
    }

    /// The events of a transition are emitted with its turn. A broken limit is refused before any SQL.
    async fn a_transition_emits(db) {
        create_cells(db).await;
        let to = Recipient::new("cell", "1").unwrap();
        Engine::emit_on(&db.pool, &to, Event::new("grows")).await.unwrap();
        let neighbour = Recipient::new("cell", "2").unwrap();
        let emitting = |value: Vec<u8>| {
            let neighbour = neighbour.clone();
            Cells::<Engine>::deciding(move |_, events, _| {
                Ok(Transition::stay()
                    .emitting([(neighbour.clone(), Event::new(value.clone()))])
                    .consuming(events)
                    .into())
            })
        };
        let error =
            eventbox::process_batch(&db.pool, &to, &emitting(vec![0; eventbox::limits::MAX_VALUE_BYTES + 1]), MANY)
                .await;
        assert!(matches!(error, Err(eventbox::Error::Misuse { .. })), "{error:?}");
        let turn = eventbox::process_batch(&db.pool, &to, &emitting(b"hello".to_vec()), MANY).await.unwrap();
        assert_eq!((turn.number, turn.consumed), (Some(1), 1));
        assert_eq!(db.texts("SELECT recipient FROM eventbox_event").await, ["cell/2"]);
    }

    /// A runtime prunes names by itself, unless its configuration disables the pruner.
    async fn a_runtime_prunes_names(db) {
        use eventbox::runtime::{Runtime, RuntimeConfig};
        let to = Recipient::new("cell", "1").unwrap();
        let started = async |pruner| {
            let mut config = RuntimeConfig::default();
            config.pruner = pruner;
            Runtime::builder(db.open(4))
                .processor("none", Cells::<Engine>::deciding(|_, _, _| Ok(eventbox::Mutation::none())))
                .config(config)
                .start()
                .await
                .unwrap()
        };
        Engine::emit_on(&db.pool, &to, Event::new("x").named("n")).await.unwrap();
        db.run("DELETE FROM eventbox_event").await;
        assert!(RuntimeConfig::default().pruner.is_some());
        let without = started(None).await;
        without.stop(crate::support::SOON).await;
        assert_eq!(db.number("SELECT count(*) FROM eventbox_tombstone WHERE gone_at_us IS NULL").await, 1);
        let pruner = eventbox::PrunerConfig::default()
            .with_tombstone_delay(std::time::Duration::ZERO)
            .with_interval(std::time::Duration::from_millis(100));
        let with = started(Some(pruner)).await;
        crate::support::eventually(crate::support::SOON, async || db.count("eventbox_tombstone").await == 0).await;
        assert!(with.stop(crate::support::SOON).await.complete);
    }
}
