//! Switchovers: which are under way, and what begins one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use standin_core::Command;
use standin_core::event::{Kind, Role, Standing};
use standin_core::types::Priority;
use standin_core::view::VipView;
use tokio::sync::{mpsc, oneshot};

use super::log::Severity;
use super::{Control, Request, STOP_TAKES, Status};
use crate::engine::messages::{Happened, ToEngine};
use crate::switchover::ordered::{self, STORY, Thread};
use crate::switchover::{Progress, Said, Word, giving, millis, taking};
use crate::sync::Ask;

/// Its driver answers between two of its jobs' steps.
const SYNC_ANSWERS: Duration = Duration::from_secs(1);

/// At a stop the drain takes no longer, whatever the file says: systemd and operators wait for it.
pub(crate) const STOP_DRAINS_FOR: Duration = Duration::from_secs(60);

/// What an operator asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) vip: String,
    pub(crate) to: Option<String>,
    /// The file's `drain_timeout` where it isn't given.
    pub(crate) drain: Option<Duration>,
    /// Also to a node that doesn't serve the active's generation of the shared files.
    pub(crate) stale_ok: bool,
    /// Also to a node that this one's adverts don't reach: who goes away has no choice.
    pub(crate) deaf_ok: bool,
    pub(crate) by: String,
    pub(crate) asked: Asked,
}

/// Where a switchover was ordered: who may call it off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Asked {
    #[default]
    Here,
    /// On that node, which calls it so.
    There(String, u64),
    /// It undoes another one.
    Undo,
}

/// All that is under way, by VIP.
#[derive(Default)]
pub(super) struct Moves {
    pub(super) giving: BTreeMap<String, giving::Handle>,
    taking: BTreeMap<String, taking::Handle>,
    /// Those that this node has ordered of another one, by their ids.
    ordered: BTreeMap<u64, ordered::Handle>,
    last_id: u64,
    /// When the daemon ends at the latest; it is stopping then.
    pub(super) stop_by: Option<tokio::time::Instant>,
    /// The engine was told to stop.
    stop_asked: bool,
}

impl Moves {
    /// Whether the program can be replaced without cutting anybody's connection.
    pub(super) fn is_empty(&self) -> bool {
        self.giving.is_empty() && self.taking.is_empty()
    }

    fn next_id(&mut self) -> u64 {
        self.last_id = standin_linux::clock::now().as_nanos().max(self.last_id + 1);
        self.last_id
    }
}

/// The state of this node; `None` when the engine is stuck or the daemon ends.
pub(crate) async fn status(desk: &mpsc::Sender<Request>) -> Option<Status> {
    let (sender, receiver) = oneshot::channel();
    desk.send(Request::Status(sender)).await.ok()?;
    receiver.await.ok()?
}

/// Since when adverts of this node don't reach a peer, as that one says over the link.
fn unheard_for(view: &VipView, peer: &str) -> Option<Duration> {
    view.lost.iter().find(|lost| !lost.incoming && lost.peer == peer).map(|lost| lost.lasting)
}

impl Control {
    /// An operator asks for a switchover: begins it here, or has it begun where the VIP is.
    pub(super) async fn asked_to_switch(
        &mut self,
        wish: Wish,
    ) -> Result<mpsc::Receiver<Progress>, String> {
        let status = self.status().await.ok_or("the engine doesn't answer; see the log")?;
        let view = status.view.vips.iter().find(|vip| vip.name == wish.vip);
        match view.filter(|view| view.role != Role::Active).and_then(|view| view.holder.clone()) {
            Some(holder) => self.order(holder, wish),
            None => self.switch_over(wish, true).await,
        }
    }

