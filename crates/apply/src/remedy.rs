//! What a reload can't do: a new master with fresh shared memory takes the files.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use standin_config::nginx::title::{Arguments, Title};
use standin_linux::child::User;
use standin_linux::process as system;
use standin_linux::service;

use crate::nginx::{Master, Nginx};
use crate::proof::{Proven, Speakers, Watchers, standing};
use crate::swap::Swapped;
use crate::test::Tested;

const QUIT: i32 = 3;
const USR2: i32 = 12;
const TERM: i32 = 15;

/// Between two looks at what nginx has become.
const STEP: Duration = Duration::from_millis(5);

/// A new master shows some milliseconds after it was asked for. Where none does for so long, it has ended,
/// and what was logged meanwhile is taken for its reason.
const HEIR_SHOWS: Duration = Duration::from_millis(500);

/// Gives nginx a new master that reads the swapped files afresh: its binary is upgraded in place
/// (USR2, then QUIT to the old master), which loses no connection; where that can't be, or fails,
/// and `restart` allows it, nginx is restarted.
///
/// # Errors
/// Why neither worked, in words; the old master runs on after a failed upgrade.
pub fn remedy(
    nginx: &Nginx,
    tested: &Tested,
    swapped: &Swapped,
    patience: Duration,
    restart: bool,
) -> Result<Proven, String> {
    let told = Instant::now();
    let done = match nginx.hold() {
        Ok(old) => match upgrade(&old, tested, patience) {
            Err(why) if restart => anew(nginx, Some(&old), patience)
                .map_err(|error| format!("the upgrade failed ({why}), and so did {error}")),
            other => other,
        },
        Err(_) if restart => anew(nginx, None, patience),
        Err(why) => Err(why),
    };
    let master = done?;
    standing(&master, tested, swapped).map_err(|why| why.to_string())?;
    let workers = master.family().workers;
    let took = told.elapsed();
    Ok(Proven { master: master.pid, workers, first_worker_after: took, took })
}

fn arguments(master: u32) -> Arguments {
    match system::title(master).as_deref().and_then(Title::parse) {
        Some(Title::Master(arguments)) => arguments,
        _ => Arguments::default(),
    }
}

/// Starts a new master beside the old one, which inherits its sockets, and lets the old one go.
fn upgrade(old: &Master, tested: &Tested, patience: Duration) -> Result<Master, String> {
    let program = arguments(old.pid).program;
    if !program.is_absolute() {
        let shown = program.display();
        return Err(format!("it was started as `{shown}`, and USR2 needs an absolute path"));
    }
    let told = Instant::now();
    let mut logs = Watchers::of(old, tested);
    let mut speakers = Speakers::of(old.pid);
    let mut seen = told;
    let gone = |error: &dyn Display| format!("master {}: {error}", old.pid);
    old.fd.signal(USR2).map_err(|error| gone(&error))?;
    let heir = loop {
        let heirs = old.family().heirs;
        speakers.meet(&heirs);
        if !heirs.is_empty() {
            seen = Instant::now();
        }
        let mut ready = heirs.iter().filter_map(|heir| Master::hold(*heir));
        if let Some(heir) = ready.find(|heir| !heir.family().workers.is_empty()) {
            break heir;
        }
        if let Some(said) = logs.emergency_of(&mut speakers) {
            return Err(format!("the new master said: {}", said.trim()));
        }
        let others = speakers.others();
        if seen.elapsed() >= HEIR_SHOWS && !others.is_empty() {
            return Err(format!("the new master is gone{others}"));
        }
        if told.elapsed() >= patience {
            let took = patience.as_millis();
            return Err(format!("no new master with workers after {took} ms{others}"));
        }
        std::thread::sleep(STEP);
    };
    old.fd.signal(QUIT).map_err(|error| gone(&error))?;
    loop {
        if old.family().workers.is_empty() || !old.fd.alive() {
            return Ok(heir);
        }
        if told.elapsed() >= patience {
            return Err(format!("the old master {} doesn't let its workers go", old.pid));
        }
        std::thread::sleep(STEP);
    }
}

/// Ends nginx if it runs, and starts it as it was started.
fn anew(nginx: &Nginx, old: Option<&Master>, patience: Duration) -> Result<Master, String> {
    let began = Instant::now();
    let line = match (&nginx.unit, old) {
        (Some(unit), _) => vec!["/usr/bin/systemctl".into(), "restart".into(), unit.into()],
        (None, Some(old)) => {
            if !system::same_mount_namespace(old.pid) {
                return Err("the restart: nginx runs in a container; restart that".to_owned());
            }
            // Nginx would end with it, and may bind no low port there.
            if let Some(service) = service::around(std::process::id()) {
                return Err(format!(
                    "the restart: nginx has no systemd unit of its own, and what is started here would end \
                     with {service}; restart it by hand, or give it a unit"
                ));
            }
            // Somebody else's program is never run as root.
            if !User::of_process(old.pid).is_ok_and(|user| user.uid() == 0) {
                return Err("the restart: nginx isn't root's; its user has to do it".to_owned());
            }
            let line = command(old.pid)?;
            let ended = old.fd.signal(TERM);
            ended.map_err(|error| format!("the restart: {error}"))?;
            while old.fd.alive() {
                if began.elapsed() >= patience {
                    return Err(format!("the restart: master {} doesn't end", old.pid));
                }
                std::thread::sleep(STEP);
            }
            line
        }
        (None, None) => {
            let binary = nginx.binary.as_ref().ok_or("the start: no binary is known")?;
            vec![binary.clone().into_os_string()]
        }
    };
    let (program, rest) = line.split_first().ok_or("the restart: no command")?;
    let started = Command::new(program)
        .args(rest)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| format!("the start of {}: {error}", Path::new(program).display()))?;
    if !started.success() {
        return Err(format!("the start of {} ({started})", Path::new(program).display()));
    }
    let file = nginx.pid_file.clone().unwrap_or_else(|| PathBuf::from("/run/nginx.pid"));
    loop {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let master = text.trim().parse().ok().and_then(Master::hold);
        if let Some(master) = master.filter(|master| !master.family().workers.is_empty()) {
            return Ok(master);
        }
        if began.elapsed() >= patience {
            return Err("the start: no master with workers came up".to_owned());
        }
        std::thread::sleep(STEP);
    }
}

/// The command that a master was started with.
fn command(master: u32) -> Result<Vec<std::ffi::OsString>, String> {
    let words = |error: std::io::Error| format!("the restart: {error}");
    let mut line = vec![system::executable(master).map_err(words)?.into_os_string()];
    let given = arguments(master);
    let start = std::fs::read_link(format!("/proc/{master}/cwd")).unwrap_or_else(|_| "/".into());
    if let Some(prefix) = &given.prefix {
        line.extend(["-p".into(), start.join(prefix).into_os_string()]);
    }
    if let Some(conf) = &given.conf {
        line.extend(["-c".into(), conf.clone().into_os_string()]);
    }
    if let Some(globals) = &given.globals {
        line.extend(["-g".into(), globals.into()]);
    }
    Ok(line)
}
