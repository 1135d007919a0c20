//! The token: as a header, and in the login form.

use eventbox::dashboard::DashboardOptions;

use super::{Browser, PAGES, admin, order};
use crate::support::on_every_engine;

const TOKEN: &str = "a token of sixteen bytes or more";

fn options() -> DashboardOptions {
    DashboardOptions::default().with_token(TOKEN)
}

on_every_engine! {
    async fn without_the_token_there_is_only_the_login_form(db) {
        let browser = Browser::new(db, options());
        for path in PAGES {
            let asked = browser.get(path).await;
            assert_eq!(asked.status, 401, "{path}");
            asked.has("id=\"login\"").has_not("id=\"nav-dead\"").has_not(TOKEN);
            assert!(asked.headers.contains_key("www-authenticate"));
        }
        for path in ["/api/overview", "/live"] {
            assert_eq!(browser.get(path).await.status, 401, "{path}");
        }
        assert_eq!(browser.get("/static/app.css").await.status, 200);
        let csrf = browser.get("/login").await.csrf();
        let refused = browser.post("/do", &[("csrf", &csrf), ("action", "pause"), ("r", "order/7")]).await;
        assert_eq!(refused.status, 401);
        assert!(!admin::standing(&db.pool, &order("7")).await.unwrap().paused);
    }

    async fn a_login_leads_to_the_page_that_was_asked_for(db) {
        let browser = Browser::new(db, options());
        let asked = browser.get("/dead?code=A+B").await;
        let (csrf, next) = (asked.csrf(), asked.between("name=\"next\" value=\"", "\""));
        assert_eq!(next, "/dead?code=A+B");
        let wrong = browser.post("/login", &[("csrf", &csrf), ("next", &next), ("token", "a guess")]).await;
        assert_eq!(wrong.status, 401);
        wrong.has("This is not the token.").has("value=\"/dead?code=A+B\"").has_not("a guess");
        let foreign = browser.post("/login", &[("csrf", "0"), ("next", &next), ("token", TOKEN)]).await;
        assert_eq!(foreign.status, 403);
        let right = browser.post("/login", &[("csrf", &csrf), ("next", &next), ("token", TOKEN)]).await;
        assert_eq!((right.status, right.location()), (303, next));
        let set = right.headers["set-cookie"].to_str().unwrap();
        assert!(set.contains("; HttpOnly; SameSite=Strict; Max-Age="), "{set}");
        let page = browser.get("/dead?code=A+B").await;
        page.has("id=\"logout\"");
        assert_eq!((page.status, browser.get("/login").await.status), (200, 303));

        browser.act("pause", &[("r", "order/7")]).await;
        let csrf = browser.csrf().await;
        assert_eq!(browser.post("/logout", &[("csrf", &csrf)]).await.status, 303);
        assert_eq!(browser.get("/dead").await.status, 401);
    }

    async fn a_login_leads_to_no_other_site(db) {
        let browser = Browser::new(db, options());
        let csrf = browser.get("/login").await.csrf();
        let right = browser.post("/login", &[("csrf", &csrf), ("next", "//evil.example"), ("token", TOKEN)]).await;
        assert_eq!((right.status, right.location().as_str()), (303, "/"));
    }

    async fn a_program_sends_the_token_as_a_header(db) {
        let program = Browser::new(db, options()).with("authorization", &format!("Bearer {TOKEN}"));
        assert_eq!(program.get("/api/overview").await.status, 200);
        let stranger = Browser::new(db, options()).with("authorization", "Bearer a guess of someone");
        assert_eq!(stranger.get("/api/overview").await.status, 401);
        // A write needs the token of a form too, because a proxy may add the header to every request.
        let refused = program.post("/do", &[("action", "pause"), ("r", "order/7")]).await;
        assert_eq!(refused.status, 403);
    }
}
