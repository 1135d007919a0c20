//! `eventbox ingress --listen … --store …`: runs the server.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use eventbox::ingress::{
    Credential, DEFAULT_MAX_AGE, DEFAULT_MAX_REQUEST_BYTES, Faults, Ingress, IngressBuilder, Tls, parse_public_key,
};
use tracing_subscriber::EnvFilter;

use super::Done;
use super::fault::FaultRule;
use crate::signals::asked_to_stop;

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Address to listen on; port 0 takes a free port, and the line `listening on …` on stdout names it
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:50051")]
    listen: String,
    /// SQLite file of the events; created if missing, otherwise continued
    #[arg(long, value_name = "FILE", required = true)]
    store: Option<PathBuf>,
    /// Refuse larger requests
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_MAX_REQUEST_BYTES)]
    max_request_bytes: usize,
    /// Time limit for calls in flight after SIGINT or SIGTERM; the server then closes them
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    stop_timeout: u64,
    #[command(flatten, next_help_heading = "Authentication (any given method suffices)")]
    access: Access,
    #[command(flatten, next_help_heading = "Validation")]
    strict: Strict,
    #[command(flatten, next_help_heading = "Faults, for tests and rehearsals")]
    faults: FaultArgs,
}

#[derive(Debug, clap::Args)]
struct Access {
    /// Accept basic authentication
    #[arg(long, value_name = "USER:PASSWORD", env = "EVENTBOX_INGRESS_BASIC_AUTH", hide_env_values = true)]
    basic_auth: Option<String>,
    /// Accept a header with this value; repeated, all of them are required
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_header)]
    header: Vec<(String, String)>,
    /// Accept signatures of this public key (hex) in the rotating header x-beholder-node-auth-token; repeatable
    #[arg(long, value_name = "HEX")]
    public_key: Vec<String>,
    /// Maximum age of the rotating header
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_MAX_AGE.as_secs())]
    max_header_age: u64,
    /// Accept version 1 of the header from these keys, which has no age
    #[arg(long, requires = "public_key")]
    allow_version_1: bool,
    /// Serve TLS with this PEM certificate chain
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM key of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Refuse clients without a certificate of this authority (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Strict {
    /// Answer SCHEMA_MISSING to events without a schema registered under `<source>-<type>`
    #[arg(long)]
    require_schemas: bool,
    /// Answer DOMAIN_MISCONFIGURATION to events of other sources; repeatable
    #[arg(long, value_name = "SOURCE")]
    domain: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct FaultArgs {
    /// Inject a fault; repeatable
    ///
    /// `code=CODE`, `publish=CODE`, `results=N`, `hang` or `drop`, then `,rate=R` `,type=EVENT_TYPE` `,times=N`.
    ///
    /// code: the call fails with this gRPC error, and no event is kept.
    /// publish: the event gets this publish error and is not kept.
    /// results: the events are kept, but the answer has only the first N results.
    /// hang: the call gets no answer.
    /// drop: the events are kept, then the server closes the connection.
    /// Example: --fault code=UNAVAILABLE,rate=0.1 --fault publish=SCHEMA_MISSING,type=order.paid,times=3
    #[arg(long, value_name = "FAULT", verbatim_doc_comment)]
    fault: Vec<FaultRule>,
    /// Wait before the work of each call
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency_ms: u64,
    /// Wait between the work of each call and its answer
    #[arg(long, value_name = "MS", default_value_t = 0)]
    answer_latency_ms: u64,
    /// Refuse larger requests with RESOURCE_EXHAUSTED, as a server with a lower limit would
    #[arg(long, value_name = "BYTES")]
    refuse_over_bytes: Option<usize>,
    /// Seed of the random numbers for rates
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
}

pub(crate) async fn serve(args: ServeArgs) -> Done {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A subscriber that is already installed stays.
    let _ = log.with_ansi(console::colors_enabled_stderr()).try_init();
    let stop_timeout = Duration::from_secs(args.stop_timeout);
    let listen = args.listen.clone();
    // Before the server starts, so that no signal is missed.
    let asked_to_stop = asked_to_stop()?;
    let server = configured(args)?.serve(listen.as_str()).await?;
    let mut out = io::stdout();
    writeln!(out, "listening on {}", server.local_addr())?;
    out.flush()?;
    asked_to_stop.await;
    if !server.stop(stop_timeout).await.complete {
        writeln!(
            io::stderr(),
            "eventbox: closed the calls that were still in flight after {} s",
            stop_timeout.as_secs()
        )?;
    }
    server.log().close().await;
    Ok(())
}

fn configured(args: ServeArgs) -> Result<IngressBuilder, Box<dyn std::error::Error + Send + Sync>> {
    let store = args.store.ok_or("there is no file for the events: name one with --store")?;
    let mut builder = Ingress::builder().store_file(store).max_request_bytes(args.max_request_bytes);
    for credential in credentials(&args.access)? {
        builder = builder.accept(credential);
    }
    if let (Some(certificate), Some(key)) = (&args.access.tls_cert, &args.access.tls_key) {
        let mut tls = Tls::files(certificate, key);
        if let Some(ca) = &args.access.client_ca {
            tls = tls.client_ca_file(ca);
        }
        builder = builder.tls(tls);
    }
    if args.strict.require_schemas {
        builder = builder.require_schemas();
    }
    if !args.strict.domain.is_empty() {
        builder = builder.domains(args.strict.domain);
    }
    let faults = Faults {
        latency: Duration::from_millis(args.faults.latency_ms),
        answer_latency: Duration::from_millis(args.faults.answer_latency_ms),
        refuse_over_bytes: args.faults.refuse_over_bytes,
        seed: args.faults.seed,
        rules: args.faults.fault.into_iter().map(|FaultRule(fault, when)| (fault, when)).collect(),
    };
    Ok(builder.faults(faults))
}

fn credentials(access: &Access) -> Result<Vec<Credential>, Box<dyn std::error::Error + Send + Sync>> {
    let mut credentials = Vec::new();
    if let Some(basic) = &access.basic_auth {
        let (user, password) = basic.split_once(':').ok_or("--basic-auth has no colon: give USER:PASSWORD")?;
        credentials.push(Credential::basic(user, password));
    }
    if !access.header.is_empty() {
        credentials.push(Credential::headers(access.header.iter().cloned()));
    }
    if !access.public_key.is_empty() {
        let keys = access.public_key.iter().map(|key| parse_public_key(key)).collect::<Result<Vec<_>, _>>()?;
        credentials.push(Credential::signed(keys.iter().copied(), Duration::from_secs(access.max_header_age))?);
        if access.allow_version_1 {
            credentials.push(Credential::signed_version_1(keys)?);
        }
    }
    Ok(credentials)
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} has no =: give NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}
