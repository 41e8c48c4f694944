//! Orders of an operator that hold until somebody ends them: kept where a daemon that is started in a dead one's
//! place finds them. A stop ends them, and so does a boot.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use standin_core::Command;
use standin_core::resume::{self, Resume};
use standin_core::types::Instant;
use standin_linux::clock;

use super::Control;
use super::log::Severity;
use crate::authority::files;
use crate::engine::messages::ToEngine;
use crate::guard;

/// In the directory of the socket.
const NAME: &str = "orders";

/// The first word of the file: when it was written, in milliseconds since the boot.
const AT: &str = "at";

/// The file, and what it says.
#[derive(Debug)]
pub(super) struct Orders {
    path: PathBuf,
    maintenance: Option<Until>,
    awaits: Vec<(String, Duration)>,
}

/// `None`: until it is ended.
type Until = Option<Instant>;

impl Control {
    /// The VIPs are moved first; from now on a death doesn't end it.
    pub(super) fn maintenance_begins(
        &mut self,
        lasting: Option<Duration>,
        at_once: bool,
        by: &str,
    ) {
        let time = lasting.map(|time| format!(" for {}", crate::cli::ago(time)));
        let now = if at_once { ", at once" } else { "" };
        let text = format!("maintenance on{}{now}, asked by {by}", time.unwrap_or_default());
        self.note(Severity::Notice, "maintenance_order", None, &text);
        self.remember(|orders, now| orders.maintain(Some(lasting.map(|time| now + time)), now));
    }

    /// False: there is no engine that would hear of it. The same below.
    pub(super) fn end_maintenance(&mut self, by: &str) -> bool {
        let text = format!("maintenance off, asked by {by}");
        self.note(Severity::Notice, "maintenance_order", None, &text);
        self.remember(|orders, now| orders.maintain(None, now));
        self.engine.offer(ToEngine::Command(Command::MaintenanceOff))
    }

    /// `gap`: how often the VIP's addresses are asked for; `None`: no longer. False also without such a VIP.
    pub(super) fn await_vacancy(&mut self, vip: String, gap: Option<Duration>, by: &str) -> bool {
        if self.cluster.vip(&vip).is_none() {
            return false;
        }
        let what = if gap.is_some() { "await" } else { "end awaiting" };
        let text = format!("{what} vacancy, asked by {by}");
        self.note(Severity::Notice, "vacancy_order", Some(&vip), &text);
        self.remember(|orders, now| orders.wait_for(&vip, gap, now));
        self.engine.offer(ToEngine::AwaitVacancy { vip, gap })
    }

    /// Where an order can't be kept, it ends with this daemon.
    fn remember(&mut self, order: impl FnOnce(&mut Orders, Instant) -> io::Result<()>) {
        if let Err(error) = order(&mut self.orders, clock::now()) {
            let file = self.orders.path.display();
            let text = format!(
                "an order isn't kept ({file}: {error}): should this daemon die, the next one doesn't know it"
            );
            self.log.line(Severity::Warning, None, &text);
        }
    }

    /// Says what goes on to hold although the daemon that it was said to has died.
    pub(super) fn say_orders(&mut self) {
        if self.orders.maintenance.is_some() {
            let text = "maintenance is still on: it was ordered of the daemon before this one";
            self.note(Severity::Notice, "maintenance_order", None, text);
        }
        for (vip, _) in self.orders.awaits.clone() {
            let text = "vacancy is still awaited: it was ordered of the daemon before this one";
            self.note(Severity::Notice, "vacancy_order", Some(&vip), text);
        }
    }
}

impl Orders {
    /// What holds when a daemon begins, and what its engine begins with: a death ends no order, nor does a
    /// program that is replaced, which hands over more than that.
    pub(super) fn begin(run_dir: &Path, guarded: Option<&guard::Daemon>) -> (Self, Option<Resume>) {
        let handed = guarded.and_then(|guarded| guarded.resume.clone());
        if handed.is_some() || guarded.is_some_and(|guarded| guarded.mourns.is_some()) {
            let orders = Self::of_the_one_before(run_dir, clock::now());
            let resume = handed.or_else(|| orders.resume(clock::now()));
            return (orders, resume);
        }
        let orders = Self::none(run_dir);
        // What can't be removed would only be read after a death, which the next order forestalls.
        let _ = orders.end();
        (orders, None)
    }

