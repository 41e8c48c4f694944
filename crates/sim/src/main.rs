//! `standin-sim`: long runs over fresh seeds, scenarios, and the replay of what went wrong.

mod long_run;
mod shared_files;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use standin_sim::campaign::{CASE, Campaign, Failure, Tally};
use standin_sim::clock::SECOND;
use standin_sim::fault::Fault;
use standin_sim::host;
use standin_sim::network::MAX_MACHINES;
use standin_sim::scene::REASONS;
use standin_sim::{replay, scenario};

const USAGE: &str = "\
standin-sim run [--seed N] [--nodes A..B] [--hours H] [--threads T]
    Draws clusters and their stories and holds them to their promises. Without a seed, a fresh one.
standin-sim run --seed N [--nodes A..B] --case K [--trace] [--packets]
    Runs one case again; --trace shows what happened, --packets each advert too.
standin-sim run --seed N [--nodes A..B] --case K --record NODE
    Writes what the NODEth node of that case was told, in the form that replay reads.
standin-sim sync [--seed N] [--hours H] [--threads T]
    The same for the shared files: their replicas, disks and nginx. Without a seed, a fresh one.
standin-sim sync --seed N --case K
    Runs one case of it again; what happened is shown if a promise was broken.
standin-sim scenario FILE...
    Runs stories and their expectations.
standin-sim replay FILE
    Feeds a recorded node its inputs again and prints what it does.
";

/// A run shorter than this need not have seen every kind of fault.
const LONG_RUN_HOURS: u64 = 200;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.split_first() {
        Some((&"run", rest)) => Options::read(rest).and_then(|options| options.run()),
        Some((&"sync", rest)) => shared_files::command(rest),
        Some((&"scenario", files)) if !files.is_empty() => scenarios(files),
        Some((&"replay", [file])) => {
            fs::read_to_string(file).map_err(|why| format!("{file}: {why}")).and_then(|text| {
                replay::replay(&text)
                    .map(|out| print!("{out}"))
                    .map_err(|why| format!("{file}: {why}"))
            })
        }
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn scenarios(files: &[&str]) -> Result<(), String> {
    let mut failed = 0;
    for file in files {
        let text = fs::read_to_string(file).map_err(|why| format!("{file}: {why}"))?;
        match scenario::run(&text) {
            Ok(()) => println!("{file}: as expected"),
            Err(failure) => {
                failed += 1;
                println!("{}{file}: {}", failure.trace, failure.what);
            }
        }
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} of {} failed", files.len())) }
}

#[derive(Clone, Copy, Debug)]
struct Options {
    campaign: Campaign,
    hours: u64,
    threads: usize,
    case: Option<u64>,
    trace: bool,
    packets: bool,
    record: Option<u8>,
}

impl Options {
    fn read(words: &[&str]) -> Result<Self, String> {
        let mut seed = None;
        let campaign = Campaign { seed: 0, fewest_nodes: 2, most_nodes: MAX_MACHINES };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let mut options = Self {
            campaign,
            hours: 10,
            threads,
            case: None,
            trace: false,
            packets: false,
            record: None,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--trace" => options.trace = true,
                "--packets" => (options.trace, options.packets) = (true, true),
                name => {
                    let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
                    let bad = || format!("{name} {value}: not understood\n{USAGE}");
                    match name {
                        "--seed" => seed = Some(value.parse().map_err(|_| bad())?),
                        "--hours" => options.hours = value.parse().map_err(|_| bad())?,
                        "--threads" => options.threads = value.parse().map_err(|_| bad())?,
                        "--record" => options.record = Some(value.parse().map_err(|_| bad())?),
                        "--case" => options.case = Some(value.parse().map_err(|_| bad())?),
                        "--nodes" => {
                            let (fewest, most) = value.split_once("..").ok_or_else(bad)?;
                            let range: (usize, usize) = (
                                fewest.parse().map_err(|_| bad())?,
                                most.parse().map_err(|_| bad())?,
                            );
                            if range.0 < 2 || range.0 > range.1 || range.1 > MAX_MACHINES {
                                return Err(format!("--nodes must lie in 2..{MAX_MACHINES}"));
                            }
                            (options.campaign.fewest_nodes, options.campaign.most_nodes) = range;
                        }
                        _ => return Err(bad()),
                    }
                }
            }
        }
        options.campaign.seed = seed.map_or_else(fresh_seed, Ok)?;
        Ok(options)
    }

    fn run(&self) -> Result<(), String> {
        if let Some(case) = self.case {
            return self.run_one(case);
        }
        let cases = (self.hours * 3_600 * SECOND).div_ceil(CASE);
        println!("seed {}: {} cluster-hours in {cases} cases", self.campaign.seed, self.hours);
        let case = |case| self.campaign.run(case, None);
        let ended = long_run::run((cases, self.threads), case, Tally::add)?;
        report(&ended.tally, ended.took);
        long_run::verdict(self.campaign.seed, self.judge(&ended.tally, &ended.failures))
    }

    fn run_one(&self, case: u64) -> Result<(), String> {
        if let Some(node) = self.record {
            print!("{}", self.campaign.record(case, node.saturating_sub(1)));
            return Ok(());
        }
        println!("seed {}, case {case}", self.campaign.seed);
        match self.campaign.run(case, self.trace.then_some(self.packets)) {
            Ok(tally) => {
                report(&tally, Duration::ZERO);
                println!("no promise was broken");
                Ok(())
            }
            Err(failure) => Err(format!("{}{}", failure.trace, failure.what)),
        }
    }

    /// What is wrong with the run, in words; nothing if it is good.
    fn judge(&self, tally: &Tally, failures: &[Failure]) -> String {
        let mut words: Vec<String> = Vec::new();
        let Campaign { seed, fewest_nodes, most_nodes } = self.campaign;
        for Failure { case, what, .. } in failures {
            words.push(format!(
                "case {case}: {what}\n  standin-sim run --seed {seed} --nodes {fewest_nodes}..{most_nodes} --case {case} --trace"
            ));
        }
        if self.hours >= LONG_RUN_HOURS && failures.is_empty() {
            let kinds = faults();
            let faults = kinds.iter().map(String::as_str);
            let faults = faults.filter(|kind| !tally.faults.contains_key(*kind));
            let reasons = REASONS.iter().copied();
            let reasons = reasons.filter(|reason| !tally.reasons.contains_key(*reason));
            words.extend(faults.chain(reasons).map(|kind| format!("{kind}: never happened")));
            let minutes = tally.simulated / SECOND / 60;
            if tally.faults_total() < minutes {
                words.push("less than one fault in a simulated minute".to_owned());
            }
        }
        words.join("\n")
    }
}

