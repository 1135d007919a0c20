//! A database for each peer. It is removed at the end.

use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::migrate::MigrateDatabase;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgPool, Postgres};

use crate::peer::{Peer, pool};
use crate::states;

/// A peer and its database.
pub(crate) struct Place {
    pub(crate) peer: Box<dyn Peer>,
    pub(crate) url: String,
    /// One connection for unmeasured work.
    pub(crate) admin: PgPool,
}

impl Place {
    pub(crate) async fn create(server: &PgConnectOptions, peer: Box<dyn Peer>) -> Result<Self> {
        let crate_name = peer.name().replace('-', "_");
        let name = format!("peers_{crate_name}_{}", uuid::Uuid::new_v4().simple());
        let url = server.clone().database(&name).to_url_lossy().to_string();
        Postgres::create_database(&url)
            .await
            .context("create a database: start the server, or use a user with the right to create databases")?;
        let opened = async {
            peer.install(&url).await.with_context(|| format!("install {}", peer.name()))?;
            let admin = pool(&url, 1).await?;
            states::create(&admin).await?;
            anyhow::Ok(admin)
        };
        match opened.await {
            Ok(admin) => Ok(Place { peer, url, admin }),
            Err(error) => {
                remove(&url).await?;
                Err(error)
            }
        }
    }

    pub(crate) async fn remove(self) -> Result<()> {
        self.admin.close().await;
        remove(&self.url).await
    }
}

/// Number of attempts to remove a database, and the pause between them. An interrupted measurement needs time to
/// close its connections.
const REMOVALS: usize = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// Removes a database, also with open connections.
async fn remove(url: &str) -> Result<()> {
    for _ in 1..REMOVALS {
        if Postgres::force_drop_database(url).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Postgres::force_drop_database(url).await.context("remove the database of a peer")
}
