//! Sequences, maps and structs, which hold other values.

use serde::Serialize;
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
    SerializeTupleVariant,
};

use super::Place;

/// A sequence, a map or a struct that is being written. Its values stand at `place`.
pub(super) struct Compound<'a, C> {
    inner: C,
    place: Place<'a>,
    index: usize,
}

impl<'a, C> Compound<'a, C> {
    pub(super) fn new(inner: C, place: Place<'a>) -> Self {
        Compound { inner, place, index: 0 }
    }

    /// Counts an element. After an error, adds its index to the path.
    fn told<E>(&mut self, written: Result<(), E>) -> Result<(), E> {
        if written.is_err() {
            self.place.trail.pass(self.index);
        }
        self.index += 1;
        written
    }
}

macro_rules! elements {
    ($($trait:ident::$method:ident),+) => {
        $(impl<C: $trait> $trait for Compound<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
                let written = self.inner.$method(&self.place.of(value));
                self.told(written)
            }

            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        })+
    };
}

elements! {
    SerializeSeq::serialize_element, SerializeTuple::serialize_element, SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
}

macro_rules! fields {
    ($($trait:ident),+) => {
        $(impl<C: $trait> $trait for Compound<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), C::Error> {
                let written = self.inner.serialize_field(key, &self.place.of(value));
                written.inspect_err(|_| self.place.trail.pass(key))
            }

            fn skip_field(&mut self, key: &'static str) -> Result<(), C::Error> {
                self.inner.skip_field(key)
            }

            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        })+
    };
}

fields! { SerializeStruct, SerializeStructVariant }

impl<C: SerializeMap> SerializeMap for Compound<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    // JSON has only strings as keys, so the inner serializer refuses other keys.
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        self.inner.serialize_key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let written = self.inner.serialize_value(&self.place.of(value));
        self.told(written)
    }

    fn serialize_entry<K: Serialize + ?Sized, V: Serialize + ?Sized>(
        &mut self,
        key: &K,
        value: &V,
    ) -> Result<(), C::Error> {
        let written = self.inner.serialize_entry(key, &self.place.of(value));
        written.inspect_err(|_| {
            let name = serde_json::to_string(key).unwrap_or_default();
            self.place.trail.pass(name.trim_matches('"'));
        })
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}
