//! One request: who asks, for what, with which fields.

use std::sync::Arc;

use super::fields::{Fields, query_of};
use crate::dashboard::app::App;
use crate::dashboard::database::Database;

/// The person who asks, as far as the dashboard knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Visitor {
    /// Name for the log of operations.
    pub(crate) who: String,
    /// Token that every form of the page must send back.
    pub(crate) csrf: String,
    /// Whether a login cookie let the person in, so that there is something to log out of.
    pub(crate) has_login: bool,
    /// Whether the person may see the pages.
    pub(crate) is_known: bool,
}

/// One request, as pages see it.
pub(crate) struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) visitor: Visitor,
    /// Path below the base path.
    pub(crate) path: String,
    /// Path and query, as they were sent.
    pub(crate) target: String,
    pub(crate) query: Fields,
    /// Fields of the form, whose CSRF token was checked.
    pub(crate) form: Fields,
    /// Whether the browser reached a reverse proxy by HTTPS.
    pub(crate) is_https: bool,
}

/// What the middleware leaves for the handlers.
pub(crate) type Ctx = Arc<Call>;

impl Call {
    /// Returns the questions and repairs.
    pub(crate) fn database(&self) -> &dyn Database {
        &*self.app.database
    }

    /// Returns whether pages offer actions.
    pub(crate) fn may_act(&self) -> bool {
        self.visitor.is_known && !self.app.options.read_only
    }

    /// Returns whether the request came for data, and not for a page.
    pub(crate) fn wants_json(&self) -> bool {
        self.path.starts_with("/api/")
    }

    /// Returns the address of a page with these parameters. Leaves out the empty ones.
    pub(crate) fn link(&self, path: &str, parameters: &[(&str, &str)]) -> String {
        link(&self.app.options.base_path, path, parameters)
    }

    /// Returns the address of this page with the fields of its query, except for those in `but`, which get new values.
    pub(crate) fn same_page(&self, kept: &[&str], but: &[(&str, &str)]) -> String {
        let kept = kept.iter().filter(|name| but.iter().all(|(changed, _)| changed != *name));
        let mut parameters: Vec<(&str, &str)> = kept.filter_map(|name| Some((*name, self.query.get(name)?))).collect();
        parameters.extend(but);
        self.link(&self.path, &parameters)
    }
}

/// Returns the address of a page below a base path. Leaves out the empty parameters.
pub(crate) fn link(base: &str, path: &str, parameters: &[(&str, &str)]) -> String {
    // A router that is nested at /eventbox answers /eventbox, and not /eventbox/.
    let path = if path == "/" && !base.is_empty() { "" } else { path };
    match query_of(parameters) {
        query if query.is_empty() => format!("{base}{path}"),
        query => format!("{base}{path}?{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::link;

    #[test]
    fn links_begin_with_the_base_path() {
        assert_eq!(link("", "/", &[]), "/");
        assert_eq!(link("/eventbox", "/", &[]), "/eventbox");
        assert_eq!(link("/eventbox", "/dead", &[("code", "A B"), ("r", "")]), "/eventbox/dead?code=A+B");
    }
}
