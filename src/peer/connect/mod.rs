//! Connections: the contract with connectors, one life after the other, links and breakers.

pub(super) mod connector;
pub(super) mod flow;
pub(super) mod links;
pub(super) mod session;
pub(super) mod supervise;
