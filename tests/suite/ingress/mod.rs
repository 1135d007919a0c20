//! The Chip Ingress server, over real gRPC with the generated client.

mod auth;
mod faults;
mod keeping;
mod schemas;
mod service;
mod sink;
mod validation;

use std::time::Duration;

use eventbox::ingress::{Ingress, IngressHandle};
use eventbox::proto::chipingress::pb::chip_ingress_client::ChipIngressClient;
use eventbox::proto::io::cloudevents::v1::CloudEvent;
use eventbox::proto::io::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use eventbox::proto::io::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};
use tonic::Status;
use tonic::transport::Channel;

pub(crate) use crate::support::chip::*;
