//! Chance as the author of a story: which weather, which fault next, and how long it lasts.

use standin_core::Verdict;
use standin_core::types::Family;

use crate::clock::{MICROSECOND, MILLISECOND, Nanos, SECOND};
use crate::cluster::{self, draw_interval, draw_priority, draw_wait};
use crate::fault::{Edit, Fault};
use crate::machine::Run;
use crate::network::{WITNESS, Weather};
use crate::queue::Due;
use crate::random::Random;
use crate::scene::Scene;
use crate::witness::Side;

/// No two faults are further apart: at least one in each simulated minute.
const LONGEST_GAP: Nanos = 55 * SECOND;

/// How far apart machines read a new file.
const RELOAD_WITHIN: Nanos = 3 * SECOND;

/// A scene of `machines` machines whose story is drawn from `random`; `witnessed`: with a witness.
#[must_use]
pub fn scene(mut random: Random, machines: usize, witnessed: bool) -> Scene {
    let file = cluster::draw(&mut random, machines, witnessed);
    let weather = Weather {
        delay: random.within(20, 400) * MICROSECOND,
        jitter: random.scaled(10, 1_000) * MICROSECOND,
        loss_ppm: if random.chance(700) { 0 } else { random.scaled(10, 5_000) },
        reorders: random.chance(300),
        duplicate_ppm: if random.chance(700) { 0 } else { random.scaled(10, 5_000) },
    };
    let mut scene = Scene::new(file, weather, random);
    scene.kernel_takes = (MILLISECOND / 10, scene.random.within(200, 20_000) * MICROSECOND);
    scene.mean_gap = scene.random.scaled(2, 25) * SECOND;
    for machine in (0..machines).filter_map(|machine| u8::try_from(machine).ok()) {
        let within = if scene.random.chance(500) { 10 } else { 3_000 };
        let at = scene.random.below(within);
        let host = &mut scene.machines[usize::from(machine)];
        // Its first start is a power-on: the clock begins anywhere.
        host.powered = false;
        scene.queue.push(at * MILLISECOND, Due::Fault(Fault::Start { machine }));
        let ppm = draw_drift(&mut scene.random);
        scene.queue.push(at * MILLISECOND + 1, Due::Fault(Fault::Drift { machine, ppm }));
    }
    for vip in 0..scene.foreign.len() {
        scene.foreign[vip] = scene.random.chance(100);
        if scene.foreign[vip] {
            let vip = u8::try_from(vip).unwrap_or(0);
            let end = scene.random.within(1, 40) * SECOND;
            scene.queue.push(end, Due::Fault(Fault::Foreign { vip, present: false }));
        }
    }
    scene.queue.push(5 * SECOND, Due::NextFault);
    scene
}

/// Good clocks nearly always, bad ones sometimes.
fn draw_drift(random: &mut Random) -> i32 {
    let most = if random.chance(50) { 20_000 } else { 1_000 };
    i32::try_from(random.below(2 * most + 1)).unwrap_or(0) - i32::try_from(most).unwrap_or(0)
}

impl Scene {
    /// Draws a fault, begins it, and says when it ends and when the next one comes.
    pub fn next_fault(&mut self) {
        let gap = self.random.below(2 * self.mean_gap).min(LONGEST_GAP);
        self.queue.push(self.now + gap, Due::NextFault);
        for _ in 0..100 {
            if let Some((fault, end)) = self.draw_fault() {
                if let Some(kind) = fault.kind() {
                    *self.faults.entry(kind.to_owned()).or_default() += 1;
                }
                self.apply(fault);
                if let Some((after, end)) = end {
                    self.queue.push(self.now + after, Due::Fault(end));
                }
                return;
            }
        }
    }

    /// `None` when what was drawn makes no sense at the moment.
    fn draw_fault(&mut self) -> Option<(Fault, Option<(Nanos, Fault)>)> {
        let machines = self.machines.len();
        let machine = u8::try_from(self.random.index(machines)).ok()?;
        let other = u8::try_from(self.random.index(machines)).ok()?;
        let vip = u8::try_from(self.random.index(self.file.names.len())).ok()?;
        let lasting = self.random.scaled(50, 30_000) * MILLISECOND;
        match self.random.below(30) {
            0..=4 => self.draw_network(machine, other, lasting),
            5..=8 => self.draw_weather(lasting),
            9..=16 => self.draw_process(machine, lasting),
            17..=22 => self.draw_health(machine, lasting),
            23..=25 => self.draw_file(machine, vip, lasting),
            _ => self.draw_host(machine, vip, lasting),
        }
    }

