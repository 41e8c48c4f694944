//! The process that builds a lab and keeps it: started by `standin lab`, which it may outlive.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use standin_config::model::Cluster;
use standin_linux::spawn::{self, Birth};

use super::cluster::{Lab, Manner};
use super::control::Control;
use super::drill::{self, Report, Wish};
use super::example::{self, Variant};
use super::faults::Fault;
use super::{Wanted, table};
use crate::control;
use crate::exit::Exit;

/// The arguments, as one line.
const LONGEST_LINE: u64 = 1 << 16;

/// A cluster that hasn't elected one node by then is shown as it is.
const ELECTED_WITHIN: Duration = Duration::from_secs(10);

/// Starts the supervisor and waits until it lets this process go, or ends.
pub(super) fn launch(args: &Wanted) -> Result<ExitCode> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["lab", "supervise"]).stdin(Stdio::from(OwnedFd::from(theirs)));
    // A session of its own: Ctrl-C ends this process, and the kernel then the supervisor.
    spawn::born(&mut command, Birth { dies_with_parent: true, new_session: true });
    // An older kernel: as it was.
    let _ = spawn::hand_nothing_on();
    let mut child = command.spawn().context("cannot start this binary again")?;
    drop(command);
    let mut line = serde_json::to_vec(args)?;
    line.push(b'\n');
    ours.write_all(&line)?;
    let mut said = String::new();
    BufReader::new(ours).take(LONGEST_LINE).read_line(&mut said)?;
    if let Ok(code) = said.trim().parse::<u8>() {
        return Ok(ExitCode::from(code));
    }
    let status = child.wait()?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// The supervisor.
pub(super) fn main() -> Result<ExitCode> {
    let mut launcher = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut line = String::new();
    BufReader::new(launcher.try_clone()?).take(LONGEST_LINE).read_line(&mut line)?;
    let args: Wanted = serde_json::from_str(&line).context("no arguments from `standin lab`")?;
    let Some((cluster, text)) = read(&args)? else { return Ok(Exit::BadFile.into()) };
    let faults = wished_faults(&args)?;

    let name = args.name.clone().unwrap_or_else(|| super::DEFAULT_NAME.to_owned());
    let control = Control::open(&name)?;
    let inside = !spawn::is_root();
    if inside {
        spawn::become_root_in_user_namespace().context(
            "the lab needs root, or a kernel that lets users have namespaces of their own \
             (sysctls user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1, \
             kernel.apparmor_restrict_unprivileged_userns=0)",
        )?;
        // Entering a user namespace may have cleared it.
        spawn::die_with_parent()?;
    }
    let began = Instant::now();
    let manner = Manner {
        keepalived: args.keepalived,
        bind_vip: args.bind_vip,
        promote_secondaries: args.promote_secondaries.map(|value| value != 0),
    };
    let mut lab = Lab::build(cluster, text, manner, &mut |what| tell(what))?;
    clear();
    eprintln!(
        "lab: {} nodes and a client, built in {} ms",
        lab.count(),
        began.elapsed().as_millis()
    );

    let mut code = 0_u8;
    if args.drill {
        let wish = Wish {
            faults,
            rounds: args.repeat,
            deadline: Duration::from_millis(args.deadline_ms),
            comparison: args.keepalived,
        };
        let report = drill::run(&mut lab, &wish)?;
        print(&report, args.json)?;
        code = u8::from(!report.good);
        if !args.keep {
            return Ok(ExitCode::from(code));
        }
    } else {
        await_election(&lab);
    }
    if !args.json {
        println!("{}", introduction(&lab, &name));
    }
    spawn::outlive_parent()?;
    spawn::discard_output()?;
    launcher.write_all(format!("{code}\n").as_bytes())?;
    drop(launcher);
    control.serve(lab, inside)?;
    Ok(ExitCode::SUCCESS)
}

/// The cluster file, read; `None` when it has faults or is none, which is shown.
fn read(args: &Wanted) -> Result<Option<(Cluster, String)>> {
    let (name, bytes) = match &args.file {
        Some(path) => {
            let name = path.display().to_string();
            match control::bytes_of(path) {
                Ok(bytes) => (name, bytes),
                Err(error) => {
                    eprintln!("error: can't read the cluster file {name}: {error}");
                    return Ok(None);
                }
            }
        }
        None => {
            let variant =
                Variant { nodes: args.nodes, ipv4: !args.ipv6, ipv6: args.ipv6 || args.dual };
            let text = example::cluster_file(variant, args.advert_interval.as_deref());
            ("the lab's cluster file".to_owned(), text.into_bytes())
        }
    };
    let loaded = standin_config::load_bytes(&name, &bytes);
    if !loaded.diagnostics.is_empty() {
        eprint!("{}", loaded.render(std::io::stderr().is_terminal()));
    }
    // What has a model is text.
    Ok(loaded.model.map(|cluster| (cluster, String::from_utf8_lossy(&bytes).into_owned())))
}

fn wished_faults(args: &Wanted) -> Result<Vec<Fault>> {
    if args.only.is_empty() {
        return Ok(Fault::ALL.to_vec());
    }
    if !args.drill {
        bail!("--only chooses the faults of --drill");
    }
    args.only.iter().map(|name| Fault::named(name)).collect()
}

fn print(report: &Report, json: bool) -> Result<()> {
    let text = if json {
        format!("{}\n", serde_json::to_string_pretty(report)?)
    } else {
        let evidence = report.evidence.as_deref().map(drill::point_to);
        let evidence = evidence.map(|line| format!("{line}\n")).unwrap_or_default();
        format!("\n{}\n{evidence}{}\n", table::render(report), table::summary(report))
    };
    // A pipe that was closed early is its reader's affair.
    let _unread = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn await_election(lab: &Lab) {
    let deadline = Instant::now() + ELECTED_WITHIN;
    tell("waiting for an active node");
    while lab.active().iter().any(|holders| holders.len() != 1) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    clear();
}

fn introduction(lab: &Lab, name: &str) -> String {
    let mut text = String::new();
    for (vip, holders) in lab.cluster.vips.iter().zip(lab.active()) {
        let names: Vec<&str> = holders.iter().map(|node| lab.name(*node)).collect();
        let holder = if names.is_empty() { "nobody yet".to_owned() } else { names.join(" and ") };
        let addresses: Vec<String> =
            vip.addresses.iter().map(|prefix| prefix.address().to_string()).collect();
        text += &format!("VIP {} ({}) is on {holder}\n", vip.name, addresses.join(", "));
    }
    let first = lab.name(0);
    let url = lab.vip_addresses().first().map_or_else(String::new, |address| match address {
        std::net::IpAddr::V4(address) => format!("http://{address}/"),
        std::net::IpAddr::V6(address) => format!("http://[{address}]/"),
    });
    let option =
        if name == super::DEFAULT_NAME { String::new() } else { format!(" --name {name}") };
    text += &format!(
        "
  standin lab status{option}              who holds what
  standin lab shell{option} client curl {url}
  standin lab shell{option} {first}            a shell in a node; try `standin status` there
  standin lab kill{option} {first}             kill its nginx; `kill {first} daemon`, `kill {first} host`
  standin lab hang{option} {first}             stop its nginx without ending it
  standin lab cut{option} {first}              pull its cable; `heal` undoes cut and hang
  standin lab start{option} {first}            start again what is not running
  standin lab down{option}                end it; nothing is left behind"
    );
    text
}

/// What is being done, on a terminal only.
fn tell(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[Klab: {what} …");
    }
}

fn clear() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}
