//! The trace context, from the span of the sender to the span of the turn.

use eventbox::{Error, Event, Misuse, Recipient, admin};

use crate::support::{drain, on_every_engine};

const REQUEST: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn cell(key: u32) -> Recipient {
    Recipient::new("cell", key.to_string()).unwrap()
}

on_every_engine! {
    /// The context of the sender comes back for single emits and lists, with and without a name, and from quarantine.
    /// An event without a context has none.
    async fn a_context_comes_back(db) {
        let traced = |name: Option<&str>| {
            name.into_iter().fold(Event::new("x").traced(REQUEST), |event, name| event.named(name))
        };
        eventbox::emit(&db.pool, &cell(1), traced(None)).await.unwrap();
        eventbox::emit(&db.pool, &cell(1), traced(Some("a"))).await.unwrap();
        eventbox::emit_all(
            &db.pool,
            &[(cell(1), traced(None)), (cell(1), traced(Some("b"))), (cell(1), Event::new("untraced"))],
        )
        .await
        .unwrap();
        let ids: Vec<_> = admin::events(&db.pool, &cell(1), None, 10).await.unwrap().iter().map(Event::id).collect();
        admin::quarantine(&db.pool, &cell(1), &ids[..2], "to see it come back").await.unwrap();
        assert_eq!(
            admin::quarantined(&db.pool, &cell(1), None, 10).await.unwrap()[0].event.traceparent(),
            Some(REQUEST)
        );
        admin::replay(&db.pool, &cell(1), &ids[..2]).await.unwrap();
        let events = drain(&db.pool, &cell(1)).await;
        let contexts: Vec<_> = events.iter().map(Event::traceparent).collect();
        assert_eq!(contexts, [Some(REQUEST), Some(REQUEST), Some(REQUEST), Some(REQUEST), None]);
    }

    /// An invalid traceparent is refused before any SQL, and the error names the recipient.
    async fn a_malformed_context_is_refused(db) {
        // A closed pool returns its own error for every statement.
        db.pool.close().await;
        for bad in [
            "",
            "00-1-2-3",
            &REQUEST.to_uppercase(),
            &REQUEST.replace("00-4", "ff-4"),
            "'; DROP TABLE eventbox_event; --",
            "a\0b",
        ] {
            let event = Event::new("x").traced(bad);
            let alone = eventbox::emit(&db.pool, &cell(1), event.clone()).await.unwrap_err();
            let in_a_list =
                eventbox::emit_all(&db.pool, &[(cell(2), Event::new("good")), (cell(1), event)]).await.unwrap_err();
            for error in [alone, in_a_list] {
                assert!(matches!(error, Error::Misuse { misuse: Misuse::NotATraceparent { .. }, .. }), "{error:?}");
                assert!(error.to_string().contains("cell/1") && error.to_string().contains("traceparent"), "{error}");
            }
        }
    }
}

/// Tests with spans that OpenTelemetry records.
#[cfg(feature = "opentelemetry")]
mod opentelemetry_spans {
    use std::num::NonZeroU32;
    use std::sync::{Arc, Mutex};

    use eventbox::{Mutation, SideEffect, Transition};
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
    use tracing::Instrument;
    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::support::{CellEngine, Cells, SOON, create_cells, eventually};

    const MANY: NonZeroU32 = NonZeroU32::new(100).unwrap();

    /// Of a process that runs one of these tests and nothing else.
    const ALONE: &str = "EVENTBOX_TEST_ALONE";

    /// Runs the calling test in a process of its own, unless it runs in such a process already.
    ///
    /// `tracing` remembers for each place in the code whether a subscriber wants its spans, for all threads together.
    /// So tests with subscribers of their own disturb each other.
    async fn is_done_alone() -> bool {
        let name = std::thread::current().name().unwrap_or("main").to_owned();
        if std::env::var(ALONE).is_ok() || name == "main" {
            return false;
        }
        let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
        let done = command.args(["--exact", &name, "--nocapture"]).env(ALONE, "1").output().await.unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(
            done.status.success() && said.contains("1 passed"),
            "{said}\n{}",
            String::from_utf8_lossy(&done.stderr)
        );
        true
    }

    /// Guard that a test keeps while it looks at spans: the spans go with the provider.
    type Collecting = (InMemorySpanExporter, SdkTracerProvider, tracing::subscriber::DefaultGuard);

    /// Spans of these targets, on this thread.
    fn collect(targets: &[&'static str]) -> Collecting {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let targets: Targets = targets.iter().map(|target| (*target, LevelFilter::DEBUG)).collect();
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(targets).with(layer));
        (exporter, provider, guard)
    }

