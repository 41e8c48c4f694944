//! `standin release`: removes by hand what a standin that is gone has left on this host.

use std::io;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use standin_core::guard::Setting;
use standin_linux::netlink::{Change, PROTOCOL, Rtnl};
use standin_linux::{forward, sysctl};

use super::{Places, say};
use crate::left::Left;

#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// Say only what was removed
    #[arg(long)]
    quiet: bool,
    /// For programs: what was removed or put back, one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: Places,
}

/// The kernel marks each address with the program that added it; those of standin are taken away, the links
/// that carried them, and nftables tables with its name that belong to no living process. Settings that were
/// changed stand in a file.
pub(super) fn main(args: &ReleaseArgs) -> Result<()> {
    // Kept to the end: no daemon starts meanwhile.
    let _held = args.places.without_daemon("so nothing is a leftover; stop it first")?;
    let mut rtnl = Rtnl::open().context("netlink")?;
    let addresses = rtnl.addresses().context("the host's addresses")?;
    let links = rtnl.links().context("the host's interfaces")?;
    let leftovers: Vec<_> =
        addresses.iter().filter(|address| address.protocol == PROTOCOL).collect();
    let tables = forward::remove_leftovers();
    let own: Vec<_> = links.iter().filter(|link| link.is_of_vip()).collect();
    let mut left = Left::at(args.places.run_dir());
    let settings = left.read(Vec::new());
    let no_table = tables.as_ref().is_ok_and(Vec::is_empty);
    if leftovers.is_empty() && own.is_empty() && settings.is_empty() && no_table {
        if !args.quiet && !args.json {
            println!(
                "nothing to release: no address, link, table or setting on this host was left by a \
                 standin"
            );
        }
        return Ok(());
    }
    let drops: Vec<_> = leftovers
        .iter()
        .map(|address| Change::Drop { index: address.index, prefix: address.prefix })
        .collect();
    let mut results = Vec::new();
    rtnl.change(&drops, &mut results).context("removing addresses")?;
    let mut failed = 0_usize;
    for (address, result) in leftovers.iter().zip(&results) {
        let link = links.iter().find(|link| link.index == address.index);
        let name = link.map_or("?", |link| link.name.as_str());
        let address = address.prefix;
        let error = result.err().map(io::Error::from_raw_os_error);
        let words = error.as_ref().map_or_else(
            || format!("removed {address} from {name}"),
            |error| format!("couldn't remove {address} from {name}: {error}"),
        );
        failed += usize::from(error.is_some());
        let error = error.map(|error| error.to_string());
        let gone = json!({ "address": address.to_string(), "interface": name, "error": error });
        say(args.json, &gone, &words)?;
    }
    if !own.is_empty() {
        let indexes: Vec<u32> = own.iter().map(|link| link.index).collect();
        rtnl.remove_links(&indexes).context("removing links; find them with: ip link")?;
    }
    for link in own {
        let words = format!("removed the link {}", link.name);
        say(args.json, &json!({ "link": link.name, "error": null }), &words)?;
    }
    for table in tables.context("removing nftables tables; find them with: nft list tables")? {
        let words = format!("removed nftables table {table}");
        say(args.json, &json!({ "table": table.to_string(), "error": null }), &words)?;
    }
    anyhow::ensure!(failed == 0, "{failed} addresses are still there");
    put_back(&mut left, &settings, args.json)
}

/// The settings come last: the kernel needs them for the end of the addresses.
fn put_back(left: &mut Left, settings: &[Setting], json: bool) -> Result<()> {
    let mut kept = Vec::new();
    for setting in settings.iter().rev() {
        let error = sysctl::put_back(setting).err();
        let words = error.as_ref().map_or_else(
            || format!("put back {} = {}", setting.path, setting.old),
            |error| format!("couldn't put {} back: {error}", setting.path),
        );
        if error.is_some() {
            kept.push(setting.clone());
        }
        let error = error.map(|error| error.to_string());
        let told = json!({ "setting": setting.path, "value": setting.old, "error": error });
        say(json, &told, &words)?;
    }
    kept.reverse();
    left.write(&kept).context("the list of changed settings")?;
    anyhow::ensure!(kept.is_empty(), "{} settings are still changed", kept.len());
    Ok(())
}
