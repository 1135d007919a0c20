//! The data as JSON.

use eventbox::dashboard::DashboardOptions;
use serde_json::Value;

use super::{Browser, about, fill};
use crate::support::on_every_engine;

on_every_engine! {
    async fn the_same_data_is_json_without_payloads(db) {
        let hostile = fill(db).await;
        let browser = Browser::new(db, DashboardOptions::default());
        let read = async |path: &str| -> Value {
            let answer = browser.get(path).await;
            let form = answer.headers["content-type"].to_str().unwrap();
            assert_eq!((answer.status, form), (200, "application/json"), "{path}");
            answer.has_not("secret message").has_not("\"secret one").has_not("\"secret two\"");
            serde_json::from_str(&answer.text).unwrap()
        };
        let overview = read("/api/overview").await;
        let kinds = overview["kinds"].as_array().unwrap();
        let order = kinds.iter().find(|kind| kind["kind"] == "order").unwrap();
        assert_eq!(order["waiting"]["number"], 2, "{order}");
        assert_eq!(overview["outbox"]["waiting"]["number"], 1, "{overview}");
        let rows = read("/api/recipients?kind=order").await;
        assert_eq!(rows["rows"][0]["recipient"], hostile.as_str(), "{rows}");
        let detail = read(&about("/api/recipient", &hostile)).await;
        assert_eq!(detail["events"].as_array().map(Vec::len), Some(2), "{detail}");
        assert!(read(&about("/api/why", &hostile)).await["sentence"].is_string());
        assert_eq!(read("/api/dead").await.as_array().map(Vec::len), Some(2));
        assert_eq!(read("/api/dead?side=messages").await[0]["code"], "EXPIRED");
        assert_eq!(read("/api/outbox").await["groups"][0]["source"], "<flights>");
        assert_eq!(read("/api/messages?code=UNAVAILABLE").await.as_array().map(Vec::len), Some(1));
        assert!(read("/api/members").await.as_array().unwrap().is_empty());
        assert_eq!(read("/api/shards").await.as_array().map(Vec::len), Some(256));
        assert!(!read("/api/doctor").await.as_array().unwrap().is_empty());
        assert!(read("/api/operations").await.is_array());

        let wrong = browser.get("/api/recipient?r=no-slash").await;
        assert_eq!(wrong.status, 400);
        wrong.has("\"error\":").has_not("<html");
        assert_eq!(browser.get("/api/nothing").await.status, 404);
    }
}
