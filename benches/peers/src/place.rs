//! A database for each peer, removed afterwards.

use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::migrate::MigrateDatabase;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgPool, Postgres};

use crate::peer::{Peer, pool};
use crate::states;

/// A peer with its database.
pub(crate) struct Place {
    pub(crate) peer: Box<dyn Peer>,
    pub(crate) url: String,
    /// One connection, for what is not measured.
    pub(crate) admin: PgPool,
}

impl Place {
    pub(crate) async fn create(server: &PgConnectOptions, peer: Box<dyn Peer>) -> Result<Self> {
        let crate_name = peer.name().replace('-', "_");
        let name = format!("peers_{crate_name}_{}", uuid::Uuid::new_v4().simple());
        let url = server.clone().database(&name).to_url_lossy().to_string();
        Postgres::create_database(&url).await.context("create a database: is the server there, and may the user?")?;
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

/// How often the removal of a database is tried, and the pause between: what was interrupted may need a moment to let go.
const REMOVALS: usize = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// Removes a database, also when somebody is still connected.
async fn remove(url: &str) -> Result<()> {
    for _ in 1..REMOVALS {
        if Postgres::force_drop_database(url).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Postgres::force_drop_database(url).await.context("remove the database of a peer")
}