    /// Asks the node that has the VIP.
    fn order(&mut self, holder: String, wish: Wish) -> Result<mpsc::Receiver<Progress>, String> {
        let Wish { vip, to, drain, stale_ok, by, .. } = wish;
        if to.as_ref() == Some(&holder) {
            return Err(format!("{holder} has {vip} already"));
        }
        let id = self.moves.next_id();
        let thread = self.thread(id, &vip, &holder)?;
        let by = format!("{by} on {}", self.node);
        if !thread.say(Word::Order { to, drain_ms: drain.map(millis), stale_ok, by: by.clone() }) {
            return Err(format!("{holder} has {vip}, and there is no peer link with it"));
        }
        let desk = self.desk.clone().ok_or("the daemon is starting")?;
        let text = format!("switchover asked of {holder}, which has it, by {by}");
        self.log.line(Severity::Notice, Some(&vip), &text);
        let (handle, story) = ordered::follow(thread, desk);
        self.moves.ordered.insert(id, handle);
        Ok(story)
    }

    fn thread(&self, id: u64, vip: &str, peer: &str) -> Result<Thread, String> {
        let link = self.link.as_ref().ok_or_else(|| {
            format!("{peer} has {vip}: say it there, or make a peer link with `standin init`")
        })?;
        Ok(Thread { id, vip: vip.to_owned(), peer: peer.to_owned(), line: link.line() })
    }

    /// Begins a switchover, or says why not; its story is told to the receiver.
    pub(super) async fn switch_over(
        &mut self,
        wish: Wish,
        watched: bool,
    ) -> Result<mpsc::Receiver<Progress>, String> {
        let status = self.status().await.ok_or("the engine doesn't answer; see the log")?;
        let to = self.successor(&status, &wish)?;
        if !wish.stale_ok {
            self.current(&to).await?;
        }
        let vip = self.cluster.vip(&wish.vip).ok_or("there is no such VIP")?;
        let drain = wish.drain.unwrap_or(vip.drain_timeout);
        let nginx = status.nginx.as_ref();
        let relay = self.moves.taking.get(&wish.vip).filter(|handle| handle.from != to);
        let relay =
            relay.map(|handle| giving::Relay { task: handle.signals.clone(), until: handle.until });
        let job = giving::Job {
            id: self.moves.next_id(),
            node: self.node.clone(),
            relay,
            vip: wish.vip.clone(),
            asked: wish.asked,
            addresses: vip.addresses.iter().map(|prefix| prefix.address()).collect(),
            to: to.clone(),
            drain,
            nginx_master: nginx.and_then(|nginx| nginx.master),
            shares: self.cluster.sync.is_some(),
            quic_ports: nginx.map_or_else(Vec::new, |nginx| nginx.quic_ports.clone()),
        };
        let (Some(line), Some(desk)) = (self.link.as_ref().map(|it| it.line()), self.desk.clone())
        else {
            return Err("this node has no peer link".to_owned());
        };
        let text = format!("switchover to {to} begins, asked by {}", wish.by);
        self.note(Severity::Notice, "switchover", Some(&wish.vip), &text);
        let (progress, story) = mpsc::channel(STORY);
        let around = giving::Around { line, engine: self.engine.clone(), desk, progress, watched };
        self.moves.giving.insert(wish.vip, giving::begin(job, around));
        Ok(story)
    }

    /// Whether a node serves what the active does; where files aren't shared there is nothing to ask.
    async fn current(&self, node: &str) -> Result<(), String> {
        let Some(sync) = &self.sync else { return Ok(()) };
        let (sender, receiver) = oneshot::channel();
        sync.ask(Ask::Status(sender));
        let Ok(Ok(Ok(status))) = tokio::time::timeout(SYNC_ANSWERS, receiver).await else {
            return Ok(());
        };
        let known = status.nodes.iter().find(|it| it.name == node);
        let Some(behind) = known.filter(|it| it.current == Some(false)) else { return Ok(()) };
        let why = behind.problem.as_ref().map_or_else(
            || "it has not loaded it yet".to_owned(),
            |problem| format!("{}: {}", problem.kind, problem.why),
        );
        Err(format!(
            "{node} doesn't serve {}'s generation of the shared files ({why}); `--stale-ok` moves the VIP \
             all the same",
            self.node
        ))
    }

