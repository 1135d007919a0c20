//! A call with the faults that befall it.

use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use super::connection::Cut;
use super::faults::{After, FaultSwitch};
use super::publish::Publisher;
use crate::proto::chipingress::pb::PublishResponse;
use crate::proto::io::cloudevents::v1::CloudEvent;

/// What every call goes through.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    pub(super) publisher: Publisher,
    pub(super) faults: FaultSwitch,
    pub(super) stopping: CancellationToken,
}

/// The events of a call, and what its faults need to know of it.
pub(super) struct Call<'a> {
    pub(super) events: &'a [CloudEvent],
    pub(super) request_bytes: usize,
    pub(super) all_or_nothing: bool,
    pub(super) cut: Option<&'a Cut>,
}

impl Calls {
    /// The work of a call between the faults before and after it.
    pub(super) async fn publish(&self, call: Call<'_>) -> Result<PublishResponse, Status> {
        self.before(call.events, call.request_bytes).await?;
        let mut response = self.publisher.publish(call.events, call.all_or_nothing).await?;
        if self.faults.after(call.events, &mut response).await == After::Drop {
            if let Some(cut) = call.cut {
                cut.now();
            }
            return Err(Status::unavailable("the connection was dropped by a fault that was asked for"));
        }
        Ok(response)
    }

    /// What befalls a call before its work; one that hangs ends when the server stops.
    pub(super) async fn before(&self, events: &[CloudEvent], request_bytes: usize) -> Result<(), Status> {
        let before = self.faults.before(events, request_bytes);
        let ended = self.stopping.run_until_cancelled(before).await;
        ended.unwrap_or_else(|| Err(Status::unavailable("the ingress server is stopping")))
    }
}

/// The way to cut the connection of a request.
pub(super) fn cut_of<T>(request: &Request<T>) -> Option<Cut> {
    request.extensions().get::<Cut>().cloned()
}
