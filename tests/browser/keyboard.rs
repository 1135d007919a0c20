//! Everything can be done by keyboard alone.

use eventbox::admin;
use sqlx::Sqlite;
use thirtyfour::Key;

use crate::browser::{Browser, REASON};
use crate::stage::{Play, about, on_stage, order};
use crate::support::{TestDb, with_database};

/// Most presses of the Tab key on the way to an element.
const MOST_TABS: usize = 60;

impl Browser {
    async fn press(&self, key: Key) {
        self.web.action_chain().send_keys(key).perform().await.unwrap();
    }

    /// Returns whether the element with the focus is one that a selector finds.
    async fn has_focus(&self, css: &str) -> bool {
        self.run(&format!("return document.activeElement.matches({css:?})")).await == true
    }

    /// Presses the Tab key until an element has the focus.
    async fn tab_to(&self, css: &str) {
        for _ in 0..MOST_TABS {
            self.press(Key::Tab).await;
            if self.has_focus(css).await {
                return;
            }
        }
        panic!("the Tab key does not lead to {css}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recipient_is_paused_by_keyboard() {
    with_database("keyboard", async |db: &TestDb<Sqlite>| {
        on_stage(db, Play::default(), async |stage| {
            let browser = &stage.browser;
            browser.open(&about(&order("7"))).await;
            // The first stop is a link over the navigation, which is seen while it has the focus.
            browser.press(Key::Tab).await;
            assert!(browser.has_focus("a.skip").await);
            let left = "return document.activeElement.getBoundingClientRect().left >= 0";
            assert_eq!(browser.run(left).await, true);
            browser.press(Key::Enter).await;
            browser.press(Key::Tab).await;
            assert!(browser.has_focus("main *").await, "the link leads into the content");
            browser.tab_to("#action-pause button").await;
            let outline = "return getComputedStyle(document.activeElement).outlineStyle";
            assert_ne!(browser.run(outline).await, "none", "the focus is seen");
            browser.press(Key::Enter).await;
            browser.see("#will", "This pauses order/7").await;
            browser.tab_to("#why").await;
            browser.web.action_chain().send_keys(REASON).perform().await.unwrap();
            browser.press(Key::Enter).await;
            browser.see("#done", "The recipient is paused.").await;
            assert!(admin::standing(&db.pool, &order("7")).await.unwrap().paused);
            let noted = admin::operations(&db.pool, None, 1).await.unwrap();
            assert_eq!(noted[0].why.as_deref(), Some(REASON));
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_filtered_by_keyboard() {
    with_database("keyboard_list", async |db: &TestDb<Sqlite>| {
        on_stage(db, Play::default(), async |stage| {
            let browser = &stage.browser;
            for key in ["7", "8"] {
                admin::pause(&db.pool, &order(key)).await.unwrap();
                stage.emit(&order(key), "5").await;
            }
            browser.open("/").await;
            browser.tab_to("#nav-recipients").await;
            browser.press(Key::Enter).await;
            browser.see("h1", "Recipients").await;
            browser.tab_to("#field-kind").await;
            browser.web.action_chain().send_keys("order").perform().await.unwrap();
            browser.tab_to("#field-prefix").await;
            browser.web.action_chain().send_keys("8").perform().await.unwrap();
            browser.press(Key::Enter).await;
            browser.see("#recipients", "order/8").await;
            assert!(!browser.text("#recipients").await.contains("order/7"));
        })
        .await;
    })
    .await;
}
