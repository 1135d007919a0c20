//! The types of connectors that a file may name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};

use super::Refused;
use crate::error::BoxError;
use crate::peer::connect::connector::Connector;
#[cfg(feature = "ingress")]
use crate::peer::connectors::ChipIngressServer;
use crate::peer::connectors::http::{HttpClient, HttpServer};
use crate::peer::connectors::{
    Bench, ChipIngress, Eventbox, File, Null, NullConfig, Stdio, TcpClient, TcpServer, WsClient, WsServer,
};
#[cfg(unix)]
use crate::peer::connectors::{UnixClient, UnixServer};
use crate::peer::error::PeerError;
use crate::text::Chain;

/// The types of connectors that a [`PeersFile`](crate::peer::PeersFile) may name, with what makes each of its settings.
///
/// The default has all types of this library. Add types of your own.
///
/// # Examples
///
/// ```
/// use eventbox::peer::{ConnectorTypes, PeersFile};
/// use serde::Deserialize;
/// # use async_trait::async_trait;
/// # use eventbox::peer::{Connector, ConnectorError, Role, Session};
///
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct OnceConfig {
///     value: String,
/// }
///
/// struct Once(String);
/// # #[async_trait]
/// # impl Connector for Once {
/// #     fn name(&self) -> &'static str { "once" }
/// #     fn endpoint(&self) -> String { "memory".to_owned() }
/// #     fn role(&self) -> Role { Role::Client }
/// #     async fn run(&self, _: Session) -> Result<(), ConnectorError> { Ok(()) }
/// # }
///
/// let types = ConnectorTypes::default().with("once", |config: OnceConfig| Ok(Once(config.value)));
/// let file = "[[peer]]\nid = 'starter'\ntype = 'once'\nconfig.value = 'departed'";
/// let peers = PeersFile::new().types(types).read(file)?;
/// assert_eq!(peers[0].id(), "starter");
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[derive(Clone)]
pub struct ConnectorTypes(BTreeMap<String, Make>);

type Make = Arc<dyn Fn(Spanned<DeValue<'_>>) -> Result<Arc<dyn Connector>, Refused> + Send + Sync>;

impl fmt::Debug for ConnectorTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Default for ConnectorTypes {
    fn default() -> Self {
        let types = ConnectorTypes::none()
            .known("bench", Bench::new)
            .known("chip-ingress", ChipIngress::new)
            .known("eventbox", Eventbox::new)
            .known("file", File::new)
            .known("http-client", HttpClient::new)
            .known("http-server", HttpServer::new)
            .known("null", |config: NullConfig| Ok(Null::from(config)))
            .known("stdio", Stdio::new)
            .known("tcp-client", TcpClient::new)
            .known("tcp-server", TcpServer::new)
            .known("ws-client", WsClient::new)
            .known("ws-server", WsServer::new);
        #[cfg(feature = "ingress")]
        let types = types.known("chip-ingress-server", ChipIngressServer::new);
        #[cfg(unix)]
        let types = types.known("unix-client", UnixClient::new).known("unix-server", UnixServer::new);
        types
    }
}

impl ConnectorTypes {
    /// Knows no type.
    #[must_use]
    pub fn none() -> Self {
        ConnectorTypes(BTreeMap::new())
    }

    /// Adds a type, or replaces the one with this name. `make` gets the settings of `[peer.config]`; let their type
    /// refuse unknown keys.
    #[must_use]
    pub fn with<T, C, F>(mut self, name: impl Into<String>, make: F) -> Self
    where
        T: DeserializeOwned,
        C: Connector,
        F: Fn(T) -> Result<C, BoxError> + Send + Sync + 'static,
    {
        let make: Make = Arc::new(move |settings| {
            let span = settings.span();
            let config = T::deserialize(ValueDeserializer::from(settings))?;
            match make(config) {
                Ok(connector) => Ok(Arc::new(connector)),
                Err(error) => Err(Refused::new(problem_of(&error), span)),
            }
        });
        self.0.insert(name.into(), make);
        self
    }

    fn known<T, C>(self, name: &str, make: fn(T) -> Result<C, PeerError>) -> Self
    where
        T: DeserializeOwned + 'static,
        C: Connector,
    {
        self.with(name, move |config| make(config).map_err(BoxError::from))
    }

    /// Returns the names of the types, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Makes a connector.
    pub(super) fn make(
        &self,
        name: &Spanned<String>,
        settings: Spanned<DeValue<'_>>,
    ) -> Result<Arc<dyn Connector>, Refused> {
        let Some(make) = self.0.get(name.get_ref()) else {
            let known = self.names().collect::<Vec<_>>().join(", ");
            return Err(Refused::new(format!("unknown type {:?}, known are: {known}", name.get_ref()), name.span()));
        };
        make(settings)
    }
}

/// Returns an error in words. The library's connectors name their type as the peer.
fn problem_of(error: &BoxError) -> String {
    match error.downcast_ref::<PeerError>() {
        Some(PeerError::Setup { problem, .. }) => problem.clone(),
        _ => Chain(&**error).to_string(),
    }
}
