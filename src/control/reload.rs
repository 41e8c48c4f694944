//! A reload: the file is read again, beside the control plane's thread, and taken whole or not at all.

use std::sync::Arc;
use std::time::Duration;

use standin_core::plan::Plan;
use standin_linux::netlink::Rtnl;

use super::log::{Log, Severity};
use super::{Control, Refusal, startup};
use crate::authority::{Identity, Keys};
use crate::engine::messages::ToEngine;
use crate::exit::Exit;

/// A disk that takes longer to give the cluster file out hangs; the file in force stays.
const FILE_READ_WITHIN: Duration = Duration::from_secs(3);

/// What a reload has read: the file and its log, without which it isn't taken, and this node's keys.
struct Again {
    chosen: startup::Chosen,
    log: Log,
    keys: anyhow::Result<Option<Identity>>,
    /// VIPs that wait from now on, with what for.
    waits: Vec<String>,
}

impl Control {
    /// Reads the file again: all of it is taken, or nothing changes.
    pub(super) async fn reload(&mut self, by: &str) -> Result<String, String> {
        let Again { chosen, log, keys, waits } = match self.read_again().await {
            Ok(taken) => taken,
            Err(refusal) => {
                let head = format!(
                    "the cluster file was not taken (asked by {by}); the old one stays in force"
                );
                for line in refusal.text.lines().filter(|line| !line.is_empty()) {
                    let line = line.strip_prefix("error: ").unwrap_or(line);
                    self.log.line(Severity::Error, None, line);
                }
                let first = refusal.text.lines().next().unwrap_or_default();
                self.note(Severity::Error, "reload_refused", None, &format!("{head}: {first}"));
                self.file_error = Some(refusal.text.clone());
                return Err(format!("{head}:\n{}", refusal.text.trim_end()));
            }
        };
        self.log = log;
        self.file_error = None;
        self.generation += 1;
        self.notifier.replace(chosen.cluster.notify.clone());
        self.cluster = Arc::new(chosen.cluster);
        self.file_sha256 = chosen.sha256;
        self.plan = chosen.plan;
        let plan = Box::new(self.plan.clone());
        if !self.engine.offer(ToEngine::Plan { generation: self.generation, plan }) {
            return Err("the engine is stuck and didn't take the file".to_owned());
        }
        self.start_checks();
        self.arrange_link(keys);
        let file = self.paths.file.display();
        let text = format!("{file} was read again and taken (asked by {by})");
        self.note(Severity::Notice, "reload_order", None, &text);
        let mut warnings = chosen.warnings.unwrap_or_default();
        for wait in waits {
            self.log.line(Severity::Warning, None, &wait);
            warnings += &format!("warning: {wait}\n");
        }
        Ok(format!("{warnings}{text}"))
    }

    /// Not on this thread, for disks hang.
    async fn read_again(&self) -> Result<Again, Refusal> {
        let (paths, node, lost) = (self.paths.clone(), self.node.clone(), self.log.losses());
        let reading = tokio::task::spawn_blocking(move || {
            let chosen = startup::choose(&paths, Some(&node))?;
            let log = Log::open(&chosen.cluster.log, &lost)
                .map_err(|error| Refusal::because(Exit::BadFile, &error.to_string()))?;
            let keys = Keys::of(&paths.state_dir).identity_if_any();
            let waits = without_interface(&chosen.plan);
            Ok(Again { chosen, log, keys, waits })
        });
        match tokio::time::timeout(FILE_READ_WITHIN, reading).await {
            Ok(Ok(taken)) => taken,
            Ok(Err(bug)) => Err(Refusal::because(Exit::Failed, &format!("reading failed: {bug}"))),
            Err(_) => {
                let text = format!(
                    "the disk hasn't given out {} and the keys in {}, or opened the log file, within \
                     {} s; look at dmesg and mounts, then reload again",
                    self.paths.file.display(),
                    self.paths.state_dir.display(),
                    FILE_READ_WITHIN.as_secs()
                );
                Err(Refusal::because(Exit::Failed, &text))
            }
        }
    }
}

/// An interface may come later, but a name that was mistyped takes a VIP off this node all the same.
fn without_interface(plan: &Plan) -> Vec<String> {
    let links = Rtnl::open().and_then(|mut rtnl| rtnl.links()).unwrap_or_default();
    let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let waits = plan.vips.iter().filter_map(|vip| {
        let interface = plan.interfaces.get(usize::from(vip.interface.0))?;
        (!names.contains(&interface.as_str())).then(|| {
            format!(
                "[vip.{}] is on interface {interface}, which this host doesn't have: this node can't hold it until \
                 there is one; this host has {}",
                vip.name,
                names.join(", ")
            )
        })
    });
    waits.collect()
}
