//! What the dashboard refuses, and the headers of every answer.

use eventbox::dashboard::{DashboardOptions, MAX_FORM_BYTES};
use eventbox::{Event, admin};

use super::{Browser, PAGES, about, order};
use crate::support::on_every_engine;

const PAUSE: [(&str, &str); 2] = [("action", "pause"), ("r", "order/7")];

fn paused(csrf: &str) -> Vec<(&str, &str)> {
    let mut form = vec![("csrf", csrf)];
    form.extend(PAUSE);
    form
}

on_every_engine! {
    async fn every_answer_has_the_headers(db) {
        let browser = Browser::new(db, DashboardOptions::default());
        let files = ["/live", "/static/app.js", "/static/app.css"];
        let others = ["/nothing", "/api/overview", "/api/nothing", "/recipient"];
        for path in PAGES.iter().chain(&files).chain(&others) {
            let answer = browser.open(path).await;
            let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            let policy = header("content-security-policy").unwrap_or_default();
            for part in [
                "default-src 'none'",
                "script-src 'self'",
                "style-src 'self'",
                "img-src 'self' data:",
                "connect-src 'self'",
                "form-action 'self'",
                "frame-ancestors 'none'",
                "base-uri 'none'",
            ] {
                assert!(policy.split("; ").any(|found| found == part), "{path}: {part} is not in {policy}");
            }
            assert_eq!(header("x-content-type-options").as_deref(), Some("nosniff"), "{path}");
            assert_eq!(header("referrer-policy").as_deref(), Some("no-referrer"), "{path}");
            assert_eq!(header("cache-control").as_deref(), Some("no-store"), "{path}");
        }
        let refused = browser.post("/do", &PAUSE).await;
        assert!(refused.headers.contains_key("content-security-policy"));
    }

    async fn a_write_without_the_token_of_its_form_is_refused(db) {
        let browser = Browser::new(db, DashboardOptions::default());
        let csrf = browser.csrf().await;
        let other = Browser::new(db, DashboardOptions::default());
        let foreign = other.csrf().await;
        for form in [PAUSE.to_vec(), paused(""), paused("0"), paused(&foreign)] {
            for path in ["/confirm", "/do"] {
                let refused = browser.post(path, &form).await;
                assert_eq!(refused.status, 403, "{}", refused.text);
                refused.has("id=\"failure-text\"");
            }
        }
        // The token belongs to a cookie, so it is worth nothing without it.
        browser.cookies.lock().unwrap().clear();
        assert_eq!(browser.post("/do", &paused(&csrf)).await.status, 403);
        assert!(!admin::standing(&db.pool, &order("7")).await.unwrap().paused);
    }

    async fn a_write_from_another_site_is_refused(db) {
        let mut browser = Browser::new(db, DashboardOptions::default());
        let csrf = browser.csrf().await;
        for (name, value) in [
            ("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site"), ("origin", "http://127.0.0.1:1"),
            ("origin", "https://evil.example"),
        ] {
            browser.headers.push((name, value.to_owned()));
            assert_eq!(browser.post("/do", &paused(&csrf)).await.status, 403, "{name}: {value}");
            browser.headers.pop();
        }
        assert!(!admin::standing(&db.pool, &order("7")).await.unwrap().paused);
        let browser = browser.with("sec-fetch-site", "same-origin").with("origin", "null");
        assert_eq!(browser.post("/do", &paused(&csrf)).await.status, 303);
        assert!(admin::standing(&db.pool, &order("7")).await.unwrap().paused);
    }

    async fn a_read_only_dashboard_offers_and_does_nothing(db) {
        eventbox::emit(&db.pool, &order("7"), Event::new("x")).await.unwrap();
        let browser = Browser::new(db, DashboardOptions::default().with_read_only(true));
        let recipient = about("/recipient", &order("7"));
        for path in PAGES.iter().chain(&[recipient.as_str(), "/recipients?kind=order"]) {
            let page = browser.get(path).await;
            page.has("id=\"read-only\"").has_not("method=\"post\"").has_not("name=\"csrf\"");
        }
        for path in ["/confirm", "/do"] {
            let refused = browser.post(path, &PAUSE).await;
            assert_eq!(refused.status, 403);
            refused.has("this dashboard is read only");
        }
        assert!(!admin::standing(&db.pool, &order("7")).await.unwrap().paused);
    }

    /// A foreign name that points to the loopback address is refused, for pages, data and writes.
    async fn a_foreign_host_is_refused(db) {
        let foreign = || Browser::new(db, DashboardOptions::default()).with("host", "evil.example:8137");
        for path in ["/", "/api/overview", "/live", "/static/app.js"] {
            assert_eq!(foreign().get(path).await.status, 403, "{path}");
        }
        assert_eq!(foreign().post("/do", &PAUSE).await.status, 403);
        for host in ["localhost:8137", "[::1]:8137"] {
            let own = Browser::new(db, DashboardOptions::default()).with("host", host);
            assert_eq!(own.get("/").await.status, 200, "{host}");
        }
        let named = DashboardOptions::default().with_host("evil.example");
        assert_eq!(Browser::new(db, named).with("host", "evil.example:8137").get("/").await.status, 200);
    }

    async fn forms_are_bounded(db) {
        let browser = Browser::new(db, DashboardOptions::default());
        let csrf = browser.csrf().await;
        let long = "x".repeat(MAX_FORM_BYTES);
        let form = [("csrf", csrf.as_str()), ("action", "emit"), ("r", "order/7"), ("value", &long)];
        let refused = browser.post("/do", &form).await;
        assert_eq!(refused.status, 413);
        let request = browser.request("POST", "/do").header("content-type", "application/json");
        let refused = browser.send(request.body(axum::body::Body::from("{}")).unwrap()).await;
        assert_eq!(refused.status(), 400);
        assert_eq!(db.count("eventbox_event").await, 0);
    }

    async fn the_name_of_a_proxy_is_noted(db) {
        let options = DashboardOptions::default().with_trusted_header("X-Forwarded-User");
        let nobody = Browser::new(db, options.clone()).get("/").await;
        assert_eq!(nobody.status, 401);
        nobody.has_not("id=\"kinds\"").has("X-Forwarded-User");
        let browser = Browser::new(db, options).with("host", "ops.example.com").with("x-forwarded-user", "ada <admin>");
        browser.act("pause", &[("r", "order/7")]).await;
        browser.get("/operations").await.has("ada &lt;admin&gt;").has("because of the test").has("order/7");
    }
}
