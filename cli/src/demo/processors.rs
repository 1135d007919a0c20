//! The processors of aircraft and airports.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use eventbox::{
    BoxError, CloudEvent, EVersion, Event, Mutation, Outcome, PostProcess, Processor, Recipient, Reducer, SideEffect,
    Transition,
};

use prost::Message as _;

use super::expected::LATE_MINUTES;
use super::flights::Flight;
use super::tables::{AircraftState, AirportState, DemoTables};

/// The event that an aircraft emits to `airport/<code>` for a flight.
const DEPARTED: &[u8] = b"departed";
const CANCELLED: &[u8] = b"cancelled";

/// Sums up an aircraft's flights in its own table, emits to the airports, records the process, and publishes late
/// departures.
#[derive(Debug)]
pub(crate) struct Aircraft {
    /// Number of the process that runs the turns.
    pub(crate) process: u32,
    /// Finished turns, counted by hooks.
    pub(crate) finished: Arc<AtomicU64>,
}

/// Counts the events of an airport. The library keeps its state.
#[derive(Debug)]
pub(crate) struct Airport {
    /// Finished turns, counted by hooks.
    pub(crate) finished: Arc<AtomicU64>,
}

/// Builds the message of a late departure.
#[derive(Clone, PartialEq, prost::Message)]
struct FlightDelayed {
    #[prost(string, tag = "1")]
    tailnum: String,
    #[prost(string, tag = "2")]
    origin: String,
    #[prost(string, tag = "3")]
    dest: String,
    #[prost(int32, tag = "4")]
    delay_minutes: i32,
}

impl<B: DemoTables> Processor<B> for Aircraft {
    type State = AircraftState;

    async fn load_state(
        &self,
        conn: &mut B::Connection,
        to: &Recipient,
    ) -> Result<(AircraftState, EVersion), BoxError> {
        let (state, eversion) = B::load_aircraft(conn, to.key()).await?.unwrap_or_default();
        Ok((state, EVersion(eversion)))
    }

    async fn prepare_mutation(
        &self,
        _to: &Recipient,
        events: &[Event],
        state: &AircraftState,
    ) -> Result<Mutation<B, AircraftState>, BoxError> {
        if events.is_empty() {
            return Ok(Mutation::none());
        }
        let flights = events.iter().map(Event::json).collect::<Result<Vec<Flight>, _>>()?;
        let state = flights.iter().fold(state.clone(), AircraftState::after);
        let emitted = flights.iter().map(tell_airport).collect::<eventbox::Result<Vec<_>>>()?;
        let late = flights.iter().filter_map(delayed).collect::<Result<Vec<_>, _>>()?;
        let (process, consumed) = (i64::from(self.process), i64::try_from(events.len())?);
        let transition = Transition::to(state)
            .consuming(events)
            .side_effect(SideEffect::new(move |tx| {
                Box::pin(async move { Ok(B::note_share(tx, process, consumed).await?) })
            }))
            .emitting(emitted)
            .publishing(late)
            .post_process(count(&self.finished));
        Ok(transition.into())
    }

    async fn fetch_eversion(&self, tx: &mut B::Connection, to: &Recipient) -> Result<EVersion, BoxError> {
        Ok(EVersion(B::aircraft_eversion(tx, to.key()).await?))
    }

    async fn save_state(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
        state: &AircraftState,
        eversion: EVersion,
    ) -> Result<(), BoxError> {
        Ok(B::save_aircraft(tx, to.key(), state, eversion.0).await?)
    }
}

impl Reducer for Airport {
    type State = AirportState;

    fn reduce(
        &self,
        to: &Recipient,
        events: &[Event],
        mut state: AirportState,
    ) -> Result<Outcome<AirportState>, BoxError> {
        if events.is_empty() {
            return Ok(Outcome::stay());
        }
        for event in events {
            match event.value() {
                DEPARTED => state.departed += 1,
                CANCELLED => state.cancelled += 1,
                other => return Err(format!("{to} was sent {} unknown bytes", other.len()).into()),
            }
        }
        Ok(Outcome::to(state).consuming(events).post_process(count(&self.finished)))
    }
}

impl AircraftState {
    fn after(mut self, flight: &Flight) -> Self {
        match flight.delay_minutes {
            None => self.cancelled += 1,
            Some(delay) => {
                self.legs += 1;
                self.delay_minutes += i64::from(delay);
                self.worst_delay_minutes = self.worst_delay_minutes.max(Some(delay));
                self.last_airport = Some(flight.dest.clone());
            }
        }
        self
    }
}

fn tell_airport(flight: &Flight) -> eventbox::Result<(Recipient, Event)> {
    let what = if flight.delay_minutes.is_some() { DEPARTED } else { CANCELLED };
    Ok((Recipient::new("airport", &flight.origin)?, Event::new(what)))
}

/// Builds the message of a flight, if it left late enough. Its key is the flight's name, so the check can compare it
/// with the input.
fn delayed(flight: &Flight) -> Option<Result<CloudEvent, BoxError>> {
    let delay_minutes = flight.delay_minutes.filter(|delay| *delay >= LATE_MINUTES)?;
    let message = FlightDelayed {
        tailnum: flight.tailnum.clone(),
        origin: flight.origin.clone(),
        dest: flight.dest.clone(),
        delay_minutes,
    };
    let event = CloudEvent::builder("eventbox.demo", "flight.delayed")
        .subject(&flight.tailnum)
        .idempotency_key(&flight.name)
        .payload(message.encode_to_vec())
        .build();
    Some(event.map_err(Into::into))
}

fn count(finished: &Arc<AtomicU64>) -> PostProcess {
    let finished = Arc::clone(finished);
    PostProcess::new(move || async move {
        finished.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })
}
