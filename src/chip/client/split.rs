//! Cutting a batch into requests that are not too large.

/// The size of a batch as a protobuf message, kept while events are added: each event costs its tag, its length and its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestSize {
    options: usize,
    bytes: usize,
}

impl RequestSize {
    /// An empty batch, whose options take so many bytes.
    pub(crate) fn empty(options: usize) -> Self {
        RequestSize { options, bytes: options }
    }

    pub(crate) fn bytes(self) -> usize {
        self.bytes
    }

    fn with(self, event_bytes: usize) -> Self {
        RequestSize { options: self.options, bytes: self.bytes + field_bytes(event_bytes) }
    }
}

/// The lengths of the parts, in order: each is as long as it may be without exceeding the limit, and at least one event. Limit 0: one part.
pub(crate) fn split(event_bytes: &[usize], options: usize, limit: usize) -> Vec<(usize, RequestSize)> {
    let mut parts = Vec::new();
    let mut count = 0;
    let mut size = RequestSize::empty(options);
    for &bytes in event_bytes {
        let grown = size.with(bytes);
        if limit > 0 && count > 0 && grown.bytes() > limit {
            parts.push((count, size));
            (count, size) = (1, RequestSize::empty(options).with(bytes));
        } else {
            (count, size) = (count + 1, grown);
        }
    }
    if count > 0 {
        parts.push((count, size));
    }
    parts
}

/// A length-delimited field with a number below 16.
pub(crate) fn field_bytes(length: usize) -> usize {
    1 + prost::length_delimiter_len(length) + length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(event_bytes: &[usize], limit: usize) -> Vec<usize> {
        split(event_bytes, 4, limit).into_iter().map(|(count, _)| count).collect()
    }

    /// durable-emitter 40 (a negative limit cannot be said here).
    #[test]
    fn parts_are_greedy_and_in_order() {
        assert!(counts(&[], 100).is_empty());
        assert_eq!(counts(&[50; 7], 0), [7]);
        assert_eq!(counts(&[10; 5], 1_000), [5]);
        assert_eq!(counts(&[50; 3], 60), [1, 1, 1]);
        assert_eq!(counts(&[50; 5], 4 + 2 * 52), [2, 2, 1]);
        assert_eq!(counts(&[500, 10, 10], 100), [1, 2]);
    }

    #[test]
    fn sizes_are_those_of_the_encoded_message() {
        use crate::CloudEvent;
        use crate::proto::chipingress::pb::{CloudEventBatch, PublishOptions};
        use prost::Message;
        let options = PublishOptions { transaction_enabled: Some(false) };
        let options_bytes = field_bytes(options.encoded_len());
        for payload_bytes in [0, 1, 100, 127, 128, 20_000] {
            let event = CloudEvent::builder("a", "b").payload(vec![7; payload_bytes]).build().unwrap().into_wire();
            let events = vec![event; 3];
            let lengths: Vec<_> = events.iter().map(Message::encoded_len).collect();
            let parts = split(&lengths, options_bytes, 0);
            let batch = CloudEventBatch { events, options: Some(options) };
            assert_eq!(parts[0].1.bytes(), batch.encoded_len());
        }
    }
}
