//! The cookies of a browser: one for its forms, and one that remembers its login.

use std::time::{Duration, SystemTime};

use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue};
use uuid::Uuid;

use super::secret::Secret;
use crate::clock;

/// Cookie to which the tokens of forms belong.
const VISIT: &str = "eventbox_visit";

/// Cookie of a browser whose person entered the token.
const LOGIN: &str = "eventbox_login";

/// Time for which a login lasts.
pub const LOGIN_TTL: Duration = Duration::from_secs(12 * 60 * 60);

/// The cookies that a request carried.
#[derive(Default)]
pub(crate) struct Session {
    visit: Option<Uuid>,
    login: Option<String>,
}

impl Session {
    /// Reads the cookies. A login whose signature or time is wrong is none.
    pub(crate) fn of(headers: &HeaderMap, secret: &Secret) -> Self {
        let login = cookie(headers, LOGIN).filter(|login| is_valid(login, secret));
        Session {
            visit: cookie(headers, VISIT).and_then(|id| Uuid::try_parse(id).ok()),
            login: login.map(str::to_owned),
        }
    }

    /// Returns whether the browser's person entered the token.
    pub(crate) fn has_login(&self) -> bool {
        self.login.is_some()
    }

    /// Returns whether the browser has a cookie to which tokens of forms belong.
    pub(crate) fn has_visit(&self) -> bool {
        self.visit.is_some()
    }

    /// Begins a visit when there is none. Returns the cookie to set.
    pub(crate) fn begin(&mut self) -> Option<Cookie> {
        if self.visit.is_some() {
            return None;
        }
        let id = Uuid::new_v4();
        self.visit = Some(id);
        Some(Cookie { name: VISIT, value: id.simple().to_string(), max_age: None })
    }

    /// Returns the token that the forms of this browser must send back.
    pub(crate) fn csrf(&self, secret: &Secret) -> String {
        let visit = self.visit.map(|id| id.simple().to_string()).unwrap_or_default();
        secret.sign(&["csrf", &visit, self.login.as_deref().unwrap_or_default()])
    }
}

/// A cookie to set, which no script can read and no other site can send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cookie {
    name: &'static str,
    value: String,
    max_age: Option<Duration>,
}

impl Cookie {
    /// Makes the cookie of a login that begins now.
    pub(crate) fn login(secret: &Secret) -> Self {
        let ends = seconds(clock::now() + LOGIN_TTL).to_string();
        let id = Uuid::new_v4().simple().to_string();
        let code = secret.sign(&["login", &ends, &id]);
        Cookie { name: LOGIN, value: format!("{ends}.{id}.{code}"), max_age: Some(LOGIN_TTL) }
    }

    /// Makes the cookie that ends a login.
    pub(crate) fn logout() -> Self {
        Cookie { name: LOGIN, value: String::new(), max_age: Some(Duration::ZERO) }
    }

    /// Adds the cookie to an answer.
    pub(crate) fn set(&self, headers: &mut HeaderMap, base_path: &str, is_https: bool) {
        let Cookie { name, value, max_age } = self;
        let path = if base_path.is_empty() { "/" } else { base_path };
        let age = max_age.map(|age| format!("; Max-Age={}", age.as_secs())).unwrap_or_default();
        let secure = if is_https { "; Secure" } else { "" };
        let text = format!("{name}={value}; Path={path}; HttpOnly; SameSite=Strict{age}{secure}");
        if let Ok(cookie) = HeaderValue::from_str(&text) {
            headers.append(SET_COOKIE, cookie);
        }
    }
}

/// Returns whether a login was signed by this process and has not ended.
fn is_valid(login: &str, secret: &Secret) -> bool {
    let mut parts = login.splitn(3, '.');
    let (Some(ends), Some(id), Some(code)) = (parts.next(), parts.next(), parts.next()) else { return false };
    let is_signed = secret.is_same(code, &secret.sign(&["login", ends, id]));
    is_signed && ends.parse().is_ok_and(|ends: u64| seconds(clock::now()) < ends)
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let texts = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut cookies = texts.flat_map(|text| text.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    cookies.find(|(found, _)| *found == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(cookies: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(cookies).unwrap())])
    }

    #[test]
    fn a_login_is_valid_where_it_was_made() {
        let secret = Secret::new();
        let login = Cookie::login(&secret).value;
        let headers = with(&format!("other=1; {LOGIN}={login}"));
        assert!(Session::of(&headers, &secret).has_login());
        assert!(!Session::of(&headers, &Secret::new()).has_login());
        let (ends, rest) = login.split_once('.').unwrap();
        let later = format!("{}.{rest}", ends.parse::<u64>().unwrap() + 1);
        assert!(!Session::of(&with(&format!("{LOGIN}={later}")), &secret).has_login());
        assert!(!Session::of(&with(&format!("{LOGIN}=")), &secret).has_login());
    }

    #[test]
    fn tokens_of_forms_belong_to_a_browser_and_its_login() {
        let secret = Secret::new();
        let mut session = Session::default();
        let cookie = session.begin().unwrap();
        assert_eq!(session.begin(), None, "a visit begins once");
        let visit = format!("{VISIT}={}", cookie.value);
        assert_eq!(Session::of(&with(&visit), &secret).csrf(&secret), session.csrf(&secret));
        let logged_in = format!("{visit}; {LOGIN}={}", Cookie::login(&secret).value);
        assert_ne!(Session::of(&with(&logged_in), &secret).csrf(&secret), session.csrf(&secret));
    }

    #[test]
    fn cookies_are_kept_from_scripts_and_other_sites() {
        let mut headers = HeaderMap::new();
        Cookie::logout().set(&mut headers, "/eventbox", true);
        let set = headers.get(SET_COOKIE).unwrap();
        assert_eq!(set, "eventbox_login=; Path=/eventbox; HttpOnly; SameSite=Strict; Max-Age=0; Secure");
    }
}