    /// Nothing was ordered yet.
    fn none(run_dir: &Path) -> Self {
        Self { path: run_dir.join(NAME), maintenance: None, awaits: Vec::new() }
    }

    /// What was ordered of the daemon before this one.
    fn of_the_one_before(run_dir: &Path, now: Instant) -> Self {
        let mut orders = Self::none(run_dir);
        let mut text = String::new();
        let file = File::open(&orders.path).map(|file| file.take(resume::MAX_BYTES as u64));
        // Without a file nothing was ordered; one that can't be read is as good as none.
        if file.and_then(|mut file| file.read_to_string(&mut text)).is_ok() {
            orders.take(&text, now);
        }
        orders
    }

    fn take(&mut self, text: &str, now: Instant) {
        let at = text.lines().find_map(|line| line.strip_prefix(AT)?.trim().parse::<u64>().ok());
        let written = at.map(|ms| Instant::from_nanos(ms.saturating_mul(1_000_000)));
        // One to come is of an earlier boot.
        let Some(written) = written.filter(|written| *written <= now) else { return };
        let Resume { maintenance, awaits, .. } = Resume::from_text(text);
        let ends = maintenance.map(|left| left.map(|left| written + left));
        self.maintenance = ends.filter(|ends| ends.is_none_or(|ends| ends > now));
        self.awaits = awaits;
    }

    /// What an engine begins with; `None`: nothing was ordered.
    pub(super) fn resume(&self, now: Instant) -> Option<Resume> {
        if self.maintenance.is_none() && self.awaits.is_empty() {
            return None;
        }
        let maintenance = self.maintenance.map(|ends| ends.map(|ends| ends.since(now)));
        Some(Resume { maintenance, awaits: self.awaits.clone(), ..Resume::default() })
    }

    /// # Errors
    /// A file that can't be written; the order holds all the same. The same below.
    pub(super) fn maintain(&mut self, ends: Option<Until>, now: Instant) -> io::Result<()> {
        self.maintenance = ends;
        self.write(now)
    }

    /// `None`: the VIP's addresses aren't waited for any more.
    pub(super) fn wait_for(
        &mut self,
        vip: &str,
        gap: Option<Duration>,
        now: Instant,
    ) -> io::Result<()> {
        self.awaits.retain(|(name, _)| name != vip);
        self.awaits.extend(gap.map(|gap| (vip.to_owned(), gap)));
        self.write(now)
    }

    fn write(&self, now: Instant) -> io::Result<()> {
        let Some(resume) = self.resume(now) else { return self.end() };
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = writeln!(text, "{AT} {}", now.as_nanos() / 1_000_000);
        text.push_str(&resume.to_text());
        files::write_atomically(&self.path, text.as_bytes(), 0o600)
    }

    /// Nothing holds any more.
    fn end(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn what_was_ordered_holds_after_a_death_and_no_longer_than_ordered() {
        let dir = tempfile::tempdir().unwrap();
        let mut orders = Orders::none(dir.path());
        let read = |now| Orders::of_the_one_before(dir.path(), now).resume(now);
        assert_eq!(read(at(100)), None);
        let gap = Duration::from_millis(100);
        orders.wait_for("web", Some(gap), at(100)).unwrap();
        orders.maintain(Some(Some(at(160))), at(110)).unwrap();
        let resume = read(at(130)).unwrap();
        assert_eq!(resume.awaits, [("web".to_owned(), gap)]);
        assert_eq!(resume.maintenance, Some(Some(Duration::from_secs(30))));
        assert_eq!(read(at(160)).unwrap().maintenance, None);
        // The clock of a later boot begins anew.
        assert_eq!(read(at(109)), None);
        orders.wait_for("web", None, at(120)).unwrap();
        orders.maintain(Some(None), at(120)).unwrap();
        assert_eq!(read(at(9000)).unwrap().maintenance, Some(None));
        orders.maintain(None, at(130)).unwrap();
        assert!(!dir.path().join(NAME).exists());
    }

    #[test]
    fn another_file_in_its_place_orders_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "at", "at x\nmaintenance\n", "maintenance\n", "\u{fffd}\n"] {
            std::fs::write(dir.path().join(NAME), text).unwrap();
            assert_eq!(Orders::of_the_one_before(dir.path(), at(9)).resume(at(9)), None, "{text}");
        }
    }
}