    /// The node that is to have the VIP: the one that was named, else the best one that is ready.
    fn successor(&self, status: &Status, wish: &Wish) -> Result<String, String> {
        let name = &wish.vip;
        let view = status.view.vips.iter().find(|vip| vip.name == *name);
        let view = view.ok_or_else(|| {
            let known: Vec<&str> = status.view.vips.iter().map(|vip| vip.name.as_str()).collect();
            format!("no VIP is called {name}; there are: {}", known.join(", "))
        })?;
        if wish.to.as_ref() == Some(&self.node) && view.role == Role::Active {
            return Err(format!("{} has {name} already", self.node));
        }
        if view.role != Role::Active {
            return Err(match &view.holder {
                Some(holder) => format!("{holder} has {name}; say it there"),
                None => format!("this node doesn't have {name}, and doesn't know who does"),
            });
        }
        if view.priority == Priority::OWNER {
            return Err(format!(
                "{0} has priority 255 for {name} and would take it back at once (RFC 9568, 6.4.2). Use \
                 `standin maintenance on` on {0}",
                self.node
            ));
        }
        if let Some(under_way) = self.moves.giving.get(name) {
            return Err(format!("a switchover of {name} to {} is under way", under_way.to));
        }
        let Some(link) = &status.link else {
            return Err("without the peer link there is no planned switchover: `standin init` on \
                        one node, `standin join` on the others"
                .to_owned());
        };
        let mut ready: Vec<(u8, &String)> = Vec::new();
        let mut reasons = Vec::new();
        for (peer, of) in &link.peers {
            if wish.to.as_ref().is_some_and(|wanted| wanted != peer) {
                continue;
            }
            let said = of.summary.as_ref().filter(|_| of.state == "connected");
            match said.map(|said| said.vips.iter().find(|vip| vip.name == *name)) {
                None => reasons.push(format!("there is no peer link with {peer}")),
                Some(None) => reasons.push(format!("{peer} doesn't have {name} in its file")),
                Some(Some(vip)) if vip.standing == Standing::Eligible.to_string() => {
                    match unheard_for(view, peer).filter(|_| !wish.deaf_ok) {
                        None => ready.push((vip.priority, peer)),
                        Some(lasting) => reasons.push(format!(
                            "{peer} hasn't heard {0}'s adverts for {1}. Let VRRP (IP protocol 112) from {0} \
                             through to {peer}: a firewall there, or a switch, drops it; `standin \
                             maintenance on` on {0} moves what it has all the same",
                            self.node,
                            crate::cli::ago(lasting)
                        )),
                    }
                }
                Some(Some(vip)) => {
                    let why = vip.obstacle.clone().unwrap_or_default();
                    reasons.push(format!("{peer} is {}: {why}", vip.standing));
                }
            }
        }
        ready.sort();
        match (ready.pop(), &wish.to) {
            (Some((_, peer)), _) => Ok(peer.clone()),
            (None, Some(wanted)) if reasons.is_empty() => {
                let known: Vec<_> = link.peers.keys().map(String::as_str).collect();
                Err(format!("no peer is called {wanted}; there are: {}", known.join(", ")))
            }
            (None, _) => Err(format!("no node is ready to take {name}: {}", reasons.join("; "))),
        }
    }

    /// A peer says something about a switchover.
    pub(super) async fn heard(&mut self, from: String, said: Said) {
        let Said { id, vip, word } = said;
        match word {
            Word::Prepare { lasting_ms, serves, quic_ports, link_local } => {
                let lasting = Duration::from_millis(lasting_ms);
                self.prepare(from, (id, vip), lasting, (serves, quic_ports, link_local));
            }
            Word::Order { to, drain_ms, stale_ok, by } => {
                let longest = crate::switchover::LONGEST;
                let drain = drain_ms.map(|ms| Duration::from_millis(ms).min(longest));
                let asked = Asked::There(from.clone(), id);
                let wish = Wish { vip, to, drain, stale_ok, deaf_ok: false, by, asked };
                self.carry_out(from, id, wish).await;
            }
            Word::CallOff { by } => {
                let mine = self.moves.giving.get(&vip).is_some_and(|handle| {
                    handle.id == id || handle.asked == Asked::There(from.clone(), id)
                });
                let done = if mine {
                    self.call_off(&vip, &format!("{by} on {from}"))
                } else {
                    Err(format!("what {from} calls off is not the switchover that is under way"))
                };
                // Its story says what comes of it, and the log why nothing does.
                if let Err(why) = done
                    && let Ok(thread) = self.thread(id, &vip, &from)
                {
                    thread.line.note(true, &from, &why);
                }
            }
            Word::GiveBack { drain_ms } => self.give_back(from, (id, vip), drain_ms).await,
            word => self.passed_on(&from, id, &vip, word),
        }
    }

