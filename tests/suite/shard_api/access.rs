//! Who may call, what is recorded, and functions that a service replaces.

use std::time::Duration;

use eventbox::admin;
use eventbox::proto::consumer::shard_client::ShardClient as Generated;
use eventbox::proto::consumer::{
    ApplyRequest, ApplyResponse, GetHintsRequest, ListRequest, StatRequest, UnassignRequest,
};
use eventbox::shard_api::{Credential, ShardClientError, WHO_HEADER};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::*;
use crate::support::on_every_engine;

/// Takes one shard of those that are assigned.
async fn unassign(client: &ShardClient, id: &str) {
    assert_eq!(client.unassign([id.to_owned()], false, false).await.unwrap(), [id]);
}

async fn raw(server: &ShardServerHandle) -> Generated<Channel> {
    Generated::connect(format!("http://{}", server.local_addr())).await.unwrap()
}

/// Lets another service decide about specs.
struct NoApply<A>(A);

#[tonic::async_trait]
impl<A: ShardApi> ShardApi for NoApply<A> {
    fn inner(&self) -> &dyn ShardApi {
        &self.0
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<ApplyResponse, Status> {
        match request.into_inner().extension.as_slice() {
            b"deployment" => Ok(ApplyResponse { extension: b"seen".to_vec(), ..ApplyResponse::default() }),
            _ => Err(Status::permission_denied("only the deployment")),
        }
    }
}

on_every_engine! {
    async fn every_call_needs_a_credential(db) {
        let service = ShardService::new(Shards::new(db.pool.clone())).accept(Credential::basic("ana", "secret"));
        let (server, client) = served(service, "127.0.0.1:0").await;
        let mut raw = raw(&server).await;
        let refused = [
            raw.stat(StatRequest::default()).await.map(|_| ()),
            raw.list(ListRequest::default()).await.map(|_| ()),
            raw.apply(ApplyRequest::default()).await.map(|_| ()),
            raw.get_hints(GetHintsRequest::default()).await.map(|_| ()),
            raw.unassign(UnassignRequest::default()).await.map(|_| ()),
        ];
        assert!(refused.iter().all(|call| call.as_ref().unwrap_err().code() == Code::Unauthenticated), "{refused:?}");
        let wrong = client.clone().basic("ana", "secreT").unwrap().list(LabelSelector::default()).await;
        assert!(matches!(wrong, Err(ShardClientError::Call { code: Code::Unauthenticated, .. })), "{wrong:?}");
        let ana = client.basic("ana", "secret").unwrap();
        assert_eq!(ana.list(LabelSelector::default()).await.unwrap().len(), 256);
    }

    /// The name of a credential is not overruled by a header, which anybody can send.
    async fn changes_are_recorded_with_who_and_why(db) {
        crate::admin::shards::assign_and_fail(db).await;
        let shards = || ShardService::new(Shards::new(db.pool.clone()));
        let (ana, team) = (Credential::basic("ana", "secret"), Credential::headers([("x-team", "ramp")]));
        let named = shards().accept(ana).accept(team);
        let (_server, client) = served(named, "127.0.0.1:0").await;
        let bob = client.acting("bob", "the disk has room again").unwrap();
        unassign(&bob.clone().basic("ana", "secret").unwrap(), "000").await;
        unassign(&bob.header("x-team", "ramp").unwrap(), "001").await;
        let (server, client) = served(shards(), "127.0.0.1:0").await;
        unassign(&client, "002").await;
        let record = admin::operations(&db.pool, None, 9).await.unwrap();
        let told: Vec<_> = record.iter().rev().map(|done| (done.who.as_str(), done.why.as_deref())).collect();
        let why = Some("the disk has room again");
        assert_eq!(told, [("ana", why), ("bob", why), ("shard API", None)]);

        let message = UnassignRequest { shards: vec!["003".to_owned()], ..UnassignRequest::default() };
        let mut request = Request::new(message);
        request.metadata_mut().insert(WHO_HEADER, "x".repeat(201).parse().unwrap());
        let refused = raw(&server).await.unassign(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }

    async fn hints_are_not_implemented(db) {
        let (server, _client) = open(Shards::new(db.pool.clone())).await;
        let refused = raw(&server).await.get_hints(GetHintsRequest::default()).await.unwrap_err();
        assert!(refused.code() == Code::Unimplemented && refused.message().contains("no recovery logs"), "{refused:?}");
    }

    async fn a_service_replaces_a_function(db) {
        let (server, client) = open(NoApply(Shards::new(db.pool.clone()))).await;
        assert_eq!(client.list(LabelSelector::default()).await.unwrap().len(), 256, "the others are the library's");
        let mut raw = raw(&server).await;
        assert_eq!(raw.apply(ApplyRequest::default()).await.unwrap_err().code(), Code::PermissionDenied);
        let request = ApplyRequest { extension: b"deployment".to_vec(), ..ApplyRequest::default() };
        assert_eq!(raw.apply(request).await.unwrap().into_inner().extension, b"seen");
    }

    async fn a_service_is_added_to_a_server_of_ones_own(db) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = ShardService::new(Shards::new(db.pool.clone())).accept(Credential::headers([("x-team", "ramp")]));
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let serving = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
        let serving = tokio::spawn(serving);
        let client = ShardClient::connect(address.to_string()).await.unwrap().header("x-team", "ramp").unwrap();
        assert_eq!(client.list(LabelSelector::default()).await.unwrap().len(), 256);
        serving.abort();
    }
}

/// A client that is gone without a word is let go, so that its place among the connections becomes free.
#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let options = sqlx::sqlite::SqlitePoolOptions::new();
    let pool = options.connect_lazy_with(eventbox::sqlite_options(":memory:"));
    let server = ShardService::new(Shards::new(pool)).serve("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(server.local_addr()).await.unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    // An empty frame of settings: the connection has begun.
    client.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    client.read_exact(&mut [0; 9]).await.unwrap();
    tokio::time::pause();
    let hour = Duration::from_secs(3_600);
    let closed = timeout(hour, client.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "the server keeps a connection that says nothing");
}
