//! Watches one nginx: knows its death at once, its hanging within a few intervals.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use standin_config::model::Nginx;
use standin_core::Verdict;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::discover::{self, Stamp, Survey};
use super::local::is_local;
use super::restart::{NOT_AGAIN_WITHIN, restart};
use super::{NginxView, Places, START, nonlocal, probe};
use crate::checks::http::{self, Request};
use crate::checks::process::{Watched, gone, pid_in};
use crate::checks::schedule::{Order, ticks};
use crate::checks::{Desk, Outcome, locked};

/// As for every check: two overlap when one hangs, more would pile up.
const UNDER_WAY: usize = 2;

/// Looking through all of /proc for an nginx that isn't there costs milliseconds.
const SEARCH_EVERY: Duration = Duration::from_secs(1);

/// A survey takes 20 ms, or some seconds with the configuration of a hosting company.
const FIRST_SURVEY_WITHIN: Duration = Duration::from_secs(10);

/// Reading a large configuration takes a second; workers change with each reload and crash.
const SURVEY_EVERY: Duration = Duration::from_millis(200);

/// A check of nginx, for ever.
pub(crate) async fn watch(section: Nginx, places: Places, desk: Desk, view: Arc<Mutex<NginxView>>) {
    let mut clock = ticks(section.cadence.interval);
    let mut watch = Watch::new(section, places, desk, view);
    watch.survey_again();
    loop {
        tokio::select! {
            // A death goes first: it is what somebody waits for.
            biased;
            () = gone(watch.master.as_ref()) => watch.master_gone(),
            Some(ended) = watch.restarts.join_next() => {
                let failed = || Outcome::fail("the start broke off");
                watch.restarted(&ended.unwrap_or_else(|_| failed()));
            }
            Some(ended) = watch.surveys.join_next() => {
                if let Ok(survey) = ended {
                    watch.surveyed(survey);
                }
            }
            Some(ended) = watch.under_way.join_next() => {
                // A probe that panicked has no number; the next one speaks for it.
                if let Ok(answer) = ended {
                    watch.answered(answer);
                }
            }
            _ = clock.tick() => watch.look(),
        }
    }
}

/// What a probe found, and of whom.
struct Answer {
    number: u64,
    master: u32,
    /// The address that was asked.
    asked: Option<IpAddr>,
    outcome: Outcome,
    took: Duration,
}

struct Watch {
    section: Nginx,
    places: Places,
    desk: Desk,
    view: Arc<Mutex<NginxView>>,
    survey: Option<Arc<Survey>>,
    /// At most one.
    surveys: JoinSet<Survey>,
    survey_wanted: bool,
    surveyed_at: Instant,
    master: Option<Watched>,
    /// The old master, while the new binary's has the pid file: it takes over again if that fails.
    predecessor: Option<Watched>,
    children: Vec<u32>,
    workers: Vec<u32>,
    orphans: Vec<u32>,
    /// How the last master ended, until there is one again.
    obituary: Option<String>,
    nonlocal: Option<String>,
    /// The last thing that happened and that a person should know.
    note: Option<String>,
    /// At most one.
    restarts: JoinSet<Outcome>,
    restarted_at: Option<Instant>,
    order: Order,
    under_way: JoinSet<Answer>,
}

impl Watch {
    fn new(section: Nginx, places: Places, desk: Desk, view: Arc<Mutex<NginxView>>) -> Self {
        Self {
            section,
            places,
            desk,
            view,
            survey: None,
            surveys: JoinSet::new(),
            survey_wanted: false,
            surveyed_at: Instant::now(),
            master: None,
            predecessor: None,
            children: Vec::new(),
            workers: Vec::new(),
            orphans: Vec::new(),
            obituary: None,
            nonlocal: None,
            note: None,
            restarts: JoinSet::new(),
            restarted_at: None,
            order: Order::default(),
            under_way: JoinSet::new(),
        }
    }