    /// What is for a task goes to it.
    fn passed_on(&self, from: &str, id: u64, vip: &str, word: Word) {
        if let Some(handle) = self.moves.ordered.get(&id).filter(|handle| handle.to == from) {
            // A task that is busy has heard enough; the same below.
            let _ = handle.words.try_send(word);
        } else if let Some(handle) = self.moves.giving.get(vip)
            && handle.id == id
            && handle.to == from
        {
            let _ = handle.signals.try_send(giving::Signal::Heard(word));
        } else if let Some(handle) = self.moves.taking.get(vip)
            && handle.id == id
            && handle.from == from
        {
            let _ = handle.signals.try_send(taking::Signal::Heard(word));
        }
    }

    /// A peer's operator wants a VIP moved that this node has.
    async fn carry_out(&mut self, from: String, id: u64, wish: Wish) {
        let Ok(thread) = self.thread(id, &wish.vip, &from) else { return };
        match self.switch_over(wish, false).await {
            Ok(story) => ordered::tell(thread, story),
            Err(why) => {
                // A peer that can't be told waits no longer than for any answer; the same below.
                let _ = thread.say(Word::Refused { why });
            }
        }
    }

    /// The node that gave a VIP to this one wants it back.
    async fn give_back(&mut self, from: String, (id, vip): (u64, String), drain_ms: u64) {
        let Ok(thread) = self.thread(id, &vip, &from) else { return };
        let mine = self.moves.taking.get(&vip);
        if mine.is_none_or(|handle| handle.id != id || handle.from != from) {
            let why = "it knows of no such switchover".to_owned();
            let _ = thread.say(Word::Refused { why });
            return;
        }
        let drain = Duration::from_millis(drain_ms).min(crate::switchover::LONGEST);
        let by = format!("{from}, where it was called off");
        let (to, drain, asked) = (Some(from), Some(drain), Asked::Undo);
        let wish = Wish { vip, to, drain, stale_ok: true, deaf_ok: true, by, asked };
        match self.switch_over(wish, false).await {
            Ok(story) => ordered::tell_failure(thread, story),
            Err(why) => {
                let _ = thread.say(Word::Refused { why });
            }
        }
    }

    /// An operator wants a switchover undone: here, or where the VIP came from. Says who was told.
    pub(super) fn call_off(&mut self, vip: &str, by: &str) -> Result<String, String> {
        let text = format!("call off the switchover, asked by {by}");
        self.note(Severity::Notice, "switchover", Some(vip), &text);
        if let Some(handle) = self.moves.giving.get(vip) {
            if self.moves.stop_by.is_some() {
                return Err(format!("{} is stopping: {vip} can't stay", self.node));
            }
            if handle.asked == Asked::Undo {
                return Err(format!("{vip} is on its way back to {} already", handle.to));
            }
            let signal = giving::Signal::CallOff { by: by.to_owned() };
            let told = handle.signals.try_send(signal).is_ok();
            let busy = || format!("the switchover of {vip} is busy; ask again");
            let text = format!("{vip} comes back from {}", handle.to);
            return if told { Ok(text) } else { Err(busy()) };
        }
        let taking = self.moves.taking.get(vip).map(|handle| (handle.id, &handle.from));
        let mut orders = self.moves.ordered.iter().filter(|(_, handle)| handle.vip == vip);
        let other = taking.or_else(|| orders.next().map(|(id, handle)| (*id, &handle.to)));
        let Some((id, other)) = other else {
            return Err(format!("this node has no part in a switchover of {vip}"));
        };
        let thread = self.thread(id, vip, other)?;
        if thread.say(Word::CallOff { by: by.to_owned() }) {
            Ok(format!("{other} was told to take {vip} back"))
        } else {
            Err(format!("there is no peer link with {other}, which began it"))
        }
    }

