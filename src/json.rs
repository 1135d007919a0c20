//! JSON that is read back as it was written. The writer refuses a value that a reader would not return.

mod compound;

use std::cell::{Cell, RefCell};
use std::fmt::Display;

use serde::Serialize;
use serde::ser::Serializer;

use self::compound::Compound;
use crate::error::BoxError;

/// Largest depth of written JSON, in nested sequences, maps, structs and variants. The reader fails at 128.
pub const MAX_JSON_DEPTH: usize = 120;

/// Largest number of names of the path to a refused value in an error.
const MAX_TRAIL: usize = 8;

/// Writes a value as JSON, if a reader returns it as it was.
///
/// `serde_json` writes `null` for a number that is not finite and for `Some(None)`. It also writes deeper nesting than
/// it reads.
pub(crate) fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, BoxError> {
    let trail = Trail::default();
    let mut bytes = Vec::with_capacity(128);
    let place = Place { trail: &trail, depth: 0, in_option: false };
    let written = value.serialize(Strict { inner: &mut serde_json::Serializer::new(&mut bytes), place });
    match (written, trail.refused.get()) {
        (Ok(()), None) => Ok(bytes),
        (_, Some(why)) => Err(Refused { at: trail.text(), why }.into()),
        (Err(error), None) => Err(error.into()),
    }
}

/// A value that JSON cannot express.
#[derive(Debug, thiserror::Error)]
#[error("{at}{why}")]
struct Refused {
    at: String,
    why: &'static str,
}

const NAN: &str = "NaN is no number of JSON: store an option, or a number that is finite";
const INFINITE: &str = "an infinite number is no number of JSON: store an option, or a number that is finite";
const NOTHING: &str =
    "`Some` of a value that is null in JSON would come back as `None`: store a type that tells them apart";
const TOO_DEEP: &str = "it is nested deeper than MAX_JSON_DEPTH (120): store it flat";

/// The refused value, and the path to it.
#[derive(Default)]
struct Trail {
    refused: Cell<Option<&'static str>>,
    /// Names of the path, from the inside to the outside.
    names: RefCell<Vec<String>>,
}

impl Trail {
    fn refuse<E: serde::ser::Error>(&self, why: &'static str) -> E {
        self.refused.set(Some(why));
        E::custom(why)
    }

    /// Adds the name of a field, an element or an entry to the path of an error.
    fn pass(&self, name: impl Display) {
        self.names.borrow_mut().push(name.to_string());
    }

    fn text(&self) -> String {
        let names = self.names.borrow();
        let shown: Vec<&str> = names.iter().rev().take(MAX_TRAIL).map(String::as_str).collect();
        match (shown.is_empty(), names.len() > MAX_TRAIL) {
            (true, _) => String::new(),
            (false, false) => format!("{}: ", shown.join(".")),
            (false, true) => format!("{}…: ", shown.join(".")),
        }
    }
}

/// The place of a value in the JSON.
#[derive(Clone, Copy)]
struct Place<'a> {
    trail: &'a Trail,
    depth: usize,
    /// Whether an option holds the value.
    in_option: bool,
}

impl<'a> Place<'a> {
    /// Returns the place that is deeper by the given number of levels, if it is not too deep.
    fn deeper<E: serde::ser::Error>(self, levels: usize) -> Result<Self, E> {
        let depth = self.depth + levels;
        if depth > MAX_JSON_DEPTH {
            return Err(self.trail.refuse(TOO_DEEP));
        }
        Ok(Place { depth, in_option: false, ..self })
    }

    fn of<T: ?Sized>(self, value: &'a T) -> Placed<'a, T> {
        Placed { value, place: self }
    }
}

/// A value that is serialized strictly.
struct Placed<'a, T: ?Sized> {
    value: &'a T,
    place: Place<'a>,
}

impl<T: Serialize + ?Sized> Serialize for Placed<'_, T> {
    fn serialize<S: Serializer>(&self, inner: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Strict { inner, place: self.place })
    }
}

/// A serializer around another serializer.
struct Strict<'a, S> {
    inner: S,
    place: Place<'a>,
}

impl<'a, S: Serializer> Strict<'a, S> {
    /// Begins a value that holds other values, the given number of levels below.
    fn open<C>(self, levels: usize, begin: impl FnOnce(S) -> Result<C, S::Error>) -> Result<Compound<'a, C>, S::Error> {
        let place = self.place.deeper(levels)?;
        Ok(Compound::new(begin(self.inner)?, place))
    }

    /// Writes a null, and refuses it inside an option.
    fn null(self, write: impl FnOnce(S) -> Result<S::Ok, S::Error>) -> Result<S::Ok, S::Error> {
        match self.place.in_option {
            true => Err(self.place.trail.refuse(NOTHING)),
            false => write(self.inner),
        }
    }

    fn finite(&self, is_nan: bool, is_infinite: bool) -> Result<(), S::Error> {
        match (is_nan, is_infinite) {
            (true, _) => Err(self.place.trail.refuse(NAN)),
            (_, true) => Err(self.place.trail.refuse(INFINITE)),
            _ => Ok(()),
        }
    }
}

/// Methods that pass a value on unchanged.
macro_rules! plain {
    ($($method:ident($type:ty),)+) => {
        $(fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.inner.$method(value)
        })+
    };
}

impl<'a, S: Serializer> Serializer for Strict<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Compound<'a, S::SerializeSeq>;
    type SerializeTuple = Compound<'a, S::SerializeTuple>;
    type SerializeTupleStruct = Compound<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Compound<'a, S::SerializeTupleVariant>;
    type SerializeMap = Compound<'a, S::SerializeMap>;
    type SerializeStruct = Compound<'a, S::SerializeStruct>;
    type SerializeStructVariant = Compound<'a, S::SerializeStructVariant>;

    plain! {
        serialize_bool(bool), serialize_char(char), serialize_str(&str),
        serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64), serialize_i128(i128),
        serialize_u8(u8), serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_u128(u128),
    }

    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        self.finite(value.is_nan(), value.is_infinite())?;
        self.inner.serialize_f32(value)
    }

    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        self.finite(value.is_nan(), value.is_infinite())?;
        self.inner.serialize_f64(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<S::Ok, S::Error> {
        self.place.deeper::<S::Error>(1)?;
        self.inner.serialize_bytes(value)
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.null(S::serialize_none)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let Place { trail, depth, .. } = self.place;
        self.inner.serialize_some(&Placed { value, place: Place { trail, depth, in_option: true } })
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.null(S::serialize_unit)
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.null(|inner| inner.serialize_unit_struct(name))
    }

    fn serialize_unit_variant(self, name: &'static str, index: u32, variant: &'static str) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.serialize_newtype_struct(name, &Placed { value, place: self.place })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let place = self.place.deeper(1)?;
        let done = self.inner.serialize_newtype_variant(name, index, variant, &Placed { value, place });
        done.inspect_err(|_| place.trail.pass(variant))
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.open(1, |inner| inner.serialize_seq(len))
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.open(1, |inner| inner.serialize_tuple(len))
    }

    fn serialize_tuple_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.open(1, |inner| inner.serialize_tuple_struct(name, len))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.open(2, |inner| inner.serialize_tuple_variant(name, index, variant, len))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        self.open(1, |inner| inner.serialize_map(len))
    }

    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeStruct, S::Error> {
        self.open(1, |inner| inner.serialize_struct(name, len))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.open(2, |inner| inner.serialize_struct_variant(name, index, variant, len))
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}
