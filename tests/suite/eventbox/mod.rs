//! The inbox: emits and turns.

mod backlog;
mod bad_input;
mod coming_back;
mod counts;
mod crash;
#[cfg(feature = "postgres")]
mod dead_connections;
mod depth;
mod emit;
mod extremes;
#[cfg(all(feature = "sqlite", feature = "runtime", target_os = "linux"))]
mod file_limit;
mod foreign_code;
mod foreign_sql;
#[cfg(feature = "sqlite")]
mod full_disk;
#[cfg(all(feature = "postgres", feature = "runtime"))]
mod held_name;
mod json_payloads;
#[cfg(feature = "postgres")]
mod lost_answer;
mod metrics;
mod model;
#[cfg(feature = "postgres")]
mod never_connected;
#[cfg(feature = "postgres")]
mod one_connection;
mod origin;
mod payload;
mod poison;
mod race;
mod reducer;
mod reducer_state;
mod rules;
mod runtimes;
mod sender;
#[cfg(all(feature = "postgres", feature = "runtime", target_os = "linux"))]
mod standby;
mod status;
mod timer;
mod trace;
mod turn;
mod user_code;
mod without_events;
