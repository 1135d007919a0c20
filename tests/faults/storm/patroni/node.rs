//! A node: Patroni, its Postgres, and the network between it and the others.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::super::proxy::Proxy;
use super::super::super::report::Result;
use super::super::super::server::{Account, Server, free_port, programs};
use super::NODES;
use super::daemon::Daemon;
use super::router::Ports;
use super::settings::Settings;

/// A node. The order of the fields is that of their end: Patroni would start its Postgres again.
pub(crate) struct Node {
    pub(crate) name: String,
    patroni: Option<Daemon>,
    pub(crate) server: Server,
    /// Port of the REST API itself.
    rest_port: u16,
    /// What others reach: the REST API and Postgres.
    rest: Proxy,
    network: Proxy,
    /// The ways to the members of etcd, with their ports.
    etcd: Vec<(Proxy, u16)>,
    program: String,
    configuration: PathBuf,
    log: PathBuf,
}

impl Node {
    /// Creates a node and starts its Patroni.
    pub(crate) async fn start(
        home: &Path,
        name: &str,
        settings: &Settings,
        etcd: impl Iterator<Item = u16>,
    ) -> Result<Self> {
        let (server, rest_port) = (Server::of_manager(home, name)?, free_port()?);
        let (network, rest) = (Proxy::start(server.port).await?, Proxy::start(rest_port).await?);
        let mut ways = Vec::new();
        for port in etcd {
            ways.push((Proxy::start(port).await?, port));
        }
        let (configuration, log) = (home.join(format!("{name}.json")), home.join(format!("patroni-{name}.log")));
        let (name, program) = (name.to_owned(), settings.program.clone());
        let mut node =
            Node { name, patroni: None, server, rest_port, rest, network, etcd: ways, program, configuration, log };
        std::fs::write(&node.configuration, node.configuration(settings)?.to_string())?;
        Account::of_servers()?.own(&node.configuration)?;
        node.start_patroni()?;
        Ok(node)
    }

    /// Returns the configuration of Patroni. JSON is YAML, too.
    fn configuration(&self, settings: &Settings) -> Result<Value> {
        let at = |port: u16| format!("127.0.0.1:{port}");
        let etcd: Vec<_> = self.etcd.iter().map(|(way, _)| at(way.port)).collect();
        let user = json!({"username": "postgres"});
        let parameters = json!({
            "synchronous_commit": "on", "max_connections": 200, "shared_buffers": "32MB", "max_wal_size": "64MB",
            "wal_keep_size": "128MB", "wal_sender_timeout": "5s", "wal_receiver_timeout": "5s",
            "wal_retrieve_retry_interval": "500ms", "idle_in_transaction_session_timeout": "10s",
            "client_connection_check_interval": "5s", "tcp_keepalives_idle": 5, "tcp_keepalives_interval": 2,
            "tcp_keepalives_count": 3,
        });
        let dcs = json!({
            "ttl": settings.ttl_s, "loop_wait": settings.loop_wait_s, "retry_timeout": settings.retry_timeout_s,
            "synchronous_mode": true, "synchronous_mode_strict": true, "primary_start_timeout": 0,
            // With one synchronous standby the other one may have more, and then pg_rewind delays the first commits.
            "synchronous_node_count": NODES - 1,
            "postgresql": {"use_pg_rewind": true, "use_slots": true, "parameters": parameters},
        });
        let initdb = json!([{"encoding": "UTF8"}, {"locale": "C"}, {"auth": "trust"}, {"wal-segsize": "1"}]);
        let store = if settings.is_of_version_2() { "etcd" } else { "etcd3" };
        Ok(json!({
            "scope": "faults", "name": self.name, "namespace": "/faults/",
            "restapi": {"listen": at(self.rest_port), "connect_address": at(self.rest.port)},
            // Without this setting Patroni asks etcd for the addresses of its members, and leaves out the proxies.
            store: {"hosts": etcd, "use_proxies": true},
            "bootstrap": {"dcs": dcs, "initdb": initdb},
            "postgresql": {
                "listen": at(self.server.port), "connect_address": at(self.network.port),
                "data_dir": self.server.data, "bin_dir": programs()?, "pgpass": self.log.with_extension("pgpass"),
                "authentication": {"superuser": user, "replication": user},
                "parameters": {"unix_socket_directories": ""},
                "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
                "remove_data_directory_on_rewind_failure": true,
                "remove_data_directory_on_diverged_timelines": true,
            },
            "watchdog": {"mode": "off"},
        }))
    }

    /// Starts Patroni, if it does not run.
    pub(crate) fn start_patroni(&mut self) -> Result<()> {
        if self.patroni.is_none() {
            let configuration = self.configuration.display().to_string();
            self.patroni = Some(Daemon::start(&self.program, &[configuration], &self.log)?);
        }
        Ok(())
    }

    /// Kills Patroni. Its Postgres goes on.
    pub(crate) fn kill_patroni(&mut self) -> Result<()> {
        match self.patroni.take() {
            Some(mut patroni) => patroni.kill(),
            None => Ok(()),
        }
    }

    /// Stops Patroni, or lets it continue.
    pub(crate) fn freeze_patroni(&self, is_frozen: bool) -> Result<()> {
        self.patroni.as_ref().map_or(Ok(()), |patroni| patroni.freeze(is_frozen))
    }

    /// Cuts the ways to etcd.
    pub(crate) fn cut_etcd(&self) {
        self.etcd.iter().for_each(|(way, _)| way.cut());
    }

    /// Cuts all ways to and from this node.
    pub(crate) fn cut(&self) {
        self.network.cut();
        self.rest.cut();
        self.cut_etcd();
    }

    /// Opens all ways again. What fell silent is closed.
    pub(crate) fn mend(&self) {
        let own = [(&self.network, self.server.port), (&self.rest, self.rest_port)];
        for (way, port) in self.etcd.iter().map(|(way, port)| (way, *port)).chain(own) {
            way.lead_to(port);
            way.close();
        }
    }

    /// Returns the ports that others use.
    pub(crate) fn ports(&self) -> Ports {
        Ports { rest: self.rest.port, server: self.network.port }
    }
}
