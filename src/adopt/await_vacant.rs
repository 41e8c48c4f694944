//! `standin adopt --await-vacant`: has this node's daemon wait for an address, and shows how it goes.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use hyper::Method;
use serde_json::json;
use standin_core::types::Prefix;

use super::AdoptArgs;
use crate::api::types::{Status, Vip};
use crate::cli::{ago, client};

/// As often as a person can follow.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

pub(super) fn run(args: &AdoptArgs, address: IpAddr, vip: &str) -> Result<()> {
    client::block_on(order(args, address, vip))
}

async fn order(args: &AdoptArgs, address: IpAddr, vip: &str) -> Result<()> {
    let socket = args.places.socket();
    let found = look(args, vip).await?;
    let has = |text: &String| text.parse().is_ok_and(|prefix: Prefix| prefix.address() == address);
    ensure!(
        found.addresses.iter().any(has),
        "[vip.{vip}] doesn't have {address}, it has {}",
        found.addresses.join(" ")
    );
    let every_ms = (!args.end).then(|| u64::try_from(args.every.as_millis()).unwrap_or(u64::MAX));
    let body = json!({ "vip": vip, "every_ms": every_ms });
    client::call(&socket, Method::POST, "/v1/await-vacant", Some(&body)).await?;
    if args.end {
        if !args.json {
            println!("{address} isn't waited for any more; whoever has it keeps it");
        }
        return Ok(());
    }
    if !args.json {
        println!(
            "waiting until nobody answers for {address}; this may be left with Ctrl-C, the daemon goes on (--end \
             ends it)\nsay the same on the other nodes of [vip.{vip}], else they take the address when this one gives \
             it back"
        );
    }
    let began = Instant::now();
    let mut shown = String::new();
    loop {
        let vip = look(args, vip).await?;
        let awaited = vip.awaited.as_ref().context("the waiting was ended")?;
        let owner = awaited.owner.as_deref();
        let now = match (vip.role.as_str(), vip.holder.as_deref(), owner) {
            ("active", ..) => "taken".to_owned(),
            // What answers is that node, and the old host no more.
            (_, Some(holder), _) => format!("{holder} has it"),
            _ if !vip.eligible => {
                let why = vip.obstacle.as_deref().unwrap_or("not eligible");
                format!("wouldn't be taken now: {why}")
            }
            (_, None, None) => "nobody has answered yet".to_owned(),
            (_, None, Some(owner)) => format!("{owner} answers"),
        };
        if now != shown {
            let after = ago(began.elapsed());
            if args.json {
                let line = json!({
                    "after_ms": u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                    "role": vip.role, "eligible": vip.eligible, "owner": owner, "text": now,
                });
                println!("{line}");
            } else {
                println!("{after:>8}  {now}");
            }
            shown = now;
        }
        if vip.role == "active" {
            if !args.json {
                println!(
                    "{address} is here. It is given back if {} answers again, or if this node isn't healthy. When you \
                     are content, end that here and on the other nodes: standin adopt {address} --vip {} \
                     --await-vacant --end",
                    owner.unwrap_or("another host"),
                    vip.name
                );
            }
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(args: &AdoptArgs, name: &str) -> Result<Vip> {
    let answer = client::call(&args.places.socket(), Method::GET, "/v1/status", None).await?;
    let status: Status = serde_json::from_slice(&answer).context("the daemon's answer")?;
    let vip = status.vips.into_iter().find(|vip| vip.name == name);
    vip.ok_or_else(|| anyhow!("this node has no VIP {name}"))
}
