//! Every page at three widths, in light and in dark colours.

use eventbox::admin::Operator;
use sqlx::{Postgres, Sqlite};

use crate::browser::Browser;
use crate::guarding::PAGES;
use crate::plants::{HOSTILE_KEY, everything, ghost, row_id};
use crate::stage::{Play, about, on_stage, order};
use crate::support::{CellEngine, TestDb, with_database};

/// Widths of the pages, in pixels: a phone, the narrowest window with tables, a large screen.
const WIDTHS: [u32; 3] = [400, 1_030, 2_000];

/// Looks for what a person could not read or reach, and returns it as sentences.
const LOOK: &str = include_str!("look.js");

/// Returns what is wrong with the page at each width and in each scheme of colours, and keeps pictures.
pub(crate) async fn faults_of(browser: &Browser, name: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut backs = Vec::new();
    for width in WIDTHS {
        for is_dark in [false, true] {
            browser.show_as(width, is_dark).await;
            let scheme = if is_dark { "dark" } else { "light" };
            let found = browser.run(LOOK).await;
            let found = found.as_array().unwrap().iter().map(|fault| fault.as_str().unwrap());
            faults.extend(found.map(|fault| format!("{name} at {width} px, {scheme}: {fault}")));
            backs.push(browser.run("return getComputedStyle(document.body).backgroundColor").await);
            browser.photograph(&format!("{name}-{width}-{scheme}")).await;
        }
    }
    if backs[0] == backs[1] {
        faults.push(format!("{name} is as light in the dark"));
    }
    browser.show_as(1_200, false).await;
    faults
}

async fn pages_are_readable<B: CellEngine>(db: &TestDb<B>) {
    on_stage(db, Play::default(), async |stage| {
        let browser = &stage.browser;
        let hostile = everything(db).await;
        ghost(db, "a-host-with-a-long-name.eu-central-1.compute.internal:7000").await;
        let operator = Operator::new(db.pool.clone(), "ada@example.com").because("a reason without an end ".repeat(9));
        operator.pause(&order(HOSTILE_KEY)).await.unwrap();
        operator.pause(&order(&"k".repeat(180))).await.unwrap();
        let mut faults = Vec::new();
        for path in PAGES {
            browser.open(path).await;
            let name = if path == "/" { "overview" } else { &path[1..] };
            faults.extend(faults_of(browser, name).await);
        }
        let event = eventbox::admin::events(&db.pool, &hostile, None, 1).await.unwrap()[0].id();
        let shown = format!("{}&show={event}", about(&hostile));
        let letter = format!("/dead?show={}", row_id::<B>(1).1);
        let others = [
            ("kind", "/recipients?kind=shipment&order=longest"),
            ("recipient", shown.as_str()),
            ("nobody", "/recipient?r=order%2Fnobody"),
            ("payload", &letter),
            ("refused", "/recipient?r=a"),
        ];
        for (name, path) in others {
            browser.open(path).await;
            faults.extend(faults_of(browser, name).await);
        }
        browser.open("/shards").await;
        browser.click("#leases-details summary").await;
        faults.extend(faults_of(browser, "leases").await);
        browser.open(&about(&hostile)).await;
        browser.click("#action-purge-all button").await;
        browser.see("#will", "for good").await;
        faults.extend(faults_of(browser, "confirmation").await);
        assert!(faults.is_empty(), "{faults:#?}");
        // The refused page has the status that says so, which the console notes.
        assert_eq!(browser.errors_but("status of 400").await, Vec::<String>::new());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_readable_from_400_to_2000_pixels() {
    with_database("looks", async |db: &TestDb<Postgres>| pages_are_readable(db).await).await;
}

/// Pages of an empty database are what a person sees first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_without_rows_is_readable() {
    with_database("looks_empty", async |db: &TestDb<Sqlite>| {
        on_stage(db, Play::default(), async |stage| {
            let mut faults = Vec::new();
            for path in PAGES {
                stage.browser.open(path).await;
                let name = if path == "/" { "overview" } else { &path[1..] };
                faults.extend(faults_of(&stage.browser, &format!("empty-{name}")).await);
            }
            assert!(faults.is_empty(), "{faults:#?}");
        })
        .await;
    })
    .await;
}
