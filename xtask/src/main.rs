//! The project's chores: `cargo xtask demo | test | container | sim | soak | fuzz | bench`.

mod container;
mod fuzz;
mod packages;
mod steps;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use steps::Steps;

const HELP: &str = "\
cargo xtask COMMAND [ARGUMENTS]

  demo [ARGS]   install what is missing, build, rehearse every fault on this machine
                (arguments go to `standin lab --drill`, e.g. --repeat 5)
  test          everything that CI runs
  container     install, run, stop, kill, reboot and adopt as README says, on machines with a real
                systemd (under two minutes, once the Debian for them is installed)
  sim [ARGS]    the simulator (arguments go to `standin-sim run`, e.g. --hours 100 --seed 7), and a
                share of the shared files' world (all of it: sim sync --hours 10000)
  soak [SECS]   the storm of writers with dying nodes, SECS seconds long (default 60)
  fuzz [SECS]   every fuzz target, SECS seconds each (default 300)
  bench [NAME…] standin side by side with keepalived, and with inotifywait and rsync
                (bench --help says which; bench sync: only the shared files)
";

/// How long each fuzz target runs within `test`.
const FUZZ_IN_TEST_S: u32 = 15;

/// How long each fuzz target runs by default.
const FUZZ_S: u32 = 300;

/// How long the writers write by default.
const SOAK_S: u32 = 60;

/// Simulated hours within `test`, for fixed and fresh seeds each.
const SIM_IN_TEST_HOURS: &str = "20";

/// The same of the shared files' world, which is faster.
const SYNC_IN_TEST_HOURS: &str = "200";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<_> = arguments.collect();
    // The others pass it on to a program that has a help of its own.
    let own = ["test", "container", "fuzz", "soak"].contains(&command.as_str());
    if is_help(&command) || own && rest.iter().any(|argument| is_help(argument)) {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let done = match command.as_str() {
        "demo" => demo(&rest),
        "test" => test(),
        "container" => containers(),
        // What it runs beside its machines.
        "container-client" => container::client::run(),
        "sim" => sim(&rest),
        "fuzz" => seconds(&rest, FUZZ_S).and_then(fuzz_all),
        "soak" => seconds(&rest, SOAK_S).and_then(soak),
        "bench" => bench(&rest),
        _ => {
            if !command.is_empty() {
                eprintln!("error: no chore is called `{command}`\n");
            }
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_help(argument: &str) -> bool {
    ["help", "-h", "--help"].contains(&argument)
}

fn seconds(arguments: &[String], otherwise: u32) -> Result<u32> {
    let Some(given) = arguments.first() else { return Ok(otherwise) };
    given.parse().with_context(|| format!("`{given}` is no number of seconds"))
}

fn demo(arguments: &[String]) -> Result<()> {
    packages::install()?;
    build_release()?;
    // The drill takes over: it gets Ctrl-C, cleans up, and its exit code is ours.
    let mut drill = Command::new(built("standin"));
    drill.args(["lab", "--drill"]).args(arguments);
    run(&mut drill)
}

fn test() -> Result<()> {
    packages::install()?;
    let mut steps = Steps::default();
    steps.optional("format", "cargo fmt", cargo(&["fmt", "--version"]), cargo(&["fmt", "--check"]));
    steps.optional(
        "lints",
        "cargo clippy",
        cargo(&["clippy", "--version"]),
        cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]),
    );
    // The only program that is run optimised here; the others are built by the tests.
    steps.step("build", cargo(&["build", "--release", "--quiet", "--package", "standin-sim"]));
    steps.step("tests", cargo(&["test", "--workspace", "--quiet", "--no-fail-fast"]));
    steps.step("simulator, fixed seeds", simulator(&["--seed", "1", "--hours", SIM_IN_TEST_HOURS]));
    steps.step("simulator, a fresh seed", simulator(&["--hours", SIM_IN_TEST_HOURS]));
    let shared = ["--hours", SYNC_IN_TEST_HOURS];
    steps
        .step("shared files, a fixed seed", sync_simulator(&["--seed", "1", shared[0], shared[1]]));
    steps.step("shared files, a fresh seed", sync_simulator(&shared));
    steps.also("fuzzers", || fuzz_all(FUZZ_IN_TEST_S));
    steps.finish()
}

fn containers() -> Result<()> {
    build_release()?;
    container::run()
}

fn sim(arguments: &[String]) -> Result<()> {
    build_release()?;
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    if let Some((&"sync", rest)) = arguments.split_first() {
        return run(&mut sync_simulator(rest));
    }
    run(&mut simulator(&arguments))?;
    run(&mut sync_simulator(&["--hours", SYNC_IN_TEST_HOURS]))
}

fn sync_simulator(arguments: &[&str]) -> Command {
    let mut command = Command::new(built("standin-sim"));
    command.arg("sync").args(arguments);
    command
}

fn simulator(arguments: &[&str]) -> Command {
    let mut command = Command::new(built("standin-sim"));
    command.arg("run").args(arguments);
    command
}

fn fuzz_all(seconds: u32) -> Result<()> {
    packages::install()?;
    fuzz::run(&root(), seconds)
}

/// The suite has a short one.
fn soak(seconds: u32) -> Result<()> {
    packages::install()?;
    let mut test = cargo(&["test", "--quiet", "--test", "sync", "--", "--exact"]);
    test.args(["storm::after_a_storm_with_dying_nodes_and_cut_cables_all_trees_are_equal"]);
    run(test.env("STANDIN_STORM_S", seconds.to_string()))
}

fn bench(arguments: &[String]) -> Result<()> {
    packages::install()?;
    build_release()?;
    let mut bench = cargo(&["bench", "--quiet", "--bench", "side_by_side", "--"]);
    run(bench.args(arguments))
}

fn build_release() -> Result<()> {
    eprintln!("building (the first time takes a few minutes) …");
    run(&mut cargo(&["build", "--release", "--quiet", "--workspace"]))
}

/// A program of the release build.
fn built(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| root().join("target"), |target| root().join(target));
    target.join("release").join(name)
}

fn cargo(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(root());
    command
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
