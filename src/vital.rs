//! Panics: what must not be missing takes the whole daemon with it, so that the guard clears up.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::pin::pin;

use standin_linux::output;

/// Has each panic said in one line, by a thread that doesn't wait for who reads it.
pub(crate) fn say_panics() {
    set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("?").to_owned();
        output::say(&format!("a bug in standin, thread {name}: {info}"));
    }));
}

/// A future without which the node must not live on: a panic in it ends the process, at once and
/// without waiting for anything. tokio would only end the task, and nobody would miss a check that
/// says nothing any more.
pub(crate) async fn vital<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    std::future::poll_fn(move |context| {
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(poll) => poll,
            Err(_) => std::process::abort(),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    const CHILD: &str = "vital::tests::a_vital_future_that_panics";

    /// Runs in a process of its own: see the next one.
    #[test]
    #[ignore = "it ends its process"]
    fn a_vital_future_that_panics() {
        say_panics();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // What unwinding would wait for: a thread that hangs.
            tokio::task::spawn_blocking(|| std::thread::sleep(std::time::Duration::from_secs(600)));
            let task = tokio::spawn(vital(async {
                tokio::task::yield_now().await;
                panic!("the injected one");
            }));
            let _never: Result<(), _> = task.await;
        });
    }

    #[test]
    fn a_panic_in_a_vital_task_aborts_the_process_although_tokio_would_go_on() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", CHILD, "--ignored", "--nocapture"]).stdin(Stdio::null());
        let output = child.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(6), "{said}");
        assert!(said.contains("standin: a bug in standin") && said.contains("the injected one"));
    }
}