    fn draw_network(
        &mut self,
        machine: u8,
        other: u8,
        lasting: Nanos,
    ) -> Option<(Fault, Option<(Nanos, Fault)>)> {
        if self.witness.is_some() && self.random.chance(500) {
            return Some(self.draw_sides(machine, lasting));
        }
        let kind = self.random.below(4);
        if kind != 0 && machine == other {
            return None;
        }
        let fault = |cut| match kind {
            0 => Fault::Isolate { machine, cut },
            1 => Fault::Way { from: machine, to: other, family: None, cut },
            2 => Fault::Pair { a: machine, b: other, cut },
            _ => Fault::Family { machine, family: Family::V4, cut },
        };
        let fault = |cut| match (fault(cut), lasting % 2) {
            (Fault::Family { machine, cut, .. }, 0) => {
                Fault::Family { machine, family: Family::V6, cut }
            }
            (fault, _) => fault,
        };
        Some((fault(true), Some((lasting, fault(false)))))
    }

    fn draw_sides(&mut self, machine: u8, lasting: Nanos) -> (Fault, Option<(Nanos, Fault)>) {
        let lonely = u8::try_from(WITNESS).unwrap_or(u8::MAX);
        let mask = u8::try_from(self.random.below(256)).unwrap_or(1);
        let witness = match self.random.below(5) {
            0 | 1 => Side::Inside,
            2 | 3 => Side::Outside,
            _ => Side::Nowhere,
        };
        let other = u8::try_from(self.random.index(self.machines.len())).unwrap_or(0);
        let kind = self.random.below(10);
        let fault = |cut| match kind {
            0..3 => Fault::Pair { a: machine, b: lonely, cut },
            3..6 if machine != other => Fault::Mute { from: machine, to: other, on: cut },
            _ => Fault::Sides { mask, witness, cut },
        };
        (fault(true), Some((lasting, fault(false))))
    }

    fn draw_weather(&mut self, lasting: Nanos) -> Option<(Fault, Option<(Nanos, Fault)>)> {
        let ppm = u32::try_from(self.random.within(10_000, 400_000)).ok()?;
        let up_to = self.random.scaled(1, 400) * MILLISECOND;
        let (fault, end) = match self.random.below(4) {
            0 => (Fault::Loss { ppm }, Fault::Loss { ppm: 0 }),
            1 => (Fault::Duplication { ppm }, Fault::Duplication { ppm: 0 }),
            2 => (Fault::Corruption { ppm }, Fault::Corruption { ppm: 0 }),
            _ => (Fault::Spike { up_to }, Fault::Spike { up_to: 0 }),
        };
        Some((fault, Some((lasting, end))))
    }

    fn draw_process(
        &mut self,
        machine: u8,
        lasting: Nanos,
    ) -> Option<(Fault, Option<(Nanos, Fault)>)> {
        let host = &self.machines[usize::from(machine)];
        if host.run != Run::Running || host.stopping {
            return None;
        }
        let start = Some((lasting, Fault::Start { machine }));
        // Short pauses are what schedulers and disks cause, all day long.
        let short = self.random.scaled(2, 10_000) * MILLISECOND;
        let clock_stood = self.random.chance(500);
        let go_on = Some((short, Fault::Continue { machine, clock_stood }));
        let drift = draw_drift(&mut self.random);
        let brief = self.random.within(2, 100) * MILLISECOND;
        Some(match self.random.below(9) {
            8 => {
                let end = Fault::Continue { machine, clock_stood: false };
                (Fault::Upgrade { machine }, Some((brief, end)))
            }
            0 | 1 => (Fault::Stop { machine }, go_on),
            2 | 3 => (Fault::Suspend { machine }, go_on),
            4 => (Fault::Kill { machine }, start),
            5 => (Fault::PowerOff { machine }, start),
            6 => (Fault::Quit { machine }, start),
            _ => (Fault::Drift { machine, ppm: drift }, None),
        })
    }

