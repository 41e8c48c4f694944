//! The host's packet filter, as its own commands print it.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::preflight::firewall::{Ruleset, iptables, nft};
use crate::preflight::words;

/// A rule set of a hundred thousand elements takes a second.
const PATIENCE: Duration = Duration::from_secs(5);

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Rules of nftables, and of the old iptables where the kernel has some.
///
/// # Errors
/// In words: a firewall may be there, and can't be seen.
pub(super) async fn ruleset() -> Result<Ruleset, String> {
    let unseen = |why: String| format!("the firewall couldn't be looked at: {why}");
    let mut ruleset = Ruleset::default();
    let mut by_nft = false;
    match run("nft", &["-j", "list", "ruleset"]).await {
        Ok(text) => {
            ruleset =
                nft::parse(&text).ok_or_else(|| unseen("nft prints something else".to_owned()))?;
            by_nft = true;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unseen(format!("nft: {}", words(&error)))),
    }
    for (command, tables, family) in
        [("iptables", "ip_tables_names", "ip"), ("ip6tables", "ip6_tables_names", "ip6")]
    {
        // Asking the old command without this would load its modules into the kernel.
        let names = std::fs::read_to_string(format!("/proc/net/{tables}")).unwrap_or_default();
        let old = names.lines().any(|name| name == "filter");
        if by_nft && !old {
            continue;
        }
        let legacy = format!("{command}-legacy");
        let first =
            if old { run(&legacy, &["-S"]).await } else { Err(io::ErrorKind::NotFound.into()) };
        let said = match first {
            Ok(text) => Ok(text),
            Err(_) => run(command, &["-S"]).await,
        };
        match said {
            Ok(text) => ruleset.chains.extend(iptables::parse(&text, family)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !old => {}
            Err(error) => return Err(unseen(format!("{command}: {}", words(&error)))),
        }
    }
    Ok(ruleset)
}

async fn run(program: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output =
        tokio::time::timeout(PATIENCE, output).await.map_err(|_| io::ErrorKind::TimedOut)??;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(said.lines().next().unwrap_or("it failed").to_owned()))
}
