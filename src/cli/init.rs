//! `standin init`: the first node of a cluster: authority, keys, the smallest cluster file, a token.

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use super::client::Unanswered;
use super::{Places, STATE_DIR, say, token};
use crate::authority::roster::{Newcomer, quoted_if_needed};
use crate::authority::token::LIFE;
use crate::authority::{Authority, Keys, NodeKey, files, fingerprint_of_key};
use crate::exit::Exit;

/// The first node's; a pair is usually 150 and 100.
const FIRST_PRIORITY: u8 = 150;

/// Where neither the operator nor the address says one.
const ROUTER_ID: u8 = 51;

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The cluster's name
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// This machine: its name in the cluster and its own address, or two with a comma
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = node)]
    node: Option<Named<Vec<IpAddr>>>,
    /// What is to be kept reachable: a name and the shared address
    #[arg(long, value_name = "NAME=ADDRESS/LEN", value_parser = vip)]
    vip: Option<Named<String>>,
    /// The VIP's virtual router id, 1 to 255, unique on its network; else the address's last byte
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    router_id: Option<u8>,
    /// Don't share nginx's configuration between the nodes
    #[arg(long)]
    no_sync: bool,
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kept: Kept,
    #[command(flatten)]
    places: Places,
}

/// Where a node's lasting files are.
#[derive(Clone, Debug, Args)]
pub(crate) struct Kept {
    /// The cluster file
    #[arg(short = 'f', long, value_name = "FILE", default_value = "/etc/standin/standin.toml")]
    pub(crate) file: PathBuf,
    /// The directory of what outlives the daemon: events, keys
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub(crate) state_dir: PathBuf,
}

/// `NAME=VALUE`.
#[derive(Clone, Debug)]
pub(crate) struct Named<T> {
    pub(crate) name: String,
    pub(crate) value: T,
}

pub(crate) fn node(text: &str) -> Result<Named<Vec<IpAddr>>, String> {
    let wrong = || "write NAME=ADDRESS, for example n1=192.168.1.189".to_owned();
    let (name, list) = text.split_once('=').ok_or_else(wrong)?;
    let addresses: Result<Vec<IpAddr>, _> = list.split(',').map(str::parse).collect();
    let value = addresses.map_err(|_| wrong())?;
    if name.is_empty() {
        return Err(wrong());
    }
    Ok(Named { name: name.to_owned(), value })
}

fn vip(text: &str) -> Result<Named<String>, String> {
    let wrong = || "write NAME=ADDRESS/LENGTH, for example web=192.168.1.41/24".to_owned();
    let (name, prefix) = text.split_once('=').ok_or_else(wrong)?;
    let (address, length) = prefix.split_once('/').ok_or_else(wrong)?;
    let fine = address.parse::<IpAddr>().is_ok() && length.parse::<u8>().is_ok();
    if name.is_empty() || !fine {
        return Err(wrong());
    }
    Ok(Named { name: name.to_owned(), value: prefix.to_owned() })
}

pub(super) fn main(args: &InitArgs) -> Result<()> {
    let keys = Keys::of(&args.kept.state_dir);
    keys.must_be_new()?;
    let file = &args.kept.file;
    if file.exists() {
        bail!(
            "{} exists, and is left as it is. `standin init` is for the first node of a new \
             cluster; to make one all the same, move the file away first",
            file.display()
        );
    }
    let (cluster, node, vip) = asked(args)?;
    let key = NodeKey::new()?;
    let first = Newcomer {
        name: node.name.clone(),
        addresses: node.value.clone(),
        priority: FIRST_PRIORITY,
        fingerprint: fingerprint_of_key(key.public()?),
    };
    let mut text = smallest(&cluster, &first, &vip, args.router_id);
    if !args.no_sync {
        text.push_str("\n[sync]\n");
    }
    let loaded = standin_config::load(&file.display().to_string(), &text);
    if loaded.model.is_none() {
        bail!("that makes no good cluster file; nothing was written:\n{}", loaded.render(false));
    }
    must_be_local(&node)?;
    let authority = Authority::new(&cluster)?;
    let certificate = authority.issue(&cluster, &node.name, key.public()?)?;
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("can't make {}", folder.display()))?;
    }
    keys.create((&authority.key_pem, &authority.certificate_pem), &key, &certificate)?;
    files::write_atomically(file, text.as_bytes(), 0o644)
        .with_context(|| format!("can't write {}", file.display()))?;
    if !args.json {
        eprintln!(
            "{cluster} has its first node, {}: {} and {} are written.\nStart it with `systemctl \
             enable --now standin`. On the next machine, within {} minutes:",
            node.name,
            file.display(),
            keys.dir.display(),
            LIFE.as_secs() / 60
        );
    }
    let token = token::make(&args.kept, &args.places)?.text();
    let address = node.value.first().map_or_else(String::new, ToString::to_string);
    let join = format!("standin join {address} {token} --node NAME=ADDRESS");
    let made = json!({
        "cluster": cluster,
        "node": node.name,
        "file": file,
        "keys": keys.dir,
        "token": token,
        "valid_s": LIFE.as_secs(),
        "join": join,
    });
    say(args.json, &made, &join)
}

