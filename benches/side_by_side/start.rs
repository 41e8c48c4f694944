//! How soon a node speaks, and a thousand VIPs at once.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use standin_core::types::Family;
use standin_linux::advert::AdvertReceiver;
use standin_linux::epoll::Poll;
use standin_linux::netlink::Rtnl;

use crate::configs::{self, Node, Setup, interface};
use crate::host::{Host, Program};
use crate::report::Figure;
use crate::{Options, median};

const STARTS: Duration = Duration::from_secs(20);

/// On four interfaces.
const MANY: usize = 1_000;

const MANY_WITHIN_S: f64 = 2.0;

/// How a daemon is started, and whether it takes realtime priority by default.
type Start = fn(&Host, Node, Setup) -> Result<Program>;

const DAEMONS: [(Start, bool); 2] = [(configs::standin, true), (configs::keepalived, false)];

/// From the start of the program to the first advert on the wire.
pub(crate) fn first_advert(dir: &Path, options: &Options) -> Result<Vec<Figure>> {
    let (one, two) = configs::pair(dir, 1)?;
    let mut medians = [0.0; 2];
    for ((start, realtime), median_ms) in DAEMONS.into_iter().zip(&mut medians) {
        let mut all = Vec::new();
        for _ in 0..options.rounds() {
            let own = std::env::current_exe()?;
            let mut ear = two.command(&format!("{} --hear", own.display()));
            let mut ear = ear.stdout(Stdio::piped()).spawn()?;
            let mut lines = BufReader::new(ear.stdout.take().context("a pipe")?).lines();
            // It says when it listens, and when it has heard.
            lines.next().context("the listener has ended")??;
            let program = start(&one, Node(1), Setup { vips: 1, interval_ms: 100, realtime })?;
            lines.next().context("the listener has ended")??;
            all.push(program.started.elapsed().as_secs_f64() * 1000.0);
            ear.wait()?;
            program.stop()?;
            one.wait_for_vips(0, STARTS)?;
        }
        *median_ms = median(all);
    }
    let mut figure = Figure::new("start to first advert, adverts every 100 ms", "ms");
    (figure.standin, figure.keepalived) = (Some(medians[0]), Some(medians[1]));
    figure.notes.push("both begin as backup, and wait for an active as VRRP has it".to_owned());
    Ok(vec![figure])
}

/// Says `listening`, then `heard` at the first advert; runs in a host.
pub(crate) fn hear() -> Result<()> {
    use std::os::fd::AsFd;
    let name = interface(0);
    let links = Rtnl::open()?.links()?;
    let link = links.iter().find(|link| link.name == name).context("no such interface")?;
    let mut receiver = AdvertReceiver::open(Family::V4, link.index, &name, 1)?;
    let poll = Poll::new()?;
    poll.add(receiver.as_fd(), 0)?;
    println!("listening");
    let mut ready = Vec::new();
    loop {
        poll.wait_for(&mut ready, STARTS)?;
        if ready.is_empty() {
            bail!("no advert within {STARTS:?}");
        }
        if receiver.receive(&mut |_| {})? > 0 {
            println!("heard");
            return Ok(());
        }
    }
}

/// A thousand VIPs on four interfaces come and go.
pub(crate) fn thousand(dir: &Path, _: &Options) -> Result<Vec<Figure>> {
    let (one, _two) = configs::pair(dir, MANY)?;
    let mut times = [[0.0; 2]; 2];
    for ((start, realtime), times) in DAEMONS.into_iter().zip(&mut times) {
        let began = Instant::now();
        let mut program = start(&one, Node(1), Setup { vips: MANY, interval_ms: 100, realtime })?;
        one.wait_for_vips(MANY, STARTS)?;
        times[0] = began.elapsed().as_secs_f64();
        if !program.is_running() {
            bail!("it has ended by itself, see {}", program.log.display());
        }
        times[1] = program.stop()?.as_secs_f64();
        // keepalived may leave some to the kernel.
        one.wait_for_vips(0, STARTS)?;
    }
    let row = |what: &str, place: usize| {
        let own = times[0][place];
        let mut figure = Figure::new(format!("{MANY} VIPs on 4 interfaces: {what}"), "s")
            .aim(format!("≤ {MANY_WITHIN_S} s"), own <= MANY_WITHIN_S);
        (figure.standin, figure.keepalived) = (Some(own), Some(times[1][place]));
        figure
    };
    Ok(vec![row("start until all are there", 0), row("stop until it has ended", 1)])
}
