//! Faults of a user, and inputs that only look like faults: a clear error, no event lost, nothing written. Other files
//! have wrong decisions (`turn.rs`), panics and endless waits (`user_code.rs`), states that cannot be encoded
//! (`reducer.rs`) and broken protobuf (`payload.rs`).

use std::num::NonZeroU32;

use eventbox::{
    BoxError, Emitted, Error, Event, Misuse, Outcome, PayloadError, Recipient, Reducer, admin,
    limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES},
};

use crate::support::{drain, on_every_engine};

const MANY: NonZeroU32 = NonZeroU32::new(100).unwrap();

fn misuse(error: Error) -> (String, Misuse) {
    let text = error.to_string();
    match error {
        Error::Misuse { misuse, .. } => (text, misuse),
        other => panic!("{other:?}"),
    }
}

/// Invalid kinds and keys are refused when the recipient is named, before any use of a database.
#[test]
fn a_recipient_has_limits() {
    let long = "x".repeat(MAX_KEY_BYTES);
    let of = |kind: &str, key: &str| misuse(Recipient::new(kind, key).unwrap_err());
    for (kind, key) in [("", "7"), ("order", ""), ("", "")] {
        let (text, misuse) = of(kind, key);
        assert!(matches!(misuse, Misuse::Empty { .. } | Misuse::NotARecipient { .. }), "{text}");
    }
    for (kind, key) in [("order\0", "7"), ("order", "7\0"), ("order", "\0")] {
        assert!(matches!(of(kind, key).1, Misuse::Nul { .. }));
    }
    for (kind, key) in [(long.as_str(), "7"), ("order", long.as_str()), (long.as_str(), long.as_str())] {
        let (text, misuse) = of(kind, key);
        assert!(matches!(misuse, Misuse::TooLong { limit: MAX_KEY_BYTES, .. }), "{text}");
        assert!(text.len() < 1_000, "an error does not repeat what is far too long: {} bytes", text.len());
    }
    assert!(matches!(of("a/b", "7").1, Misuse::NotARecipient { .. }));
    assert!(matches!(misuse("no slash".parse::<Recipient>().unwrap_err()).1, Misuse::NotARecipient { .. }));
    // The limit counts bytes and not characters: the last of these keys is one byte too long.
    assert!(Recipient::new("k", "é".repeat((MAX_KEY_BYTES - 2) / 2)).is_ok());
    assert!(Recipient::new("kk", "é".repeat((MAX_KEY_BYTES - 2) / 2)).is_err());
}

struct Words;

impl Reducer for Words {
    type State = Vec<String>;

    fn reduce(
        &self,
        _to: &Recipient,
        events: &[Event],
        mut words: Vec<String>,
    ) -> Result<Outcome<Vec<String>>, BoxError> {
        for event in events {
            words.push(event.json()?);
        }
        Ok(Outcome::to(words).consuming(events))
    }
}