    fn master_pid(&self) -> Option<u32> {
        self.master.as_ref().map(|master| master.pid)
    }

    fn pid_file(&self) -> Option<PathBuf> {
        self.survey.as_ref()?.pid_file.clone()
    }

    /// Every interval: who is the master, what are its workers, does it answer?
    fn look(&mut self) {
        let Some(survey) = self.survey.clone() else {
            // Nothing is known yet, and an unknown check must not stay so.
            if self.surveyed_at.elapsed() >= FIRST_SURVEY_WITHIN {
                let detail = "nginx is still being looked for; does a file system hang?";
                self.desk.report(Outcome::fail(detail), self.surveyed_at.elapsed());
            }
            return;
        };
        self.follow_pid_file();
        self.see_workers();
        let changed = survey.conf.as_deref().is_some_and(|conf| Stamp::of(conf) != survey.stamp);
        let since = self.surveyed_at.elapsed();
        let lost = self.master.is_none() && since >= SEARCH_EVERY;
        if lost || ((changed || self.survey_wanted) && since >= SURVEY_EVERY) {
            self.survey_again();
        }
        match self.master_pid() {
            Some(master) => self.probe(master, &survey),
            // What becomes of the start is said when it is known, within a second.
            None if !self.restarts.is_empty() => {}
            None => {
                self.order.outdate();
                let outcome = Outcome::fail(self.absence());
                self.desk.report(outcome, Duration::ZERO);
                self.show(None);
            }
        }
    }

    /// The pid file may name a new master while the old one lives: a new binary was started (USR2).
    fn follow_pid_file(&mut self) {
        if self.predecessor.as_ref().is_some_and(|old| !old.lives()) {
            self.predecessor = None;
        }
        if let Some(successor) = self.successor() {
            self.adopt(successor);
        }
    }

    /// The living master that the pid file names, if that isn't the watched one.
    fn successor(&self) -> Option<Watched> {
        let pid = pid_in(&self.pid_file()?).ok()?;
        if Some(pid) == self.master_pid() || !discover::is_master(pid) {
            return None;
        }
        // Opened first and looked at again: the number can't have come to mean another since.
        let found = Watched::open(pid).ok()?;
        (discover::is_master(pid) && found.lives()).then_some(found)
    }

    /// The master of before a new binary was started, by its own pid file, if we came later.
    fn old_binary(&self) -> Option<Watched> {
        let mut name = self.pid_file()?.into_os_string();
        name.push(".oldbin");
        let pid = pid_in(&PathBuf::from(name)).ok()?;
        let found = Watched::open(pid).ok()?;
        (discover::is_master(pid) && found.lives()).then_some(found)
    }

    fn adopt(&mut self, master: Watched) {
        self.predecessor = self.master.replace(master).filter(Watched::lives);
        self.obituary = None;
        self.orphans.clear();
        self.see_workers();
        self.survey_wanted = true;
    }

    fn see_workers(&mut self) {
        if let Some(master) = self.master_pid() {
            let children = standin_linux::process::children_listed(master);
            // One that was forked just now has no title of its own yet.
            if children != self.children || self.workers.len() != children.len() {
                // A reload or a crashed worker; a reload may have brought other listeners.
                self.survey_wanted |= children != self.children;
                self.workers = discover::workers(master, &children);
                self.children = children;
            }
        } else {
            self.orphans.retain(|pid| discover::is_worker(*pid));
        }
    }

    /// The pidfd fired.
    fn master_gone(&mut self) {
        let start = Instant::now();
        let dead = self.master_pid().unwrap_or_default();
        self.master = None;
        let heir = self.successor();
        let heir = heir.or_else(|| self.predecessor.take().filter(Watched::lives));
        if let Some(heir) = heir.or_else(|| self.old_binary()) {
            self.adopt(heir);
            return;
        }
        // Answers that are under way come from workers that nobody can rule any more.
        self.order.outdate();
        self.orphans = std::mem::take(&mut self.workers);
        self.orphans.retain(|pid| discover::is_worker(*pid));
        self.children.clear();
        let obituary = format!("master {dead} is gone");
        let detail = format!("{obituary}{}", self.mourners());
        self.obituary = Some(obituary);
        self.show(None);
        if !self.restart() {
            self.desk.report(Outcome::dead(detail), start.elapsed());
        }
    }

