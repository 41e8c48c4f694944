//! The control plane's side of the peer link: starts it, tells it of each file, logs what it tells.

use super::log::Severity;
use super::{Control, Record, SystemTime, time};
use crate::link::{Around, Directory, Link, Told};

impl Control {
    /// Makes the link fit the file that is in force; without keys there is none.
    pub(super) fn arrange_link(&mut self) {
        // What is hashed is what the others have; it was good a moment ago.
        let file = std::fs::read(&self.paths.file).unwrap_or_default();
        let directory = Directory::of(&self.cluster, &self.node, &file);
        if let Some(link) = &mut self.link {
            link.replace(directory);
            return;
        }
        let Some(requests) = self.desk.clone() else { return };
        let around = Around {
            file: self.paths.file.clone(),
            state_dir: self.paths.state_dir.clone(),
            run_dir: self.paths.run_dir.clone(),
            told: self.told.clone(),
            requests,
        };
        match Link::start(directory, around) {
            Ok(link) => self.link = link,
            Err(error) => {
                let text = format!("there is no peer link, VRRP decides alone: {error:#}");
                self.told(Told {
                    severity: Severity::Error,
                    kind: "link_failed",
                    peer: None,
                    text,
                });
            }
        }
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
