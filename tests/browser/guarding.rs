//! Who may see and do what, and what a page never runs.

use eventbox::admin;
use eventbox::dashboard::DashboardOptions;
use sqlx::Sqlite;

use crate::looks::faults_of;
use crate::plants::{HOSTILE_KEY, everything};
use crate::stage::{Play, about, on_stage, order};
use crate::support::{TestDb, with_database};

const TOKEN: &str = "a token of sixteen bytes or more";

/// Pages that need no recipient.
pub(crate) const PAGES: [&str; 8] =
    ["/", "/recipients", "/dead", "/outbox", "/shards", "/peers", "/doctor", "/operations"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_a_script_is_shown_and_does_not_run() {
    with_database("hostile", async |db: &TestDb<Sqlite>| {
        on_stage(db, Play::default(), async |stage| {
            let browser = &stage.browser;
            let hostile = everything(db).await;
            browser.open("/recipients?kind=order").await;
            browser.follow("#recipients", HOSTILE_KEY).await;
            browser.see("h1", &format!("order/{HOSTILE_KEY}")).await;
            for path in PAGES.iter().copied().chain([about(&hostile).as_str()]) {
                browser.open(path).await;
                assert_eq!(browser.count("script").await, 1, "{path}");
                assert_eq!(browser.count("script[src='/static/app.js']").await, 1, "{path}");
                assert_eq!(browser.count("main b, main i, main em").await, 0, "{path}");
                assert!(browser.web.get_alert_text().await.is_err(), "{path}");
            }
            // The updates of the overview go through the script, and not through the template alone.
            browser.open("/").await;
            browser.see("#live-status[data-state=live]", "updates itself").await;
            assert_eq!(browser.count("#live script").await, 0);
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_scripts_the_pages_can_be_read_and_used() {
    with_database("no_scripts", async |db: &TestDb<Sqlite>| {
        on_stage(db, Play { has_scripts: false, ..Play::default() }, async |stage| {
            let browser = &stage.browser;
            let noscript = "data:text/html,<noscript>off</noscript><script>document.body.append('on')</script>";
            browser.web.goto(noscript).await.unwrap();
            assert_eq!(browser.text("body").await, "off");
            everything(db).await;
            browser.open("/").await;
            browser.see("#live-status", "As of the load of the page.").await;
            browser.follow("#kinds", "shipment").await;
            browser.see("#kind", "paused").await;
            browser.click("#nav-overview").await;
            browser.follow("#kinds", "order").await;
            browser.follow("#recipients", HOSTILE_KEY).await;
            browser.see("#why-sentence", "is paused by an operator").await;
            browser.see("#state", "pencil").await;
            browser.see("#events", "Show the payload").await;
            browser.act("#action-resume", "This resumes", "The recipient is resumed.").await;
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dashboard_that_is_read_only_has_no_action() {
    with_database("read_only", async |db: &TestDb<Sqlite>| {
        let options = DashboardOptions::default().with_read_only(true);
        on_stage(db, Play { options, ..Play::default() }, async |stage| {
            let browser = &stage.browser;
            let hostile = everything(db).await;
            let others = [about(&hostile), "/recipients?kind=shipment".to_owned(), "/outbox?code=INTERNAL".to_owned()];
            for path in PAGES.iter().copied().chain(others.iter().map(String::as_str)) {
                browser.open(path).await;
                browser.see("#read-only", "read only").await;
                assert_eq!(browser.count("form[method=post]").await, 0, "{path}");
            }
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_logs_in_with_the_token_and_out() {
    with_database("login", async |db: &TestDb<Sqlite>| {
        let options = DashboardOptions::default().with_token(TOKEN);
        on_stage(db, Play { options, ..Play::default() }, async |stage| {
            let browser = &stage.browser;
            browser.open("/dead?code=EXPIRED").await;
            browser.see("h1", "Log in").await;
            assert_eq!(browser.count("#nav-dead").await, 0);
            assert_eq!(faults_of(browser, "login").await, Vec::<String>::new());
            browser.fill("#token", "a guess of someone").await;
            browser.click("#login button").await;
            browser.see("#failure", "This is not the token.").await;
            browser.fill("#token", TOKEN).await;
            browser.click("#login button").await;
            browser.see("h1", "Dead letters").await;
            assert_eq!(browser.path().await, "/dead?code=EXPIRED");
            assert_eq!(browser.run("return document.cookie").await, "", "scripts cannot read the cookies");
            browser.open(&about(&order("7"))).await;
            browser.act("#action-pause", "This pauses order/7", "The recipient is paused.").await;
            assert!(admin::standing(&db.pool, &order("7")).await.unwrap().paused);
            browser.click("#logout button").await;
            browser.see("h1", "Log in").await;
            browser.open("/dead").await;
            browser.see("h1", "Log in").await;
            // The login form has the status that says so, which the console notes.
            assert_eq!(browser.errors_but("status of 401").await, Vec::<String>::new());
        })
        .await;
    })
    .await;
}
