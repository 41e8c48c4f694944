//! `standin lab` as an operator uses it: their own file rehearsed, and a command in a node.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

#[path = "../hosts/mod.rs"]
mod hosts;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use hosts::skipped;
use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::Value;
use standin_linux::fork::SIGINT;
use standin_linux::process::PidFd;

const STANDIN: &str = env!("CARGO_BIN_EXE_standin");

/// Two nodes and a VIP; what is added goes into the VIP's section first.
const PAIR: &str = r#"
cluster = "edge"
[node.n1]
address = "192.0.2.11"
priority = 150
[node.n2]
address = "192.0.2.12"
[vip.web]
virtual_router_id = 41
addresses = ["192.0.2.41/24"]
"#;

/// With what a made-up cluster hasn't: a MAC of its own for the VIP, and shared files.
const OWN_MAC: &str = "virtual_mac = true\n[nginx]\n[sync]\n";

/// Whose checks ask for others than the nodes: a gateway that is there, and another cable.
const ASKING: &str = r#"
witness = ["gateway"]
heartbeat = ["eth1"]
checks = ["nginx", "way-out"]
[check.gateway]
type = "ping"
to = "192.0.2.1"
[check.way-out]
type = "route"
to = "default"
via = "192.0.2.1"
[nginx]
"#;

/// A second VIP, which is the second node's.
const OTHER: &str = r#"
[vip.api]
virtual_router_id = 42
addresses = ["192.0.2.42/24"]
nodes = ["n2"]
[nginx]
"#;

fn standin(words: &[&str]) -> Command {
    let mut command = Command::new(STANDIN);
    command.args(words).stdin(Stdio::null());
    command
}

/// The report of a drill of a file of one's own: the pair with `more`.
fn drilled(name: &str, more: &str, faults: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("standin.toml");
    std::fs::write(&file, format!("{PAIR}{more}")).unwrap();
    let mut drill = standin(&["lab", "--name", name, "--drill", "--json", "--only", faults]);
    let output = drill.arg(&file).env("TMPDIR", dir.path()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// In a cut, the side that doesn't see the gateway gives up: it has to be there.
#[test]
fn whom_the_checks_ask_is_there() {
    if skipped() {
        return;
    }
    let report = drilled("asked", ASKING, "host-severed");
    let run = &report["runs"][0];
    assert_eq!((&run["before"], &run["after"]), (&"n1".into(), &"n2".into()), "{report:#}");
}

/// A file of one's own can be rehearsed. How long it took isn't asked: others may be busy here.
#[test]
fn a_file_with_shared_files_and_a_virtual_mac_is_drilled() {
    if skipped() {
        return;
    }
    let report = drilled("drilled", OWN_MAC, "vip-deleted,switched-over");
    let runs = report["runs"].as_array().unwrap();
    let moved = |fault: &str| {
        let run = runs.iter().find(|run| run["fault"] == fault).unwrap();
        assert!(run["before"].as_str().unwrap().starts_with('n'), "{run:#}");
        run["before"] != run["after"]
    };
    assert!(!moved("vip-deleted") && moved("switched-over"), "{report:#}");
}

/// What the second node has of its own is not the first one's to lose, or to give away.
#[test]
fn vips_that_different_nodes_hold_are_drilled() {
    if skipped() {
        return;
    }
    let report = drilled("both", OTHER, "vip-deleted,switched-over");
    let runs = report["runs"].as_array().unwrap();
    assert_eq!((runs.len(), &runs[0]["before"]), (2, &Value::from("n1+n2")), "{report:#}");
    let reasons = format!("{} {}", runs[0]["reasons"], runs[1]["reasons"]);
    assert!(!reasons.contains("isn't here") && !reasons.contains("did not move"), "{report:#}");
}

/// Ends with the test, whatever it comes to.
struct Lab(&'static str);

impl Lab {
    fn begin(name: &'static str) -> Self {
        let begun = Self(name);
        let output = standin(&["lab", "--name", name]).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("lab down"), "{output:?}");
        begun
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // It may have failed to begin.
        let _ = standin(&["lab", "down", "--name", self.0]).status();
    }
}

#[test]
fn ctrl_c_in_a_node_is_for_what_runs_there() {
    if skipped() {
        return;
    }
    // What its caller has open it doesn't keep: else the end of this pipe never came.
    let (mut caller, handed) = std::io::pipe().unwrap();
    fcntl_setfd(&handed, FdFlags::empty()).unwrap();
    let _lab = Lab::begin("interrupted");
    drop(handed);
    assert_eq!(caller.read(&mut [0]).unwrap(), 0);
    let script = "echo ready; read line; echo over; exit 7";
    let mut shell = Command::new(STANDIN);
    shell.args(["lab", "shell", "--name", "interrupted", "n1", "sh", "-c", script]);
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    // A terminal sends it to what runs in the node, too.
    PidFd::open(child.id()).unwrap().signal(SIGINT).unwrap();
    drop(child.stdin.take());
    assert_eq!(said.next().unwrap().unwrap(), "over");
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(7), None));
}
