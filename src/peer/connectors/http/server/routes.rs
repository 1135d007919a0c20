//! The paths and methods that the server serves.

use http::Method;
use serde::Deserialize;

/// A path that is served, and its methods.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::http::Route;
///
/// let route: Route = serde_json::from_str(r#"{ "path": "/orders/*", "methods": ["POST", "PUT"] }"#)?;
/// assert_eq!(route, Route::new("/orders/*", ["POST", "PUT"]));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Route {
    /// The path; `/orders/*` stands for every path that begins with `/orders/`.
    pub path: String,
    /// The methods; empty for all.
    #[serde(default)]
    pub methods: Vec<String>,
}

impl Route {
    /// Serves these methods at a path; none for all methods.
    pub fn new<'a>(path: impl Into<String>, methods: impl IntoIterator<Item = &'a str>) -> Self {
        Route { path: path.into(), methods: methods.into_iter().map(str::to_owned).collect() }
    }
}

/// The checked routes.
#[derive(Debug)]
pub(super) struct Routes(Vec<(String, Vec<Method>)>);

/// Whether a request is served.
#[derive(Debug, PartialEq)]
pub(super) enum Served {
    Yes,
    /// No route has the path.
    UnknownPath,
    /// Routes have the path, with these methods.
    OtherMethods(String),
}

impl Routes {
    pub(super) fn new(routes: &[Route]) -> Result<Self, String> {
        let checked = routes.iter().map(|route| {
            if !route.path.starts_with('/') {
                return Err(format!("the path {:?} of a route does not begin with a slash", route.path));
            }
            let methods: Result<Vec<Method>, String> = route.methods.iter().map(method).collect();
            Ok((route.path.clone(), methods?))
        });
        checked.collect::<Result<_, _>>().map(Routes)
    }

    pub(super) fn served(&self, path: &str, method: &Method) -> Served {
        let mut of_path = self.0.iter().filter(|(pattern, _)| matches(pattern, path)).peekable();
        if self.0.is_empty() {
            return Served::Yes;
        }
        if of_path.peek().is_none() {
            return Served::UnknownPath;
        }
        let mut allowed: Vec<&str> = Vec::new();
        for (_, methods) in of_path {
            if methods.is_empty() || methods.contains(method) {
                return Served::Yes;
            }
            allowed.extend(methods.iter().map(Method::as_str));
        }
        Served::OtherMethods(allowed.join(", "))
    }
}

fn method(text: &String) -> Result<Method, String> {
    // Methods are case-sensitive, and `post` would be served for nobody.
    let method = text.parse::<Method>().ok().filter(|_| text.chars().all(|letter| !letter.is_ascii_lowercase()));
    method.ok_or_else(|| format!("{text:?} is no method: write POST"))
}

fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) if start.ends_with('/') => path.starts_with(start),
        _ => pattern == path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_served_by_its_path_and_method() {
        let routes = [Route::new("/orders", ["POST"]), Route::new("/orders", ["PUT"]), Route::new("/files/*", [])];
        let routes = Routes::new(&routes).unwrap();
        assert_eq!(routes.served("/orders", &Method::PUT), Served::Yes);
        assert_eq!(routes.served("/orders", &Method::GET), Served::OtherMethods("POST, PUT".to_owned()));
        assert_eq!(routes.served("/orders/7", &Method::POST), Served::UnknownPath);
        assert_eq!(routes.served("/files/a/b", &Method::DELETE), Served::Yes);
        assert_eq!(routes.served("/files", &Method::GET), Served::UnknownPath);
        assert_eq!(Routes::new(&[]).unwrap().served("/any", &Method::GET), Served::Yes);
    }

    #[test]
    fn a_wrong_route_is_refused() {
        assert!(Routes::new(&[Route::new("orders", [])]).is_err());
        assert!(Routes::new(&[Route::new("/orders", ["post"])]).is_err());
        assert!(Routes::new(&[Route::new("/orders", ["P ST"])]).is_err());
    }
}
