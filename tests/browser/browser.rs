//! A Chromium that shows the pages of one dashboard.

use std::net::SocketAddr;
use std::panic::Location;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use thirtyfour::{By, WebDriver, WebElement};

use crate::driver::Driver;
use crate::support::SOON;

/// Interval at which a page is looked at until it shows something.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Reason that the tests give for actions.
pub(crate) const REASON: &str = "because of the test";

/// Highest picture, in pixels.
const MAX_HEIGHT: f64 = 16_000.0;

/// A browser and the dashboard that it looks at.
pub(crate) struct Browser {
    pub(crate) web: WebDriver,
    address: SocketAddr,
    _driver: Driver,
}

impl Browser {
    /// Starts a browser.
    pub(crate) async fn start(address: SocketAddr, has_scripts: bool) -> Self {
        let driver = Driver::start();
        let web = WebDriver::new(driver.address(), driver.capabilities(has_scripts)).await.unwrap();
        Browser { web, address, _driver: driver }
    }

    /// Opens a page by its path.
    pub(crate) async fn open(&self, path: &str) {
        self.web.goto(format!("http://{}{path}", self.address)).await.unwrap();
    }

    /// Returns the path and the query of the page.
    pub(crate) async fn path(&self) -> String {
        let url = self.web.current_url().await.unwrap().to_string();
        url.split_once(&self.address.to_string()).map(|(_, path)| path.to_owned()).unwrap_or(url)
    }

    /// Returns the first element that a selector finds, once it is there.
    #[track_caller]
    pub(crate) fn element(&self, css: &str) -> impl Future<Output = WebElement> {
        let (caller, started) = (Location::caller(), Instant::now());
        async move {
            loop {
                match self.web.find(By::Css(css)).await {
                    Ok(element) => return element,
                    Err(_) if started.elapsed() < SOON => tokio::time::sleep(LOOK_EVERY).await,
                    Err(error) => panic!("{caller}: {css} on {}: {error}", self.path().await),
                }
            }
        }
    }

    /// Clicks on the first element that a selector finds.
    #[track_caller]
    pub(crate) fn click(&self, css: &str) -> impl Future<Output = ()> {
        let (caller, element) = (Location::caller(), self.element(css));
        async move { element.await.click().await.unwrap_or_else(|error| panic!("{caller}: {css}: {error}")) }
    }

    /// Clicks on the first link with a text, inside of the element that a selector finds.
    pub(crate) async fn follow(&self, css: &str, text: &str) {
        self.see(css, text).await;
        let inside = self.element(css).await;
        for link in inside.find_all(By::Tag("a")).await.unwrap() {
            if link.text().await.unwrap().contains(text) {
                return link.click().await.unwrap();
            }
        }
        panic!("{css} has no link {text:?}");
    }

    /// Replaces the text of a field.
    pub(crate) async fn fill(&self, css: &str, text: &str) {
        let field = self.element(css).await;
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Chooses the value of a list.
    pub(crate) async fn choose(&self, css: &str, value: &str) {
        self.click(&format!("{css} option[value=\"{value}\"]")).await;
    }

    /// Returns the visible text of the first element that a selector finds. Empty when there is none.
    pub(crate) async fn text(&self, css: &str) -> String {
        match self.web.find(By::Css(css)).await {
            // A live update may replace the element meanwhile.
            Ok(element) => element.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Returns the number of elements that a selector finds.
    pub(crate) async fn count(&self, css: &str) -> usize {
        self.web.find_all(By::Css(css)).await.unwrap().len()
    }

    /// Waits until an element has a text, without a reload.
    #[track_caller]
    pub(crate) fn see(&self, css: &str, wanted: &str) -> impl Future<Output = ()> {
        self.look(css, wanted, false, Location::caller())
    }

    /// Loads the page again until an element has a text.
    #[track_caller]
    pub(crate) fn see_by_reloads(&self, css: &str, wanted: &str) -> impl Future<Output = ()> {
        self.look(css, wanted, true, Location::caller())
    }

    async fn look(&self, css: &str, wanted: &str, reloads: bool, caller: &Location<'_>) {
        let started = Instant::now();
        loop {
            let found = self.text(css).await;
            if found.contains(wanted) {
                return;
            }
            if started.elapsed() > SOON {
                panic!("{caller}: {css} of {} is {found:?}, without {wanted:?}", self.path().await);
            }
            tokio::time::sleep(LOOK_EVERY).await;
            if reloads {
                self.web.refresh().await.unwrap();
            }
        }
    }

    /// Sends the form of an action, reads its confirmation, gives a reason, confirms, and reads the result.
    pub(crate) async fn act(&self, form: &str, will: &str, done: &str) {
        self.click(&format!("{form} button")).await;
        self.see("#will", will).await;
        self.fill("#why", REASON).await;
        self.click("#confirm-button").await;
        self.see("#done", done).await;
    }

    /// Runs a script of the test in the page, and returns its value.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.web.execute(script, Vec::new()).await.unwrap().json().clone()
    }

    /// Sets the width of the page, and whether the person prefers dark colours.
    pub(crate) async fn show_as(&self, width: u32, is_dark: bool) {
        let size = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.web.cdp().send_raw("Emulation.setDeviceMetricsOverride", size).await.unwrap();
        let scheme = if is_dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.web.cdp().send_raw("Emulation.setEmulatedMedia", media).await.unwrap();
    }

    /// Takes a picture of the page down to a height, as PNG.
    pub(crate) async fn photo(&self, most: f64) -> Vec<u8> {
        let metrics = self.web.cdp().send_raw("Page.getLayoutMetrics", ()).await.unwrap();
        let size = |side: &str| metrics["cssContentSize"][side].as_f64().unwrap();
        let height = size("height").min(most);
        let clip = json!({ "x": 0, "y": 0, "width": size("width"), "height": height, "scale": 1 });
        let whole = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let photo = self.web.cdp().send_raw("Page.captureScreenshot", whole).await.unwrap();
        STANDARD.decode(photo["data"].as_str().unwrap()).unwrap()
    }

    /// Keeps a picture of the whole page in `target/browser`.
    pub(crate) async fn photograph(&self, name: &str) {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("browser");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), self.photo(MAX_HEIGHT).await).unwrap();
    }

    /// Returns the errors of the console since the last call, except for those with a text.
    pub(crate) async fn errors_but(&self, expected: &str) -> Vec<String> {
        let said = self.web.browser_log().await.unwrap();
        let errors = said.into_iter().filter(|entry| entry.level == "SEVERE").map(|entry| entry.message);
        errors.filter(|error| expected.is_empty() || !error.contains(expected)).collect()
    }

    /// Ends the browser, and fails when its console has an error.
    pub(crate) async fn end(self) {
        let errors = self.errors_but("").await;
        self.web.quit().await.unwrap();
        assert!(errors.is_empty(), "the console has errors: {errors:#?}");
    }
}
