//! Resources of the process, as Linux reports them in `/proc`.

use crate::emitter::metrics::instruments as names;

/// Returns the gauges of the process; none where the system does not report them.
pub(crate) fn usage() -> Vec<(&'static str, f64)> {
    let mut usage = Vec::new();
    if let Ok(statm) = std::fs::read_to_string("/proc/self/statm") {
        let mut pages = statm.split(' ').map(|field| field.trim().parse::<f64>().unwrap_or(0.0));
        usage.push((names::MEMORY_VIRTUAL, pages.next().unwrap_or(0.0) * PAGE_BYTES));
        usage.push((names::MEMORY_RESIDENT, pages.next().unwrap_or(0.0) * PAGE_BYTES));
    }
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
        // The name of the program may contain spaces. It ends with the last parenthesis.
        && let Some((_, fields)) = stat.rsplit_once(')')
    {
        let mut ticks = fields.split_whitespace().skip(11).map(|field| field.parse::<f64>().unwrap_or(0.0));
        usage.push((names::CPU_USER, ticks.next().unwrap_or(0.0) / TICKS_PER_SECOND));
        usage.push((names::CPU_SYSTEM, ticks.next().unwrap_or(0.0) / TICKS_PER_SECOND));
    }
    usage
}

/// The size of a page on nearly every Linux.
const PAGE_BYTES: f64 = 4096.0;

/// The unit of CPU time in `/proc`, the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
