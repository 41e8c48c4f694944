//! Runs steps one after the other, goes on after a failure, and counts what was left out.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

#[derive(Debug, Default)]
pub(crate) struct Steps {
    passed: Vec<&'static str>,
    failed: Vec<&'static str>,
    skipped: Vec<&'static str>,
}

impl Steps {
    pub(crate) fn step(&mut self, name: &'static str, command: Command) {
        self.also(name, || crate::run(&mut { command }));
    }

    /// A step whose tool a bare installation of Rust doesn't have.
    pub(crate) fn optional(
        &mut self,
        name: &'static str,
        tool: &str,
        mut has: Command,
        command: Command,
    ) {
        let there = has.output().is_ok_and(|output| output.status.success());
        if there {
            self.step(name, command);
        } else {
            eprintln!("SKIPPED {name}: {tool} isn't installed");
            self.skipped.push(name);
        }
    }

    pub(crate) fn also(&mut self, name: &'static str, act: impl FnOnce() -> Result<()>) {
        eprintln!("── {name}");
        let began = Instant::now();
        match act() {
            Ok(()) => self.passed.push(name),
            Err(error) => {
                eprintln!("FAILED {name}: {error:#}");
                self.failed.push(name);
            }
        }
        eprintln!("── {name}: {:.0} s", began.elapsed().as_secs_f64());
    }

    pub(crate) fn finish(self) -> Result<()> {
        let list = |title: &str, names: &[&str]| {
            if !names.is_empty() {
                eprintln!("{title}: {}", names.join(", "));
            }
        };
        list("passed", &self.passed);
        list("SKIPPED", &self.skipped);
        list("FAILED", &self.failed);
        println!(
            "steps: {} passed, {} failed, {} skipped",
            self.passed.len(),
            self.failed.len(),
            self.skipped.len()
        );
        if !self.failed.is_empty() {
            bail!("{} failed", self.failed.join(", "));
        }
        Ok(())
    }
}
