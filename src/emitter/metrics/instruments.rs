//! Table of the instruments of a durable emitter.

use crate::instrument::instruments;

const CLIENT: &str = "client_name";
const NONE: &[f64] = &[];
const SECONDS: &[f64] = &[0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

instruments! {
    /// All instruments of a durable emitter; those of its client are [`chip::INSTRUMENTS`](crate::chip::INSTRUMENTS).
    EMIT_SUCCESS = "durable_emitter.emit.success", Counter, "{call}", ["domain", "entity"], NONE,
        "Messages that `publish` stored";
    EMIT_FAILURE = "durable_emitter.emit.failure", Counter, "{call}", ["domain", "entity"], NONE,
        "Messages that `publish` did not store";
    EMIT_DURATION = "durable_emitter.emit.duration", Histogram, "s", ["error"], SECONDS,
        "Time from the checks of a message to the end of its insert";
    EMIT_TOTAL_DURATION = "durable_emitter.emit.total_duration", Histogram, "s", [], SECONDS,
        "Time of a whole call of `publish`";
    ASYNC_DROPPED = "durable_emitter.emit_async.dropped_total", Counter, "{call}", ["domain", "entity"], NONE,
        "Messages that `publish_async` dropped because its queue was full";
    IMMEDIATE_SUCCESS = "durable_emitter.publish.immediate.success", Counter, "{call}", [], NONE,
        "Second attempts by the unary call that the server took";
    IMMEDIATE_FAILURE = "durable_emitter.publish.immediate.failure", Counter, "{call}", [], NONE,
        "Second attempts by the unary call that failed";
    RETRANSMIT_SUCCESS = "durable_emitter.publish.retransmit.batch.success", Counter, "{call}", [], NONE,
        "Claims of due rows of which every row found a place in the queue of the client";
    RETRANSMIT_FAILURE = "durable_emitter.publish.retransmit.batch.failure", Counter, "{call}", [], NONE,
        "Claims of due rows that failed, or of which some rows found no place and were released";
    PUBLISH_DURATION = "durable_emitter.publish.duration", Histogram, "s", ["phase", "error", CLIENT], SECONDS,
        "Time from the queue to the outcome";
    PUBLISH_SUCCESS = "durable_emitter.publish.batch.events.success", Counter, "{event}",
        ["phase", "domain", "entity", CLIENT], NONE,
        "Events that were published";
    PUBLISH_FAILURE = "durable_emitter.publish.batch.events.failure", Counter, "{event}",
        ["phase", "domain", "entity", CLIENT], NONE,
        "Events whose attempt failed";
    DELIVERED = "durable_emitter.delivery.completed", Counter, "{event}", ["domain", "entity"], NONE,
        "Rows that left the outbox after their delivery";
    DEAD_LETTERED = "durable_emitter.dead_lettered_total", Counter, "{event}", ["code", "domain", "entity"], NONE,
        "Rows that became dead letters";
    EXPIRED = "durable_emitter.expired_purged", Counter, "{event}", ["domain", "entity"], NONE,
        "Rows that expired and became dead letters";
    STORE_OPERATIONS = "durable_emitter.store.operations", Counter, "{op}", ["operation", "error"], NONE,
        "Statements on the outbox";
    STORE_DURATION = "durable_emitter.store.operation.duration", Histogram, "s", ["operation"], SECONDS,
        "Time of a statement";
    QUEUE_DEPTH = "durable_emitter.queue.depth", Gauge, "{row}", [], NONE,
        "Rows in the outbox, with delivered ones that are retained; counted up to MAX_COUNTED";
    QUEUE_DEPTH_MAX = "durable_emitter.queue.depth_max", Gauge, "{row}", [], NONE,
        "Largest depth that was observed since the start";
    QUEUE_PAYLOAD = "durable_emitter.queue.payload_bytes", Gauge, "By", [], NONE,
        "Bytes of undelivered payload, counted up to MAX_COUNTED rows";
    QUEUE_AGE = "durable_emitter.queue.oldest_pending_age_seconds", Gauge, "s", [], NONE,
        "Age of the oldest undelivered row, 0 without one";
    QUEUE_BUDGET = "durable_emitter.queue.ttl_budget_seconds", Gauge, "s", [], NONE,
        "Whole seconds until the oldest row expires";
    QUEUE_NEAR_TTL = "durable_emitter.queue.near_ttl", Gauge, "{row}", [], NONE,
        "Rows that expire within near_expiry_lead";
    QUEUE_USAGE = "durable_emitter.queue.capacity_usage_ratio", Gauge, "1", [], NONE,
        "Bytes of undelivered payload, divided by the configured maximum";
    MEMORY_RESIDENT = "durable_emitter.process.memory.heap_inuse_bytes", Gauge, "By", [], NONE,
        "Resident size of the process";
    MEMORY_VIRTUAL = "durable_emitter.process.memory.heap_sys_bytes", Gauge, "By", [], NONE,
        "Virtual size of the process";
    CPU_USER = "durable_emitter.process.cpu.user_seconds", Gauge, "s", [], NONE, "CPU time of the process in user mode";
    CPU_SYSTEM = "durable_emitter.process.cpu.system_seconds", Gauge, "s", [], NONE,
        "CPU time of the process in the kernel";
    BUFFER_FULL = "durable_emitter.batch_enqueue.buffer_full", Counter, "{event}", ["phase", "domain", "entity"], NONE,
        "Events that found the queue of the client full; their rows wait";
    INSERT_FILL = "durable_emitter.insert_coalescer.queue_fill_ratio", Gauge, "1", [], NONE,
        "Fill of the queue of inserts, 0 without one";
    DELETE_FILL = "durable_emitter.delete_coalescer.queue_fill_ratio", Gauge, "1", [], NONE,
        "Fill of the queue of outcomes, 0 when delivered rows are retained";
    MARK_FILL = "durable_emitter.mark_coalescer.queue_fill_ratio", Gauge, "1", [], NONE,
        "Fill of the queue of outcomes while delivered rows are retained, else 0";
    FALLBACK_IN_FLIGHT = "durable_emitter.fallback.in_flight", Gauge, "{task}", [], NONE,
        "Second attempts by the unary call in flight";
    BREAKER_OPEN = "durable_emitter.breaker.open", Gauge, "1", [], NONE,
        "1 while the breaker of the endpoint is not closed";
}