/// Every kind of fault, and every step at which something was done to processes.
fn faults() -> Vec<String> {
    let at = |step: &&str| [format!("before: {step}"), format!("after: {step}")];
    let kinds = Fault::KINDS.iter().chain(&host::KINDS).map(ToString::to_string);
    kinds.chain(host::AT.iter().flat_map(at)).collect()
}

fn fresh_seed() -> Result<u64, String> {
    let mut bytes = [0; 8];
    let read = |mut file: File| -> io::Result<()> { file.read_exact(&mut bytes) };
    File::open("/dev/urandom").and_then(read).map_err(|why| format!("/dev/urandom: {why}"))?;
    Ok(u64::from_be_bytes(bytes))
}

fn report(tally: &Tally, took: Duration) {
    let hours = tally.simulated / SECOND / 3_600;
    println!(
        "{} cases, {hours} simulated hours, {} adverts heard, {} transitions, {} faults",
        tally.cases,
        tally.adverts,
        tally.transitions,
        tally.faults_total()
    );
    println!(
        "two holders at a change, nothing being wrong: {} times, at most {} us",
        tally.overlaps,
        tally.longest_overlap / 1_000
    );
    println!("a client was found to send to the holder: {} times", tally.clients_right);
    long_run::say_speed(tally.simulated, took);
    long_run::say_counts("faults", &tally.faults, faults().iter().map(String::as_str));
    long_run::say_counts("transitions, by reason", &tally.reasons, REASONS.into_iter());
}
