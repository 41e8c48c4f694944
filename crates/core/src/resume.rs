//! What a node hands to its successor when the program is replaced under it.

use std::fmt::Write as _;
use std::time::Duration;

use crate::event::Role;
use crate::health::State;
use crate::node::Node;
use crate::types::Instant;

/// Longer than the text of 1,024 VIPs and as many checks with long names.
pub const MAX_BYTES: usize = 1024 * 1024;

/// Everything that a successor can't find out for itself soon enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Names of the VIPs that this node holds.
    pub active: Vec<String>,
    /// Names of the checks that pass.
    pub passing: Vec<String>,
    /// `Some(None)`: until it is switched off.
    pub maintenance: Option<Option<Duration>>,
    /// Names of VIPs whose addresses are waited for, and how often they are asked for.
    pub awaits: Vec<(String, Duration)>,
}

impl Resume {
    #[must_use]
    pub fn of(node: &Node, now: Instant) -> Self {
        let view = node.view(now);
        let active = view.vips.into_iter().filter(|vip| vip.role == Role::Active);
        let passing = view.checks.into_iter().filter(|check| check.state == State::Passing);
        Self {
            active: active.map(|vip| vip.name).collect(),
            passing: passing.map(|check| check.name).collect(),
            maintenance: view.maintenance.map(|maintenance| maintenance.remaining),
            awaits: node
                .routers()
                .filter_map(|(_, router)| Some((router.plan().name.clone(), router.awaits()?)))
                .collect(),
        }
    }

    /// One fact a line; a later version may add facts, which an earlier one passes over.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for name in &self.active {
            // Writing to a String can't fail; the same below.
            let _ = writeln!(out, "active {name}");
        }
        for name in &self.passing {
            let _ = writeln!(out, "passing {name}");
        }
        for (name, gap) in &self.awaits {
            let _ = writeln!(out, "awaits {} {name}", gap.as_millis());
        }
        match self.maintenance {
            None => {}
            Some(None) => out.push_str("maintenance\n"),
            Some(Some(left)) => {
                let _ = writeln!(out, "maintenance {}", left.as_millis());
            }
        }
        out
    }

    /// Reads what [`Resume::to_text`] wrote; lines that it doesn't know are passed over.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let mut resume = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("active", name)) => resume.active.push(name.to_owned()),
                Some(("passing", name)) => resume.passing.push(name.to_owned()),
                Some(("awaits", rest)) => {
                    let one = rest.split_once(' ').and_then(|(ms, name)| {
                        Some((name.to_owned(), Duration::from_millis(ms.parse().ok()?)))
                    });
                    resume.awaits.extend(one);
                }
                Some(("maintenance", left)) => {
                    let left = left.parse().ok().map(Duration::from_millis);
                    resume.maintenance = left.map(Some);
                }
                None if line == "maintenance" => resume.maintenance = Some(None),
                _ => {}
            }
        }
        resume
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_as_written_and_passes_over_what_it_does_not_know() {
        let resume = Resume {
            active: vec!["web".into(), "api".into()],
            passing: vec!["nginx".into()],
            maintenance: Some(Some(Duration::from_millis(1500))),
            awaits: vec![("web".into(), Duration::from_millis(100))],
        };
        let text = format!("colour blue\n{}", resume.to_text());
        assert_eq!(Resume::from_text(&text), resume);
        let for_ever = Resume { maintenance: Some(None), ..Resume::default() };
        assert_eq!(Resume::from_text(&for_ever.to_text()), for_ever);
    }
}
