//! The table of the instruments of a durable emitter.

use crate::instrument::instruments;

const CLIENT: &str = "client_name";
const NONE: &[f64] = &[];
const SECONDS: &[f64] = &[0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

instruments! {
    /// All instruments of a durable emitter; those of its client are [`chip::INSTRUMENTS`](crate::chip::INSTRUMENTS).
    EMIT_SUCCESS = "durable_emitter.emit.success", Counter, "{call}", ["domain", "entity"], NONE, "Emits that were stored";
    EMIT_FAILURE = "durable_emitter.emit.failure", Counter, "{call}", ["domain", "entity"], NONE, "Emits that failed";
    EMIT_DURATION = "durable_emitter.emit.duration", Histogram, "s", ["error"], SECONDS, "Wait of an emit for its insert";
    EMIT_TOTAL_DURATION = "durable_emitter.emit.total_duration", Histogram, "s", [], SECONDS, "Time of a whole emit";
    ASYNC_DROPPED = "durable_emitter.emit_async.dropped", Counter, "{call}", ["domain", "entity"], NONE, "Asynchronous emits that found their queue full";
    IMMEDIATE_SUCCESS = "durable_emitter.publish.immediate.success", Counter, "{call}", [], NONE, "Unary second chances that the server took";
    IMMEDIATE_FAILURE = "durable_emitter.publish.immediate.failure", Counter, "{call}", [], NONE, "Unary second chances that failed";
    RETRANSMIT_SUCCESS = "durable_emitter.publish.retransmit.batch.success", Counter, "{call}", [], NONE, "Claims of due rows that all found a place in the queue to the sender";
    RETRANSMIT_FAILURE = "durable_emitter.publish.retransmit.batch.failure", Counter, "{call}", [], NONE, "Claims of due rows that failed, or of which some found no place and were released";
    PUBLISH_DURATION = "durable_emitter.publish.duration", Histogram, "s", ["phase", "error", CLIENT], SECONDS, "Time from the queue to the outcome";
    PUBLISH_SUCCESS = "durable_emitter.publish.batch.events.success", Counter, "{event}", ["phase", "domain", "entity", CLIENT], NONE, "Events that were published";
    PUBLISH_FAILURE = "durable_emitter.publish.batch.events.failure", Counter, "{event}", ["phase", "domain", "entity", CLIENT], NONE, "Events that were not published this time";
    DELIVERED = "durable_emitter.delivery.completed", Counter, "{event}", ["domain", "entity"], NONE, "Rows that left the outbox because they were delivered";
    DEAD_LETTERED = "durable_emitter.dead_lettered", Counter, "{event}", ["code", "domain", "entity"], NONE, "Rows that became dead letters";
    EXPIRED = "durable_emitter.expired_purged", Counter, "{event}", ["domain", "entity"], NONE, "Rows that expired and became dead letters";
    STORE_OPERATIONS = "durable_emitter.store.operations", Counter, "{op}", ["operation", "error"], NONE, "Statements on the outbox";
    STORE_DURATION = "durable_emitter.store.operation.duration", Histogram, "s", ["operation"], SECONDS, "Time of a statement";
    QUEUE_DEPTH = "durable_emitter.queue.depth", Gauge, "{row}", [], NONE, "Rows in the outbox, delivered ones that are retained included; counted up to MAX_COUNTED";
    QUEUE_DEPTH_MAX = "durable_emitter.queue.depth_max", Gauge, "{row}", [], NONE, "The greatest depth that was observed since the start";
    QUEUE_PAYLOAD = "durable_emitter.queue.payload_bytes", Gauge, "By", [], NONE, "Bytes of what is not delivered, counted up to MAX_COUNTED rows";
    QUEUE_AGE = "durable_emitter.queue.oldest_pending_age_seconds", Gauge, "s", [], NONE, "Age of the oldest row that is not delivered, 0 when there is none";
    QUEUE_BUDGET = "durable_emitter.queue.ttl_budget_seconds", Gauge, "s", [], NONE, "Whole seconds until the oldest row expires";
    QUEUE_NEAR_TTL = "durable_emitter.queue.near_ttl", Gauge, "{row}", [], NONE, "Rows that will expire soon";
    QUEUE_USAGE = "durable_emitter.queue.capacity_usage_ratio", Gauge, "1", [], NONE, "Bytes of what is not delivered against the configured maximum";
    MEMORY_RESIDENT = "durable_emitter.process.memory.heap_inuse_bytes", Gauge, "By", [], NONE, "Resident size of the process";
    MEMORY_VIRTUAL = "durable_emitter.process.memory.heap_sys_bytes", Gauge, "By", [], NONE, "Virtual size of the process";
    CPU_USER = "durable_emitter.process.cpu.user_seconds", Gauge, "s", [], NONE, "CPU time of the process in user mode";
    CPU_SYSTEM = "durable_emitter.process.cpu.system_seconds", Gauge, "s", [], NONE, "CPU time of the process in the kernel";
    BUFFER_FULL = "durable_emitter.batch_enqueue.buffer_full", Counter, "{event}", ["phase", "domain", "entity"], NONE, "Events that found the queue to the sender full; their rows wait";
    INSERT_FILL = "durable_emitter.insert_coalescer.queue_fill_ratio", Gauge, "1", [], NONE, "Fill of the queue of inserts, 0 when there is none";
    DELETE_FILL = "durable_emitter.delete_coalescer.queue_fill_ratio", Gauge, "1", [], NONE, "Fill of the queue of outcomes, 0 when delivered rows are retained";
    MARK_FILL = "durable_emitter.mark_coalescer.queue_fill_ratio", Gauge, "1", [], NONE, "The same when delivered rows are retained, 0 when they are not";
    FALLBACK_IN_FLIGHT = "durable_emitter.fallback.in_flight", Gauge, "{task}", [], NONE, "Unary second chances under way";
    BREAKER_OPEN = "durable_emitter.breaker.open", Gauge, "1", [], NONE, "1 while the circuit to the endpoint is not closed";
}
