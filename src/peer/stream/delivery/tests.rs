//! Tests of what a stream has to send.

use super::*;
use crate::eventbox::WakeUps;

fn delivery(in_flight: usize) -> Delivery {
    let to = Recipient::new("peer.chat", "s1").unwrap();
    Delivery::new(to, Arc::default(), NonZeroUsize::new(in_flight).unwrap(), CancellationToken::new())
}

fn events(count: usize) -> Vec<Event> {
    (0..count).map(|n| Event::new(n.to_string()).with_id(*EventId::mint().as_uuid())).collect()
}

async fn take(delivery: &Delivery, max_bytes: usize) -> Option<Vec<Event>> {
    delivery.ready().await?;
    delivery.take_now(max_bytes)
}

fn ids(events: &[Event]) -> Vec<EventId> {
    events.iter().map(Event::id).collect()
}

#[tokio::test(start_paused = true)]
async fn exactly_what_was_acknowledged_is_consumed() {
    let (delivery, events) = (delivery(10), events(3));
    assert!(delivery.offer(&events).is_empty());
    let taken = take(&delivery, 1_000).await.unwrap();
    assert_eq!(ids(&taken), ids(&events));
    assert!(delivery.offer(&events).is_empty(), "nothing is acknowledged, and nothing is sent twice");
    delivery.acknowledge(ids(&events[..2]));
    tokio::time::sleep(CONSUME_DELAY).await;
    assert_eq!(delivery.offer(&events), ids(&events[..2]));
    assert_eq!(delivery.offer(&events), ids(&events[..2]), "the turn lost its race: the next one consumes them");
    assert!(delivery.offer(&events[2..]).is_empty());
    assert!(!delivery.is_idle());
    delivery.acknowledge([events[2].id()]);
    tokio::time::sleep(CONSUME_DELAY).await;
    assert_eq!(delivery.offer(&events[2..]), ids(&events[2..]));
}

#[tokio::test]
async fn the_oldest_event_is_one_that_is_not_known_to_be_consumed() {
    let (delivery, events) = (delivery(2), events(3));
    assert_eq!(delivery.oldest(), None);
    delivery.offer(&events);
    delivery.acknowledge(ids(&events[..1]));
    assert_eq!(delivery.oldest(), Some(events[0].id()), "it is acknowledged, and no turn has consumed it");
    delivery.offer(&events[1..]);
    assert_eq!(delivery.oldest(), Some(events[1].id()));
}

/// Returns whether a turn was asked for since the last question.
fn was_asked(wake_ups: &WakeUps) -> bool {
    !wake_ups.take().is_empty()
}

#[tokio::test(start_paused = true)]
async fn acknowledged_events_are_consumed_together() {
    let (delivery, events) = (delivery(10), events(8));
    let wake_ups = Arc::<WakeUps>::default();
    delivery.attended.is_run_by(&wake_ups);
    delivery.offer(&events[..3]);
    delivery.acknowledge(ids(&events[..1]));
    tokio::time::sleep(CONSUME_DELAY / 2).await;
    assert!(delivery.offer(&events[..3]).is_empty(), "others may be acknowledged soon");
    delivery.acknowledge(ids(&events[1..2]));
    assert!(!was_asked(&wake_ups));
    tokio::time::sleep(CONSUME_DELAY * 3 / 4).await;
    assert!(was_asked(&wake_ups), "the first of them has waited for long");
    assert_eq!(delivery.offer(&events[..3]), ids(&events[..2]));
    tokio::time::sleep(2 * CONSUME_DELAY).await;
    assert!(!was_asked(&wake_ups), "nothing is left to consume");

    delivery.offer(&events[2..]);
    delivery.acknowledge(ids(&events[2..6]));
    assert!(!was_asked(&wake_ups), "less than a half of the window");
    delivery.acknowledge(ids(&events[6..7]));
    assert!(was_asked(&wake_ups), "the window must not fill up");
    assert_eq!(delivery.offer(&events[2..]), ids(&events[2..7]));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_stream_does_not_wait_for_another_event() {
    for is_closed_first in [false, true] {
        let (delivery, events) = (delivery(10), events(1));
        let wake_ups = Arc::<WakeUps>::default();
        delivery.attended.is_run_by(&wake_ups);
        delivery.offer(&events);
        let began = tokio::time::Instant::now();
        if is_closed_first {
            delivery.close();
            delivery.acknowledge(ids(&events));
        } else {
            delivery.acknowledge(ids(&events));
            delivery.close();
            wake_ups.wait().await;
        }
        assert!(was_asked(&wake_ups));
        assert_eq!(tokio::time::Instant::now(), began);
    }
}

#[tokio::test]
async fn the_window_bounds_what_is_in_memory() {
    let (delivery, events) = (delivery(2), events(4));
    delivery.offer(&events);
    assert_eq!(ids(&take(&delivery, 1_000).await.unwrap()), ids(&events[..2]));
    delivery.acknowledge([events[0].id()]);
    assert_eq!(delivery.offer(&events), ids(&events[..1]), "it is half of the window");
    assert_eq!(ids(&take(&delivery, 1_000).await.unwrap()), ids(&events[2..3]));
}

#[tokio::test]
async fn a_failed_batch_is_sent_again_first_and_in_order() {
    let (delivery, events) = (delivery(10), events(4));
    delivery.offer(&events[..3]);
    let taken = take(&delivery, 2).await.unwrap();
    assert_eq!(ids(&taken), ids(&events[..2]), "as many as fit");
    delivery.put_back(taken);
    delivery.offer(&events);
    assert_eq!(ids(&take(&delivery, 1_000).await.unwrap()), ids(&events));
}

#[tokio::test]
async fn what_an_operator_took_away_is_sent_no_more() {
    let (delivery, events) = (delivery(10), events(3));
    delivery.offer(&events);
    delivery.offer(&events[1..]);
    assert_eq!(ids(&take(&delivery, 1_000).await.unwrap()), ids(&events[1..]));
}

#[tokio::test]
async fn a_closing_stream_sends_what_waits_and_ends() {
    let (delivery, events) = (delivery(10), events(1));
    delivery.offer(&events);
    delivery.close();
    assert!(take(&delivery, 10).await.is_some());
    assert!(take(&delivery, 10).await.is_none());
}