    /// A switchover elsewhere is followed no longer.
    pub(super) fn followed(&mut self, id: u64) {
        self.moves.ordered.remove(&id);
    }

    fn prepare(
        &mut self,
        from: String,
        (id, vip): (u64, String),
        lasting: Duration,
        (serves, quic_ports, link_local): (Vec<SocketAddr>, Vec<u16>, Option<Ipv6Addr>),
    ) {
        let (Some(link), Some(desk)) = (&self.link, self.desk.clone()) else { return };
        let line = link.line();
        let refuse = |why: String| {
            let word = Word::Refused { why };
            // It will find out by waiting.
            let _ = line.say(&from, Said { id, vip: vip.clone(), word });
        };
        let Some(known) = self.cluster.vip(&vip) else {
            return refuse("it has no such VIP".to_owned());
        };
        let Some(old) = self.cluster.node(&from) else { return };
        if self.moves.stop_by.is_some() {
            return refuse("it is stopping".to_owned());
        }
        let earlier = match self.moves.taking.get(&vip) {
            // It went back there meanwhile, and now it comes once more.
            Some(earlier) if earlier.from == from => {
                // If it hears nothing it has ended.
                let _ = earlier.signals.try_send(taking::Signal::Again);
                Some(earlier.signals.clone())
            }
            Some(earlier) => {
                let other = &earlier.from;
                return refuse(format!(
                    "clients of {other} are still served by way of it; ask again when their time is over"
                ));
            }
            None => None,
        };
        let addresses: Vec<_> = known.addresses.iter().map(|prefix| prefix.address()).collect();
        let of_a_family =
            |it: &&IpAddr| addresses.iter().any(|address| address.is_ipv4() == it.is_ipv4());
        let mut old: Vec<_> = old.addresses.iter().filter(of_a_family).copied().collect();
        if addresses.iter().any(IpAddr::is_ipv6) && !old.iter().any(IpAddr::is_ipv6) {
            let link_local = link_local.filter(Ipv6Addr::is_unicast_link_local);
            old.extend(link_local.map(IpAddr::V6));
        }
        let job = taking::Job {
            id,
            addresses,
            old,
            lasting: lasting.min(crate::switchover::LONGEST),
            serves,
            quic_ports,
            from: from.clone(),
            vip: vip.clone(),
        };
        let handle = taking::begin(job, line, desk, earlier);
        self.moves.taking.insert(vip, handle);
    }

    /// A task has come to its end.
    pub(super) fn given(&mut self, vip: &str, id: u64) {
        if self.moves.giving.get(vip).is_some_and(|handle| handle.id == id) {
            self.moves.giving.remove(vip);
        }
    }

    /// As above.
    pub(super) fn taken(&mut self, vip: &str, id: u64) {
        if self.moves.taking.get(vip).is_some_and(|handle| handle.id == id) {
            self.moves.taking.remove(vip);
        }
    }

    /// What a change of role means for what is under way.
    pub(super) fn role_changed(&self, happened: &Happened) {
        let (Kind::Transition { to, .. }, Some(vip)) = (&happened.event.kind, &happened.vip) else {
            return;
        };
        // Its words begin with the roles.
        let why = happened.words.split_once(": ").map_or(happened.words.as_str(), |(_, why)| why);
        // A task that doesn't take it any more has ended.
        if *to == Role::Active {
            if let Some(handle) = self.moves.giving.get(vip) {
                let from = self.moves.taking.get(vip).map(|taking| taking.from.clone());
                let back = giving::Back { from, why: why.to_owned() };
                let _ = handle.signals.try_send(giving::Signal::Back(back));
            }
            if let Some(handle) = self.moves.taking.get(vip) {
                let _ = handle.signals.try_send(taking::Signal::Active);
            }
        }
    }

