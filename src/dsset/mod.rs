//! A set of named events: listed without a transaction and popped inside one.
//!
//! Use it to remove a batch of named events together with your own writes, without a [`Processor`](crate::Processor)
//! and its state. A [`Set`] is the eventbox of a [`Recipient`](crate::Recipient), in the same tables: an item is a
//! named event, and its id is the event's name. Events without a name are no items; they are neither listed nor removed
//! here.
//!
//! | Step | Where | Effect |
//! | --- | --- | --- |
//! | [`Set::add`] | anywhere | emits the item as a named event, once |
//! | [`Set::list`] | outside transactions | the oldest items |
//! | [`Set::begin_pop`], [`PopOp::pop`], [`finish_pop`] | one transaction, several sets | pops each item exactly once |
//! | [`Set::delete`] | outside transactions | removes items that are not needed |
//! | [`cleanup_garbage`], [`Pruner`] | outside transactions | forget names whose items are long gone |
//!
//! A pop is a write on the recipient, so [`finish_pop`] moves its turn by compare-and-set, exactly as a turn does: a
//! turn in flight does not apply what was popped, and a pop does not succeed on what a turn has consumed.
//!
//! # Misuses that do not compile
//!
//! Listing takes a pool, so it cannot happen inside a transaction; a number of items is never 0:
//!
//! ```compile_fail
//! # async fn f(set: eventbox::dsset::Set, mut tx: sqlx::Transaction<'static, sqlx::Sqlite>) {
//! set.list(&mut *tx, std::num::NonZeroU32::MIN).await;
//! # }
//! ```
//!
//! Popping takes a [`PopTx`], so it cannot happen outside of one:
//!
//! ```compile_fail
//! # async fn f(set: eventbox::dsset::Set, pool: sqlx::SqlitePool, listing: eventbox::dsset::Listing) {
//! set.begin_pop(&pool, &listing).await;
//! # }
//! ```
//!
//! Finishing takes the operation, so it cannot happen twice:
//!
//! ```compile_fail
//! # async fn f(mut tx: eventbox::dsset::PopTx<sqlx::Sqlite>, op: eventbox::dsset::PopOp) {
//! eventbox::dsset::finish_pop(&mut tx, [op]).await;
//! eventbox::dsset::finish_pop(&mut tx, [op]).await;
//! # }
//! ```
//!
//! # Examples
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let options = eventbox::sqlite_options(":memory:");
//! # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
//! # eventbox::migrate(&pool).await?;
//! use eventbox::{Emitted, Recipient};
//! use eventbox::dsset::{Item, PopTx, Set, finish_pop};
//!
//! let set = Set::new(Recipient::new("airport", "JFK")?);
//! assert_eq!(set.add(&pool, &[Item::new("UA/1545", "departed")]).await?, [Emitted::Added]);
//!
//! let listing = set.list(&pool, std::num::NonZeroU32::MIN).await?;
//! let mut tx = PopTx::begin(&pool).await?;
//! let mut op = set.begin_pop(&mut tx, &listing).await?;
//! for item in listing.items() {
//!     assert!(op.pop(item.id()));
//! }
//! finish_pop(&mut tx, [op]).await?;
//! tx.commit().await?;
//! assert_eq!(set.add(&pool, &[Item::new("UA/1545", "again")]).await?, [Emitted::Tombstoned]);
//! # Ok(()) }
//! ```
//!
//! Source: the contract is that of the dsset of LUCI CV; `docs/names-and-tombstones.md` says where this one is
//! stronger.

mod item;
mod listing;
mod pop;
mod pruner;
mod set;
mod tombstone;

pub use item::Item;
pub use listing::Listing;
pub use pop::{PopOp, PopTx, finish_pop};
pub use pruner::{MIN_PRUNE_INTERVAL, Pruner, PrunerConfig};
pub use set::{DEFAULT_TOMBSTONE_DELAY, MAX_LISTING_BYTES, Set};
pub use tombstone::{Pruned, TombstoneKey, cleanup_garbage, prune_slice};
