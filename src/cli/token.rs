//! `standin token`, and the small process that serves tokens where no daemon does.

use std::fs::File;
use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use hyper::Method;
use serde_json::json;
use standin_linux::spawn::{self, Birth};
use tokio_rustls::TlsAcceptor;

use super::init::Kept;
use super::{Places, client, say};
use crate::authority::Keys;
use crate::authority::token::{LIFE, Token, Tokens};
use crate::link::listen::{self, Rooms};
use crate::link::{admit, tls};

/// How often the process looks whether it is still needed.
const LOOK: Duration = Duration::from_millis(50);

/// From the connection to the end of a join.
const JOINING: Duration = Duration::from_secs(20);

/// How often a daemon is told of a newcomer before it is given up: its start takes some seconds at
/// most, and who has a daemon sees by its status what it knows.
const TELLING: u32 = 200;

/// What the process says once it listens.
const READY: &str = "ready";

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    #[command(flatten)]
    kept: Kept,
    #[command(flatten)]
    places: Places,
}

pub(super) fn main(args: &TokenArgs) -> Result<()> {
    let ServiceArgs { kept, places } = &args.service;
    let keys = Keys::of(&kept.state_dir);
    if !keys.exist()? {
        bail!(
            "this machine is no node of a cluster with a peer link: {} isn't there. `standin init` \
             makes a cluster, `standin join` joins one",
            keys.dir.display()
        );
    }
    let token = make(kept, places)?.text();
    say(args.json, &json!({ "token": token, "valid_s": LIFE.as_secs() }), &token)
}

/// Makes a token that is being served when this returns.
pub(super) fn make(kept: &Kept, places: &Places) -> Result<Token> {
    let keys = Keys::of(&kept.state_dir);
    let authority = keys.identity()?.authority_fingerprint;
    let token = Tokens::open(&keys)
        .and_then(|mut tokens| tokens.add(authority))
        .with_context(|| format!("can't write to {}", keys.dir.display()))?;
    if daemon_runs(places) {
        must_listen(places)?;
    } else {
        start_service(kept, places)?;
    }
    Ok(token)
}

/// The daemon holds its lock for as long as it lives.
fn daemon_runs(places: &Places) -> bool {
    let Ok(lock) = File::open(places.run_dir.join("lock")) else { return false };
    matches!(lock.try_lock(), Err(std::fs::TryLockError::WouldBlock))
}

fn must_listen(places: &Places) -> Result<()> {
    let socket = places.socket();
    let listens = || -> Result<bool> {
        let call = client::call(&socket, Method::GET, "/v1/status", None);
        let status: serde_json::Value = serde_json::from_slice(&client::block_on(call)?)?;
        let listening = status.pointer("/link/listening").and_then(|it| it.as_array());
        Ok(listening.is_some_and(|it| it.iter().any(|one| one["problem"].is_null())))
    };
    if !listens()? {
        // It was started before there were keys.
        let call = client::call(&socket, Method::POST, "/v1/reload", None);
        client::block_on(call).context("the daemon has no peer link, and")?;
        std::thread::sleep(LOOK);
        if !listens()? {
            bail!(
                "the daemon doesn't listen for its peers, so nobody could join; `standin status` \
                   says why"
            );
        }
    }
    Ok(())
}

fn start_service(kept: &Kept, places: &Places) -> Result<()> {
    let mut command = Command::new(std::env::current_exe().context("where standin is")?);
    command
        .arg("serve-tokens")
        .arg("--file")
        .arg(&kept.file)
        .arg("--state-dir")
        .arg(&kept.state_dir)
        .arg("--run-dir")
        .arg(&places.run_dir)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    spawn::born(&mut command, Birth { dies_with_parent: false, new_session: true });
    let mut child = command.spawn().context("can't start the process that serves the token")?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line)?;
    }
    match line.trim() {
        READY => Ok(()),
        why => bail!("nobody can join by the token: {why}"),
    }
}

/// Serves this node's tokens until all are used or expired, or a daemon does it.
pub(super) fn serve(args: &ServiceArgs) -> Result<()> {
    let outcome = client::block_on(serving(args));
    if let Err(error) = &outcome {
        // Whoever started it reads one line.
        println!("{}", format!("{error:#}").replace('\n', " "));
    }
    outcome
}

async fn serving(args: &ServiceArgs) -> Result<()> {
    let keys = Keys::of(&args.kept.state_dir);
    let identity = keys.identity()?;
    let acceptor = TlsAcceptor::from(Arc::new(tls::server(&identity)?));
    let (cluster, _) = crate::control::read_file(&args.kept.file)
        .map_err(|refusal| anyhow::anyhow!(refusal.text))?;
    let own = cluster.nodes.iter().find(|node| node.fingerprint == Some(identity.fingerprint));
    let own = own.context("this node's fingerprint isn't in the cluster file")?;
    let rooms = Rooms::default();
    let admitted = Arc::new(AtomicBool::new(false));
    for address in &own.addresses {
        let address = SocketAddr::from((*address, cluster.link.port));
        let listener =
            listen::bind(address).with_context(|| format!("can't listen on {address}"))?;
        let (acceptor, rooms, admitted) = (acceptor.clone(), rooms.clone(), admitted.clone());
        let places =
            admit::Places { file: args.kept.file.clone(), state_dir: args.kept.state_dir.clone() };
        tokio::spawn(async move {
            while let Ok((stream, source)) = listener.accept().await {
                let Some(room) = rooms.enter(source.ip(), false) else { continue };
                let (acceptor, places, admitted) =
                    (acceptor.clone(), places.clone(), admitted.clone());
                tokio::spawn(async move {
                    let join = async {
                        let stream = acceptor.accept(stream).await.map_err(|e| e.to_string())?;
                        if stream.get_ref().1.peer_certificates().is_some() {
                            return Err("a node that looks for its daemon".to_owned());
                        }
                        admit::serve(stream, &places).await
                    };
                    // Refusals were told to the other side; there is no log here.
                    if matches!(tokio::time::timeout(JOINING, join).await, Ok(Ok(_))) {
                        admitted.store(true, Ordering::Relaxed);
                    }
                    drop(room);
                });
            }
        });
    }
    println!("{READY}");
    std::io::stdout().flush()?;
    spawn::discard_output()?;
    while !daemon_runs(&args.places) && !Tokens::open(&keys)?.is_empty() {
        tokio::time::sleep(LOOK).await;
    }
    // A join under way ends first; each has its deadline.
    while !rooms.are_empty() {
        tokio::time::sleep(LOOK).await;
    }
    if admitted.load(Ordering::Relaxed) && daemon_runs(&args.places) {
        // It may have read the file before the newcomer stood in it.
        tell_daemon(&args.places.socket()).await;
    }
    Ok(())
}

/// Has a daemon that is just starting read the file again.
async fn tell_daemon(socket: &Path) {
    for _ in 0..TELLING {
        if client::call(socket, Method::POST, "/v1/reload", None).await.is_ok() {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}
