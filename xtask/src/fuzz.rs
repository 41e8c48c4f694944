//! Runs the fuzz targets for a time, the canary first: a fuzzer that misses it is blind.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// What is read from the wire or the disk; `fuzz/README.md` says what must hold for each.
const TARGETS: [&str; 5] =
    ["vrrp_packet", "neighbour_frame", "cluster_file", "nginx_files", "file_list"];

/// The canary is found in a second; this is for slow machines.
const CANARY_S: u32 = 60;

pub(crate) fn run(root: &Path, seconds: u32) -> Result<()> {
    let dir = root.join("fuzz");
    eprintln!("canary: the planted fault has to be found");
    let limits =
        [format!("-max_total_time={CANARY_S}"), "-max_len=20".into(), "-entropic=0".into()];
    if target(&dir, "canary", &limits)? {
        bail!("the canary was not found: the fuzzer is blind");
    }
    for name in TARGETS {
        eprintln!("{name}: {seconds} s");
        let mut limits = vec![
            format!("-max_total_time={seconds}"),
            "-timeout=10".into(),
            "-max_len=4096".into(),
        ];
        if name == "cluster_file" {
            limits.push("-dict=dictionaries/cluster_file.dict".into());
        }
        if !target(&dir, name, &limits)? {
            bail!("{name} found something: see fuzz/artifacts/{name}, and fuzz/README.md");
        }
    }
    Ok(())
}

/// True when nothing was found.
fn target(dir: &Path, name: &str, limits: &[String]) -> Result<bool> {
    let build = cargo(dir)
        .args(["build", "--locked", "--release", "--quiet", "--bin", name])
        .status()
        .context("cargo")?;
    if !build.success() {
        bail!("{name} can't be built");
    }
    for folder in [format!("target/corpus/{name}"), format!("artifacts/{name}")] {
        fs::create_dir_all(dir.join(&folder)).context(folder)?;
    }
    let log = dir.join(format!("target/{name}.log"));
    let output = cargo(dir)
        .args([
            "run",
            "--locked",
            "--release",
            "--quiet",
            "--bin",
            name,
            "--",
            "-print_final_stats=1",
        ])
        .args(limits)
        .arg(format!("-artifact_prefix=artifacts/{name}/"))
        .args([format!("target/corpus/{name}"), format!("corpus/{name}")])
        .output()
        .context("cargo")?;
    fs::write(&log, &output.stderr).with_context(|| log.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let counted = said.lines().find(|line| line.starts_with("stat::number_of_executed_units"));
    eprintln!("  {}", counted.unwrap_or("no count: see its log in fuzz/target"));
    if !output.status.success() && name != "canary" {
        let last: Vec<_> = said.lines().rev().take(30).collect();
        last.iter().rev().for_each(|line| eprintln!("  {line}"));
    }
    Ok(output.status.success())
}

/// The flags of the instrumentation count only while nobody overrides them.
fn cargo(dir: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(dir);
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"] {
        command.env_remove(name);
    }
    command
}
