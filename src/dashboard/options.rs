//! The options of the dashboard.

use std::fmt;

/// Address on which `eventbox serve` listens unless it is told another: loopback only.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8137";

/// Smallest number of bytes of a token that [`serve`](super::serve()) accepts.
pub const MIN_TOKEN_BYTES: usize = 16;

/// Options of the dashboard: who may see it, what they may do, and where it is mounted.
///
/// # Examples
///
/// ```
/// use eventbox::dashboard::DashboardOptions;
///
/// let options = DashboardOptions::default()
///     .with_title("orders, production")
///     .with_base_path("/eventbox")
///     .with_trusted_header("x-forwarded-user")
///     .with_read_only(true);
/// assert!(format!("{options:?}").contains("/eventbox"));
/// ```
#[derive(Clone)]
#[must_use = "options do nothing by themselves: pass them to `router` or `serve`"]
pub struct DashboardOptions {
    pub(crate) title: String,
    pub(crate) base_path: String,
    pub(crate) operator: String,
    pub(crate) token: Option<String>,
    pub(crate) trusted_header: Option<String>,
    pub(crate) hosts: Vec<String>,
    pub(crate) read_only: bool,
}

impl Default for DashboardOptions {
    /// Returns: no token, no trusted header, loopback hosts only, actions allowed, mounted at the root.
    fn default() -> Self {
        DashboardOptions {
            title: "eventbox".to_owned(),
            base_path: String::new(),
            operator: "dashboard".to_owned(),
            token: None,
            trusted_header: None,
            hosts: Vec::new(),
            read_only: false,
        }
    }
}

impl fmt::Debug for DashboardOptions {
    // Leaves out the token, because it is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DashboardOptions")
            .field("title", &self.title)
            .field("base_path", &self.base_path)
            .field("operator", &self.operator)
            .field("has_token", &self.token.is_some())
            .field("trusted_header", &self.trusted_header)
            .field("hosts", &self.hosts)
            .field("read_only", &self.read_only)
            .finish()
    }
}

impl DashboardOptions {
    /// Sets the name at the top of every page, by which people tell two installations apart.
    pub fn with_title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// Sets the path at which the router is nested, such as `/eventbox`. All links begin with it.
    ///
    /// An empty path is the root. A slash at the end is dropped.
    pub fn with_base_path(mut self, path: &str) -> Self {
        let path = path.trim_matches('/');
        self.base_path = if path.is_empty() { String::new() } else { format!("/{path}") };
        self
    }

    /// Sets the name that the log of operations gets when no trusted header names the person.
    pub fn with_operator(mut self, name: impl Into<String>) -> Self {
        self.operator = name.into();
        self
    }

    /// Demands a token: as `Authorization: Bearer …`, or once in the login form, which sets a cookie.
    ///
    /// [`serve`](super::serve()) accepts at least [`MIN_TOKEN_BYTES`] bytes. An empty token lets nobody in.
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Names the header in which a reverse proxy sends the name of the authenticated person.
    ///
    /// The name becomes the `who` of the log of operations. A request without the header, or with two of it, is
    /// refused. The proxy must remove the header from what clients send, and nobody else may reach the dashboard. With
    /// a token as well, both are demanded.
    pub fn with_trusted_header(mut self, name: impl Into<String>) -> Self {
        self.trusted_header = Some(name.into());
        self
    }

    /// Adds a host name under which browsers reach the dashboard, without a port.
    ///
    /// Without a token and without a trusted header, the dashboard answers only requests for `localhost` and loopback
    /// addresses. A foreign site can otherwise point its own name at the loopback address and read the pages
    /// (DNS rebinding). Add the public name of a service that mounts the router behind an authentication of its own.
    /// With at least one added host, the check also applies when there is a token or a trusted header.
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.hosts.push(host.into());
        self
    }

    /// Sets whether every action is refused. Pages then show no buttons.
    pub fn with_read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Returns whether the dashboard itself tells people it knows from others.
    pub(crate) fn is_guarded(&self) -> bool {
        self.token.is_some() || self.trusted_header.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_path_begins_with_a_slash_and_ends_without_one() {
        for (given, kept) in [("", ""), ("/", ""), ("eventbox", "/eventbox"), ("/ops/eventbox/", "/ops/eventbox")] {
            assert_eq!(DashboardOptions::default().with_base_path(given).base_path, kept);
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        let shown = format!("{:?}", DashboardOptions::default().with_token("a secret of mine"));
        assert!(shown.contains("has_token: true") && !shown.contains("a secret of mine"), "{shown}");
    }
}
