//! The expected result, computed from the input alone.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::flights::Input;
use super::tables::{AircraftState, AirportState};

/// Delay in minutes from which a departure is published.
pub(crate) const LATE_MINUTES: i32 = 60;

/// The expected figures at the end of a run.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) aircraft: BTreeMap<String, AircraftState>,
    pub(crate) airports: BTreeMap<String, AirportState>,
    /// Idempotency keys that must have arrived.
    pub(crate) keys: BTreeSet<String>,
}

impl Figures {
    /// A repeated flight has the same name, so it counts once.
    pub(crate) fn of(input: &Input) -> Self {
        let mut figures = Figures::default();
        let mut seen = HashSet::new();
        for flight in input.flights.iter().filter(|flight| seen.insert((&flight.tailnum, &flight.name))) {
            let aircraft = figures.aircraft.entry(flight.tailnum.clone()).or_default();
            let airport = figures.airports.entry(flight.origin.clone()).or_default();
            let Some(delay) = flight.delay_minutes else {
                aircraft.cancelled += 1;
                airport.cancelled += 1;
                continue;
            };
            aircraft.legs += 1;
            aircraft.delay_minutes += i64::from(delay);
            aircraft.worst_delay_minutes = Some(aircraft.worst_delay_minutes.map_or(delay, |worst| worst.max(delay)));
            aircraft.last_airport = Some(flight.dest.clone());
            airport.departed += 1;
            if delay >= LATE_MINUTES {
                figures.keys.insert(flight.name.clone());
            }
        }
        figures
    }

    pub(crate) fn legs(&self) -> i64 {
        self.aircraft.values().map(|aircraft| aircraft.legs).sum()
    }

    pub(crate) fn cancelled(&self) -> i64 {
        self.aircraft.values().map(|aircraft| aircraft.cancelled).sum()
    }

    pub(crate) fn delay_minutes(&self) -> i64 {
        self.aircraft.values().map(|aircraft| aircraft.delay_minutes).sum()
    }

    pub(crate) fn airport_events(&self) -> i64 {
        self.airports.values().map(AirportState::events).sum()
    }

    /// Describes the differences between these entities and the expected ones.
    pub(crate) fn entity_differences(&self, expected: &Figures) -> Vec<String> {
        let mut differences = compare("aircraft", &expected.aircraft, &self.aircraft);
        differences.extend(compare("airport", &expected.airports, &self.airports));
        differences
    }
}

fn compare<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &BTreeMap<String, T>,
    found: &BTreeMap<String, T>,
) -> Vec<String> {
    let keys: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let differing = keys.into_iter().filter(|key| expected.get(*key) != found.get(*key));
    differing.map(|key| format!("{what} {key}: expected {:?}, found {:?}", expected.get(key), found.get(key))).collect()
}
