//! Lets a machine with a good token into the cluster: its certificate, the keys, the cluster file.

use std::path::PathBuf;

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::file::apply;
use super::file::shelf::{Shelf, Version};
use super::frame::{self, Reader, STRANGER_BYTES};
use super::message::{Join, Joined, Message, PROTOCOL};
use super::{Common, hash};
use crate::authority::roster::{self, Newcomer};
use crate::authority::token::Tokens;
use crate::authority::{Authority, Keys, fingerprint_of_key};

/// Said to whoever has no good token; it doesn't tell which of the reasons it is.
const NO_TOKEN: &str =
    "the token is wrong, used or expired; `standin token` on a node makes another";

/// Where this node's files are.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) file: PathBuf,
    pub(crate) state_dir: PathBuf,
}

/// Serves one connection without a certificate: a request to join and its answer. Returns the new
/// node's name, or why there is none.
///
/// `link` is that of the daemon, where one runs: all nodes are told of the new one then.
pub(super) async fn serve_in(
    stream: TlsStream<TcpStream>,
    link: &Common,
) -> Result<String, String> {
    serve_any(stream, &link.places, Some(link)).await
}

/// As [`serve_in`], where no daemon runs.
pub(crate) async fn serve(stream: TlsStream<TcpStream>, places: &Places) -> Result<String, String> {
    serve_any(stream, places, None).await
}

async fn serve_any(
    mut stream: TlsStream<TcpStream>,
    places: &Places,
    link: Option<&Common>,
) -> Result<String, String> {
    let request = Reader::new(&mut stream, STRANGER_BYTES).next::<Message>().await;
    let outcome = match request {
        Ok(Message::Join(join)) if join.protocol != PROTOCOL => {
            Err("the two machines have too different versions of standin".to_owned())
        }
        Ok(Message::Join(join)) => {
            let node = join.node.clone();
            // What was begun is finished, whatever becomes of the connection.
            let admitting = tokio::spawn(admit(places.clone(), link.cloned(), join));
            let outcome = admitting.await.map_err(|error| error.to_string());
            outcome.and_then(|outcome| outcome).map(|joined| (node, joined))
        }
        Ok(_) => Err("without a certificate one may only join".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let (node, joined) = match outcome {
        Ok(it) => it,
        Err(why) => {
            // Whoever doesn't listen needn't know.
            let _ = frame::send(&mut stream, &Message::Refused { why: why.clone() }).await;
            return Err(why);
        }
    };
    let sent = frame::send(&mut stream, &Message::Joined(joined)).await;
    // TLS says that it is over; the answer has been sent, or couldn't be.
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
    sent.map_err(|error| format!("{node} is in the cluster file, but went away: {error}"))?;
    Ok(node)
}

/// All that has to be right, one after the other: the token, the file, the other nodes, the
/// certificate.
async fn admit(places: Places, link: Option<Common>, join: Join) -> Result<Joined, String> {
    let (own_places, own_join) = (places.clone(), join.clone());
    let (cluster, text) = blocking(move || prepare(&own_places, &own_join)).await?;
    let shelf = Shelf::of(&places.state_dir, &places.file);
    let version = match link {
        Some(link) => tell_all(&link, text.clone(), &join.node).await?,
        None => {
            let text = text.clone();
            blocking(move || {
                let number = shelf.version().number.saturating_add(1);
                let version = Version { number, sha256: hash(text.as_bytes()), by: String::new() };
                shelf.take(&text, &version).map_err(|error| own(&error))?;
                Ok(version)
            })
            .await?
        }
    };
    blocking(move || issue(&places, &join, cluster, text, version)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| error.to_string()).and_then(|done| done)
}

fn own(what: &dyn std::fmt::Display) -> String {
    format!("the node that was asked can't: {what}")
}

/// The cluster's name, and its file with the newcomer in it; the token is spent then.
fn prepare(places: &Places, join: &Join) -> Result<(String, String), String> {
    let keys = Keys::of(&places.state_dir);
    let mut tokens = Tokens::open(&keys).map_err(|error| own(&error))?;
    let good = tokens.tried(join.token_id, &join.token_secret).map_err(|error| own(&error))?;
    if !good {
        return Err(NO_TOKEN.to_owned());
    }
    let newcomer = Newcomer {
        name: join.node.clone(),
        addresses: join.addresses.clone(),
        priority: join.priority,
        fingerprint: fingerprint_of_key(join.public_key),
    };
    let text = std::fs::read_to_string(&places.file)
        .map_err(|error| own(&format!("{}: {error}", places.file.display())))?;
    let file = roster::add(&text, &newcomer)?;
    let cluster = standin_config::load("", &file)
        .model
        .map(|cluster| cluster.name)
        .ok_or_else(|| own(&"its cluster file can't be read"))?;
    // Now, so that whatever fails below, nobody comes in with it a second time.
    tokens.used(join.token_id).map_err(|error| own(&error))?;
    Ok((cluster, file))
}

/// Every node that can be reached takes the file; the others do when they are back.
async fn tell_all(link: &Common, text: String, newcomer: &str) -> Result<Version, String> {
    let (steps, mut past) = apply::steps();
    let order = apply::Order {
        change: apply::Change::File(text),
        name: "the cluster file".to_owned(),
        without: apply::Without::Unreachable,
        by: format!("{newcomer}, which joins"),
    };
    let applying = async move { apply::apply(link, order, &steps).await };
    let gathering = async {
        let mut faults = String::new();
        while let Some(step) = past.recv().await {
            if matches!(step.state.as_str(), "unfit" | "refused") {
                let (node, text) = (step.node.unwrap_or_default(), step.text.unwrap_or_default());
                faults.push_str(&format!("\n{node}: {text}"));
            }
        }
        faults
    };
    let (applied, faults) = tokio::join!(applying, gathering);
    let applied = applied.map(|decided| decided.version);
    applied.map_err(|why| format!("{why}{faults}\nThe token is spent; standin token makes another"))
}

fn issue(
    places: &Places,
    join: &Join,
    cluster: String,
    file: String,
    version: Version,
) -> Result<Joined, String> {
    let authority = Authority::open(&Keys::of(&places.state_dir))
        .map_err(|error| own(&format!("{error:#}")))?;
    let certificate =
        authority.issue(&cluster, &join.node, join.public_key).map_err(|error| own(&error))?;
    Ok(Joined {
        cluster,
        certificate,
        authority_certificate: authority.certificate_pem,
        authority_key: authority.key_pem,
        file,
        version,
    })
}
