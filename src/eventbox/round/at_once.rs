//! Commits a round as one statement, which is the whole transaction.

use sqlx::Pool;
use uuid::Uuid;

use super::commit::{LOCK_WAIT_MS, Won, Written};
use super::ready::{Ready, Removal};
use crate::error::Result;
use crate::eventbox::emit::wake_up;
use crate::eventbox::emit::{MAX_EMIT_EVENTS, answers_of, rows_of};
use crate::eventbox::event::{Event, trace};
use crate::origin;
use crate::store::{Backend, Emitted, Fault, answered, hold};

/// Writes a round without code of the user. `None` when it needs several statements, or when others wait to write.
pub(super) async fn write<B: Backend>(
    pool: &Pool<B>,
    ready: &[Ready],
    token: Uuid,
    removal: Removal,
) -> Result<Option<Written>> {
    let attempt = || format!("commit a round of {} recipients", ready.len());
    let everybody = || (0..ready.len()).collect();
    let written = match ready {
        [one] if B::emits_with_the_turn() && emits_only(one) => write_and_emit(pool, one, token, removal).await,
        _ if ready.iter().any(Ready::adds) || !B::is_one_statement(ready.len()) => return Ok(None),
        _ => {
            let Some(_lead) = B::try_write_now(pool) else { return Ok(None) };
            let writes: Vec<_> = ready.iter().map(|ready| ready.write(removal)).collect();
            let writing = async { B::write_round(&mut *hold(pool).await?, &writes, token, LOCK_WAIT_MS).await };
            answered(pool, writing).await
        }
    };
    match written {
        Ok(Some(won)) => Ok(Some(Written::Committed(won.into_iter().map(Won::silently).collect()))),
        Ok(None) => Ok(Some(Written::Shortfall)),
        Err(fault) if fault.lost_the_answer() => Ok(Some(Written::Unknown(everybody()))),
        Err(fault) => Err(fault.during(attempt())),
    }
}

/// Returns whether a turn adds events, none of which has a name or a due time, and nothing else.
fn emits_only(ready: &Ready) -> bool {
    let is_plain = |event: &Event| event.name().is_none() && event.due().is_none();
    ready.only_emits()
        && ready.emitted.len() <= MAX_EMIT_EVENTS
        && ready.emitted.iter().all(|(_, event)| is_plain(event))
}

/// Writes the turn of one recipient and what it emits. Returns the index of the winner.
async fn write_and_emit<B: Backend>(
    pool: &Pool<B>,
    ready: &Ready,
    token: Uuid,
    removal: Removal,
) -> Result<Option<Vec<usize>>, Fault> {
    let (current, origin) = (trace::current(), origin::current());
    let (positions, rows) = rows_of(&ready.emitted, current.as_deref(), origin.as_ref());
    let write = ready.write(removal);
    let writing = async { B::write_one_and_emit(&mut *hold(pool).await?, &write, &rows, token, LOCK_WAIT_MS).await };
    let written = answered(pool, writing).await;
    match &written {
        Ok(Some(true)) => {
            let noted = vec![Emitted::Added; rows.len()];
            answers_of(&ready.emitted, positions, noted, true);
        }
        // It may have committed.
        Err(fault) if fault.lost_the_answer() => wake_up::wake(&ready.emitted.iter().map(|(to, _)| to), true),
        _ => {}
    }
    Ok(written?.map(|has_won| if has_won { vec![0] } else { Vec::new() }))
}
