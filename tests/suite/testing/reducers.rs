//! The check finds each mistake of a reducer, and none in a correct reducer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use eventbox::testing::{MAX_IDLE_TURNS, ReducerViolation, check_reducer};
use eventbox::{BoxError, CloudEvent, Error, Event, Outcome, PostProcess, Recipient, Reducer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A reducer that decides with a closure.
struct Decides<S, F>(F, std::marker::PhantomData<fn() -> S>);

impl<S, F> Reducer for Decides<S, F>
where
    S: Serialize + DeserializeOwned + Default + Send,
    F: Fn(&[Event], S) -> Result<Outcome<S>, BoxError> + Send + Sync,
{
    type State = S;

    fn reduce(&self, _to: &Recipient, events: &[Event], state: S) -> Result<Outcome<S>, BoxError> {
        (self.0)(events, state)
    }

    fn max_state_bytes(&self) -> usize {
        200
    }
}

fn airport() -> Recipient {
    Recipient::new("airport", "JFK").unwrap()
}

fn numbers(count: u64) -> Vec<Event> {
    (0..count).map(|number| Event::from_json(&number).unwrap()).collect()
}

fn found<S, F>(decide: F) -> Vec<ReducerViolation>
where
    S: Serialize + DeserializeOwned + Default + Send + PartialEq,
    F: Fn(&[Event], S) -> Result<Outcome<S>, BoxError> + Send + Sync,
{
    check_reducer(&Decides(decide, std::marker::PhantomData), &airport(), &numbers(20)).unwrap()
}

fn refused(found: &[ReducerViolation]) -> &str {
    let [ReducerViolation::Refused { problem }] = found else { panic!("{found:?}") };
    problem
}

#[derive(Default, PartialEq, Serialize, Deserialize)]
struct Partly {
    kept: u64,
    #[serde(skip)]
    lost: u64,
}

#[derive(Default, PartialEq, Serialize, Deserialize)]
struct HalfRead {
    #[serde(skip_deserializing)]
    count: u64,
}

#[derive(Default, PartialEq, Serialize, Deserialize)]
struct Nested(Vec<Nested>);

#[test]
fn a_correct_reducer_has_no_mistake() {
    assert_eq!(
        found(|events, sum: u64| {
            let sum = events.iter().try_fold(sum, |sum, event| Ok::<_, BoxError>(sum + event.json::<u64>()?))?;
            Ok(Outcome::to(sum).consuming(events))
        }),
        []
    );
    // Correct: one event a turn, garbage, events that stay, and an entity that is removed.
    assert_eq!(found(|events, last: u64| { Ok(Outcome::to(last + 1).consuming(events.iter().take(1))) }), []);
    assert_eq!(
        found(|events, _: u64| {
            let (odd, even): (Vec<_>, Vec<_>) =
                events.iter().partition(|event| event.value().last().is_some_and(|digit| digit % 2 == 1));
            let outcome = Outcome::stay().garbage(even);
            Ok(if odd.is_empty() { outcome } else { outcome.post_process(None) })
        }),
        []
    );
    assert_eq!(found(|events, _: u64| Ok(Outcome::gone().consuming(events))), []);
    assert_eq!(found(|_, _: u64| Ok(Outcome::stay())), []);
    // Correct: a map without an order.
    assert_eq!(
        found(|events, mut seen: HashMap<String, u8>| {
            seen.extend(events.iter().map(|event| (String::from_utf8_lossy(event.value()).into_owned(), 1)));
            Ok(Outcome::to(seen).consuming(events))
        }),
        []
    );
    assert_eq!(
        check_reducer(
            &Decides(|_: &[Event], sum: u64| Ok(Outcome::to(sum)), std::marker::PhantomData),
            &airport(),
            &[]
        )
        .unwrap(),
        []
    );
}

#[test]
fn a_state_that_cannot_be_read_back_is_found() {
    let nan = found(|events, _: Vec<f64>| Ok(Outcome::to(vec![0.5, f64::NAN]).consuming(events)));
    assert!(refused(&nan).starts_with("1: NaN"), "{nan:?}");
    let deep = |levels| (0..levels).fold(Nested::default(), |inner, _| Nested(vec![inner]));
    let too_deep = found(move |events, _: Nested| Ok(Outcome::to(deep(60 + 5 * events.len())).consuming(events)));
    assert!(
        matches!(&too_deep[..], [ReducerViolation::Refused { problem }, ..] if problem.contains("MAX_JSON_DEPTH")),
        "{too_deep:?}"
    );
    let nothing = found(|events, _: Option<Option<u8>>| Ok(Outcome::to(Some(None)).consuming(events)));
    assert!(refused(&nothing).contains("come back as `None`"), "{nothing:?}");
    let large =
        found(|events, state: String| Ok(Outcome::to(state + &"x".repeat(11 * events.len())).consuming(events)));
    assert_eq!(refused(&large), "it has 222 bytes, at most 200 fit");
    let lost = found(|events, _: Partly| Ok(Outcome::to(Partly { kept: 1, lost: 2 }).consuming(events)));
    assert_eq!(lost, [ReducerViolation::StateIsLost]);
    let half_read = found(|events, _: HalfRead| Ok(Outcome::to(HalfRead { count: 7 }).consuming(events)));
    assert_eq!(half_read, [ReducerViolation::StateIsLost]);
}

#[test]
fn a_decision_that_differs_is_found() {
    let calls = AtomicU64::new(0);
    let next = || calls.fetch_add(1, Ordering::Relaxed);
    let repeats = |what| [ReducerViolation::NotRepeatable { what }];
    assert_eq!(found(|events, _: u64| Ok(Outcome::to(next()).consuming(events))), repeats("states"));
    assert_eq!(
        found(|events, _: u64| Ok(if next() % 2 == 0 { Outcome::stay() } else { Outcome::stay().consuming(events) })),
        repeats("events to remove")
    );
    let emitted = found(|events, _: u64| {
        Ok(Outcome::stay().consuming(events).emitting([(airport(), Event::new(next().to_string()))]))
    });
    assert_eq!(emitted, repeats("emitted events"));
    let published = found(|events, _: u64| {
        let message =
            CloudEvent::builder("flights", "flight.departed").payload(next().to_string().into_bytes()).build()?;
        Ok(Outcome::stay().consuming(events).publishing([message]))
    });
    assert_eq!(published, repeats("published messages"));
    let hooks = found(|events, _: u64| {
        let hook = (next() % 2 == 0).then(|| PostProcess::new(|| async { Ok(()) }));
        Ok(Outcome::stay().consuming(events).post_process(hook))
    });
    assert_eq!(hooks, repeats("hooks"));
}

#[test]
fn a_state_that_depends_on_the_batches_is_found() {
    let batches = found(|events, batches: u64| Ok(Outcome::to(batches + 1).consuming(events)));
    assert_eq!(batches, [ReducerViolation::DependsOnBatches { sizes: &[1] }]);
    let largest = found(|events, largest: usize| Ok(Outcome::to(largest.max(events.len())).consuming(events)));
    assert_eq!(largest, [ReducerViolation::DependsOnBatches { sizes: &[1] }]);
    // Correct in batches of one event, wrong in batches of two: the last event stands for the whole batch.
    let last = found(|events, sum: u64| {
        let last: u64 = events.last().map_or(Ok(0), Event::json)?;
        Ok(Outcome::to(sum + last).consuming(events))
    });
    assert!(matches!(last[..], [ReducerViolation::DependsOnBatches { .. }]), "{last:?}");
}

#[test]
fn a_reducer_that_never_rests_is_found() {
    let never = [ReducerViolation::NeverRests { turns: MAX_IDLE_TURNS }];
    assert_eq!(found(|_, turns: u64| Ok(Outcome::to(turns + 1))), never);
    assert_eq!(found(|_, _: u64| Ok(Outcome::stay().emitting([(airport(), Event::new("again"))]))), never);
}

#[test]
fn a_reducer_that_fails_is_an_error() {
    let failing = Decides(|_: &[Event], _: u64| Err("a bad one".into()), std::marker::PhantomData);
    let error = check_reducer(&failing, &airport(), &numbers(1)).unwrap_err();
    assert!(matches!(&error, Error::Processor { source, .. } if source.to_string() == "a bad one"), "{error:?}");
}
