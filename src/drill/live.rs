//! A drill of the cluster that runs: a planned move there and back, and a takeover if told, while this node asks.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use hyper::Method;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::LiveArgs;
use super::past::{self, Drill, Move};
use crate::api::types::{Status, Vip};
use crate::cli::client::{self as api, Unanswered};
use crate::cli::switchover;
use crate::control::time::rfc3339;
use crate::lab::client::{Client, Question, milliseconds};

/// The VIP must have answered for this long before it is touched.
const STEADY_FOR: Duration = Duration::from_millis(500);

/// A VIP that answers is steady by then.
const STEADY_WITHIN: Duration = Duration::from_secs(5);

/// What a move brings about is over by then.
const SETTLES_FOR: Duration = Duration::from_millis(500);

/// A node that just lost its VIP may be held down, or nginx be damped, before it may have it again.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOKS_EVERY: Duration = Duration::from_millis(200);

/// Peers take over much sooner; it is over by itself should this program be killed meanwhile.
const OUT_OF_SERVICE: Duration = Duration::from_secs(10);

/// What nobody answers for after a takeover, at most: the promise for a dead nginx.
const TAKEOVER_MS: f64 = 100.0;

/// `standin drill live`; false when clients noticed more than they should.
pub(super) fn main(args: &LiveArgs) -> Result<bool> {
    let socket = args.places.socket();
    let status = api::block_on(status(&socket))?;
    let vip = of(&status, &args.vip)?;
    let home = vip.holder.clone().ok_or_else(|| anyhow!("nobody has {} now", args.vip))?;
    if args.takeover && home != status.node {
        bail!(
            "{home} has {}: a takeover is drilled there (`standin drill live {} --takeover`)",
            args.vip,
            args.vip
        );
    }
    let client = Client::start(None, question(args, vip)?);
    let mut live = Live { args, socket, client: &client, moves: Vec::new() };
    let done = live.all(&home);
    let moves = std::mem::take(&mut live.moves);
    let live_holder = live.holder().ok();
    client.finish()?;
    let drill = Drill {
        at: rfc3339(SystemTime::now()),
        cluster: status.cluster,
        vip: args.vip.clone(),
        measured_from: status.node,
        every_ms: args.every.as_secs_f64() * 1000.0,
        good: done.is_ok() && moves.iter().all(|one| one.good),
        moves,
    };
    if !drill.moves.is_empty()
        && let Err(error) = past::keep(&args.kept.state_dir, &drill)
    {
        eprintln!("warning: this drill isn't in the history: {error:#}");
    }
    if let Some(remark) = past::remark(&drill) {
        eprintln!("{remark}");
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&drill)?);
    }
    done.with_context(|| whereabouts(&args.vip, &home, live_holder))?;
    Ok(drill.good)
}

/// What is left to be done after a drill that broke off.
fn whereabouts(vip: &str, home: &str, holder: Option<String>) -> String {
    match holder {
        Some(holder) if holder == home => format!("{vip} is on {home}, as before"),
        Some(holder) => {
            format!("{vip} is on {holder}; `standin switchover {vip} {home}` brings it back")
        }
        None => format!("{vip} is nobody's now; see `standin status`"),
    }
}

async fn status(socket: &Path) -> Result<Status> {
    let answer = api::call(socket, Method::GET, "/v1/status", None).await?;
    serde_json::from_slice(&answer).context("the daemon's status can't be read: another version?")
}

fn of<'a>(status: &'a Status, name: &str) -> Result<&'a Vip> {
    status.vips.iter().find(|vip| vip.name == name).ok_or_else(|| {
        let known: Vec<_> = status.vips.iter().map(|vip| vip.name.as_str()).collect();
        anyhow!("no VIP is called {name}; there are: {}", known.join(", "))
    })
}

fn question(args: &LiveArgs, vip: &Vip) -> Result<Question> {
    let mut targets = Vec::new();
    for address in &vip.addresses {
        let bare = address.split('/').next().unwrap_or(address);
        let address: IpAddr = bare.parse().with_context(|| format!("the address {address}"))?;
        targets.push(SocketAddr::new(address, args.port));
    }
    let own = targets.first().map(|target| match target.ip() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    });
    let host = args.host.clone().or(own).unwrap_or_default();
    Ok(Question {
        targets,
        every: args.every,
        deadline: Duration::from_millis(args.deadline_ms),
        request: format!(
            "HEAD {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: standin-drill\r\nConnection: close\r\n\r\n",
            args.path
        ),
        judge: answered,
    })
}

/// `None` while more is to come; then whether it is an answer, and not nginx's word that it has none.
fn answered(answer: &[u8]) -> Option<bool> {
    answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let status = answer.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2));
    Some(status.is_some_and(|digit| (b'1'..b'5').contains(digit)))
}

struct Live<'a> {
    args: &'a LiveArgs,
    socket: PathBuf,
    client: &'a Client,
    moves: Vec<Move>,
}

