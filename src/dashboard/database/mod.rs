//! The questions and repairs of the dashboard, on either engine.
//!
//! Pages do not know the engine: they ask a trait object. So each page is compiled once.

mod repairs;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::Pool;
use uuid::Uuid;

use super::actions::Action;
use super::web::PAGE_ROWS;
use crate::admin::{
    self, DeadFilter, DeadView, Detail, DoctorOptions, Finding, InspectOptions, Member, MessageFilter, MessageView,
    Operation, OutboxGroups, Overview, PeerView, RecipientPage, RecipientQuery, ShardLease, ShardSelector, ShardView,
    StreamView, Why,
};
use crate::error::Result;
use crate::eventbox::EventId;
use crate::outbox::DeadLetterId;
use crate::recipient::Recipient;
use crate::store::Backend;

/// What the overview shows.
pub(crate) struct Glance {
    pub(crate) overview: Overview,
    pub(crate) groups: OutboxGroups,
    pub(crate) shards: Vec<ShardLease>,
}

/// By whom, and how, an action is performed.
#[derive(Debug, Clone)]
pub(crate) struct By {
    /// Name for the log of operations.
    pub(crate) who: String,
    /// Reason for the log of operations.
    pub(crate) why: Option<String>,
    /// Whether to change nothing and only count.
    pub(crate) is_rehearsal: bool,
}

/// What an action did, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Number of things that were, or would be, touched.
    Touched(u64),
    /// The delivery of messages is, or would be, paused or resumed.
    Delivery {
        /// Number of these messages in the outbox.
        waiting: admin::Count,
    },
    /// The reason for which nothing was, or would be, changed.
    Nothing(&'static str),
}

/// The questions and repairs of the dashboard.
#[async_trait]
pub(crate) trait Database: Send + Sync {
    async fn overview(&self) -> Result<Overview>;
    async fn glance(&self) -> Result<Glance>;
    async fn members(&self) -> Result<Vec<Member>>;
    async fn shards(&self) -> Result<Vec<ShardLease>>;
    async fn shard_views(&self) -> Result<Vec<ShardView>>;
    async fn peers(&self) -> Result<Vec<PeerView>>;
    async fn streams(&self, peer: &str, after: Option<&str>) -> Result<Vec<StreamView>>;
    async fn recipients(&self, query: &RecipientQuery) -> Result<RecipientPage>;
    async fn is_kind_paused(&self, kind: &str) -> Result<bool>;
    async fn inspect(&self, of: &Recipient) -> Result<Detail>;
    async fn why(&self, of: &Recipient) -> Result<Why>;
    async fn event_value(&self, of: &Recipient, id: EventId) -> Result<Option<Bytes>>;
    async fn message_groups(&self) -> Result<OutboxGroups>;
    async fn messages(&self, filter: &MessageFilter, after: Option<DeadLetterId>) -> Result<Vec<MessageView>>;
    async fn dead(&self, filter: &DeadFilter, after: Option<DeadLetterId>) -> Result<Vec<DeadView>>;
    async fn count_dead(&self, filter: &DeadFilter) -> Result<admin::Count>;
    async fn dead_value(&self, id: DeadLetterId) -> Result<Option<Bytes>>;
    async fn doctor(&self, with_integrity: bool) -> Result<Vec<Finding>>;
    async fn operations(&self, before: Option<Uuid>) -> Result<Vec<Operation>>;
    async fn perform(&self, action: &Action, by: &By) -> Result<Effect>;
}

/// A pool of either engine.
pub(crate) struct OnPool<B: Backend>(pub(crate) Pool<B>);

#[async_trait]
impl<B: Backend> Database for OnPool<B> {
    async fn overview(&self) -> Result<Overview> {
        admin::overview(&self.0).await
    }

    async fn glance(&self) -> Result<Glance> {
        // One after the other, so that the page takes one connection only.
        let overview = admin::overview(&self.0).await?;
        let groups = admin::message_groups(&self.0).await?;
        Ok(Glance { overview, groups, shards: admin::shards(&self.0).await? })
    }

    async fn members(&self) -> Result<Vec<Member>> {
        admin::members(&self.0).await
    }

    async fn shards(&self) -> Result<Vec<ShardLease>> {
        admin::shards(&self.0).await
    }

    async fn shard_views(&self) -> Result<Vec<ShardView>> {
        admin::list_shards(&self.0, &ShardSelector::all()).await
    }

    async fn peers(&self) -> Result<Vec<PeerView>> {
        admin::peers(&self.0).await
    }

    async fn streams(&self, peer: &str, after: Option<&str>) -> Result<Vec<StreamView>> {
        admin::streams(&self.0, peer, after, PAGE_ROWS).await
    }

    async fn recipients(&self, query: &RecipientQuery) -> Result<RecipientPage> {
        admin::recipients(&self.0, query).await
    }

    async fn is_kind_paused(&self, kind: &str) -> Result<bool> {
        Ok(admin::paused_kinds(&self.0).await?.iter().any(|paused| paused.kind == kind))
    }

    async fn inspect(&self, of: &Recipient) -> Result<Detail> {
        admin::inspect(&self.0, of, &InspectOptions::default().limit(PAGE_ROWS)).await
    }

    async fn why(&self, of: &Recipient) -> Result<Why> {
        admin::why(&self.0, of).await
    }

    async fn event_value(&self, of: &Recipient, id: EventId) -> Result<Option<Bytes>> {
        // The id before this one, so that the listing begins with it.
        let before = id.as_uuid().as_u128().checked_sub(1).map(|before| EventId::from(Uuid::from_u128(before)));
        let first = admin::events(&self.0, of, before, 1).await?.into_iter().next();
        Ok(first.filter(|event| event.id() == id).map(|event| Bytes::copy_from_slice(event.value())))
    }

    async fn message_groups(&self) -> Result<OutboxGroups> {
        admin::message_groups(&self.0).await
    }

    async fn messages(&self, filter: &MessageFilter, after: Option<DeadLetterId>) -> Result<Vec<MessageView>> {
        admin::messages(&self.0, filter, after, PAGE_ROWS).await
    }

    async fn dead(&self, filter: &DeadFilter, after: Option<DeadLetterId>) -> Result<Vec<DeadView>> {
        admin::dead(&self.0, filter, after, PAGE_ROWS).await
    }

    async fn count_dead(&self, filter: &DeadFilter) -> Result<admin::Count> {
        admin::count_dead(&self.0, filter).await
    }

    async fn dead_value(&self, id: DeadLetterId) -> Result<Option<Bytes>> {
        admin::dead_value(&self.0, id).await
    }

    async fn doctor(&self, with_integrity: bool) -> Result<Vec<Finding>> {
        admin::doctor(&self.0, &DoctorOptions::default().with_integrity(with_integrity)).await
    }

    async fn operations(&self, before: Option<Uuid>) -> Result<Vec<Operation>> {
        admin::operations(&self.0, before, PAGE_ROWS).await
    }

    async fn perform(&self, action: &Action, by: &By) -> Result<Effect> {
        repairs::perform(self.0.clone(), action, by).await
    }
}
