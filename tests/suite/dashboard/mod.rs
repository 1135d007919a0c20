//! The operator's page, through its router and through real connections.

mod actions;
mod api;
mod guarding;
mod live;
mod logging_in;
mod pages;
mod peers;
mod serving;

use std::collections::BTreeMap;
use std::sync::Mutex;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_TYPE, COOKIE, HOST, LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, Request, Response};
use eventbox::dashboard::{DashboardOptions, router};
use eventbox::{Event, Recipient, admin};
use tower::ServiceExt;

use crate::support::{CellEngine, TestDb, TestEngine};

/// A key with everything that could break out of HTML, a URL or a query.
const HOSTILE_KEY: &str = "<script>alert(\"1\")</script>&r=x/ü 'é'%2F+#?";

/// Paths of all pages that need no recipient.
const PAGES: [&str; 8] = ["/", "/recipients", "/dead", "/outbox", "/shards", "/peers", "/doctor", "/operations"];

/// A browser: it sends the host and the cookies, and remembers the cookies that are set.
struct Browser {
    router: Router,
    headers: Vec<(&'static str, String)>,
    cookies: Mutex<BTreeMap<String, String>>,
}

/// An answer, read whole.
struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Browser {
    fn new<B: TestEngine>(db: &TestDb<B>, options: DashboardOptions) -> Self {
        Browser::on(router(db.pool.clone(), options))
    }

    fn on(router: Router) -> Self {
        let host = (HOST.as_str(), "127.0.0.1:8137".to_owned());
        Browser { router, headers: vec![host], cookies: Mutex::default() }
    }

    /// Sends this header with every request, instead of an earlier one of its name.
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    async fn get(&self, path: &str) -> Answer {
        read(self.open(path).await).await
    }

    /// Returns the answer without reading its body.
    async fn open(&self, path: &str) -> Response<Body> {
        self.send(self.request("GET", path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = self.request("POST", path).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        read(self.send(request.body(Body::from(body)).unwrap()).await).await
    }

    fn request(&self, method: &str, path: &str) -> axum::http::request::Builder {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let cookies = self.cookies.lock().unwrap();
        let cookies: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if cookies.is_empty() { request } else { request.header(COOKIE, cookies.join("; ")) }
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        let response = self.router.clone().oneshot(request).await.unwrap();
        for set in response.headers().get_all(SET_COOKIE) {
            let (cookie, _) = set.to_str().unwrap().split_once(';').unwrap();
            let (name, value) = cookie.split_once('=').unwrap();
            let mut cookies = self.cookies.lock().unwrap();
            match value {
                "" => cookies.remove(name),
                _ => cookies.insert(name.to_owned(), value.to_owned()),
            };
        }
        response
    }

    /// Returns the token of the forms of this browser.
    async fn csrf(&self) -> String {
        self.get("/recipients?kind=order").await.csrf()
    }

    /// Goes through the confirmation of an action. Returns the confirmation, and the page to which the action leads.
    async fn act(&self, action: &str, fields: &[(&str, &str)]) -> (Answer, Answer) {
        let csrf = self.csrf().await;
        let mut form = vec![("csrf", csrf.as_str()), ("action", action)];
        form.extend(fields);
        let asked = self.post("/confirm", &form).await;
        assert_eq!(asked.status, 200, "{action}: {}", asked.text);
        form.push(("why", "because of the test"));
        let done = self.post("/do", &form).await;
        assert_eq!(done.status, 303, "{action}: {}", done.text);
        let led_to = self.get(&done.location()).await;
        assert_eq!(led_to.status, 200, "{action}: {}", led_to.text);
        (asked, led_to)
    }
}

async fn read(response: Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    Answer { status: parts.status.as_u16(), headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

impl Answer {
    fn location(&self) -> String {
        self.headers[LOCATION].to_str().unwrap().to_owned()
    }

    fn csrf(&self) -> String {
        self.between("name=\"csrf\" value=\"", "\"")
    }

    /// Returns the first text between two others.
    fn between(&self, before: &str, after: &str) -> String {
        let rest = self.text.split_once(before).unwrap_or_else(|| panic!("no {before} in {}", self.text)).1;
        rest.split_once(after).unwrap().0.to_owned()
    }

    #[track_caller]
    fn has(&self, text: &str) -> &Self {
        assert!(self.text.contains(text), "no {text:?} in {}", self.text);
        self
    }

    #[track_caller]
    fn has_not(&self, text: &str) -> &Self {
        assert!(!self.text.contains(text), "{text:?} in {}", self.text);
        self
    }
}

/// Returns the address of a page about a recipient.
fn about(path: &str, of: &Recipient) -> String {
    format!("{path}?{}", form_urlencoded::Serializer::new(String::new()).append_pair("r", of.as_str()).finish())
}

fn order(key: &str) -> Recipient {
    Recipient::new("order", key).unwrap()
}

/// Fills a database with a row of everything. Returns the recipient with the hostile key.
async fn fill<B: CellEngine>(db: &TestDb<B>) -> Recipient {
    let hostile = order(HOSTILE_KEY);
    for value in ["secret one", "secret two", "secret three"] {
        B::emit_on(&db.pool, &hostile, Event::new(value).named(format!("<b>{value}"))).await.unwrap();
    }
    let later = Event::new("secret later").due_in(std::time::Duration::from_secs(3_600));
    B::emit_on(&db.pool, &hostile, later).await.unwrap();
    let first = admin::events(&db.pool, &hostile, None, 1).await.unwrap()[0].id();
    admin::quarantine(&db.pool, &hostile, &[first], "<i>no number</i>").await.unwrap();
    admin::set_state(&db.pool, &hostile, 1, Some(br#"{"items":"<u>2</u>"}"#)).await.unwrap();
    failing(db, &hostile).await;
    admin::pause_kind(&db.pool, "other").await.unwrap();
    dead_message(db, 7).await;
    message(db, 3).await;
    hostile
}

/// Notes failures of a recipient, whose next attempt is far away.
async fn failing<B: TestEngine>(db: &TestDb<B>, of: &Recipient) {
    let (shard, recipient) = (of.shard(), of.as_str().replace('\'', "''"));
    db.run(format_args!(
        "INSERT INTO eventbox_failure (shard, recipient, attempts, next_attempt_at_us, error)
         VALUES ({shard}, '{recipient}', 3, 4000000000000000, '<em>why</em>')"
    ))
    .await;
}

/// The id of the row with this number, as SQL and as the page shows it.
fn row_id<B: TestEngine>(number: u8) -> (String, String) {
    let id = uuid::Uuid::from_u128(number.into());
    let sql = if B::FOLDER == "postgres" { format!("'{id}'") } else { format!("x'{}'", id.simple()) };
    (sql, format!("{number}-{id}"))
}

/// Inserts a message that was given up. Its shard is its number.
async fn dead_message<B: TestEngine>(db: &TestDb<B>, number: u8) {
    let ((id, _), payload) = (row_id::<B>(number), payload::<B>());
    db.run(format_args!(
        "INSERT INTO eventbox_dead_letter (shard, id, source, type, code, reason, attempts, dead_at_us, payload)
         VALUES ({number}, {id}, 'flights', 'departed', 'EXPIRED', 'too old', 9, 1700000000000000, {payload})"
    ))
    .await;
}

/// Inserts a message that was tried twice, and whose next attempt is far away. Its shard is its number.
async fn message<B: TestEngine>(db: &TestDb<B>, number: u8) {
    let ((id, _), payload) = (row_id::<B>(number), payload::<B>());
    db.run(format_args!(
        "INSERT INTO eventbox_outbox (shard, id, source, type, attempts, created_at_us, next_attempt_at_us, last_code,
            last_error, payload)
         VALUES ({number}, {id}, '<flights>', 'departed', 2, 1700000000000000, 4000000000000000, 'UNAVAILABLE',
            'connection refused', {payload})"
    ))
    .await;
}

fn payload<B: TestEngine>() -> &'static str {
    if B::FOLDER == "postgres" { "convert_to('secret message', 'UTF8')" } else { "CAST('secret message' AS BLOB)" }
}
