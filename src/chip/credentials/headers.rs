//! The headers of every call.

use std::sync::Arc;

use async_trait::async_trait;
use tonic::Status;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

use crate::chip::answer::refusal::local;
use crate::chip::credentials::auth::Auth;
use crate::cloudevent::{resource_names, resource_value};
use crate::error::BoxError;

/// Header that asks the server for information about the node's operator, and its value.
const NOP_LOOKUP: (&str, &str) = ("x-include-nop-info", "true");

/// Name that gRPC reserves; resource attributes must not use it.
const GRPC_RESERVED: &str = "te";

/// Provides headers of your own for every call. A failure fails the call. Not for credentials.
#[async_trait]
pub trait HeaderProvider: Send + Sync + 'static {
    /// Returns names and values, which must be printable ASCII.
    async fn headers(&self) -> Result<Vec<(String, String)>, BoxError>;
}

/// Returns resource attributes as headers, with the names of their extensions and with values that gRPC allows.
#[must_use]
pub fn resource_headers(attributes: &[(String, String)]) -> Vec<(String, String)> {
    resource_names(attributes)
        .into_iter()
        .filter(|(name, _)| name != GRPC_RESERVED)
        .map(|(name, value)| (name, resource_value(value)))
        .collect()
}

/// Headers that a transport adds to its calls.
#[derive(Clone, Default)]
pub(crate) struct Headers {
    pub(crate) auth: Option<Auth>,
    pub(crate) providers: Vec<Arc<dyn HeaderProvider>>,
    pub(crate) fixed: Vec<(String, String)>,
    pub(crate) nop_lookup: bool,
}

impl Headers {
    /// Returns the metadata of one call.
    pub(crate) async fn metadata(&self) -> Result<MetadataMap, Status> {
        let mut metadata = MetadataMap::new();
        for (name, value) in &self.fixed {
            put(&mut metadata, name, value)?;
        }
        if self.nop_lookup {
            put(&mut metadata, NOP_LOOKUP.0, NOP_LOOKUP.1)?;
        }
        for provider in &self.providers {
            let headers = provider.headers().await;
            for (name, value) in
                headers.map_err(|error| Status::unavailable(format!("failed to get headers: {error}")))?
            {
                put(&mut metadata, &name, &value)?;
            }
        }
        if let Some(auth) = &self.auth {
            let headers = auth.headers().await;
            for (name, value) in headers.map_err(|error| Status::unauthenticated(error.to_string()))? {
                put(&mut metadata, &name, &value)?;
            }
        }
        Ok(metadata)
    }
}

/// Adds a header. Refuses one that the server would only report as an internal error.
fn put(metadata: &mut MetadataMap, name: &str, value: &str) -> Result<(), Status> {
    let illegal = || {
        local(Status::internal(format!("the header {name:?} cannot be sent: its name or value is not printable ASCII")))
    };
    let key: AsciiMetadataKey = name.to_ascii_lowercase().parse().map_err(|_| illegal())?;
    if !value.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return Err(illegal());
    }
    let value: AsciiMetadataValue = value.parse().map_err(|_| illegal())?;
    metadata.insert(key, value);
    Ok(())
}
