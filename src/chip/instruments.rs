//! Table of the instruments of the batch client.

use crate::instrument::instruments;

const CLIENT: &str = "client_name";
const NONE: &[f64] = &[];
const MESSAGES: &[f64] = &[1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0, 100.0, 250.0, 500.0, 1000.0];
/// The default of OpenTelemetry, which the specification asks for.
const MILLISECONDS: &[f64] =
    &[0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1_000.0, 2_500.0, 5_000.0, 7_500.0, 10_000.0];
const BYTES: &[f64] = &[
    128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 524288.0, 1048576.0, 2097152.0, 4194304.0,
    8388608.0, 10485760.0,
];

instruments! {
    /// All instruments of a batch client.
    BATCH_REQUESTS = "chip_ingress.batch.send_requests_total", Counter, "{request}", ["status", CLIENT], NONE,
        "Requests; partial: some of their events failed";
    BATCH_MESSAGES = "chip_ingress.batch.request_size_messages", Histogram, "{event}",
        ["max_batch_size", CLIENT], MESSAGES,
        "Events of a request";
    BATCH_BYTES = "chip_ingress.batch.request_size_bytes", Histogram, "By",
        ["max_grpc_request_size_bytes", CLIENT], BYTES,
        "Size of a request";
    BATCH_LATENCY = "chip_ingress.batch.request_latency_ms", Histogram, "ms", ["status", CLIENT], MILLISECONDS,
        "Time until the answer";
    BATCH_CONFIG = "chip_ingress.batch.config.info", Gauge, "{info}",
        ["max_batch_size", "message_buffer_size", "max_concurrent_sends", "batch_interval_ms",
        "max_publish_timeout_ms", "shutdown_timeout_ms", "clone_event", "transaction_enabled",
        "max_grpc_request_size_bytes", CLIENT], NONE,
        "1, with the configuration as labels";
    BATCH_SPLITS = "chip_ingress.batch.batch_splits_total", Counter, "{split}", [CLIENT], NONE,
        "Batches that were split by size";
    BATCH_MISMATCH = "chip_ingress.batch.results_mismatch_total", Counter, "{mismatch}", [CLIENT], NONE,
        "Answers whose results do not match the events";
    BREAKER_OPENED = "durable_emitter.breaker.opened_total", Counter, "1", ["code", CLIENT], NONE,
        "Openings of the breaker of the endpoint; several within minutes: it flaps";
}
