//! The control plane's side of the peer link: starts it, tells it of each file, logs what it tells.

use anyhow::Result;

use super::log::Severity;
use super::{Control, Duration, Record, SystemTime, time};
use crate::authority::Identity;
use crate::engine::messages::{Handover, StillSeen};
use crate::link::file::apply::{Order, Step, Steps};
use crate::link::{Around, Directory, Link, Told};
use crate::sync::{self, Ask, Settings, Sync};

/// A handover is void after this anyway.
const TELLING: Duration = standin_core::election::handover::VOID_AFTER;

impl Control {
    /// Makes the link fit the file that is in force; without keys, which were read from a disk that may
    /// hang, there is none.
    pub(super) fn arrange_link(&mut self, keys: Result<Option<Identity>>) {
        let directory = Directory::of(&self.cluster, &self.node, &self.file_sha256);
        if let Some(link) = &self.link {
            match &keys {
                // With another authority everybody proves himself anew.
                Ok(Some(keys)) if !link.is_of(keys.authority_fingerprint) => self.link = None,
                Ok(_) => {}
                Err(error) => self.link_failed(format!(
                    "this node's keys can't be read: {error:#}; the peer link goes on with those that \
                     it has. Mend that, then standin reload"
                )),
            }
        }
        if let Some(link) = &mut self.link {
            link.replace(directory);
            self.arrange_sync();
            return;
        }
        let Some(requests) = self.desk.clone() else { return };
        let around = Around {
            file: self.paths.file.clone(),
            state_dir: self.paths.state_dir.clone(),
            told: self.told.clone(),
            requests,
            sync: self.to_sync.clone(),
            engine: self.engine.clone(),
        };
        let start = |identity| Link::start(directory, identity, around);
        match keys.and_then(|keys| keys.map(start).transpose()) {
            Ok(link) => self.link = link,
            Err(error) => {
                self.link_failed(format!("there is no peer link, VRRP decides alone: {error:#}"));
            }
        }
        self.arrange_sync();
    }

    fn link_failed(&mut self, text: String) {
        let (severity, kind) = (Severity::Error, "link_failed");
        self.told(Told { severity, kind, peer: None, text });
    }

    /// Makes the synchronisation fit the file that is in force.
    fn arrange_sync(&mut self) {
        let settings = Settings::of(&self.cluster, &self.node, self.paths.own());
        // Sessions wait until what they have is taken, also where nothing is shared.
        let wanted = self.link.is_some() || settings.is_some();
        if self.sync.is_none() && wanted {
            let Some((requests, peers)) = self.desk.clone().zip(self.from_peers.take()) else {
                return;
            };
            let state_dir = self.paths.state_dir.clone();
            let around = sync::Around { state_dir, requests, told: self.told.clone() };
            self.sync = Some(Sync::start(around, peers));
        }
        if let Some(sync) = &self.sync {
            sync.settings(settings);
        }
    }

    pub(super) fn ask_sync(&self, ask: Ask) {
        match &self.sync {
            Some(sync) => sync.ask(ask),
            None => ask.refuse("no files are shared: the cluster file has no [sync]"),
        }
    }

    /// A VIP was released: who is to take it hears so at once.
    pub(super) fn hand_over(&mut self, handover: Handover) {
        if let Some(link) = &mut self.link {
            link.hand_over(handover);
        }
    }

    /// A peer's VIP is answered for by somebody else.
    pub(super) fn tell_still_seen(&self, seen: StillSeen) {
        if let Some(link) = &self.link {
            link.still_seen(seen);
        }
    }

    /// How this node stands has changed: that is what its peers choose by.
    pub(super) fn stands_anew(&self) {
        if let Some(link) = &self.link {
            link.poke();
        }
    }

    /// What the peers are being told is told before the program ends.
    pub(super) async fn finish_telling(&mut self) {
        if let Some(link) = &mut self.link {
            // A peer that doesn't take it will find out by silence.
            let _ = tokio::time::timeout(TELLING, link.finish()).await;
        }
    }

    /// Has the link bring a file to all nodes.
    pub(super) fn apply(&self, order: Order, steps: Steps) {
        let Some(link) = &self.link else {
            let text = "this node has no keys, so there are no others to ask: standin reload takes \
                        the file here, and standin init makes a cluster with a peer link";
            let state = "refused".to_owned();
            // There is room for the first one.
            let _ = steps.try_send(Step { state, text: Some(text.to_owned()), ..Step::default() });
            return;
        };
        link.apply(order, steps);
    }

    /// Logs and keeps what the link has to tell.
    pub(super) fn told(&mut self, told: Told) {
        let Told { severity, kind, peer, text } = told;
        // Some of it was said by another machine.
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.log.line(severity, None, &text);
        self.keep(Record {
            seq: 0,
            at: time::rfc3339(SystemTime::now()),
            kind: kind.to_owned(),
            vip: None,
            from: None,
            to: None,
            reason: None,
            peer,
            text,
        });
    }
}
