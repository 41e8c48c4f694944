//! How the `standin lab` commands reach a lab that runs in the background.
//!
//! An abstract Unix socket: it has no file, so nothing is left when the lab ends, however it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use standin_linux::spawn;

use super::cluster::{Lab, NodeState, Victim};

/// Names of nodes and texts of errors; a status of 16 nodes with 1024 VIPs fits.
const LONGEST_LINE: u64 = 1 << 20;

/// Someone who connects and says nothing must not hold the lab up.
const ASKS_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Kill {
        node: String,
        what: Victim,
    },
    Hang {
        node: String,
    },
    Cut {
        node: String,
    },
    Heal {
        node: String,
    },
    Start {
        node: String,
    },
    Status,
    /// The process id of a host's pid 1, for a shell in it.
    Pid {
        host: String,
    },
    Down,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Done,
    States(Vec<NodeState>),
    Pid(u32),
    Failed(String),
}

fn address(name: &str) -> Result<SocketAddr> {
    let uid = spawn::user_id();
    SocketAddr::from_abstract_name(format!("standin-lab-{uid}-{name}"))
        .with_context(|| format!("`{name}` can't name a lab"))
}

/// Whether a lab of that name runs.
pub(super) fn runs(name: &str) -> Result<bool> {
    Ok(UnixStream::connect_addr(&address(name)?).is_ok())
}

/// Asks the lab of that name.
pub(super) fn ask(name: &str, request: &Request) -> Result<Reply> {
    let Ok(mut stream) = UnixStream::connect_addr(&address(name)?) else {
        bail!("no lab called `{name}` runs: start one with `standin lab`");
    };
    if spawn::peer_user_id(&stream)? != spawn::user_id() {
        bail!("somebody else's process answers for the lab `{name}`; nothing was told to it");
    }
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).take(LONGEST_LINE).read_line(&mut answer)?;
    match serde_json::from_str(&answer).context("the lab ended while it was asked")? {
        Reply::Failed(why) => bail!("{why}"),
        reply => Ok(reply),
    }
}

/// The lab's end of the socket.
pub(super) struct Control {
    listener: UnixListener,
    /// The user who may give orders, as the outside numbers users.
    user: u32,
}

impl Control {
    /// Must be called before the caller enters a user namespace.
    pub(super) fn open(name: &str) -> Result<Self> {
        let listener = UnixListener::bind_addr(&address(name)?).with_context(|| {
            format!("a lab called `{name}` runs already: see `standin lab status`, or end it with `standin lab down`")
        })?;
        Ok(Self { listener, user: spawn::user_id() })
    }

    /// Serves until the lab is told to end.
    pub(super) fn serve(&self, mut lab: Lab, inside_user_namespace: bool) -> Result<()> {
        // In the user namespace its one user is root.
        let user = if inside_user_namespace { 0 } else { self.user };
        loop {
            let (stream, _) = self.listener.accept()?;
            if spawn::peer_user_id(&stream)? != user {
                continue;
            }
            stream.set_read_timeout(Some(ASKS_WITHIN))?;
            let mut line = String::new();
            let read = BufReader::new(&stream).take(LONGEST_LINE).read_line(&mut line);
            if read.is_err() {
                continue;
            }
            let request = serde_json::from_str(&line);
            if matches!(request, Ok(Request::Down)) {
                // All hosts end here; the reply comes when nothing is left.
                drop(lab);
                reply(stream, &Reply::Done);
                return Ok(());
            }
            let answer = match request {
                Ok(request) => carry_out(&mut lab, request)
                    .unwrap_or_else(|error| Reply::Failed(format!("{error:#}"))),
                Err(error) => Reply::Failed(error.to_string()),
            };
            reply(stream, &answer);
        }
    }
}

fn reply(mut stream: UnixStream, reply: &Reply) {
    // Whoever asked may be gone; the lab goes on.
    if let Ok(mut line) = serde_json::to_vec(reply) {
        line.push(b'\n');
        let _gone = stream.write_all(&line);
    }
}

fn carry_out(lab: &mut Lab, request: Request) -> Result<Reply> {
    match request {
        Request::Kill { node, what } => {
            let node = lab.find(&node)?;
            lab.kill(node, what)?;
        }
        Request::Hang { node } => {
            let node = lab.find(&node)?;
            lab.hang(node)?;
        }
        Request::Cut { node } => {
            let node = lab.find(&node)?;
            lab.cut(node)?;
        }
        Request::Heal { node } => {
            let node = lab.find(&node)?;
            lab.heal(node)?;
        }
        Request::Start { node } => {
            let node = lab.find(&node)?;
            lab.start(node)?;
        }
        Request::Status => return Ok(Reply::States(lab.states()?)),
        Request::Pid { host } => return Ok(Reply::Pid(lab.pid_of(&host)?)),
        Request::Down => {}
    }
    Ok(Reply::Done)
}