impl Live<'_> {
    /// The VIP ends where it was, whatever was measured.
    fn all(&mut self, home: &str) -> Result<()> {
        self.steady()?;
        let away = self.switch(home, self.args.to.as_deref())?;
        self.switch(&away, Some(home))?;
        if self.args.takeover {
            let other = self.take_over(home)?;
            self.switch(&other, Some(home))?;
        }
        Ok(())
    }

    fn steady(&self) -> Result<()> {
        let began = Instant::now();
        while self.client.steady_for() < STEADY_FOR {
            if began.elapsed() > STEADY_WITHIN {
                bail!(
                    "{} isn't answered without a failure from here (HEAD {} on port {}): nothing was moved. \
                     --port, --path and --host say what is asked",
                    self.args.vip,
                    self.args.path,
                    self.args.port
                );
            }
            pause(LOOKS_EVERY)?;
        }
        Ok(())
    }

    /// A planned move; returns who has it then.
    fn switch(&mut self, from: &str, to: Option<&str>) -> Result<String> {
        let began = Instant::now();
        let order = json!({
            "vip": self.args.vip,
            "to": to,
            "drain_s": self.args.drain.map(|time| time.as_secs_f64()),
        });
        let mut said = false;
        loop {
            let start = Instant::now();
            match api::block_on(follow(&self.socket, &self.args.vip, &order, self.args.json)) {
                Ok(()) => {
                    let now = self.holder()?;
                    self.measured("switchover", from, &now, start, |failed, _| failed == 0);
                    return Ok(now);
                }
                // The node that just gave it up is not ready yet.
                Err(error) if began.elapsed() < READY_WITHIN && !self.moves.is_empty() => {
                    if error.downcast_ref::<Unanswered>().is_none() {
                        return Err(error);
                    }
                    if !std::mem::replace(&mut said, true) {
                        self.say(&format!("waiting: {error:#}"));
                    }
                    pause(LOOKS_EVERY)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// This node gives it up at once; returns who took it.
    fn take_over(&mut self, home: &str) -> Result<String> {
        self.say(&format!("{home} gives {} up at once …", self.args.vip));
        let start = Instant::now();
        let on = json!({ "on": true, "for_s": OUT_OF_SERVICE.as_secs_f64(), "now": true });
        self.maintenance(&on)?;
        let taken = loop {
            let holder = self.holder();
            if holder.as_ref().is_ok_and(|holder| holder != home)
                || start.elapsed() > OUT_OF_SERVICE
            {
                break holder;
            }
            if let Err(error) = pause(LOOKS_EVERY) {
                break Err(error);
            }
        };
        std::thread::sleep(SETTLES_FOR);
        self.maintenance(&json!({ "on": false }))?;
        let now = taken?;
        self.measured("takeover", home, &now, start, |_, without| {
            without.is_some_and(|ms| ms <= TAKEOVER_MS)
        });
        Ok(now)
    }

    fn maintenance(&self, order: &Value) -> Result<()> {
        api::block_on(api::call(&self.socket, Method::POST, "/v1/maintenance", Some(order)))?;
        Ok(())
    }

    fn holder(&self) -> Result<String> {
        let status = api::block_on(status(&self.socket))?;
        let vip = of(&status, &self.args.vip)?;
        vip.holder
            .clone()
            .ok_or_else(|| anyhow!("nobody has {} now; see `standin status`", vip.name))
    }

    fn measured(
        &mut self,
        kind: &str,
        from: &str,
        to: &str,
        start: Instant,
        good: fn(usize, Option<f64>) -> bool,
    ) {
        std::thread::sleep(SETTLES_FOR);
        let met = self.client.so_far(start);
        let without = met.outage.map(milliseconds);
        let one = Move {
            kind: kind.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            without_answer_ms: without,
            requests: met.attempts,
            requests_failed: met.failed,
            client_stall_ms: milliseconds(met.stall),
            good: good(met.failed, without),
        };
        self.say(&past::line(&one));
        self.moves.push(one);
    }

    fn say(&self, line: &str) {
        if self.args.json {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }
}

/// Waits, unless somebody presses Ctrl-C.
fn pause(time: Duration) -> Result<()> {
    api::block_on(async {
        let mut interrupts = signal(SignalKind::interrupt())?;
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            _ = interrupts.recv() => bail!("interrupted"),
        }
    })
}

/// Orders a switchover and waits for its end; a refusal is an [`Unanswered`].
async fn follow(socket: &Path, vip: &str, order: &Value, quiet: bool) -> Result<()> {
    let response = api::stream(socket, Method::POST, "/v1/switchover", Some(order)).await?;
    let told = api::lines(response, |line| {
        let step: Value = serde_json::from_slice(line)?;
        let text = step.get("text").and_then(Value::as_str).unwrap_or_default();
        match step.get("step").and_then(Value::as_str) {
            Some("done") => return Ok(true),
            Some("failed" | "called_off") => bail!("{text}"),
            Some("draining") => {}
            _ if quiet => {}
            _ => println!("  {text}"),
        }
        Ok(false)
    });
    tokio::pin!(told);
    let mut interrupts = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            ended = &mut told => return ended,
            _ = interrupts.recv() => {
                eprintln!("\ncalling it off");
                if let Err(error) = switchover::call_off(socket, vip).await {
                    eprintln!("{error}");
                }
            }
        }
    }
}