    fn named(spans: &[SpanData], name: &str) -> Vec<SpanData> {
        spans.iter().filter(|span| span.name == name).cloned().collect()
    }

    fn traceparent(span: &SpanData) -> String {
        format!("00-{}-{}-01", span.span_context.trace_id(), span.span_context.span_id())
    }

    /// Consumes all events and emits an event to another box in a side effect. Another turn commits first once, so this
    /// turn starts again.
    fn forwarding<B: CellEngine>(overtake: sqlx::Pool<B>) -> Cells<B> {
        let overtake = Arc::new(Mutex::new(Some(overtake)));
        Cells::deciding(|_, events, _| {
            let effect =
                SideEffect::new(|tx| Box::pin(async move { Ok(B::emit(tx, &cell(2), Event::new("on")).await?) }));
            Ok(Mutation::from(Transition::stay().consuming(events).side_effect(effect)))
        })
        .before_deciding(move |_| {
            let pool = overtake.lock().unwrap().take();
            async move {
                if let Some(pool) = pool {
                    admin::pause(&pool, &cell(1)).await.unwrap();
                    admin::resume(&pool, &cell(1)).await.unwrap();
                }
            }
        })
    }

    on_every_engine! {
        /// The sender's span is the context of an emitted event without a context of its own. The turn links to each
        /// sender's span once, also after it starts again. The turn's span is the context of the events that its side
        /// effects emit.
        async fn a_turn_is_linked_to_the_senders_spans(db) {
            if is_done_alone().await {
                return;
            }
            create_cells(db).await;
            let (exporter, _provider, guard) = collect(&["eventbox", "suite"]);
            let sending = async {
                eventbox::emit(&db.pool, &cell(1), Event::new("a")).await.unwrap();
                let (named, traced) = (Event::new("b").named("b"), Event::new("c").traced(REQUEST));
                eventbox::emit_all(&db.pool, &[(cell(1), named), (cell(1), traced)]).await.unwrap();
            };
            sending.instrument(tracing::info_span!("sending")).await;
            let turn = eventbox::process_batch(&db.pool, &cell(1), &forwarding(db.open(1)), MANY).await.unwrap();
            assert_eq!((turn.consumed, turn.contention), (3, 1));
            // A worker thread of SQLite may hold the span longer.
            let turns = || named(&exporter.get_finished_spans().unwrap(), "eventbox.turn");
            eventually(SOON, async || !turns().is_empty()).await;
            drop(guard);

            let spans = exporter.get_finished_spans().unwrap();
            let (sending, turns) = (named(&spans, "sending"), named(&spans, "eventbox.turn"));
            assert_eq!((sending.len(), turns.len()), (1, 1), "{spans:#?}");
            let contexts = turns[0].links.iter().map(|link| &link.span_context);
            let mut links: Vec<_> = contexts
                .map(|context| format!("00-{}-{}-01", context.trace_id(), context.span_id()))
                .collect();
            links.sort();
            let mut wanted = [traceparent(&sending[0]), REQUEST.to_owned()];
            wanted.sort();
            assert_eq!(links, wanted);
            assert!(turns[0].links.iter().all(|link| link.span_context.is_remote()));
            let forwarded = drain(&db.pool, &cell(2)).await;
            assert_eq!(forwarded[0].traceparent(), Some(traceparent(&turns[0]).as_str()));
        }

        /// Outside of any span there is no context. A turn whose span is filtered out links nothing of its caller.
        async fn without_a_span_there_is_no_context(db) {
            if is_done_alone().await {
                return;
            }
            create_cells(db).await;
            eventbox::emit(&db.pool, &cell(1), Event::new("a")).await.unwrap();
            eventbox::emit(&db.pool, &cell(1), Event::new("b").traced(REQUEST)).await.unwrap();
            let (exporter, _provider, guard) = collect(&["suite"]);
            let events = drain(&db.pool, &cell(1)).instrument(tracing::info_span!("calling")).await;
            eventually(SOON, async || !exporter.get_finished_spans().unwrap().is_empty()).await;
            drop(guard);
            let contexts: Vec<_> = events.iter().map(Event::traceparent).collect();
            assert_eq!(contexts, [None, Some(REQUEST)]);
            let spans = exporter.get_finished_spans().unwrap();
            assert_eq!((spans.len(), spans[0].links.len()), (1, 0), "{spans:#?}");
        }
    }
}
