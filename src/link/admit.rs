//! Lets a machine with a good token into the cluster: its certificate, the keys, the cluster file.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::frame::{self, Reader, STRANGER_BYTES};
use super::message::{Join, Joined, Message, PROTOCOL};
use crate::authority::roster::{self, Newcomer};
use crate::authority::token::Tokens;
use crate::authority::{Authority, Keys, files, fingerprint_of_key};
use crate::cli::client;

/// The daemon takes a file in milliseconds.
const RELOAD: Duration = Duration::from_secs(5);

/// Said to whoever has no good token; it doesn't tell which of the reasons it is.
const NO_TOKEN: &str =
    "the token is wrong, used or expired; `standin token` on a node makes another";

/// Where this node's files are.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) file: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
}

/// Serves one connection without a certificate: a request to join and its answer. Returns the new
/// node's name, or why there is none.
pub(crate) async fn serve(
    mut stream: TlsStream<TcpStream>,
    places: &Places,
) -> Result<String, String> {
    let request = Reader::new(&mut stream, STRANGER_BYTES).next::<Message>().await;
    let outcome = match request {
        Ok(Message::Join(join)) if join.protocol != PROTOCOL => {
            Err("the two machines have too different versions of standin".to_owned())
        }
        Ok(Message::Join(join)) => {
            let places = places.clone();
            let node = join.node.clone();
            tokio::task::spawn_blocking(move || admit(&places, &join))
                .await
                .map_err(|error| error.to_string())
                .and_then(|outcome| outcome)
                .map(|joined| (node, joined))
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
    // Before the reload: that may replace the program, and the connection with it.
    let sent = frame::send(&mut stream, &Message::Joined(joined)).await;
    // TLS says that it is over; the answer has been sent, or couldn't be.
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
    let socket = places.run_dir.join("standin.sock");
    let reload = client::call(&socket, Method::POST, "/v1/reload", None);
    // Where no daemon runs, the next one reads the file anyway; a refusal is in its log and status.
    let _ = tokio::time::timeout(RELOAD, reload).await;
    sent.map_err(|error| format!("{node} is in the cluster file, but went away: {error}"))?;
    Ok(node)
}

/// All that has to be right, one at a time: the token, the file, the certificate.
fn admit(places: &Places, join: &Join) -> Result<Joined, String> {
    let keys = Keys::of(&places.state_dir);
    let own = |what: &dyn std::fmt::Display| format!("the node that was asked can't: {what}");
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
    let authority = Authority::open(&keys).map_err(|error| own(&format!("{error:#}")))?;
    let certificate =
        authority.issue(&cluster, &join.node, join.public_key).map_err(|error| own(&error))?;
    // First, so that whatever fails below, nobody comes in with it a second time.
    tokens.used(join.token_id).map_err(|error| own(&error))?;
    let mode = std::fs::metadata(&places.file).map_or(0o644, |it| it.permissions().mode() & 0o777);
    files::write_atomically(&places.file, file.as_bytes(), mode)
        .map_err(|error| own(&format!("{}: {error}", places.file.display())))?;
    Ok(Joined {
        cluster,
        certificate,
        authority_certificate: authority.certificate_pem,
        authority_key: authority.key_pem,
        file,
    })
}