/// What the command line says, and for the rest what a person at the terminal says.
fn asked(args: &InitArgs) -> Result<(String, Named<Vec<IpAddr>>, Named<String>)> {
    let missing: Vec<&str> = [
        ("--cluster NAME", args.cluster.is_none()),
        ("--node NAME=ADDRESS", args.node.is_none()),
        ("--vip NAME=ADDRESS/LENGTH", args.vip.is_none()),
    ]
    .into_iter()
    .filter_map(|(what, is)| is.then_some(what))
    .collect();
    if !missing.is_empty() && !std::io::stdin().is_terminal() {
        let missing = missing.join(", ");
        let words = format!("this is missing, and there is no terminal to ask at: {missing}");
        return Err(Unanswered { exit: Exit::Usage, words }.into());
    }
    let cluster = match &args.cluster {
        Some(cluster) => cluster.clone(),
        None => ask("The cluster's name, for example edge", |text| Ok(text.to_owned()))?,
    };
    let node = match &args.node {
        Some(node) => node.clone(),
        None => ask("This machine, for example n1=192.168.1.189", node_or_words)?,
    };
    let vip = match &args.vip {
        Some(vip) => vip.clone(),
        None => ask("The shared address, for example web=192.168.1.41/24", vip)?,
    };
    Ok((cluster, node, vip))
}

fn node_or_words(text: &str) -> Result<Named<Vec<IpAddr>>, String> {
    node(text)
}

fn ask<T>(question: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<T> {
    let mut lines = std::io::stdin().lock().lines();
    loop {
        eprint!("{question}: ");
        std::io::stderr().flush()?;
        let line = lines.next().context("the answer is missing")??;
        match read(line.trim()) {
            Ok(value) if !line.trim().is_empty() => return Ok(value),
            Ok(_) => {}
            Err(why) => eprintln!("{why}"),
        }
    }
}

/// A typing error in one's own address is found now, not when the node doesn't come up.
pub(crate) fn must_be_local(node: &Named<Vec<IpAddr>>) -> Result<()> {
    let local = standin_linux::process::local_addresses().unwrap_or_default();
    if let Some(missing) = node.value.iter().find(|it| !local.contains(it)) {
        let list: Vec<String> =
            local.iter().filter(|it| !it.is_loopback()).map(ToString::to_string).collect();
        bail!(
            "{missing} is no address of this machine; it has {}. Nothing was written",
            if list.is_empty() { "none".to_owned() } else { list.join(", ") }
        );
    }
    Ok(())
}

fn smallest(cluster: &str, first: &Newcomer, vip: &Named<String>, router_id: Option<u8>) -> String {
    let address: Option<IpAddr> =
        vip.value.split_once('/').and_then(|(address, _)| address.parse().ok());
    let last = match address {
        Some(IpAddr::V4(address)) => address.octets()[3],
        Some(IpAddr::V6(address)) => address.octets()[15],
        None => 0,
    };
    let id = router_id.unwrap_or(if last == 0 { ROUTER_ID } else { last });
    let mut out = format!("cluster = \"{cluster}\"\n\n{}\n", first.section());
    // Writing to a String can't fail.
    let _ = write!(
        out,
        "[vip.{}]\nvirtual_router_id = {id}\naddresses = [\"{}\"]\n\n[nginx]\n",
        quoted_if_needed(&vip.name),
        vip.value
    );
    out
}

#[cfg(test)]
mod tests {
    use standin_config::fingerprint::Fingerprint;

    use super::*;

    #[test]
    fn the_smallest_file_is_a_good_one() {
        let first = |address: &str| Newcomer {
            name: "n1".to_owned(),
            addresses: vec![address.parse().unwrap()],
            priority: FIRST_PRIORITY,
            fingerprint: Fingerprint([1; 32]),
        };
        let text =
            smallest("edge", &first("192.168.1.189"), &vip("web=192.168.1.41/24").unwrap(), None);
        let loaded = standin_config::load("standin.toml", &text);
        assert_eq!(loaded.model.unwrap().vips[0].vrid.get(), 41, "{text}");
        let text = smallest("edge", &first("fd00::2"), &vip("w.eb=fd00::/64").unwrap(), None);
        assert!(text.contains(&format!("virtual_router_id = {ROUTER_ID}")), "{text}");
        let text = smallest("a\"b", &first("fd00::2"), &vip("web=fd00::9/64").unwrap(), Some(7));
        assert!(standin_config::load("standin.toml", &text).model.is_none());
    }

    #[test]
    fn names_and_addresses_are_read() {
        assert_eq!(node("n1=192.0.2.1,2001:db8::1").unwrap().value.len(), 2);
        for wrong in ["n1", "=192.0.2.1", "n1=", "n1=here", "n1=192.0.2.1/24"] {
            assert!(node(wrong).is_err(), "{wrong}");
        }
        for wrong in ["web", "web=192.0.2.1", "=192.0.2.1/24", "web=192.0.2.1/x"] {
            assert!(vip(wrong).is_err(), "{wrong}");
        }
    }
}
