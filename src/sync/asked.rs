//! Answers what operators ask, and does what they order.

use std::sync::Arc;

use standin_core::sync::{Command, Input, Trouble, View};

use super::driver::{Driver, own};
use super::push::Accepted;
use super::{Ask, Order, Reply, powers, report};
use crate::control::log::Severity;

impl Driver {
    pub(super) async fn ask(&mut self, ask: Ask) {
        if self.running.is_none() {
            let why = match (&self.settings, &self.problem) {
                (None, _) => "no files are shared: the cluster file has no [sync]".to_owned(),
                (Some(_), Some(why)) => format!("no files are shared yet: {why}"),
                (Some(_), None) => "no files are shared yet: it is starting".to_owned(),
            };
            ask.refuse(&why);
            return;
        }
        match ask {
            // Who asked may have gone; the same below.
            Ask::Status(reply) => drop(reply.send(self.status())),
            Ask::History(reply) => self.history(reply),
            Ask::Diff { node, reply } => self.diff(node, reply),
            Ask::Order { order, by, reply } => {
                let said = self.order(order, &by).await;
                let _ = reply.send(said);
            }
            Ask::EndIdle(reply) => self.end_idle(reply),
        }
    }

    fn end_idle(&self, reply: Reply<()>) {
        let proven =
            self.running.as_ref().and_then(|it| Some((it.replica.proven()?, it.translation)));
        let (Some((id, known)), Some(ground)) = (proven, self.ground()) else {
            let why = "it isn't known with which of the shared files it runs".to_owned();
            // As above.
            let _ = reply.send(Err(why));
            return;
        };
        tokio::task::spawn_blocking(move || reply.send(ground.end_idle(id, known)));
    }

    async fn order(&mut self, order: Order, by: &str) -> Result<String, String> {
        if order == Order::Approve {
            return self.approve(by).await;
        }
        let Some(running) = &self.running else { return Err("no files are shared".to_owned()) };
        let view = running.replica.view();
        if let Order::Rotate { all } = order {
            return self.rotate(&view, all, by);
        }
        let here = || {
            let writer = view.state.writer.clone();
            let Some(writer) = writer.filter(|_| !view.writing) else { return Ok(()) };
            Err(format!("files come from {writer}: run it there"))
        };
        let (command, said) = match order {
            Order::Hold => {
                (Command::Hold, "held on this node until `standin sync resume`".to_owned())
            }
            Order::Resume { accept_deletion } => {
                let asks =
                    view.state.held.as_ref().is_some_and(|it| it.contains("--accept-deletion"));
                if asks && !accept_deletion {
                    return Err(format!("it is held: {}", view.state.held.unwrap_or_default()));
                }
                if accept_deletion {
                    let lies = running.disk.as_ref().map(|disk| disk.tree);
                    let served = running.replica.proven().map(|id| id.tree);
                    self.accepted =
                        Accepted::of(&self.pusher.targets(), lies.into_iter().chain(served));
                }
                (Command::Resume { accept_deletion }, "synchronisation is to go on".to_owned())
            }
            Order::Rollback { generation } => {
                here()?;
                if !view.writing {
                    return Err("nobody is known to hold the VIP".to_owned());
                }
                let tree = self.tree_of(generation.as_deref())?;
                (Command::Rollback(tree), format!("going back to the files of {tree}"))
            }
            // It was answered above.
            Order::Approve | Order::Rotate { .. } => (Command::Retry, String::new()),
            Order::Apply => {
                here()?;
                if !view.writing {
                    return Err("nobody is known to hold the VIP".to_owned());
                }
                if let Some(fault) = &running.fault {
                    return Err(fault.clone());
                }
                if view.ordered.is_some_and(|ordered| !ordered.over()) {
                    return Err("an apply is under way".to_owned());
                }
                (Command::Apply, "the files are brought to every node, the active last".to_owned())
            }
        };
        let text = format!("{said} (asked by {by})");
        self.tell(Severity::Notice, "sync_order", None, text);
        self.feed(Input::Command(command)).await;
        Ok(said)
    }

    fn rotate(&mut self, view: &View, all: bool, by: &str) -> Result<String, String> {
        if !view.writing {
            let writer = view.state.writer.as_deref();
            return Err(writer.map_or_else(
                || "nobody is known to hold the VIP".to_owned(),
                |writer| format!("the keys come from {writer}: run it there"),
            ));
        }
        let away = view.peers.iter().filter(|(_, peer)| !peer.connected);
        let away: Vec<&str> = away.map(|(name, _)| name.as_str()).collect();
        let said = self.tickets_rotate(all)?;
        let said = match away[..] {
            [] => format!("{said} on all nodes with a link"),
            _ => format!(
                "{said} on all nodes with a link; until they have one the old keys stay on {}",
                away.join(", ")
            ),
        };
        let text = format!("new keys of TLS session tickets: {said} (asked by {by})");
        self.tell(Severity::Notice, "sync_order", None, text);
        Ok(said)
    }

    /// Lets in what the refused generation could do beyond serving.
    async fn approve(&mut self, by: &str) -> Result<String, String> {
        let Some(running) = &self.running else { return Err("no files are shared".to_owned()) };
        let view = running.replica.view();
        let problem = view.state.problem.filter(|it| it.trouble == Trouble::Approval);
        let Some(problem) = problem else {
            return Ok("nothing waits for an approval on this node".to_owned());
        };
        let (store, before) = (Arc::clone(&running.store), view.line.tip());
        let lies = running.disk.as_ref().map(|disk| Arc::clone(&disk.scan));
        let (dir, lens) = (self.around.state_dir.join("sync"), running.lens.clone());
        let approved = tokio::task::spawn_blocking(move || {
            let manifest = store.manifest(&own(problem.id))?;
            let new = report::unapproved(&store, &lens, &manifest, before, lies.as_deref(), &dir);
            powers::approve(&dir, &new)?;
            Ok::<_, std::io::Error>(new)
        });
        let new = approved.await.map_err(|error| error.to_string())?;
        let new = new.map_err(|error| format!("it can't be written down: {error}"))?;
        let list: Vec<String> = new.into_iter().collect();
        let said = format!("approved on this node: {}", list.join(", "));
        self.tell(Severity::Notice, "approved", None, format!("{said} (by {by})"));
        self.feed(Input::Command(Command::Retry)).await;
        Ok(said)
    }
}