    /// Moves away what can be moved; what can't is given up when the node stops being eligible. For each
    /// VIP that this node has: how it goes, or why it doesn't begin.
    pub(super) async fn move_all(
        &mut self,
        by: &str,
        drain: Option<Duration>,
    ) -> Vec<(String, Result<mpsc::Receiver<Progress>, String>)> {
        let Some(status) = self.status().await else { return Vec::new() };
        let active = status.view.vips.iter().filter(|vip| vip.role == Role::Active);
        let mut begun = Vec::new();
        for vip in active.map(|vip| vip.name.clone()) {
            let drain = drain.or_else(|| self.cluster.vip(&vip).map(|it| it.drain_timeout));
            let wish = Wish {
                vip: vip.clone(),
                to: None,
                drain,
                // Who goes away can't wait until the other one has caught up.
                stale_ok: true,
                deaf_ok: true,
                by: by.to_owned(),
                asked: Asked::Here,
            };
            // Of a thousand that stay none asks the engine again.
            let how = match self.successor(&status, &wish) {
                Ok(_) => self.switch_over(wish, false).await,
                Err(why) => Err(why),
            };
            begun.push((vip, how));
        }
        begun
    }

    /// A stop moves every VIP away first and lets its clients finish; a second one doesn't wait.
    pub(super) async fn stop(&mut self, by: &str) {
        if self.moves.stop_by.is_some() {
            return self.stop_now(by);
        }
        let longest = self.cluster.vips.iter().map(|vip| vip.drain_timeout).max();
        let drain = longest.unwrap_or_default().min(STOP_DRAINS_FOR);
        // Those that were under way before are waited for as well.
        let _ = self.move_all(by, Some(drain)).await;
        let under_way: Vec<_> =
            self.moves.giving.values_mut().filter_map(|handle| handle.ended.take()).collect();
        let Some(desk) = self.desk.clone().filter(|_| !under_way.is_empty()) else {
            return self.stop_now(by);
        };
        let takes = drain + crate::switchover::GRACE + crate::switchover::OVERHEAD;
        let moving: Vec<&str> = self.moves.giving.keys().map(String::as_str).collect();
        let text = format!(
            "stopping ({by}) once the clients of {} have finished, in {} s at most",
            moving.join(", "),
            takes.as_secs()
        );
        self.log.line(Severity::Notice, None, &text);
        let extension = u32::try_from(takes.as_micros()).unwrap_or(u32::MAX);
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[
            sd_notify::NotifyState::Stopping,
            sd_notify::NotifyState::ExtendTimeoutUsec(extension),
        ]);
        self.moves.stop_by = Some(tokio::time::Instant::now() + takes + STOP_TAKES);
        tokio::spawn(async move {
            for one in under_way {
                let _ = one.await;
            }
            let _ = desk.send(Request::Stop).await;
        });
    }

    /// The time of a stop is over: a move that was given more time than a stop has, say, is still
    /// draining. What is held is given up in order; false when the engine was told so already.
    pub(super) fn stop_is_overdue(&mut self) -> bool {
        if self.moves.stop_asked {
            return false;
        }
        self.stop_now("its clients have had their time");
        true
    }

    /// Gives everything up now.
    pub(super) fn stop_now(&mut self, by: &str) {
        if std::mem::replace(&mut self.moves.stop_asked, true) {
            return;
        }
        self.log.line(Severity::Notice, None, &format!("stopping ({by})"));
        // systemd waits for the exit anyway.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        let asked = self.engine.offer(ToEngine::Command(Command::Stop));
        let grace = if asked { STOP_TAKES } else { Duration::ZERO };
        self.moves.stop_by = Some(tokio::time::Instant::now() + grace);
    }
}
