//! Every page, on an empty and on a filled database.

use eventbox::dashboard::{DashboardOptions, router};

use super::{Browser, HOSTILE_KEY, PAGES, about, admin, fill, order, row_id};
use crate::support::on_every_engine;

on_every_engine! {
    async fn every_page_of_an_empty_database_is_readable(db) {
        let browser = Browser::new(db, DashboardOptions::default().with_title("orders & more"));
        for path in PAGES {
            let page = browser.get(path).await;
            assert_eq!(page.status, 200, "{path}: {}", page.text);
            page.has("<h1>").has("<main id=\"main\"").has("orders &amp; more");
            page.has("href=\"#main\"").has("aria-current=\"page\"");
        }
        let nobody = browser.get(&about("/recipient", &order("7"))).await;
        assert_eq!(nobody.status, 200, "{}", nobody.text);
        nobody.has("<h1>order/7</h1>").has("id=\"why-sentence\"").has("No event waits.");
    }

    async fn every_page_of_a_filled_database_is_escaped(db) {
        let hostile = fill(db).await;
        let browser = Browser::new(db, DashboardOptions::default());
        let recipient = about("/recipient", &hostile);
        let lists = ["/recipients?kind=order&only=all", "/recipients?order=longest", "/outbox?source=%3Cflights%3E"];
        for path in PAGES.iter().chain(&lists).chain(&[recipient.as_str()]) {
            let page = browser.get(path).await;
            assert_eq!(page.status, 200, "{path}: {}", page.text);
            page.has("<h1>");
            for raw in ["<script>alert", "<b>secret", "<i>no", "<u>2", "<em>why", "<flights>", "style=\"", "onclick"] {
                page.has_not(raw);
            }
        }
        let shown = "order/&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;r=x/ü 'é'%2F+#?";
        browser.get("/recipients").await.has(shown);
        let page = browser.get(&recipient).await;
        page.has(shown).has("&lt;b&gt;secret two").has("&lt;i&gt;no number");
        page.has("&lt;u&gt;2&lt;/u&gt;").has("&lt;em&gt;why");
    }

    /// Ids are what labels, links, scripts and tests of the page refer to.
    async fn ids_are_unique_and_references_lead_to_them(db) {
        let hostile = fill(db).await;
        let browser = Browser::new(db, DashboardOptions::default());
        let recipient = about("/recipient", &hostile);
        for path in PAGES.iter().chain(&[recipient.as_str(), "/recipients?kind=order&only=all", "/recipient?r=a"]) {
            let page = browser.get(path).await;
            let values = |attribute: &str| -> Vec<String> {
                let before = format!(" {attribute}=\"");
                let after = page.text.split(&before).skip(1);
                after.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
            };
            let mut ids = values("id");
            ids.sort();
            let unique: std::collections::BTreeSet<_> = ids.iter().cloned().collect();
            assert_eq!(ids, Vec::from_iter(unique.clone()), "{path}");
            for reference in values("aria-labelledby") {
                assert!(unique.contains(&reference), "{path}: {reference}");
            }
            assert_eq!(page.text.matches("<label>").count(), page.text.matches("<label><span>").count(), "{path}");
        }
    }

    /// The link to a recipient in a list leads to that recipient, whatever its key.
    async fn a_link_to_a_recipient_survives_its_characters(db) {
        fill(db).await;
        let browser = Browser::new(db, DashboardOptions::default());
        let list = browser.get("/recipients").await;
        let link = list.between("href=\"/recipient?", "\"").replace("&amp;", "&");
        let fields: Vec<(String, String)> = form_urlencoded::parse(link.as_bytes()).into_owned().collect();
        assert_eq!(fields, [("r".to_owned(), format!("order/{HOSTILE_KEY}"))]);
        let page = browser.get(&format!("/recipient?{link}")).await;
        page.has("id=\"events\"").has("id=\"timers\"").has("id=\"quarantined\"");
    }

    async fn a_payload_is_shown_when_it_is_asked_for(db) {
        let hostile = fill(db).await;
        let browser = Browser::new(db, DashboardOptions::default());
        let recipient = about("/recipient", &hostile);
        for path in PAGES.iter().chain(&[recipient.as_str()]) {
            browser.get(path).await.has_not(">secret").has_not("secret message").has_not("secret later");
        }
        let events = admin::events(&db.pool, &hostile, None, 10).await.unwrap();
        let shown = browser.get(&format!("{recipient}&show={}", events[1].id())).await;
        shown.has("id=\"payload\"").has("<code>secret three</code>").has_not("<code>secret two");

        let (_, letter) = row_id::<Engine>(7);
        let shown = browser.get(&format!("/dead?code=EXPIRED&show={letter}")).await;
        shown.has("<code>secret message</code>").has("flights");
        let quarantined = admin::quarantined(&db.pool, &hostile, None, 1).await.unwrap();
        let letter = format!("{}-{}", hostile.shard(), quarantined[0].event.id());
        browser.get(&format!("/dead?show={letter}")).await.has("<code>secret one</code>");
        let gone = browser.get(&format!("/dead?show=8-{}", uuid::Uuid::nil())).await;
        assert_eq!(gone.status, 404);
        let unknown = browser.get(&format!("{recipient}&show={}", uuid::Uuid::nil())).await;
        assert_eq!(unknown.status, 404);
    }

    async fn filters_choose(db) {
        fill(db).await;
        eventbox::emit(&db.pool, &order("plain"), eventbox::Event::new("x")).await.unwrap();
        let browser = Browser::new(db, DashboardOptions::default());
        browser.get("/recipients?only=failing").await.has("script&gt;").has_not("order/plain");
        browser.get("/recipients?kind=order&prefix=pl").await.has("order/plain").has_not("script&gt;");
        browser.get("/recipients?kind=nobody").await.has("No recipient is like this.");
        browser.get("/dead?side=events").await.has("QUARANTINED").has_not("EXPIRED");
        browser.get("/dead?code=EXPIRED&until=2001-01-01").await.has("No dead letter matches.");
        browser.get("/dead?code=EXPIRED&since=2001-01-01T00:00").await.has("too old");
        browser.get("/outbox?code=OTHER").await.has("No message matches.");
        browser.get("/outbox?code=UNAVAILABLE").await.has("connection refused").has("id=\"retry-all\"");
        let wrong = ["/recipients?only=some", "/dead?since=yesterday", "/dead?after=x", "/recipient?r=no-slash"];
        for wrong in wrong.iter().chain(&["/recipient"]) {
            let refused = browser.get(wrong).await;
            assert_eq!(refused.status, 400, "{wrong}: {}", refused.text);
            refused.has("id=\"failure-text\"");
        }
    }

    async fn lists_have_pages(db) {
        for key in 0..60 {
            eventbox::emit(&db.pool, &order(&format!("n{key}")), eventbox::Event::new("x")).await.unwrap();
        }
        let browser = Browser::new(db, DashboardOptions::default());
        let first = browser.get("/recipients?kind=order").await;
        assert_eq!(first.text.matches("href=\"/recipient?r=").count(), 50);
        let next = first.between("id=\"next-page\" href=\"", "\"").replace("&amp;", "&");
        assert!(next.starts_with("/recipients?kind=order&after=order"), "{next}");
        let second = browser.get(&next).await;
        assert_eq!(second.text.matches("href=\"/recipient?r=").count(), 10);
        second.has("id=\"first-page\"").has_not("id=\"next-page\"");
    }

    async fn links_begin_with_the_base_path(db) {
        let options = DashboardOptions::default().with_base_path("/ops/eventbox");
        let app = axum::Router::new().nest("/ops/eventbox", router(db.pool.clone(), options));
        let browser = Browser::on(app);
        for path in PAGES {
            let page = browser.get(&format!("/ops/eventbox{}", if path == "/" { "" } else { path })).await;
            assert_eq!(page.status, 200, "{path}: {}", page.text);
            for attribute in ["href=\"", "src=\"", "action=\"", "data-live=\""] {
                for rest in page.text.split(attribute).skip(1) {
                    let is_own = ["/ops/eventbox", "#main", "data:,"].iter().any(|own| rest.starts_with(own));
                    assert!(is_own, "{path}: {rest:.60}");
                }
            }
        }
        assert_eq!(browser.get("/ops/eventbox/static/app.css").await.status, 200);
        assert_eq!(browser.get("/ops/eventbox/nothing").await.status, 404);
    }

    /// A database that is away is a page that says so, on every page.
    async fn a_database_that_is_away_is_an_error_page(db) {
        let pool = db.open(1);
        pool.close().await;
        let browser = Browser::on(router(pool, DashboardOptions::default()));
        for path in PAGES.iter().chain(&["/recipient?r=order%2F7"]) {
            let page = browser.get(path).await;
            assert_eq!(page.status, 503, "{path}: {}", page.text);
            page.has("id=\"failure-text\"").has("id=\"nav-doctor\"");
        }
        let data = browser.get("/api/overview").await;
        assert_eq!(data.status, 503);
        data.has("\"error\":");
    }
}
