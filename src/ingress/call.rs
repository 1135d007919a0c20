//! A call, with the faults before and after its work.

use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use super::faults::{After, FaultSwitch};
use super::publish::Publisher;
use crate::grpc::Cut;
use crate::proto::chipingress::pb::PublishResponse;
use crate::proto::io::cloudevents::v1::CloudEvent;

/// The parts of the server that every call uses.
#[derive(Clone)]
pub(super) struct Calls {
    pub(super) publisher: Publisher,
    pub(super) faults: FaultSwitch,
    pub(super) stopping: CancellationToken,
}

/// The events of a call, and the facts about the call that the faults need.
pub(super) struct Call<'a> {
    pub(super) events: &'a [CloudEvent],
    pub(super) request_bytes: usize,
    pub(super) all_or_nothing: bool,
    pub(super) cut: Option<&'a Cut>,
}

impl Calls {
    /// Does the work of a call, and applies the faults before and after the work.
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

    /// Applies the faults that come before the work of a call.
    ///
    /// A hanging call ends with UNAVAILABLE when the server stops.
    pub(super) async fn before(&self, events: &[CloudEvent], request_bytes: usize) -> Result<(), Status> {
        let before = self.faults.before(events, request_bytes);
        let ended = self.stopping.run_until_cancelled(before).await;
        ended.unwrap_or_else(|| Err(Status::unavailable("the ingress server is stopping")))
    }
}

/// Returns the switch that cuts the connection of a request.
pub(super) fn cut_of<T>(request: &Request<T>) -> Option<Cut> {
    request.extensions().get::<Cut>().cloned()
}
