//! For tests: applies trees by hand, and dies at a chosen step. It is no part of the product.
//!
//! ```text
//! standin-apply-trial tester
//! standin-apply-trial test MASTER PATIENCE_MS PATH STAGED …
//! standin-apply-trial apply STATE MASTER PID_FILE MAY_RESTART KILL_AT PATH STAGED …
//! standin-apply-trial swap STATE keep|undo KILL_AT PATH STAGED …
//! standin-apply-trial recover STATE KILL_AT
//! standin-apply-trial retire STATE KILL_AT
//! standin-apply-trial left STATE
//! ```
//!
//! A `STAGED` with a file `.parts` has only what differs. `KILL_AT` counts the steps; 0 kills at none. `PID_FILE` is `-` for none, `MASTER` 0 for none.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use standin_apply::{Change, Means, Nginx, Outcome, Part, Root, Staged, Step, Tester};

const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let began = Instant::now();
    let done = match words.as_slice() {
        ["tester"] => {
            let (mut input, mut output) = (std::io::stdin(), std::io::stdout());
            standin_apply::serve_tester(&mut input, &mut output).is_ok()
        }
        ["test", master, patience, roots @ ..] => {
            let nginx = Nginx { master: master.parse().ok(), ..Nginx::default() };
            let patience = Duration::from_millis(patience.parse().unwrap_or_default());
            match standin_apply::test(
                &staged(roots),
                &nginx,
                &Tester::of_this_host("tester"),
                patience,
            ) {
                Ok(tested) => {
                    println!("good: {}", tested.said);
                    true
                }
                Err(refusal) => {
                    println!("refused: {refusal}\n{refusal:?}");
                    false
                }
            }
        }
        ["apply", state, master, pid_file, may_restart, kill_at, roots @ ..] => {
            let nginx = Nginx {
                master: master.parse().ok().filter(|pid| *pid != 0),
                pid_file: Some(PathBuf::from(pid_file)).filter(|file| file.is_absolute()),
                binary: Some(PathBuf::from("/usr/sbin/nginx")),
                ..Nginx::default()
            };
            let staged = staged(roots);
            let means = Means {
                tester: Tester::of_this_host("tester"),
                state_dir: PathBuf::from(state),
                patience: PATIENCE,
                may_restart: *may_restart == "yes",
            };
            let outcome =
                standin_apply::apply(&staged, &nginx, &means, || {}, &mut killer(kill_at));
            tell(&outcome);
            matches!(outcome, Outcome::Proven { .. })
        }
        ["swap", state, then, kill_at, roots @ ..] => {
            let mut hook = killer(kill_at);
            let (staged, state) = (staged(roots), Path::new(state));
            match standin_apply::swap(&staged, &Nginx::default(), state, &mut hook) {
                Ok(swapped) if *then == "keep" => {
                    standin_apply::keep(swapped, &mut hook).is_ok()
                        && standin_apply::retire(state, &mut hook).is_ok()
                }
                Ok(swapped) => standin_apply::undo(swapped, &mut hook).is_ok(),
                Err(why) => {
                    println!("{}", why.why);
                    false
                }
            }
        }
        ["recover", state, kill_at] => {
            let found = standin_apply::recover(Path::new(state), &mut killer(kill_at));
            println!("{found:?}");
            found.is_ok()
        }
        ["retire", state, kill_at] => {
            let drift = standin_apply::retire(Path::new(state), &mut killer(kill_at));
            println!("{drift:?}");
            drift.is_ok()
        }
        ["left", state] => {
            let left = standin_apply::left(Path::new(state));
            left.iter().flatten().for_each(|one| println!("{one}"));
            left.is_ok()
        }
        _ => false,
    };
    eprintln!("{:.1} ms", began.elapsed().as_secs_f64() * 1000.0);
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn staged(roots: &[&str]) -> Staged {
    let roots = roots.chunks_exact(2).map(|pair| {
        let (path, staged) = (PathBuf::from(pair[0]), PathBuf::from(pair[1]));
        let parts = parts(&staged);
        Root { path, staged, before: None, parts }
    });
    Staged { generation: "trial".into(), roots: roots.collect() }
}

/// What is in `.parts` of a staged tree, if it has that: lines of `put`, `remove` or `dress`, and a path.
fn parts(staged: &Path) -> Option<Vec<Part>> {
    let text = std::fs::read_to_string(staged.join(".parts")).ok()?;
    let part = |line: &str| {
        let (word, path) = line.split_once(' ')?;
        let change = match word {
            "put" => Change::Put,
            "remove" => Change::Remove,
            _ => Change::Dress,
        };
        Some(Part { path: PathBuf::from(path), change })
    };
    Some(text.lines().filter_map(part).collect())
}

fn tell(outcome: &Outcome) {
    match outcome {
        Outcome::Refused(refusal) => println!("refused: {refusal}"),
        Outcome::PutBack { why, remedy, back, .. } => {
            println!("put back: {why}\n{remedy:?}\n{back:?}");
        }
        Outcome::Proven { proven, remedied, .. } => println!("{proven:?} {remedied:?}"),
        Outcome::NotSwapped(why) => println!("not swapped: {}", why.why),
        other => println!("{other:#?}"),
    }
}

/// Kills this process at the step of that number; says each one.
fn killer(kill_at: &str) -> impl FnMut(Step) + use<> {
    let kill_at: u32 = kill_at.parse().unwrap_or_default();
    let began = Instant::now();
    let mut count = 0;
    move |step| {
        count += 1;
        eprintln!("{count} {step:?} {:.1} ms", began.elapsed().as_secs_f64() * 1000.0);
        if count == kill_at {
            // SIGKILL can't fail to arrive at oneself.
            let _sent = standin_linux::spawn::kill(std::process::id(), 9);
        }
    }
}
