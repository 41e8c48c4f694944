//! `standin status`: who holds what, why, and what stands in the way.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use hyper::Method;

use super::{Places, ago, client, sync};
use crate::api::types::link::PeerLink;
use crate::api::types::sync::Sync;
use crate::api::types::{Check, Nginx, Peer, Status, Vip};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Ten times what a takeover takes with the usual interval of adverts, and no more than its three adverts with
/// that of version 2.
const SILENT: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// For programs
    #[arg(long)]
    json: bool,
    /// Look again twice a second
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    places: Places,
}

pub(super) fn main(args: &StatusArgs) -> Result<()> {
    let socket = args.places.socket();
    let color = std::io::stdout().is_terminal();
    client::block_on(async {
        loop {
            let answer = client::call(&socket, Method::GET, "/v1/status", None).await?;
            let mut out = std::io::stdout().lock();
            if args.json {
                out.write_all(&answer)?;
                out.write_all(b"\n")?;
            } else {
                let status: Status =
                    serde_json::from_slice(&answer).context("the daemon's answer")?;
                if args.watch && color {
                    out.write_all(b"\x1b[H\x1b[2J")?;
                }
                out.write_all(page(&status, color).as_bytes())?;
            }
            out.flush()?;
            if !args.watch {
                return Ok(());
            }
            drop(out);
            tokio::time::sleep(WATCH_EVERY).await;
        }
    })
}

/// What is good, what wants attention, and what is bad.
#[derive(Clone, Copy)]
enum Paint {
    Good,
    Attention,
    Bad,
}

