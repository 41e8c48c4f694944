//! standin and Debian's keepalived side by side, on the same machine in the same run.
//!
//! `cargo xtask bench [--quick] [--json] [NAME…]`; docs/performance.md says what the
//! figures mean.

mod bare;
#[allow(dead_code, clippy::unwrap_used, reason = "the tests' nodes can do more, and panic")]
#[path = "../../tests/sync/cluster.rs"]
mod cluster;
mod configs;
mod cpu;
mod drills;
mod host;
#[path = "../../tests/hosts/mod.rs"]
mod hosts;
mod memory;
mod report;
mod start;
mod stress;
mod switchover;
mod sync;
mod usage;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cpu::Load;
use report::{Figure, Machine, Report};

const HELP: &str = "\
cargo xtask bench [--quick] [--json] [NAME…]      (--only NAME,… says the same)
                  sync is all that begins with sync-

";

type Measure = fn(&Path, &Options) -> Result<Vec<Figure>>;

const MEASURES: [(&str, &str, Measure); 12] = [
    ("faults", "time without an answer, by fault", drills::measure),
    ("switchover", "a planned move there and back, with all kinds of clients", switchover::measure),
    ("cpu-100ms", "CPU per advert, 200 VIPs at 100 ms", cpu_100_ms),
    ("cpu-10ms", "CPU per advert, 250 VIPs at 10 ms", cpu_10_ms),
    ("stress", "false transitions under CPU stress", stress::busy),
    ("links", "false transitions while links are deleted", stress::links),
    ("memory", "resident memory", memory::measure),
    ("start", "start to first advert", start::first_advert),
    ("thousand", "1,000 VIPs on 4 interfaces", start::thousand),
    ("sync-two", "one file saved, beside inotifywait and rsync, 2 nodes", sync::two),
    ("sync-five", "one file saved, beside inotifywait and rsync, 5 nodes", sync::five),
    ("sync-many", "10,000 files: first sync, one change, idle scan", sync::many),
];

pub(crate) struct Options {
    quick: bool,
    json: bool,
    only: Vec<String>,
}

impl Options {
    /// How often what is noisy is measured; the median counts.
    const fn rounds(&self) -> usize {
        if self.quick { 1 } else { 5 }
    }

    /// How long steady work is watched.
    const fn span(&self) -> Duration {
        Duration::from_secs(if self.quick { 5 } else { 10 })
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<bool> {
    if let [mode, vips, interval_ms] = arguments
        && mode == "--bare"
    {
        bare::send_for_ever(vips.parse()?, interval_ms.parse()?)?;
    }
    if arguments == ["--hear"] {
        return start::hear().map(|()| true);
    }
    let Some(options) = read(arguments)? else { return Ok(true) };
    let dir = std::env::temp_dir().join(format!("standin-bench-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let machine = machine()?;
    let mut figures = Vec::new();
    for (name, title, measure) in MEASURES {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            // Tests that measure time stand back meanwhile, and this while they run.
            let lock = File::create(std::env::temp_dir().join("standin-timed-tests.lock"))?;
            lock.lock()?;
            eprintln!("{name}: {title} …");
            figures.extend(measure(&dir.join(name), &options).unwrap_or_else(|error| {
                let mut figure = Figure::new(title, "").aim("to be measured", false);
                figure.notes.push(format!("{error:#}"));
                vec![figure]
            }));
        }
    }
    fs::remove_dir_all(&dir)?;
    let report = Report { machine, quick: options.quick, figures };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.table());
    }
    Ok(report.good())
}

fn read(arguments: &[String]) -> Result<Option<Options>> {
    let mut options = Options { quick: false, json: false, only: Vec::new() };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--quick" => options.quick = true,
            "--json" => options.json = true,
            "--only" => {
                let names = rest.next().context("--only wants names")?;
                options.only = names.split(',').map(str::to_owned).collect();
            }
            "sync" => {
                let names = MEASURES.iter().map(|(name, _, _)| (*name).to_owned());
                options.only.extend(names.filter(|name| name.starts_with("sync-")));
            }
            // Cargo says so to every bench.
            "--bench" => {}
            "--help" | "-h" => {
                print!("{HELP}");
                MEASURES.iter().for_each(|(name, title, _)| println!("  {name:<12} {title}"));
                return Ok(None);
            }
            name if MEASURES.iter().any(|(known, _, _)| *known == name) => {
                options.only.push(name.to_owned());
            }
            other => bail!("{other} means nothing here; see --help"),
        }
    }
    let unknown = |name: &&String| !MEASURES.iter().any(|(known, _, _)| known == name);
    if let Some(name) = options.only.iter().find(unknown) {
        let known: Vec<_> = MEASURES.iter().map(|(name, _, _)| *name).collect();
        bail!("--only {name}: there are {}", known.join(", "));
    }
    Ok(Some(options))
}

fn machine() -> Result<Machine> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let model = processors.lines().find(|line| line.starts_with("model name"));
    let version = Command::new("keepalived").arg("--version").output();
    let version = version.context("keepalived is not installed")?;
    let version = String::from_utf8_lossy(&version.stderr);
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(Machine {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        processor: model.and_then(|line| line.split(": ").nth(1)).unwrap_or("?").to_owned(),
        cores: std::thread::available_parallelism()?.get(),
        keepalived: version.lines().next().unwrap_or("?").to_owned(),
        load: load.split_whitespace().next().unwrap_or("?").to_owned(),
    })
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Counts here are far below 2^32.
pub(crate) fn count(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn cpu_100_ms(dir: &Path, options: &Options) -> Result<Vec<Figure>> {
    let load = Load { vips: 200, interval_ms: 100, to_bare: 1.3, to_keepalived: Some(0.35) };
    cpu::measure(dir, &load, options)
}

fn cpu_10_ms(dir: &Path, options: &Options) -> Result<Vec<Figure>> {
    let load = Load { vips: 250, interval_ms: 10, to_bare: 1.2, to_keepalived: None };
    cpu::measure(dir, &load, options)
}
