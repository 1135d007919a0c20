//! Requests and answers: fields of queries and forms, the call that pages see, failures.

mod call;
mod failure;
mod fields;
mod queries;

pub(crate) use call::{Call, Ctx, Visitor, link};
pub(crate) use failure::Failure;
pub(crate) use fields::Fields;
pub(crate) use queries::{
    DEAD_FIELDS, MESSAGE_FIELDS, PAGE_ROWS, RECIPIENT_FIELDS, dead_filter, destination, letter_id, message_filter,
    recipient_query,
};