on_every_engine! {
    /// Recipients, names and values that look like SQL, patterns, JSON or another encoding are plain text.
    async fn text_that_looks_like_sql_is_only_text(db) {
        let texts = [
            "'; DROP TABLE eventbox_event; --",
            "x' OR '1'='1",
            "$1",
            "?1",
            ":recipient",
            "%",
            "_",
            "\\",
            "\\x00",
            "{}",
            "[\"a\"]",
            "\"",
            "NULL",
            "é",
            "e\u{301}",
            "\u{feff}",
            "\n",
            " ",
            "7 ",
            "🛩",
            "a/b/c",
        ];
        let boxes: Vec<Recipient> = texts.iter().map(|text| Recipient::new("order", *text).unwrap()).collect();
        for (to, text) in boxes.iter().zip(texts) {
            assert_eq!(
                eventbox::emit(&db.pool, to, Event::new(text).named(text)).await.unwrap(),
                Emitted::Added,
                "{text:?}"
            );
        }
        let again: Vec<_> =
            boxes.iter().zip(texts).map(|(to, text)| (to.clone(), Event::new("again").named(text))).collect();
        assert_eq!(eventbox::emit_all(&db.pool, &again).await.unwrap(), vec![Emitted::Duplicate; texts.len()]);
        for (to, text) in boxes.iter().zip(texts) {
            assert!(eventbox::pending(&db.pool, to.shard(), None, 100).await.unwrap().contains(to), "{text:?}");
            assert_eq!(admin::backlog(&db.pool, to).await.unwrap().events, 1, "{text:?}: each has its own box");
            let events = drain(&db.pool, to).await;
            assert_eq!((events.len(), events[0].name(), events[0].value()), (1, Some(text), text.as_bytes()));
        }
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_tombstone").await), (0, texts.len() as i64));
    }

    /// Bytes that are no UTF-8 are a valid value. A reader that expects JSON returns an error that names the event, and
    /// the event stays.
    async fn bytes_that_are_no_text_are_a_value(db) {
        let to = Recipient::new("words", "1").unwrap();
        for value in [&b"\xff\xfe\x00"[..], b"\"\xff\"", b"\0"] {
            eventbox::emit(&db.pool, &to, Event::new(value)).await.unwrap();
            let error = eventbox::reduce_batch(&db.pool, &to, &Words, MANY).await.unwrap_err();
            let Error::Processor { source, .. } = &error else { panic!("{error:?}") };
            let payload: &PayloadError = source.downcast_ref().expect("the error keeps its type");
            assert_eq!(
                (db.count("eventbox_event").await, db.count("eventbox_state").await > 0),
                (1, value != b"\xff\xfe\x00")
            );
            let events = drain(&db.pool, &to).await;
            assert_eq!((events[0].value(), payload.id, payload.encoding), (value, events[0].id(), "JSON"));
        }
    }

    /// A re-send of a name with another value changes nothing: the first value is processed, and the sender's result
    /// says duplicate.
    async fn a_name_has_one_value(db) {
        let to = Recipient::new("words", "1").unwrap();
        let named = |value: &'static str| Event::new(value).named("n");
        assert_eq!(eventbox::emit(&db.pool, &to, named("\"first\"")).await.unwrap(), Emitted::Added);
        assert_eq!(eventbox::emit(&db.pool, &to, named("\"second\"")).await.unwrap(), Emitted::Duplicate);
        let both = [
            (to.clone(), named("\"third\"")),
            (to.clone(), Event::new("\"fourth\"").named("m")),
            (to.clone(), Event::new("\"fifth\"").named("m")),
        ];
        assert_eq!(
            eventbox::emit_all(&db.pool, &both).await.unwrap(),
            [Emitted::Duplicate, Emitted::Added, Emitted::Duplicate]
        );
        let _ = eventbox::reduce_batch(&db.pool, &to, &Words, MANY).await.unwrap();
        let words = eventbox::state::<Vec<String>>(&db.pool, &to).await.unwrap().unwrap().state.unwrap();
        assert_eq!(words, ["first", "fourth"]);
    }

    /// One event of a list is over a limit. No event of the list is written, and the caller's transaction stays usable.
    async fn a_refused_event_leaves_the_callers_transaction_whole(db) {
        let to = Recipient::new("words", "1").unwrap();
        let mut tx = eventbox::begin(&db.pool).await.unwrap();
        eventbox::emit(&mut *tx, &to, Event::new("\"before\"")).await.unwrap();
        for (bad, limit) in [
            (Event::new(vec![b'x'; MAX_VALUE_BYTES + 1]), "1048576"),
            (Event::new("x").named("n".repeat(MAX_KEY_BYTES + 1)), "512"),
            (Event::new("x").named(""), "empty"),
            (Event::new("x").named("\0"), "NUL"),
        ] {
            let list = [(to.clone(), Event::new("\"beside\"")), (to.clone(), bad)];
            let (text, _) = misuse(eventbox::emit_all(&mut *tx, &list).await.unwrap_err());
            assert!(text.contains("words/1") && text.contains(limit), "{text}");
        }
        eventbox::emit(&mut *tx, &to, Event::new("\"after\"")).await.unwrap();
        tx.commit().await.unwrap();
        let _ = eventbox::reduce_batch(&db.pool, &to, &Words, MANY).await.unwrap();
        let words = eventbox::state::<Vec<String>>(&db.pool, &to).await.unwrap().unwrap().state.unwrap();
        assert_eq!(words, ["before", "after"]);
    }

    /// The largest value and the longest key and name pass through both ways of emitting, and come back.
    async fn the_limits_themselves_are_allowed(db) {
        let to = Recipient::new("k", "k".repeat(MAX_KEY_BYTES - 2)).unwrap();
        let largest = || Event::new(vec![0xa5; MAX_VALUE_BYTES]);
        eventbox::emit(&db.pool, &to, largest()).await.unwrap();
        eventbox::emit_all(&db.pool, &[(to.clone(), largest().named("n".repeat(MAX_KEY_BYTES)))]).await.unwrap();
        let events = drain(&db.pool, &to).await;
        assert_eq!(events.iter().map(|event| event.value().len()).collect::<Vec<_>>(), [MAX_VALUE_BYTES; 2]);
    }
}
