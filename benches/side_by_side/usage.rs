//! What a program costs: CPU time and memory of all of its processes, as the kernel counts them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Program;

/// Time on a CPU so far, to the nanosecond.
///
/// It is the sum that utime and stime of `/proc/PID/stat` share out in hundredths of a second.
/// Work that the kernel does in softirqs on behalf of a sender is in it.
pub(crate) fn cpu_time(program: &Program) -> Result<Duration> {
    let mut nanos = 0_u64;
    for pid in program.processes() {
        for task in fs::read_dir(format!("/proc/{pid}/task")).context("the program has ended")? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let word = text.split_whitespace().next().unwrap_or_default();
            nanos += word.parse::<u64>().context("/proc/PID/task/TID/schedstat")?;
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// Sum of Pss in kB, and how many processes share it.
pub(crate) fn memory_kb(program: &Program) -> Result<(u64, usize)> {
    let mut sum = 0;
    let processes = program.processes();
    for pid in &processes {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let word = line.and_then(|line| line.split_whitespace().next());
        sum += word.context("no Pss in smaps_rollup")?.parse::<u64>()?;
    }
    Ok((sum, processes.len()))
}

/// Time on a CPU so far of the threads of that name, of a process and all that it has started.
pub(crate) fn thread_time(pid: u32, name: &str) -> Result<Duration> {
    let mut nanos = None;
    for pid in crate::host::family_of(pid) {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten() {
            let task = task?.path();
            if fs::read_to_string(task.join("comm"))?.trim() == name {
                let text = fs::read_to_string(task.join("schedstat"))?;
                let word = text.split_whitespace().next().unwrap_or_default();
                let more = word.parse::<u64>().context("/proc/PID/task/TID/schedstat")?;
                nanos = Some(nanos.unwrap_or(0) + more);
            }
        }
    }
    nanos.map(Duration::from_nanos).with_context(|| format!("there is no thread {name}"))
}