    /// Starts nginx again where that is wanted; says whether it tries.
    fn restart(&mut self) -> bool {
        let again = self.restarted_at.is_some_and(|at| at.elapsed() < NOT_AGAIN_WITHIN);
        let Some(survey) = self.survey.clone().filter(|_| self.section.restart && !again) else {
            return false;
        };
        self.restarted_at = Some(Instant::now());
        let orphans = self.orphans.clone();
        self.restarts.spawn(async move { restart(&survey, &orphans).await });
        true
    }

    /// The start is over; it is judged by whether there is a master now.
    fn restarted(&mut self, start: &Outcome) {
        let how = self.obituary.clone().unwrap_or_default();
        if let Some(heir) = self.successor() {
            self.adopt(heir);
            self.note = Some(format!("{how}; standin has started it again"));
        } else if self.master.is_none() {
            let detail =
                format!("{how}{}; starting it again failed: {}", self.mourners(), start.detail);
            self.desk.report(Outcome::dead(detail), Duration::ZERO);
        }
    }

    /// The orphans, in words.
    fn mourners(&self) -> String {
        if self.orphans.is_empty() {
            return String::new();
        }
        let listed: Vec<String> = self.orphans.iter().map(u32::to_string).collect();
        let pids = if self.orphans.len() == 1 { "pid" } else { "pids" };
        format!("; its workers still answer (orphans, {pids} {})", listed.join(", "))
    }

    /// Why there is no master, and how to mend it.
    fn absence(&self) -> String {
        let survey = self.survey.as_deref();
        let binary = survey.and_then(|survey| survey.binary.as_deref());
        let Some(binary) = binary else {
            return "nginx was not found; mend: install it, or set binary in [nginx]".to_owned();
        };
        let how = match (&self.obituary, self.pid_file()) {
            (Some(obituary), _) => obituary.clone(),
            (None, Some(file)) => match pid_in(&file) {
                Ok(pid) => {
                    format!("nginx doesn't run: {} names {pid}, which is none", file.display())
                }
                Err(why) => format!("nginx doesn't run: {why}"),
            },
            (None, None) => "nginx doesn't run".to_owned(),
        };
        let mend = if self.orphans.is_empty() {
            format!("mend: {START}, or start {}", binary.display())
        } else {
            format!("mend: end the orphans, then {START}, or start {}", binary.display())
        };
        format!("{how}{}; {mend}", self.mourners())
    }

    /// Starts a probe, or a look from outside, unless two are under way.
    fn probe(&mut self, master: u32, survey: &Arc<Survey>) {
        if self.under_way.len() >= UNDER_WAY {
            return;
        }
        let plan = probe::Plan::now(self.section.probe.as_ref(), survey);
        self.show(Some(&plan));
        let number = self.order.start();
        let timeout = self.section.cadence.timeout;
        let workers = self.workers.clone();
        let survey = Arc::clone(survey);
        let asked = plan.address();
        self.under_way.spawn(async move {
            let start = Instant::now();
            let outcome = match plan {
                probe::Plan::Url(url) => {
                    let from = Some(url.address.ip());
                    let request =
                        Request { url, from, host: None, status: Vec::new(), body: None, timeout };
                    http::probe(&request).await
                }
                probe::Plan::Listener(at) => probe::listener(at, timeout).await,
                probe::Plan::Without(why) => {
                    let wanted = probe::Wanted::of(&survey.config);
                    probe::without(master, workers, wanted, why).await
                }
            };
            Answer { number, master, asked, outcome, took: start.elapsed() }
        });
    }

