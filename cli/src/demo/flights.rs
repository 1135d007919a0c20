//! The input: flights from a CSV file. All rows are checked before the demo starts.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use eventbox::{Event, Recipient};
use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};

/// Every flight that left a New York airport in January 2013. `data/README.md` names the source.
const BUILT_IN: &[u8] = include_bytes!("../../data/flights-2013-01.csv.gz");

/// First bytes of a gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Text of an unknown value in the file.
const UNKNOWN: &str = "NA";

/// A flight as the value of an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Flight {
    /// Date, carrier, flight number, origin and scheduled time. No two flights share them.
    pub(crate) name: String,
    pub(crate) tailnum: String,
    pub(crate) origin: String,
    pub(crate) dest: String,
    /// Minutes of delay at departure, negative when early. `None` for a cancelled flight.
    pub(crate) delay_minutes: Option<i32>,
}

/// The content of the file.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) rows: usize,
    pub(crate) without_recipient: usize,
    /// Flights with a known aircraft in the order of the file, each with its recipient and its event.
    pub(crate) flights: Vec<Flight>,
}

impl Flight {
    pub(crate) fn recipient(&self) -> Result<Recipient> {
        Ok(Recipient::new("aircraft", &self.tailnum)?)
    }

    pub(crate) fn event(&self) -> Result<(Recipient, Event)> {
        let event = Event::from_json(self).map_err(anyhow::Error::from_boxed)?;
        Ok((self.recipient()?, event.named(&self.name)))
    }
}

#[derive(Deserialize)]
struct Row {
    year: u16,
    month: u8,
    day: u8,
    sched_dep_time: String,
    dep_delay: String,
    carrier: String,
    flight: String,
    tailnum: String,
    origin: String,
    dest: String,
}

/// Reads the whole input. `None` is the built-in file.
pub(crate) fn read(path: Option<&Path>) -> Result<Input> {
    match path {
        None => parse(BUILT_IN).context("read the built-in flights"),
        Some(path) => {
            let mut bytes = Vec::new();
            let read = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
            read.with_context(|| format!("cannot read {}: give --input a CSV file of flights", path.display()))?;
            parse(&bytes).with_context(|| format!("{} is not a usable file of flights", path.display()))
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Input> {
    let plain: Box<dyn Read + '_> =
        if bytes.starts_with(&GZIP_MAGIC) { Box::new(MultiGzDecoder::new(bytes)) } else { Box::new(bytes) };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(plain);
    check_columns(reader.headers()?)?;

    let mut input = Input { rows: 0, without_recipient: 0, flights: Vec::new() };
    for (index, row) in reader.deserialize().enumerate() {
        let line = index + 2;
        input.rows += 1;
        match flight(row.with_context(|| format!("line {line}"))?).with_context(|| format!("line {line}"))? {
            Some(flight) => input.flights.push(flight),
            None => input.without_recipient += 1,
        }
    }
    ensure!(input.rows > 0, "it has no rows: give a file with at least one flight below its header");
    Ok(input)
}

fn check_columns(headers: &csv::StringRecord) -> Result<()> {
    const NEEDED: [&str; 10] =
        ["year", "month", "day", "sched_dep_time", "dep_delay", "carrier", "flight", "tailnum", "origin", "dest"];
    let missing: Vec<_> = NEEDED.into_iter().filter(|name| !headers.iter().any(|header| header == *name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if headers.iter().all(str::is_empty) {
        bail!("it is empty: give a CSV file with a header and at least one flight");
    }
    bail!("it lacks the column{} {}", if missing.len() == 1 { "" } else { "s" }, missing.join(", "))
}

fn flight(row: Row) -> Result<Option<Flight>> {
    ensure!((1..=12).contains(&row.month) && (1..=31).contains(&row.day), "no such day: {}-{}", row.month, row.day);
    for (column, value) in
        [("carrier", &row.carrier), ("flight", &row.flight), ("origin", &row.origin), ("dest", &row.dest)]
    {
        ensure!(!value.is_empty() && value != UNKNOWN, "the {column} is missing");
    }
    let sched: u16 = row.sched_dep_time.parse().context("sched_dep_time is not a time of the form hhmm")?;
    let delay_minutes = match row.dep_delay.as_str() {
        UNKNOWN | "" => None,
        text => Some(text.parse().with_context(|| format!("dep_delay {text:?} is not a number of minutes"))?),
    };
    if row.tailnum.is_empty() || row.tailnum == UNKNOWN {
        return Ok(None);
    }
    let Row { year, month, day, carrier, flight, tailnum, origin, dest, .. } = row;
    let name = format!("{year:04}-{month:02}-{day:02}/{carrier}/{flight}/{origin}/{sched:04}");
    let flight = Flight { name, tailnum, origin, dest, delay_minutes };
    Recipient::new("airport", &flight.origin)?;
    flight.recipient()?;
    Ok(Some(flight))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const HEADER: &str = "year,month,day,sched_dep_time,dep_delay,carrier,flight,tailnum,origin,dest\n";

    #[test]
    fn the_built_in_file_is_whole() {
        let input = read(None).unwrap();
        assert_eq!((input.rows, input.without_recipient, input.flights.len()), (27_004, 155, 26_849));
        assert_eq!(input.flights[0].name, "2013-01-01/UA/1545/EWR/0515");
    }

    #[test]
    fn errors_name_the_line_and_the_column() {
        let error = |text: &str| format!("{:#}", parse(text.as_bytes()).unwrap_err());
        assert!(error("").contains("it is empty"), "{}", error(""));
        assert!(error(HEADER).contains("it has no rows"));
        assert!(error("year,month\n1,2\n").contains("lacks the columns day, sched_dep_time"));
        let row =
            |delay: &str| format!("{HEADER}2013,1,1,515,2,UA,1545,N1,EWR,IAH\n2013,1,1,515,{delay},UA,1,N1,EWR,IAH\n");
        assert!(error(&row("late")).starts_with("line 3: dep_delay \"late\""), "{}", error(&row("late")));
        assert!(error(&format!("{HEADER}2013,13,1,515,2,UA,1545,N1,EWR,IAH\n")).contains("no such day"));
        assert!(error(&format!("{HEADER}2013,1,1\n")).contains("line 2"));
        assert_eq!(parse(row("NA").as_bytes()).unwrap().flights[1].delay_minutes, None);
    }
}
