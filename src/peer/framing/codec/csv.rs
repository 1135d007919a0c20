//! `csv`: a record as a JSON array of strings, or as an object when the columns have names.

use bytes::Bytes;
use csv::{ByteRecord, ReaderBuilder, WriterBuilder};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::Read;

use super::json_text::check;
use super::members::{Members, repeated, string};
use super::{Codec, Decoded};
use crate::peer::framing::chunk::Chunk;
use crate::peer::framing::error::{Faults, FramingError};
use crate::peer::framing::limits::FramingLimits;

pub(super) const NAME: &str = "csv";

/// A record behind the last one of a chunk. An open quote would swallow it, which is how that is noticed.
const END: &str = "end";

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CsvSettings {
    separator: String,
    headers: Option<Headers>,
}

/// The names of the columns.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Headers {
    /// The first record of a stream has the names.
    InStream(FirstRecord),
    /// The names, which are not in the stream.
    Names(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
enum FirstRecord {
    #[serde(rename = "first-record")]
    FirstRecord,
}

impl Default for CsvSettings {
    fn default() -> Self {
        CsvSettings { separator: ",".to_owned(), headers: None }
    }
}

impl CsvSettings {
    pub(super) fn check(&self) -> Result<(), FramingError> {
        let bad = |problem| Err(FramingError::settings(NAME, problem));
        match self.separator.as_bytes() {
            [byte] if byte.is_ascii() && !byte.is_ascii_alphanumeric() && !b"\"\r\n".contains(byte) => {}
            _ => {
                return bad(
                    "`separator` is not one ASCII character without letters, digits, quotes and line ends".into()
                );
            }
        }
        match &self.headers {
            Some(Headers::Names(names)) if names.is_empty() => bad("`headers` is empty".into()),
            Some(Headers::Names(names)) => match repeated_name(names) {
                Some(name) => bad(format!("{name:?} is twice in `headers`")),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

fn repeated_name(names: &[String]) -> Option<String> {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    repeated(&mut names).map(str::to_owned)
}

/// The codec.
pub(super) struct Csv {
    separator: u8,
    /// Whether values are objects.
    objects: bool,
    /// The names of the columns, when they are known.
    names: Option<Vec<String>>,
    max_chunks: usize,
    max_output_bytes: usize,
}

impl Csv {
    pub(super) fn new(settings: CsvSettings, limits: &FramingLimits) -> Self {
        let FramingLimits { max_chunks, max_output_bytes, .. } = *limits;
        let separator = settings.separator.bytes().next().unwrap_or(b',');
        let objects = settings.headers.is_some();
        let names = match settings.headers {
            Some(Headers::Names(names)) => Some(names),
            _ => None,
        };
        Csv { separator, objects, names, max_chunks, max_output_bytes }
    }

    /// Reads one record: the names of the columns, or a value.
    fn record(&mut self, record: &ByteRecord) -> Result<Option<Vec<u8>>, FramingError> {
        let fields = record.iter().map(std::str::from_utf8).collect::<Result<Vec<_>, _>>();
        let starts = self.objects && self.names.is_none();
        let fields = fields.map_err(|error| Self::bad(error, starts))?;
        if !self.objects {
            return json(&fields).map(Some);
        }
        let Some(names) = &self.names else {
            let names: Vec<String> = fields.into_iter().map(str::to_owned).collect();
            if let Some(name) = repeated_name(&names) {
                return Err(Self::bad(format!("the column {name:?} is there twice"), true));
            }
            self.names = Some(names);
            return Ok(None);
        };
        if fields.len() != names.len() {
            return Err(Self::bad(format!("a record has {} fields, and not {}", fields.len(), names.len()), false));
        }
        let mut value = Vec::with_capacity(record.len() * 2);
        for (name, field) in names.iter().zip(fields) {
            value.push(if value.is_empty() { b'{' } else { b',' });
            value.extend(json(name)?);
            value.push(b':');
            value.extend(json(field)?);
        }
        value.push(b'}');
        Ok(Some(value))
    }

    /// Returns the error of a record. Without the names of the columns, no later record can be read.
    #[allow(clippy::needless_pass_by_value, reason = "callers pass errors and texts alike")]
    fn bad(problem: impl ToString, ends_stream: bool) -> FramingError {
        FramingError::Invalid { part: NAME, problem: problem.to_string(), ends_stream }
    }

    fn take(&mut self, record: &ByteRecord, chunk: &Taking, out: &mut Vec<Decoded>) -> Result<usize, FramingError> {
        let Some(value) = self.record(record)? else { return Ok(0) };
        let length = value.len();
        if chunk.bytes.saturating_add(length) > self.max_output_bytes {
            let (what, limit) = ("more bytes of values out of one chunk", self.max_output_bytes);
            return Err(FramingError::OverLimit {
                part: NAME,
                what,
                limit,
                setting: "max_output_bytes",
                ends_stream: false,
            });
        }
        if out.len() - chunk.before >= self.max_chunks {
            return Err(FramingError::too_many(NAME, self.max_chunks));
        }
        out.push(Decoded::new(value, chunk.ingest_ns));
        Ok(length)
    }

    /// Returns the cells of a value, in the order of the columns.
    fn cells(&self, value: &[u8]) -> Result<(Option<Vec<String>>, Vec<String>), String> {
        let text = check(value)?;
        if !self.objects {
            let read = serde_json::from_str::<Vec<&RawValue>>(text);
            let cells = read.map_err(|_| "it is not a JSON array; set `headers` for objects".to_owned())?;
            return Ok((None, cells.into_iter().map(cell).collect::<Result<_, _>>()?));
        }
        let Members(mut members) = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let Some(names) = &self.names else {
            let cells = members.iter().map(|(_, raw)| cell(raw)).collect::<Result<_, _>>()?;
            return Ok((Some(members.into_iter().map(|(name, _)| name).collect()), cells));
        };
        let mut cells = Vec::with_capacity(names.len());
        for name in names {
            let at = members.iter().position(|(member, _)| member == name);
            cells.push(at.map(|at| cell(members.swap_remove(at).1)).transpose()?.unwrap_or_default());
        }
        match members.first() {
            Some((name, _)) => Err(format!("no column has the name {name:?}")),
            None => Ok((None, cells)),
        }
    }

    /// Returns a record without a line end, which is for an interceptor to put.
    fn line(&self, cells: &[String]) -> Result<Bytes, String> {
        if cells.is_empty() {
            return Err("a record has at least one field".to_owned());
        }
        let mut writer = WriterBuilder::new().delimiter(self.separator).from_writer(Vec::new());
        writer.write_record(cells).map_err(|error| error.to_string())?;
        let mut line = writer.into_inner().map_err(|error| error.to_string())?;
        line.pop();
        Ok(line.into())
    }
}

/// The chunk that is being read.
struct Taking {
    /// Number of values before it.
    before: usize,
    /// Bytes of its values.
    bytes: usize,
    ingest_ns: u64,
}

/// Returns the field for a JSON value: a string, or the text of a number or a boolean; nothing for null.
fn cell(raw: &RawValue) -> Result<String, String> {
    match raw.get() {
        "null" => Ok(String::new()),
        text if text.starts_with(['[', '{']) => Err("a field is an array or an object".to_owned()),
        text => Ok(string(raw).unwrap_or_else(|| text.to_owned())),
    }
}

fn json(value: &(impl serde::Serialize + ?Sized)) -> Result<Vec<u8>, FramingError> {
    serde_json::to_vec(value).map_err(|error| FramingError::invalid(NAME, error))
}

impl Codec for Csv {
    fn content_type(&self) -> &'static str {
        "text/csv"
    }

    fn decode(&mut self, chunk: Chunk, out: &mut Vec<Decoded>) -> Result<(), FramingError> {
        let end = format!("\n{END}");
        let mut builder = ReaderBuilder::new();
        let builder = builder.has_headers(false).flexible(true).delimiter(self.separator);
        let mut reader = builder.from_reader(chunk.bytes.chain(end.as_bytes()));
        let mut faults = Faults::default();
        let mut taking = Taking { before: out.len(), bytes: 0, ingest_ns: chunk.ingest_ns };
        let (mut last, mut next) = (ByteRecord::new(), ByteRecord::new());
        while reader.read_byte_record(&mut next).map_err(|error| FramingError::invalid(NAME, error))? {
            std::mem::swap(&mut last, &mut next);
            if next.is_empty() {
                continue; // the first record waits for its successor
            }
            match self.take(&next, &taking, out) {
                Ok(length) => taking.bytes += length,
                Err(error) => faults.add(error),
            }
        }
        if last.iter().ne([END.as_bytes()]) {
            faults.add(FramingError::invalid(NAME, "its last record ends inside a quoted field"));
        }
        faults.into_result()
    }

    fn encode(&mut self, value: &[u8], out: &mut Vec<Bytes>) -> Result<(), FramingError> {
        let unwritable = |problem: String| FramingError::unwritable(NAME, problem);
        let (new_names, cells) = self.cells(value).map_err(unwritable)?;
        let line = self.line(&cells).map_err(unwritable)?;
        if let Some(names) = new_names {
            out.push(self.line(&names).map_err(unwritable)?);
            self.names = Some(names);
        }
        out.push(line);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::framing::CodecSpec;

    fn codec(settings: &str) -> Box<dyn Codec> {
        let limits = FramingLimits { max_chunks: 3, ..FramingLimits::default() };
        serde_json::from_str::<CodecSpec>(settings).unwrap().build(&limits)
    }

    fn decode(codec: &mut dyn Codec, text: &[u8]) -> (Vec<String>, Option<FramingError>) {
        let mut out = Vec::new();
        let error = codec.decode(Chunk::new(text.to_vec(), 0), &mut out).err();
        (out.iter().map(|decoded| String::from_utf8(decoded.value.to_vec()).unwrap()).collect(), error)
    }

    #[test]
    fn records_are_arrays_of_strings() {
        let (values, error) = decode(&mut *codec(r#""csv""#), b"a,,\"x \"\"y\"\",\nz\"\r\n\n1\0,2");
        assert_eq!(values, [r#"["a","","x \"y\",\nz"]"#, r#"["1\u0000","2"]"#]);
        assert!(error.is_none());
        for blank in [b"".as_slice(), b"\n", b"\r\n\n"] {
            let (values, error) = decode(&mut *codec(r#""csv""#), blank);
            assert!(values.is_empty() && error.is_none(), "{blank:?}");
        }
    }

    #[test]
    fn an_open_quote_is_an_error_and_so_is_one_record_of_several() {
        let (values, error) = decode(&mut *codec(r#""csv""#), b"a,b\nc,\"d\n");
        assert_eq!(values, [r#"["a","b"]"#]);
        assert!(!error.unwrap().ends_stream());
        let (values, error) = decode(&mut *codec(r#""csv""#), b"a\n\xff\nc\nend");
        assert_eq!(values, [r#"["a"]"#, r#"["c"]"#, r#"["end"]"#]);
        assert_eq!(error.unwrap().count(), 1);
        let (values, error) = decode(&mut *codec(r#""csv""#), b"1\n2\n3\n4\n5");
        assert_eq!((values.len(), error.unwrap().count()), (3, 2));
    }

    #[test]
    fn named_columns_make_objects() {
        let settings = r#"{"name":"csv","separator":";","headers":["b","a"]}"#;
        let (values, error) = decode(&mut *codec(settings), b"1;x\n1;2;3\n;");
        assert_eq!(values, [r#"{"b":"1","a":"x"}"#, r#"{"b":"","a":""}"#]);
        assert!(error.unwrap().to_string().contains("3 fields, and not 2"));
        let mut messages = Vec::new();
        codec(settings).encode(br#"{"a":"x;\"y","b":1.10}"#, &mut messages).unwrap();
        codec(settings).encode(br#"{"b":null}"#, &mut messages).unwrap();
        assert_eq!(messages, [r#"1.10;"x;""y""#, ";"]);
        assert!(codec(settings).encode(br#"{"c":1}"#, &mut messages).is_err());
        assert!(codec(settings).encode(b"[1,2]", &mut messages).is_err());
    }

    #[test]
    fn the_first_record_of_a_stream_names_the_columns() {
        let settings = r#"{"name":"csv","headers":"first-record"}"#;
        let (mut sender, mut receiver) = (codec(settings), codec(settings));
        let mut messages = Vec::new();
        let values = [r#"{"z":"1","a":"2"}"#, r#"{"z":"3","a":"4"}"#];
        values.iter().for_each(|value| sender.encode(value.as_bytes(), &mut messages).unwrap());
        assert_eq!(messages, ["z,a", "1,2", "3,4"]);
        let got: Vec<String> = messages.iter().flat_map(|line| decode(&mut *receiver, line).0).collect();
        assert_eq!(got, values);
        for wrong in [b"a,a\n".as_slice(), b"\xff\n"] {
            assert!(decode(&mut *codec(settings), wrong).1.unwrap().ends_stream());
        }
    }

    #[test]
    fn what_a_record_does_not_have_is_refused() {
        for wrong in ["[]", "[[1]]", "[{}]", "1", "{\"a\":1}", "["] {
            assert!(codec(r#""csv""#).encode(wrong.as_bytes(), &mut Vec::new()).is_err(), "{wrong}");
        }
        let mut messages = Vec::new();
        codec(r#""csv""#).encode(br#"[""]"#, &mut messages).unwrap();
        assert_eq!(decode(&mut *codec(r#""csv""#), &messages[0]).0, [r#"[""]"#]);
    }
}
