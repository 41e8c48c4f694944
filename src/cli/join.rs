//! `standin join`: this machine becomes a node: it proves the other by the token, then tells it the secret.

use std::io::{BufRead, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use hyper::Method;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::init::{Kept, Named, must_be_local, node};
use super::{Places, client, say};
use crate::authority::token::Token;
use crate::authority::{Keys, NodeKey, files, fingerprint, fingerprint_of_key};
use crate::exit::Exit;
use crate::link::file::shelf::Shelf;
use crate::link::frame::{self, JOINED_BYTES, Reader};
use crate::link::message::{Join, Joined, Message, PROTOCOL};
use crate::link::tls;

/// Where nothing else is said.
const PORT: u16 = 8412;

const CONNECT: Duration = Duration::from_secs(5);

/// How often a connection that was cut at once is tried again, and after how long.
const AGAIN: u32 = 3;
const AGAIN_AFTER: Duration = Duration::from_millis(300);

/// All nodes look at the file with this one in it, and take it, meanwhile.
const ANSWER: Duration = Duration::from_secs(65);

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// A node of the cluster
    #[arg(value_name = "HOST[:PORT]")]
    host: String,
    /// What `standin init` or `standin token` printed there; `-` reads it from the standard input
    token: String,
    /// This machine: its name in the cluster and its own address, or two with a comma
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = node)]
    node: Named<Vec<IpAddr>>,
    /// This node's priority: higher is preferred
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u8).range(2..))]
    priority: u8,
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kept: Kept,
    #[command(flatten)]
    places: Places,
}

pub(super) fn main(args: &JoinArgs) -> Result<()> {
    let keys = Keys::of(&args.kept.state_dir);
    keys.must_be_new()?;
    let mut text = args.token.clone();
    if text == "-" {
        text.clear();
        std::io::stdin().lock().read_line(&mut text)?;
    }
    let token = Token::parse(text.trim()).context(
        "that is no token, or not a whole one; `standin token` on a node of the cluster makes one",
    )?;
    must_be_local(&args.node)?;
    must_be_writable(&args.kept)?;
    let to = resolve(&args.host)?;
    let key = NodeKey::new()?;
    let public_key = key.public()?;
    let join = Join {
        protocol: PROTOCOL,
        token_id: token.id,
        token_secret: token.secret,
        node: args.node.name.clone(),
        addresses: args.node.value.clone(),
        priority: args.priority,
        public_key,
    };
    let joined = client::block_on(ask(to, &token, join))?;
    believe(&joined, &token, &args.node.name, public_key)?;
    let kept = keep_old(&args.kept.file, &joined.file)?;
    keys.create((&joined.authority_key, &joined.authority_certificate), &key, &joined.certificate)?;
    Shelf::of(&args.kept.state_dir, &args.kept.file)
        .take(&joined.file, &joined.version)
        .with_context(|| format!("can't write {}", args.kept.file.display()))?;
    let (name, cluster) = (&args.node.name, &joined.cluster);
    let mut words =
        format!("{name} is a node of {cluster}; its file is {}", args.kept.file.display());
    if let Some(old) = &kept {
        words.push_str(&format!("\nwhat was there before is kept as {old}"));
    }
    let shared = standin_config::load("", &joined.file).model.and_then(|cluster| cluster.sync);
    if shared.is_some() {
        words.push_str(
            "\nnginx's configuration will come from the active node; what is here is kept (standin \
             sync history)",
        );
    }
    let became = json!({
        "node": name,
        "cluster": cluster,
        "file": args.kept.file,
        "kept": kept,
        "shares_files": shared.is_some(),
    });
    // Said before the daemon is asked, which may refuse.
    say(args.json, &became, &words)?;
    let taken = taken(&args.places)?;
    if !args.json {
        println!(
            "{}",
            if taken {
                "the daemon that runs here has taken it"
            } else {
                "start it: systemctl enable --now standin"
            }
        );
    }
    Ok(())
}

/// A daemon that runs already takes the file at once; whether one does.
fn taken(places: &Places) -> Result<bool> {
    let socket = places.socket();
    let reload = client::call(&socket, Method::POST, "/v1/reload", None);
    match client::block_on(reload) {
        Ok(_) => Ok(true),
        Err(error) => match error.downcast_ref::<client::Unanswered>() {
            Some(unanswered) if unanswered.exit == Exit::NoDaemon => Ok(false),
            _ => Err(error.context("the node has joined, but its daemon didn't take the file")),
        },
    }
}

/// Found out before the token is spent.
fn must_be_writable(kept: &Kept) -> Result<()> {
    for folder in [kept.file.parent(), Some(kept.state_dir.as_path())].into_iter().flatten() {
        let probe = folder.join(format!(".standin.{}", std::process::id()));
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&probe, ""))
            .and_then(|()| std::fs::remove_file(&probe))
            .with_context(|| format!("can't write to {}", folder.display()))?;
    }
    Ok(())
}

fn resolve(host: &str) -> Result<SocketAddr> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok((address, PORT).into());
    }
    let with_port = match host.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => host.to_owned(),
        _ => format!("{host}:{PORT}"),
    };
    let mut found =
        with_port.to_socket_addrs().with_context(|| format!("can't find the host {host}"))?;
    found.next().with_context(|| format!("the host {host} has no address"))
}

