//! Errors of a server while a connection is being opened. No statement has been sent, so nothing can be committed.

use std::time::Duration;

use eventbox::dsset::{Item, Set};
use eventbox::{CloudEvent, Error, Event, Recipient, Sender};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// An error message of Postgres' protocol.
fn refusal(severity: &str, code: &str) -> Vec<u8> {
    refusal_with(severity, code, "refused by the test")
}

fn refusal_with(severity: &str, code: &str, message: &str) -> Vec<u8> {
    let fields = format!("S{severity}\0V{severity}\0C{code}\0M{message}\0\0");
    let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
    [b"E".as_slice(), &length, fields.as_bytes()].concat()
}

/// Returns a pool on a server that sends these bytes to each new connection, and closes it.
async fn answering(bytes: Vec<u8>) -> PgPool {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://u@127.0.0.1:{}/d?sslmode=disable", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1_024]).await;
            let _ = stream.write_all(&bytes).await;
        }
    });
    PgPoolOptions::new().acquire_timeout(Duration::from_secs(1)).connect_lazy(&url).unwrap()
}

/// Every refusal of a server that accepts no connection, and whether a retry may help.
fn answers() -> Vec<(&'static str, Vec<u8>, bool)> {
    let mut answers = vec![
        ("nothing", Vec::new(), true),
        ("another language", b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n".to_vec(), true),
    ];
    for (code, helps) in
        [("08P01", true), ("08006", true), ("57P01", true), ("57P03", true), ("53300", true), ("28P01", false)]
    {
        answers.extend(["ERROR", "FATAL"].map(|severity| (code, refusal(severity, code), helps)));
    }
    answers
}

#[tokio::test]
async fn a_connection_that_was_never_opened_loses_no_answer() {
    let to = Recipient::new("cell", "1").unwrap();
    let message = CloudEvent::builder("tests", "told").payload("x").build().unwrap();
    for (what, bytes, helps) in answers() {
        let pool = answering(bytes).await;
        let named = || Event::new("x").named("n");
        let sender = Sender::new(pool.clone());
        let outcomes = [
            eventbox::emit(&pool, &to, Event::new("x")).await.map(drop),
            eventbox::emit(&pool, &to, named()).await.map(drop),
            eventbox::emit_all(&pool, &[(to.clone(), Event::new("x"))]).await.map(drop),
            eventbox::timer::cancel(&pool, &to, "n").await.map(drop),
            sender.emit(&to, Event::new("x")).await.map(drop),
            ::eventbox::outbox::publish_in(&pool, message.clone()).await.map(drop),
            Set::new(to.clone()).add(&pool, &[Item::new("item", "value")]).await.map(drop),
            eventbox::begin(&pool).await.map(drop),
            eventbox::admin::pause(&pool, &to).await.map(drop),
            eventbox::admin::standing(&pool, &to).await.map(drop),
            eventbox::check(&pool).await,
            eventbox::migrate(&pool).await,
        ];
        for (at, outcome) in outcomes.into_iter().enumerate() {
            let error = outcome.unwrap_err();
            assert!(!matches!(error, Error::Unknown { .. }), "{what}, call {at}: {error:?}");
            assert_eq!(error.is_transient(), helps, "{what}, call {at}: {error:?}");
        }
    }
}

/// PgBouncer 1.18 refuses a parameter that sqlx sends by itself with this text. Newer versions name several parameters.
#[tokio::test]
async fn a_pooler_that_refuses_a_parameter_is_named_with_the_way_out() {
    for message in ["unsupported startup parameter: extra_float_digits", "unsupported startup parameter in options: x"]
    {
        let pool = answering(refusal_with("FATAL", "08P01", message)).await;
        for error in [eventbox::check(&pool).await.unwrap_err(), eventbox::migrate(&pool).await.unwrap_err()] {
            assert!(matches!(error, Error::Setup { .. }), "{error:?}");
            assert!(error.to_string().contains("eventbox::postgres_options"), "{error}");
        }
    }
}
