//! Machines that run a Debian of their own with systemd, on one bridge, in namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// What the machines have beyond Debian's smallest system.
const PACKAGES: &str =
    "systemd,systemd-sysv,dbus,ifupdown,iproute2,nginx-light,iputils-ping,procps";

/// Where the machines lie unless `STANDIN_CONTAINERS` names another folder.
const FOLDER: &str = "/var/cache/standin-containers";

/// A machine that takes longer to boot, or to go down, hangs.
const PATIENCE: Duration = Duration::from_secs(60);

const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The folder of all machines, and the system that each of them begins as.
pub(super) struct Shelf {
    folder: PathBuf,
    /// Held: two runs would take each other's machines away.
    _lock: fs::File,
}

impl Shelf {
    /// Installs the system that the machines begin as, the first time.
    pub(super) fn open() -> Result<Self> {
        let folder = std::env::var_os("STANDIN_CONTAINERS").unwrap_or_else(|| FOLDER.into());
        let folder = PathBuf::from(folder);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let lock = fs::File::create(folder.join("lock"))?;
        lock.try_lock().with_context(|| format!("another run uses {}", folder.display()))?;
        let shelf = Self { folder, _lock: lock };
        let base = shelf.folder.join("base");
        if !base.exists() {
            eprintln!("installing a Debian 12 in {} (once, some minutes) …", base.display());
            let begun = shelf.folder.join("begun");
            shelf.remove("begun")?;
            let mut debootstrap = Command::new("debootstrap");
            debootstrap.args(["--variant=minbase", &format!("--include={PACKAGES}"), "bookworm"]);
            let output = debootstrap.arg(&begun).output().context("debootstrap")?;
            ensure!(
                output.status.success(),
                "debootstrap: {}",
                String::from_utf8_lossy(&output.stdout)
            );
            fs::rename(begun, base)?;
        }
        Ok(shelf)
    }

    /// A fresh system, which isn't booted yet.
    pub(super) fn system(&self, name: &str) -> Result<PathBuf> {
        self.remove(name)?;
        let root = self.folder.join(name);
        let mut copy = Command::new("cp");
        copy.arg("--archive").arg(self.folder.join("base")).arg(&root);
        crate::run(&mut copy)?;
        fs::write(root.join("etc/hostname"), format!("{name}\n"))?;
        fs::write(root.join("etc/hosts"), format!("127.0.0.1 localhost {name}\n"))?;
        Ok(root)
    }

    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let root = self.folder.join(name);
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
        }
        Ok(())
    }
}

/// A bridge in a network of its own, with a client on it.
pub(super) struct Lan {
    switch: Child,
    client: Child,
}

impl Lan {
    pub(super) fn new() -> Result<Self> {
        let host = |then: &str| {
            let script = format!("ip link set lo up; {then}; echo ready; exec sleep infinity");
            let mut command = Command::new("unshare");
            command.args(["--net", "--", "/bin/sh", "-ec", &script]);
            let mut host = command.stdout(Stdio::piped()).spawn().context("unshare")?;
            let mut ready = [0; 6];
            let out = host.stdout.as_mut().context("its output")?;
            std::io::Read::read_exact(out, &mut ready).context("a network of its own")?;
            anyhow::Ok(host)
        };
        let bridge = "ip link add br0 type bridge mcast_snooping 0; ip link set br0 up";
        let lan = Self { switch: host(bridge)?, client: host("true")? };
        lan.plug("client", lan.client.id(), 99)?;
        lan.client("ip address add 192.168.1.99/24 dev eth0; ip link set eth0 up")?;
        // The machines' gateway.
        lan.client("ip address add 192.168.1.1/24 dev eth0")?;
        Ok(lan)
    }

    fn plug(&self, name: &str, pid: u32, mac: u8) -> Result<()> {
        let port = format!("p-{name}");
        self.on_switch(&format!(
            "ip link del {port} 2> /dev/null || true; ip link add {port} type veth peer name eth0 \
             netns {pid} address 02:00:5e:10:00:{mac:02}; ip link set {port} master br0 up"
        ))
    }

    fn on_switch(&self, line: &str) -> Result<()> {
        said(within(self.switch.id(), &["--net"], line), line).map(drop)
    }

    /// A shell line beside the machines, from outside.
    pub(super) fn client(&self, line: &str) -> Result<String> {
        said(within(self.client.id(), &["--net"], line), line)
    }

