//! Answers what operators ask, and does what they order.

use standin_core::sync::{Command, Input};

use super::driver::Driver;
use super::{Ask, Order};
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
        }
    }

    async fn order(&mut self, order: Order, by: &str) -> Result<String, String> {
        let Some(running) = &self.running else { return Err("no files are shared".to_owned()) };
        let view = running.replica.view();
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
                (Command::Resume { accept_deletion }, "it goes on".to_owned())
            }
            Order::Rollback { generation } => {
                here()?;
                let tree = self.tree_of(generation.as_deref())?;
                (Command::Rollback(tree), format!("going back to the files of {tree}"))
            }
            Order::Apply => {
                here()?;
                if !view.writing {
                    return Err("nobody is known to hold the VIP".to_owned());
                }
                if view.ordered.is_some_and(|ordered| !ordered.over()) {
                    return Err("an apply is under way".to_owned());
                }
                (Command::Apply, "begun".to_owned())
            }
        };
        let text = format!("{said} (asked by {by})");
        self.tell(Severity::Notice, "sync_order", None, text);
        self.feed(Input::Command(command)).await;
        Ok(said)
    }
}