async fn ask(to: SocketAddr, token: &Token, join: Join) -> Result<Joined> {
    let mut again = AGAIN;
    loop {
        match ask_once(to, token, &join).await {
            // Who served an earlier token was just ending, or the process that served this one, since a
            // daemon has started; the next one listens already. It knows whether the token is spent.
            Err(Unanswered::Cut(_)) if again > 0 => {
                again -= 1;
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            Err(Unanswered::Cut(error) | Unanswered::Other(error)) => return Err(error),
            Ok(Message::Joined(joined)) => return Ok(joined),
            Ok(Message::Refused { why }) => bail!("{to} refuses: {}", plain(&why)),
            Ok(_) => bail!("{to} answered something else"),
        }
    }
}

async fn ask_once(to: SocketAddr, token: &Token, join: &Join) -> Result<Message, Unanswered> {
    let mut stream = connect(to, token).await?;
    let cut = |error: anyhow::Error| Unanswered::Cut(error.context(format!("{to} went away")));
    frame::send(&mut stream, &Message::Join(join.clone()))
        .await
        .map_err(|error| cut(error.into()))?;
    let mut reader = Reader::new(&mut stream, JOINED_BYTES);
    tokio::time::timeout(ANSWER, reader.next())
        .await
        .map_err(|_| Unanswered::Other(anyhow!("{to} didn't answer in time")))?
        .map_err(|error| cut(error.into()))
}

/// Why there is no answer.
enum Unanswered {
    /// The other end closed the connection.
    Cut(anyhow::Error),
    Other(anyhow::Error),
}

async fn connect(to: SocketAddr, token: &Token) -> Result<TlsStream<TcpStream>, Unanswered> {
    let other = Unanswered::Other;
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(to))
        .await
        .map_err(|_| {
            other(anyhow!("{to} doesn't answer; is its firewall open for TCP port {}?", to.port()))
        })?
        .map_err(|error| match error.kind() {
            ErrorKind::ConnectionRefused => other(anyhow!(
                "nobody serves the token at {to}: it is used or expired, or its daemon has no peer \
                 link. `standin token` there makes another one"
            )),
            // Who was listening ended before it had taken the connection.
            ErrorKind::ConnectionReset => {
                Unanswered::Cut(anyhow!("{to} closed the connection at once: {error}"))
            }
            _ => other(anyhow!("{to}: {error}")),
        })?;
    let config = Arc::new(tls::joiner(token.authority).map_err(other)?);
    let connecting = TlsConnector::from(config).connect(ServerName::from(to.ip()), stream);
    tokio::time::timeout(CONNECT, connecting)
        .await
        .map_err(|_| other(anyhow!("{to} doesn't finish the TLS handshake")))?
        .map_err(|error| match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => {
                Unanswered::Cut(anyhow!(
                    "{to} closed the connection before it had shown who it is; it was told \
                     nothing: {error}"
                ))
            }
            _ => other(anyhow!(
                "{to} isn't of the cluster that made the token; it was told nothing: {}",
                tls::words(&error)
            )),
        })
}

/// What another machine says is shown without control characters.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

/// The answer is looked at like anything else from outside.
fn believe(joined: &Joined, token: &Token, name: &str, key: [u8; 32]) -> Result<()> {
    let own = fingerprint_of_key(key);
    let of = |pem: &str| -> Result<_> {
        Ok(fingerprint(&CertificateDer::from_pem_slice(pem.as_bytes())?)?)
    };
    if of(&joined.authority_certificate)? != token.authority || of(&joined.certificate)? != own {
        bail!("the answer has certificates of other keys; nothing was written");
    }
    let loaded = standin_config::load("the cluster file", &joined.file);
    let rendered = loaded.render(false);
    let cluster = loaded
        .model
        .ok_or_else(|| anyhow!("the cluster file that came can't be used here:\n{rendered}"))?;
    if cluster.node(name).is_none_or(|node| node.fingerprint != Some(own)) {
        bail!("the cluster file that came doesn't have this node; nothing was written");
    }
    Ok(())
}

/// Moves another file out of the way, under a name that is free.
fn keep_old(file: &Path, new: &str) -> Result<Option<String>> {
    match std::fs::read(file) {
        Ok(old) if old == new.as_bytes() => Ok(None),
        Ok(old) => {
            let free = (1..).map(|n| format!("{}.before-join.{n}", file.display()));
            let name = free.into_iter().find(|name| !Path::new(name).exists());
            let name = name.context("no free name for the old cluster file")?;
            files::write_atomically(Path::new(&name), &old, 0o600)
                .with_context(|| format!("can't write {name}"))?;
            Ok(Some(name))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("can't read {}", file.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let authority = standin_config::fingerprint::Fingerprint([7; 32]);
        Token { id: [1; 4], secret: [2; 16], authority }
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_before_it_is_taken_is_one_to_try_again() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let (token, cut) = (token(), async { drop(listener) });
        let (connected, ()) = tokio::join!(connect(to, &token), cut);
        let Err(Unanswered::Cut(error)) = connected else { panic!("not taken for a cut") };
        assert!(error.to_string().contains("closed the connection at once"), "{error}");
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_at_once_is_tried_again_and_not_called_a_fraud() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let cuts = tokio::spawn(async move {
            for _ in 0..=AGAIN {
                drop(listener.accept().await.unwrap());
            }
        });
        let token = token();
        let join = Join {
            protocol: PROTOCOL,
            token_id: token.id,
            token_secret: token.secret,
            node: "n2".to_owned(),
            addresses: Vec::new(),
            priority: 100,
            public_key: [3; 32],
        };
        let error = ask(to, &token, join).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("closed the connection before"), "{error}");
        cuts.await.unwrap();
    }
}
