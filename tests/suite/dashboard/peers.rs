//! The page of peers, and the stream on the page of a recipient.

use eventbox::dashboard::DashboardOptions;
use eventbox::uuid::Uuid;

use super::Browser;
use crate::admin::streams::{member, stream};
use crate::support::on_every_engine;

on_every_engine! {
    async fn peers_and_their_streams_are_shown(db) {
        let (alive, gone) = (Uuid::from_u128(0xa), Uuid::from_u128(0xb));
        member(db, alive, &["peer.chat"], 1).await;
        stream(db, "chat", "s1", alive, 60).await;
        stream(db, "chat", "s2", gone, 60).await;
        stream(db, "mail", "main", gone, 60).await;
        let browser = Browser::new(db, DashboardOptions::default());
        let list = browser.get("/peers").await;
        list.has("href=\"/peers?peer=chat\"").has("host-a").has("1 silent").has("no process").has_not("192.0.2.7");
        let streams = browser.get("/peers?peer=chat").await;
        streams.has("href=\"/recipient?r=peer.chat%2Fs1\"").has("remote: 192.0.2.7:4711").has("silent");
        browser.get("/peers?peer=none").await.has("The peer has no open stream.");
        let recipient = browser.get("/recipient?r=peer.chat%2Fs1").await;
        recipient.has("id=\"stream\"").has("192.0.2.7:4711").has("href=\"/peers?peer=chat\"");
        browser.get("/recipient?r=order%2F7").await.has_not("id=\"stream\"");

        let json = browser.get("/api/streams?peer=chat&after=s1").await;
        json.has("\"stream\":\"s2\"").has_not("\"stream\":\"s1\"");
        browser.get("/api/peers").await.has("\"peer\":\"mail\"");
        assert_eq!(browser.get("/api/streams").await.status, 400);
    }
}
