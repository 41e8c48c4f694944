//! The nginx of each lab host: a small configuration, started by its absolute path.

use std::path::Path;

use anyhow::{Context, Result, bail};
use standin_config::model::Cluster;

use super::hosts::{Host, Process};

const DEFAULT_CONF: &str = "/etc/nginx/nginx.conf";
pub(super) const PID_FILE: &str = "/run/nginx.pid";
const CANDIDATES: [&str; 3] =
    ["/usr/sbin/nginx", "/usr/local/nginx/sbin/nginx", "/usr/local/sbin/nginx"];

/// Which nginx the hosts run and what it is told.
#[derive(Debug)]
pub(super) struct Nginx {
    /// Absolute, since an upgrade by USR2 executes what the master was started as.
    binary: String,
    /// What is copied to `binary` in each host, where the machine has none there.
    copied_from: Option<String>,
    conf: String,
    text: String,
}

impl Nginx {
    /// # Errors
    /// When no nginx is found.
    pub(super) fn find(cluster: &Cluster, bind_vip: bool) -> Result<Self> {
        let section = cluster.nginx.as_ref();
        let named = section.and_then(|it| it.binary.as_deref());
        let found = named
            .filter(|path| path.is_file())
            .or_else(|| CANDIDATES.iter().map(Path::new).find(|path| path.is_file()))
            .context("no nginx on this machine: install it (apt install nginx)")?;
        let binary = named.unwrap_or(found);
        let conf =
            section.and_then(|it| it.conf.as_deref()).unwrap_or_else(|| Path::new(DEFAULT_CONF));
        Ok(Self {
            binary: binary.display().to_string(),
            copied_from: (binary != found).then(|| found.display().to_string()),
            conf: conf.display().to_string(),
            text: configuration(cluster, bind_vip),
        })
    }

    pub(super) fn configure(&self, host: &mut Host) -> Result<()> {
        if let Some(original) = &self.copied_from {
            host.run(&["install", "-D", original, &self.binary])?;
        }
        host.write(&self.conf, &self.text)
    }

    pub(super) fn start(&self, host: &mut Host) -> Result<()> {
        host.run(&[&self.binary, "-c", &self.conf]).map(|_| ())
    }
}

fn configuration(cluster: &Cluster, bind_vip: bool) -> String {
    let listen: String = if bind_vip {
        let addresses = cluster.vips.iter().flat_map(|vip| &vip.addresses);
        addresses
            .map(|prefix| match prefix.address() {
                std::net::IpAddr::V4(address) => format!("    listen {address}:80;\n"),
                std::net::IpAddr::V6(address) => format!("    listen [{address}]:80;\n"),
            })
            .collect()
    } else {
        "    listen 80;\n    listen [::]:80;\n".to_owned()
    };
    // A client that a cut has taken away tells nobody that it is gone, and a later drain waits for it: not
    // for nginx's usual minute.
    // The bare `user root` is for user namespaces, which have no other user.
    format!(
        "user root;
worker_processes 2;
pid {PID_FILE};
error_log /var/log/nginx/error.log;
events {{
  worker_connections 1024;
}}
http {{
  access_log off;
  keepalive_requests 1000000;
  keepalive_timeout 5s;
  client_header_timeout 5s;
  send_timeout 5s;
  server {{
{listen}    location = /healthz {{
      return 200 \"ok\\n\";
    }}
    location / {{
      return 200 \"$hostname\\n\";
    }}
  }}
}}
"
    )
}

/// All of the host's nginx processes, masters and workers.
pub(super) fn pids(host: &Host) -> Result<Vec<u32>> {
    Ok(processes(host)?.iter().map(|it| it.pid).collect())
}

fn processes(host: &Host) -> Result<Vec<Process>> {
    let mut all = host.processes()?;
    all.retain(|it| it.command == "nginx");
    Ok(all)
}

/// The master that the pid file names.
pub(super) fn master(host: &Host) -> Result<u32> {
    let text = host.read(PID_FILE)?;
    text.trim().parse().with_context(|| format!("{}: {PID_FILE} holds {text:?}", host.name))
}

/// What the processes show: `up`, `hung` or `down`.
pub(super) fn state(host: &Host) -> Result<&'static str> {
    let processes = processes(host)?;
    Ok(match processes.iter().find(|it| it.state == 'T') {
        _ if processes.is_empty() => "down",
        Some(_) => "hung",
        None => "up",
    })
}

/// Replaces the running nginx by a new master of the same binary: USR2, then QUIT to the old one.
pub(super) fn upgrade(host: &mut Host) -> Result<()> {
    const USR2: i32 = 12;
    const QUIT: i32 = 3;
    let old = master(host)?;
    host.signal(&[old], USR2)?;
    for _ in 0..400 {
        std::thread::sleep(std::time::Duration::from_millis(5));
        // While the new binary starts, the pid file moves aside and comes back.
        if let Ok(new) = master(host)
            && new != old
        {
            // The new workers take connections before the old ones are told to go.
            std::thread::sleep(std::time::Duration::from_millis(200));
            return host.signal(&[old], QUIT);
        }
    }
    bail!("{}: nginx did not start its new binary on USR2", host.name)
}