    fn answered(&mut self, answer: Answer) {
        let Answer { number, master, asked, outcome, took } = answer;
        if !self.order.is_news(number) {
            return;
        }
        // It asked a master that has handed over since, or an address that has left since.
        let moved = Some(master) != self.master_pid() || asked.is_some_and(|ip| !is_local(ip));
        if outcome.verdict == Verdict::Pass || !moved {
            self.desk.report(outcome, took);
        }
    }

    fn survey_again(&mut self) {
        if !self.surveys.is_empty() {
            self.survey_wanted = true;
            return;
        }
        self.survey_wanted = false;
        self.surveyed_at = Instant::now();
        let (section, known, earlier) =
            (self.section.clone(), self.master_pid(), self.survey.clone());
        self.surveys
            .spawn(async move { discover::survey(&section, known, earlier.as_deref()).await });
    }

    fn surveyed(&mut self, survey: Survey) {
        let first = self.survey.is_none();
        if self.master.is_none()
            && let Some(orphans) = &survey.orphans
        {
            self.orphans.clone_from(orphans);
        }
        let found = survey.master.filter(|_| self.master.is_none());
        self.survey = Some(Arc::new(survey));
        self.bind_nonlocal();
        if let Some(found) = found.and_then(|pid| Watched::open(pid).ok()).filter(Watched::lives) {
            self.adopt(found);
            // This survey was of this master.
            self.survey_wanted = false;
        }
        if let Some(binary) = self.survey.as_ref().and_then(|survey| survey.binary.clone()) {
            self.desk.retarget(&binary.display().to_string());
        }
        if first {
            self.look();
        }
    }

    /// nginx must be able to start with a `listen` on a VIP that another node has.
    fn bind_nonlocal(&mut self) {
        let Some(survey) = &self.survey else { return };
        let listens = nonlocal::Need::of(&survey.config, &self.places.vips);
        // With shared files it would be too late once they are here: nginx loads them at once.
        let may = if self.places.shared { self.places.vips.as_slice() } else { &[] };
        let need = listens.with(may);
        if need.is_nothing() {
            return;
        }
        match nonlocal::ensure(need, &self.places.sysctl_drop_in) {
            Ok(None) if listens.is_nothing() => {}
            Ok(None) => {
                let said = || format!("nginx listens on {listens}; ip_nonlocal_bind is set");
                self.nonlocal.get_or_insert_with(said);
            }
            Ok(done) => self.nonlocal = done,
            Err(why) => self.nonlocal = Some(why),
        }
    }

    fn show(&self, plan: Option<&probe::Plan>) {
        let survey = self.survey.as_deref();
        let build = survey.and_then(|survey| survey.build.as_ref());
        *locked(&self.view) = NginxView {
            flavour: build.map(|build| build.flavour),
            version: build.map(|build| build.version.clone()),
            binary: survey.and_then(|survey| survey.binary.clone()),
            conf: survey.and_then(|survey| survey.conf.clone()),
            prefix: survey.map(|survey| survey.prefix.clone()),
            pid_file: survey.and_then(|survey| survey.pid_file.clone()),
            master: self.master_pid(),
            unit: survey.and_then(|survey| survey.unit.clone()),
            workers: if self.master.is_some() { self.workers.clone() } else { Vec::new() },
            orphans: self.orphans.clone(),
            probe: plan.and_then(probe::Plan::target),
            no_probe: plan.and_then(probe::Plan::reason),
            nonlocal: self.nonlocal.clone(),
            quic_ports: survey.map_or_else(Vec::new, quic_ports),
            notes: survey.iter().flat_map(|it| &it.notes).chain(&self.note).cloned().collect(),
        };
    }
}

fn quic_ports(survey: &Survey) -> Vec<u16> {
    let all = survey.config.listens.iter().chain(&survey.config.other_listens);
    let mut ports: Vec<u16> = all
        .filter(|listen| listen.quic)
        .flat_map(|listen| listen.port..=listen.last_port)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}
