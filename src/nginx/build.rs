//! Asks an nginx binary how it was built: `nginx -V`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use standin_config::nginx::Build;
use standin_linux::child::User;
use standin_linux::spawn;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::checks::trust;

/// `-V` prints and exits; one that doesn't is no nginx, or its disk is gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// OpenResty's configure arguments are the longest, about 3 KiB.
const OUTPUT_BYTES: u64 = 64 * 1024;

/// Runs `binary -V`, as nobody where others than root could have put the binary there: whoever
/// can name a process of his nginx can't make root run his program by that.
///
/// # Errors
/// In words, when it can't be run, takes too long, or is no nginx.
pub(super) async fn ask(binary: &Path) -> Result<Build, String> {
    let shown = binary.display();
    let mut command = Command::new(binary);
    if spawn::is_root() && trust::objection(&[shown.to_string()]).is_some() {
        User::nobody().applies_to(command.as_std_mut());
    }
    let run = async {
        let mut running = command
            .arg("-V")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut said = Vec::new();
        if let Some(stderr) = running.stderr.take() {
            stderr.take(OUTPUT_BYTES).read_to_end(&mut said).await?;
        }
        running.wait().await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&said).into_owned())
    };
    match tokio::time::timeout(PATIENCE, run).await {
        Ok(Ok(said)) => {
            Build::parse(&said).ok_or_else(|| format!("`{shown} -V` doesn't speak like an nginx"))
        }
        Ok(Err(error)) => Err(format!("{shown} can't be run: {error}")),
        Err(_) => Err(format!("`{shown} -V` didn't end within {} s", PATIENCE.as_secs())),
    }
}