    fn draw_health(
        &mut self,
        machine: u8,
        lasting: Nanos,
    ) -> Option<(Fault, Option<(Nanos, Fault)>)> {
        let host = &self.machines[usize::from(machine)];
        let check = self.random.index(host.checks.len());
        let works = host.checks.get(check)?.works;
        let check = u8::try_from(check).ok().filter(|check| self.witness != Some(*check))?;
        let gap = self.random.within(10, 500) * MILLISECOND;
        let end = Fault::Service { machine, check, works: true, sudden: false, gap };
        let ends_itself = self.random.chance(500);
        let time = if ends_itself { lasting } else { 0 };
        Some(match self.random.below(6) {
            0 | 1 if works => {
                let fault = Fault::Service { machine, check, works: false, sudden: true, gap };
                (fault, Some((lasting.max(2 * SECOND), end)))
            }
            2 | 3 if works => {
                let fault = Fault::Service { machine, check, works: false, sudden: false, gap };
                (fault, Some((lasting.max(2 * SECOND), end)))
            }
            4 if works => {
                let fault = Fault::Result { machine, check, verdict: Verdict::Fail };
                let pass = Fault::Result { machine, check, verdict: Verdict::Pass };
                (fault, Some((gap, pass)))
            }
            5 if host.run == Run::Running => {
                let off = Fault::Maintenance { machine, on: false, lasting: 0 };
                (Fault::Maintenance { machine, on: true, lasting: time }, Some((lasting, off)))
            }
            _ => return None,
        })
    }

    fn draw_file(
        &mut self,
        machine: u8,
        vip: u8,
        lasting: Nanos,
    ) -> Option<(Fault, Option<(Nanos, Fault)>)> {
        let version_2 = self.file.vip(vip)?.version == standin_core::plan::Version::V2;
        let edit = match self.random.below(4) {
            0 => Edit::Priority { vip, machine, priority: draw_priority(&mut self.random) },
            1 if !version_2 => {
                let centiseconds = draw_interval(&mut self.random);
                Edit::Interval { vip, centiseconds }
            }
            2 if self.file.stands(vip) => Edit::Remove { vip },
            3 => {
                let never = self.random.chance(500);
                Edit::Failback { vip, never, wait: draw_wait(&mut self.random) }
            }
            _ => return None,
        };
        self.reload_all(0);
        let end = matches!(edit, Edit::Remove { .. }).then(|| {
            self.reload_all(lasting);
            (lasting, Fault::Edit(Edit::Add { vip }))
        });
        Some((Fault::Edit(edit), end))
    }

    /// Each machine reads the file at a time of its own, some time after it was written.
    fn reload_all(&mut self, after: Nanos) {
        for machine in (0..self.machines.len()).filter_map(|machine| u8::try_from(machine).ok()) {
            let at = self.now + after + 1 + self.random.below(RELOAD_WITHIN);
            self.queue.push(at, Due::Fault(Fault::Reload { machine }));
        }
    }

    fn draw_host(
        &mut self,
        machine: u8,
        vip: u8,
        lasting: Nanos,
    ) -> Option<(Fault, Option<(Nanos, Fault)>)> {
        let host = &self.machines[usize::from(machine)];
        let slow = self.random.within(20, 500) * MILLISECOND;
        Some(match self.random.below(7) {
            0 if host.interface_up => {
                let end = Fault::Interface { machine, up: true };
                (Fault::Interface { machine, up: false }, Some((lasting, end)))
            }
            1 if host.own_present => {
                let end = Fault::OwnAddress { machine, present: true };
                (Fault::OwnAddress { machine, present: false }, Some((lasting, end)))
            }
            2 => {
                let holder = self.holder(vip)?;
                (Fault::DeleteVip { machine: holder, vip }, None)
            }
            3 => (Fault::Refuse { machine, vip, lasting }, None),
            4 if host.kernel_slow == 0 => {
                let end = Fault::SlowKernel { machine, delay: 0 };
                (Fault::SlowKernel { machine, delay: slow }, Some((lasting, end)))
            }
            5 if !self.foreign[usize::from(vip)] => {
                let end = Fault::Foreign { vip, present: false };
                (Fault::Foreign { vip, present: true }, Some((lasting, end)))
            }
            6 => (Fault::Stranger { vip }, None),
            _ => return None,
        })
    }

    fn holder(&self, vip: u8) -> Option<u8> {
        let holds = self.machines.iter().position(|host| host.kernel[usize::from(vip)].present)?;
        u8::try_from(holds).ok()
    }
}
