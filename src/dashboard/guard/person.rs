//! Who asks: the person whom a reverse proxy names, or whoever knows the token.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use super::secret::Secret;
use super::session::Session;
use crate::dashboard::options::DashboardOptions;
use crate::dashboard::web::{Failure, Visitor};
use crate::text::fit;

/// Largest number of bytes of a person's name.
const MAX_NAME_BYTES: usize = 200;

/// Returns the person who asks. The person is known when the options demand nothing, or get what they demand.
///
/// Fails when the reverse proxy does not name the person, because a login form would not help.
pub(crate) fn visitor(
    headers: &HeaderMap,
    options: &DashboardOptions,
    session: &Session,
    secret: &Secret,
) -> Result<Visitor, Failure> {
    let who = match &options.trusted_header {
        Some(header) => named(headers, header)?,
        None => fit(&options.operator, MAX_NAME_BYTES),
    };
    let is_known = match &options.token {
        None => true,
        Some(token) => session.has_login() || bearer(headers).is_some_and(|given| is_token(given, token, secret)),
    };
    let has_login = options.token.is_some() && session.has_login();
    Ok(Visitor { who, csrf: session.csrf(secret), has_login, is_known })
}

/// Returns whether a text is the token, in a time that does not depend on it. Nothing is an empty token.
pub(crate) fn is_token(given: &str, token: &str, secret: &Secret) -> bool {
    secret.is_same(given, token) && !token.is_empty()
}

/// Returns the name in the header of the reverse proxy.
fn named(headers: &HeaderMap, header: &str) -> Result<String, Failure> {
    const ADVICE: &str = "Open the page through the reverse proxy, which must send the header once.";
    let mut values = headers.get_all(header).iter();
    let (first, second) = (values.next(), values.next());
    let name = first.map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned()).unwrap_or_default();
    if name.is_empty() {
        return Err(Failure::unknown_person(format!("the request has no header {header} with a name"), ADVICE));
    }
    if second.is_some() {
        return Err(Failure::unknown_person(format!("the request has the header {header} twice"), ADVICE));
    }
    Ok(fit(&name, MAX_NAME_BYTES))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn ask(options: &DashboardOptions, headers: &[(&'static str, &'static str)]) -> Result<(String, bool), u16> {
        let secret = Secret::new();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let visitor = visitor(&map, options, &Session::default(), &secret);
        visitor.map(|visitor| (visitor.who, visitor.is_known)).map_err(|failure| failure.status.as_u16())
    }

    #[test]
    fn a_token_lets_in_whoever_knows_it() {
        let options = DashboardOptions::default().with_token("a token of sixteen");
        assert_eq!(
            ask(&options, &[("authorization", "Bearer a token of sixteen")]),
            Ok(("dashboard".to_owned(), true))
        );
        for wrong in ["Bearer a token of sixtee", "Basic a token of sixteen", "Bearer", "Bearer "] {
            assert_eq!(ask(&options, &[("authorization", wrong)]).map(|(_, known)| known), Ok(false), "{wrong}");
        }
        let empty = DashboardOptions::default().with_token("");
        assert_eq!(ask(&empty, &[("authorization", "Bearer ")]).map(|(_, known)| known), Ok(false));
    }

    #[test]
    fn a_proxy_names_the_person_once() {
        let options = DashboardOptions::default().with_trusted_header("X-User");
        assert_eq!(ask(&options, &[("x-user", " ada ")]), Ok(("ada".to_owned(), true)));
        assert_eq!(ask(&options, &[]), Err(401));
        assert_eq!(ask(&options, &[("x-user", "")]), Err(401));
        assert_eq!(ask(&options, &[("x-user", "mallory"), ("x-user", "ada")]), Err(401));
        let strange = DashboardOptions::default().with_trusted_header("not a header\n");
        assert_eq!(ask(&strange, &[("x-user", "ada")]), Err(401));
        let both = options.with_token("a token of sixteen");
        assert_eq!(ask(&both, &[("x-user", "ada")]), Ok(("ada".to_owned(), false)));
    }
}