fn painted(text: &str, paint: Paint, color: bool) -> String {
    if !color {
        return text.to_owned();
    }
    let code = match paint {
        Paint::Good => 32,
        Paint::Attention => 33,
        Paint::Bad => 31,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

fn page(status: &Status, color: bool) -> String {
    let mut out = String::new();
    // Writing to a String can't fail; the same below.
    let _ = writeln!(out, "{} · node {} · standin {}", status.cluster, status.node, status.version);
    if let Some(maintenance) = &status.maintenance {
        let left = maintenance
            .remaining_s
            .map_or_else(String::new, |left| format!(", {} left", ago(Duration::from_secs(left))));
        let _ =
            writeln!(out, "{}", painted(&format!("maintenance{left}"), Paint::Attention, color));
    }
    if let Some(error) = &status.file_error {
        let text = format!("{} on disk has errors; an older one is in force:", status.file);
        let _ = writeln!(out, "{}\n{error}", painted(&text, Paint::Bad, color));
    }
    for stuck in &status.stuck {
        let _ = writeln!(out, "{}", painted(stuck, Paint::Bad, color));
    }
    for vip in &status.vips {
        vip_block(&mut out, vip, &status.node, silence(vip, &status.peers), color);
    }
    if !status.checks.is_empty() {
        out.push_str("\nchecks\n");
        let width = status.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        status.checks.iter().for_each(|check| check_line(&mut out, check, width, color));
    }
    if let Some(nginx) = &status.nginx {
        nginx_block(&mut out, nginx, color);
    }
    if let Some(sync) = &status.sync {
        sync_block(&mut out, sync, color);
    }
    if !status.peers.is_empty() {
        out.push_str("\npeers\n");
    }
    if status.link.is_none() && status.peers.iter().any(|peer| !peer.vrrp_only) {
        out.push_str("  no peer link (standin init makes one)\n");
    }
    if let Some(link) = status.link.as_ref().filter(|link| link.file_version > 0) {
        let _ = writeln!(out, "  version {} of the cluster file", link.file_version);
    }
    for peer in &status.peers {
        let seen = match peer.last_advert_ms {
            Some(ms) if holds_any(peer) => {
                format!("last advert {} ago", ago(Duration::from_millis(ms)))
            }
            Some(ms) => format!(
                "last advert {} ago (only the active sends them)",
                ago(Duration::from_millis(ms))
            ),
            None => "no advert heard (only the active sends them)".to_owned(),
        };
        let kind = if peer.vrrp_only { "  VRRP only" } else { "" };
        let _ = writeln!(out, "  {}  {}{kind}  {seen}", peer.name, peer.addresses.join(" "));
        if let Some(link) = &peer.link {
            peer_link(&mut out, link, color);
        }
    }
    out
}

/// Whether adverts are due from it: without a link nobody knows better.
fn holds_any(peer: &Peer) -> bool {
    peer.link
        .as_ref()
        .filter(|link| link.state == "connected")
        .is_none_or(|link| link.vips.iter().any(|vip| vip.role == "active"))
}

/// One line for each node; `standin sync status` says more.
fn sync_block(out: &mut String, sync: &Sync, color: bool) {
    let from = sync.writer.as_deref().unwrap_or("nobody");
    // Writing to a String can't fail; the same below.
    let _ = writeln!(out, "\nshared files, from {from}");
    let width = sync.nodes.iter().map(|node| node.name.len()).max().unwrap_or(0);
    for node in &sync.nodes {
        let number = node.proven.as_ref().map_or(0, |it| it.number);
        let desired = node.desired.as_ref().map_or(0, |it| it.number);
        let word = sync::word(node);
        let paint = match word {
            "current" => Paint::Good,
            "behind" | "held" => Paint::Bad,
            _ => Paint::Attention,
        };
        let word = painted(word, paint, color);
        let more = if node.problem.is_some() { ": standin sync status says why" } else { "" };
        let _ =
            writeln!(out, "  {:<width$}  serves {number} of {desired}  {word}{more}", node.name);
    }
    let strays = sync.outside.len();
    if strays > 0 {
        let what = if strays == 1 { "1 file" } else { &format!("{strays} files") };
        let text = format!("{what} outside, not the same on all nodes: standin sync status");
        let _ = writeln!(out, "  {}", painted(&text, Paint::Attention, color));
    }
    for note in &sync.notes {
        let _ = writeln!(out, "  {}", painted(note, Paint::Attention, color));
    }
    for target in &sync.targets {
        let paint = match target.state.as_str() {
            "current" => Paint::Good,
            "waiting" => Paint::Attention,
            _ => Paint::Bad,
        };
        let state = painted(&sync::state(target), paint, color);
        let why = target.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let _ = writeln!(out, "  rsync {}  {state}{why}", target.to);
    }
}

/// What must be added to this node's clock to have the peer's. From a second on the two nodes' events can't be
/// read together.
fn difference(clock_ms: f64, color: bool) -> String {
    if clock_ms.abs() < 1000.0 {
        // Not "-0.0".
        return format!("{:+.1} ms", (clock_ms * 10.0).round() / 10.0 + 0.0);
    }
    let sign = if clock_ms < 0.0 { '-' } else { '+' };
    let far = Duration::try_from_secs_f64(clock_ms.abs() / 1000.0).unwrap_or(Duration::MAX);
    painted(&format!("{sign}{}", ago(far)), Paint::Attention, color)
}

/// What a peer says of itself, and how it is reached.
fn peer_link(out: &mut String, link: &PeerLink, color: bool) {
    let since = link
        .since_ms
        .map_or_else(String::new, |since| format!(" for {}", ago(Duration::from_millis(since))));
    let paint = match link.state.as_str() {
        "connected" => Paint::Good,
        "no certificate" => Paint::Attention,
        _ => Paint::Bad,
    };
    let why = link.problem.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    // Writing to a String can't fail; the same below.
    let _ = write!(out, "      link {}{since}{why}", painted(&link.state, paint, color));
    if let (Some(trip), Some(clock)) = (link.round_trip_ms, link.clock_difference_ms) {
        let _ = write!(out, ", round trip {trip:.1} ms, its clock {}", difference(clock, color));
    }
    if let Some(version) = link.version.as_ref().filter(|it| *it != env!("CARGO_PKG_VERSION")) {
        let _ = write!(out, ", standin {version}");
    }
    out.push('\n');
    if link.same_file == Some(false) {
        let version = link.file_version.unwrap_or_default();
        let text =
            format!("its cluster file is another than the one here (it has version {version})");
        let _ = writeln!(out, "      {}", painted(&text, Paint::Bad, color));
    }
    if link.maintenance {
        let _ = writeln!(out, "      {}", painted("maintenance", Paint::Attention, color));
    }
    for vip in &link.vips {
        let paint = if vip.standing == "eligible" { Paint::Good } else { Paint::Bad };
        let standing = painted(&vip.standing, paint, color);
        let obstacle = vip.obstacle.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let (name, role) = (&vip.name, &vip.role);
        let _ =
            writeln!(out, "      {name}  {role}, {standing}{obstacle}; priority {}", vip.priority);
    }
}

/// For how long the node that is taken for the holder hasn't been heard, where that is worth a word: a node
/// that may not claim the VIP goes on taking it for that.
fn silence(vip: &Vip, peers: &[Peer]) -> Option<Duration> {
    let holder = vip.holder.as_ref().filter(|_| vip.role != "active")?;
    let peer = peers.iter().find(|peer| peer.name == *holder)?;
    peer.last_advert_ms.map(Duration::from_millis).filter(|silent| *silent >= SILENT)
}

fn vip_block(out: &mut String, vip: &Vip, node: &str, silent: Option<Duration>, color: bool) {
    let holder = match (&vip.holder, vip.role.as_str()) {
        (Some(holder), _) if holder == node => painted("this node", Paint::Good, color),
        (Some(holder), _) => painted(holder, Paint::Good, color),
        (None, _) => painted("nobody that this node can hear", Paint::Bad, color),
    };
    let _ = writeln!(
        out,
        "\n{}  {}  on {} (router id {})",
        vip.name,
        vip.addresses.join(" "),
        vip.interface,
        vip.virtual_router_id
    );
    if !vip.virtual_macs.is_empty() {
        let _ = writeln!(out, "  served at  {}", vip.virtual_macs.join(" "));
    }
    let last_resort = vip.holder_priority == Some(1);
    let note = if last_resort { ", as a last resort: it isn't healthy" } else { "" };
    let silent = silent.map_or_else(String::new, |silent| {
        let text = format!(", as of {} ago: nothing was heard of it since", ago(silent));
        painted(&text, Paint::Attention, color)
    });
    let _ = writeln!(out, "  held by    {holder}{note}{silent}");
    let _ = writeln!(
        out,
        "  this node  {} for {}{}",
        vip.role,
        ago(Duration::from_millis(vip.since_ms)),
        vip.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"))
    );
    let paint = if vip.eligible { Paint::Good } else { Paint::Bad };
    let obstacle = vip.obstacle.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    let _ = writeln!(out, "             {}{obstacle}", painted(&vip.standing, paint, color));
    if vip.role == "idle" {
        let text = format!(
            "waits until {} is there and up, and this node has its own address; standin check says what is missing. \
             If the interface has another name by now: standin reload",
            vip.interface
        );
        let _ = writeln!(out, "             {}", painted(&text, Paint::Attention, color));
    }
    let said = match vip.role.as_str() {
        "active" if vip.effective_priority != vip.priority => {
            format!(", advertised as {}", vip.effective_priority)
        }
        _ => String::new(),
    };
    let _ = writeln!(out, "  priority   {}{said}", vip.priority);
    if let Some(awaited) = &vip.awaited {
        let owner = awaited.owner.as_deref().unwrap_or("nobody yet");
        let text = if vip.role == "active" {
            format!("given back as soon as the old host ({owner}) answers (await-vacant)")
        } else {
            format!("taken as soon as the old host ({owner}) answers no more (await-vacant)")
        };
        let _ = writeln!(out, "             {}", painted(&text, Paint::Attention, color));
    }
    for lost in &vip.lost {
        let (from, to) = (&lost.from, &lost.to);
        let lasting = ago(Duration::from_millis(lost.since_ms));
        let text = format!("adverts of {from} haven't reached {to} for {lasting} (one-way loss?)");
        let _ = writeln!(out, "             {}", painted(&text, Paint::Bad, color));
    }
    if let Some(mac) = &vip.foreign_owner {
        let text = format!("{mac} answers for the address and sends no adverts: not taken");
        let _ = writeln!(out, "             {}", painted(&text, Paint::Bad, color));
    }
    if let Some(rival) = &vip.rival {
        let text = format!("{rival} has the address as well");
        let _ = writeln!(out, "             {}", painted(&text, Paint::Bad, color));
    }
    if vip.alone {
        let text = "nobody stands in: no other node is connected and eligible";
        let _ = writeln!(out, "             {}", painted(text, Paint::Attention, color));
    }
    if vip.unwitnessed {
        let text = "no witness is seen: the loss of a peer ends it here";
        let _ = writeln!(out, "             {}", painted(text, Paint::Attention, color));
    }
}

fn check_line(out: &mut String, check: &Check, width: usize, color: bool) {
    let paint = match check.state.as_str() {
        "passing" => Paint::Good,
        "failing" => Paint::Bad,
        _ => Paint::Attention,
    };
    let state = painted(&format!("{:<7}", check.state), paint, color);
    // What the state hides: a failure that doesn't count yet, a pass that doesn't either.
    let note = match (check.state.as_str(), check.last.as_deref()) {
        ("passing", Some("fail" | "dead")) => ", fails now",
        ("failing", Some("pass")) => ", passes now",
        _ => "",
    };
    let took =
        if check.took_ms >= 0.05 { format!(" ({:.1} ms)", check.took_ms) } else { String::new() };
    // A script's own words rarely say which script it is.
    let what = if check.kind == "script" { format!("{}: ", check.target) } else { String::new() };
    let _ = writeln!(out, "  {:<width$}  {state}{note}  {what}{}{took}", check.name, check.detail);
}

fn nginx_block(out: &mut String, nginx: &Nginx, color: bool) {
    let flavour = nginx.flavour.as_deref().unwrap_or("nginx");
    let version = nginx.version.as_deref().unwrap_or("");
    let master = match nginx.master {
        Some(pid) => format!("master {pid}, {} workers", nginx.workers.len()),
        None => painted("not running", Paint::Bad, color),
    };
    let _ = writeln!(out, "\nnginx\n  {flavour} {version}  {master}");
    if let Some(conf) = &nginx.conf {
        let _ = writeln!(out, "  {conf}");
    }
    if !nginx.orphans.is_empty() {
        let text = format!("workers without a master: {:?}", nginx.orphans);
        let _ = writeln!(out, "  {}", painted(&text, Paint::Bad, color));
    }
    if let Some(probe) = &nginx.probe {
        let _ = writeln!(out, "  probed at {probe}");
    }
    if let Some(why) = &nginx.no_probe {
        let _ = writeln!(out, "  not probed over HTTP: {why}");
    }
    for note in &nginx.notes {
        let _ = writeln!(out, "  {note}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(more: &str) -> Vip {
        let text = format!(
            r#"{{"name":"web","virtual_router_id":41,"interface":"eth0","addresses":["192.0.2.41/24"],
            "role":"active","since_ms":5000,"reason":null,"eligible":true,"standing":"eligible","obstacle":null,
            "priority":150,"effective_priority":150,"holder":"n1","holder_priority":150,"foreign_owner":null,
            "awaited":null,"counters":{{"adverts_sent":1,"adverts_heard":0,"adverts_ignored":0,"takeovers":1,
            "restored":0}}{more}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_clock_that_is_far_off_is_told_in_units_that_can_be_read() {
        let told = [0.04, -3.26, 999.0, -1000.0, 3_600_000.4, -946_684_800_000.0];
        let told = told.map(|clock| difference(clock, false));
        let far = ["+0.0 ms", "-3.3 ms", "+999.0 ms", "-1 s", "+1h 00m", "-10957d 00h"];
        assert_eq!(told, far);
        assert!(difference(f64::INFINITY, false).starts_with('+'));
    }

    #[test]
    fn a_holder_that_is_not_heard_any_more_is_told_as_that() {
        let backup = Vip { role: "backup".to_owned(), ..vip("") };
        let told = |last: &str| {
            let peer = format!(
                r#"[{{"name":"n1","addresses":[],"vrrp_only":false,"last_advert_ms":{last},"link":null}}]"#
            );
            let peers: Vec<Peer> = serde_json::from_str(&peer).unwrap();
            let mut out = String::new();
            vip_block(&mut out, &backup, "n2", silence(&backup, &peers), false);
            out
        };
        assert!(told("4200").contains("held by    n1, as of 4 s ago: nothing was heard"));
        assert!(told("90").contains("held by    n1\n") && told("null").contains("held by    n1\n"));
    }

    #[test]
    fn an_idle_vip_says_what_it_waits_for() {
        let idle = Vip { role: "idle".to_owned(), ..vip("") };
        let mut out = String::new();
        vip_block(&mut out, &idle, "n1", None, false);
        assert!(out.contains("waits until eth0 is there and up") && out.contains("standin reload"));
    }

    #[test]
    fn what_threatens_a_vip_that_is_held_has_a_line_each_and_else_none() {
        let block = |more: &str| {
            let mut out = String::new();
            vip_block(&mut out, &vip(more), "n1", None, false);
            out
        };
        let well = block("");
        let only = |more: &str| block(more).replace(&well, "").trim().to_owned();
        assert_eq!(only(r#","rival":"n2""#), "n2 has the address as well");
        assert_eq!(
            only(r#","alone":true"#),
            "nobody stands in: no other node is connected and eligible"
        );
        assert_eq!(
            only(r#","unwitnessed":true"#),
            "no witness is seen: the loss of a peer ends it here"
        );
    }
}