    /// This program's own client there.
    pub(super) fn asking(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.client.id().to_string(), "--net", "--"]);
        command
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for host in [&mut self.client, &mut self.switch] {
            end(host);
        }
    }
}

/// A machine that runs.
pub(super) struct Machine<'a> {
    lan: &'a Lan,
    pub(super) root: PathBuf,
    name: String,
    mac: u8,
    /// `unshare`, which lives as long as the machine's first process.
    outside: Child,
}

impl<'a> Machine<'a> {
    pub(super) fn boot(lan: &'a Lan, root: &Path, name: &str, mac: u8) -> Result<Self> {
        let outside = start(root, name)?;
        let machine = Self { lan, root: root.to_owned(), name: name.to_owned(), mac, outside };
        machine.come_up()?;
        Ok(machine)
    }

    fn come_up(&self) -> Result<()> {
        let own = fs::read_link("/proc/self/ns/net")?;
        let outside = self.outside.id();
        until(&format!("{} has a network of its own", self.name), || {
            fs::read_link(format!("/proc/{outside}/ns/net")).is_ok_and(|net| net != own)
        })?;
        self.lan.plug(&self.name, outside, self.mac)?;
        until(&format!("{} has booted", self.name), || {
            self.sh("systemctl is-system-running").is_ok_and(|state| state.trim() == "running")
        })
    }

    /// A shell line there, as root at a console.
    pub(super) fn sh(&self, line: &str) -> Result<String> {
        let outside = self.outside.id();
        let children = fs::read_to_string(format!("/proc/{outside}/task/{outside}/children"))?;
        let init = children.trim().parse().with_context(|| format!("{} is down", self.name))?;
        let output = within(init, &["--all", "--root", "--wd"], line);
        said(output, line).with_context(|| self.name.clone())
    }

    /// `systemctl reboot`, with the time that it took to come back.
    pub(super) fn reboot(&mut self) -> Result<Duration> {
        let began = Instant::now();
        // The answer may be lost with the machine.
        let _ = self.sh("systemctl reboot");
        until(&format!("{} goes down", self.name), || {
            matches!(self.outside.try_wait(), Ok(Some(_)))
        })?;
        self.outside = start(&self.root, &self.name)?;
        self.come_up()?;
        Ok(began.elapsed())
    }

    pub(super) fn write(&self, path: &str, text: &str) -> Result<()> {
        fs::write(self.root.join(path.trim_start_matches('/')), text).context(path.to_owned())
    }

    pub(super) fn read(&self, path: &str) -> Result<Vec<u8>> {
        fs::read(self.root.join(path.trim_start_matches('/'))).context(path.to_owned())
    }

    /// Waits until a line of shell is content.
    pub(super) fn until(&self, line: &str) -> Result<()> {
        let what = format!("on {}: {line}", self.name);
        until(&what, || self.sh(line).is_ok())
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        end(&mut self.outside);
        // Its processes are being killed; what stays at worst is an empty directory of the kernel's.
        let folder = format!("/run/standin-container-{}", std::process::id());
        let clear = format!(
            "mkdir -p {folder}; mount -t cgroup2 cgroup2 {folder}; group={folder}/standin-container-{}; \
             for _ in $(seq 100); do find $group -depth -type d -exec rmdir '{{}}' ';'; test -d $group || \
             break; sleep 0.05; done; umount {folder}; rmdir {folder}",
            self.name
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--", "/bin/sh", "-c", &clear]);
        let _ = command.stderr(Stdio::null()).status();
    }
}

fn start(root: &Path, name: &str) -> Result<Child> {
    let script = crate::root().join("xtask/src/container/boot.sh");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--", "/bin/sh"]);
    command.arg(script).arg(root).arg(name).stdin(Stdio::null());
    command.spawn().context("unshare")
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

fn within(pid: u32, namespaces: &[&str], line: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid.to_string()]).args(namespaces).current_dir("/");
    command.args(["--", "/bin/sh", "-ec", line]).env_clear().stdin(Stdio::null());
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
    command
}

fn said(mut command: Command, line: &str) -> Result<String> {
    let output = command.output().context("nsenter")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{line}: {}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(said)
}

pub(super) fn until(what: &str, mut look: impl FnMut() -> bool) -> Result<()> {
    let began = Instant::now();
    while !look() {
        ensure!(began.elapsed() < PATIENCE, "not within {} s: {what}", PATIENCE.as_secs());
        sleep(LOOK_AGAIN);
    }
    Ok(())
}
