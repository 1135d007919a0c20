//! A batch as the bytes of its message.

use bytes::{BufMut, Bytes};
use prost::Message;
use tonic::Status;

use super::split::field_bytes;
use crate::cloudevent::put_length;
use crate::proto::chipingress::pb::{CloudEventBatch, PublishOptions};

/// The tags of the two fields of a batch, which are both length-delimited.
const EVENT_TAG: u8 = 1 << 3 | 2;
const OPTIONS_TAG: u8 = 2 << 3 | 2;

/// A batch as it goes on the wire: the encoded [`CloudEventBatch`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EncodedBatch {
    bytes: Bytes,
    events: usize,
}

impl EncodedBatch {
    /// Puts events together, each of its size and encoded by `encode`.
    pub(super) fn of<E>(
        events: &[E],
        size: impl Fn(&E) -> usize,
        encode: impl Fn(&E, &mut Vec<u8>),
        options: PublishOptions,
    ) -> Self {
        let options_bytes = options.encoded_len();
        let total = events.iter().map(|event| field_bytes(size(event))).sum::<usize>() + field_bytes(options_bytes);
        let mut bytes = Vec::with_capacity(total);
        for event in events {
            bytes.put_u8(EVENT_TAG);
            put_length(&mut bytes, size(event));
            encode(event, &mut bytes);
        }
        bytes.put_u8(OPTIONS_TAG);
        put_length(&mut bytes, options_bytes);
        bytes.extend_from_slice(&options.encode_to_vec());
        EncodedBatch { bytes: bytes.into(), events: events.len() }
    }

    /// The message.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many events are in it.
    #[must_use]
    pub fn events(&self) -> usize {
        self.events
    }

    /// The batch, taken apart.
    ///
    /// # Errors
    ///
    /// `INTERNAL`, which cannot happen, because only events that decode are put together.
    pub fn decode(&self) -> Result<CloudEventBatch, Status> {
        CloudEventBatch::decode(self.bytes.clone())
            .map_err(|error| Status::internal(format!("a batch cannot be decoded: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CloudEvent;

    #[test]
    fn the_bytes_are_those_of_the_message() {
        for (count, payload_bytes) in [(0, 0), (1, 0), (3, 100), (2, 200), (2, 20_000)] {
            let event = CloudEvent::builder("a", "b").payload(vec![7; payload_bytes]).build().unwrap();
            let events = vec![event; count];
            let options = PublishOptions { transaction_enabled: Some(true) };
            let batch = EncodedBatch::of(&events, CloudEvent::encoded_len, CloudEvent::encode_into, options);
            let message = CloudEventBatch {
                events: events.into_iter().map(CloudEvent::into_wire).collect(),
                options: Some(options),
            };
            assert_eq!(batch.bytes(), &message.encode_to_vec());
            assert_eq!(batch.events(), count);
            assert_eq!(batch.decode().unwrap(), message);
        }
    }
}
