//! What `adopt` has changed, kept so that it can be undone: one folder per address in the state directory.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use standin_core::types::Prefix;
use standin_linux::netlink::Route;

use crate::authority::files::{private_dir, write_atomically};

const NAME: &str = "record.json";

/// A route as far as it must be found again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Way {
    #[serde(with = "maybe_prefix")]
    pub(super) destination: Option<Prefix>,
    pub(super) gateway: Option<IpAddr>,
    pub(super) index: Option<u32>,
    pub(super) table: u32,
    pub(super) metric: u32,
}

impl Way {
    pub(super) const fn of(route: &Route) -> Self {
        Self {
            destination: route.destination,
            gateway: route.gateway,
            index: route.index,
            table: route.table,
            metric: route.metric,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.destination {
            Some(to) => write!(f, "route {to}")?,
            None => f.write_str("route default")?,
        }
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        // RT_TABLE_MAIN
        if self.table != 254 { write!(f, " table {}", self.table) } else { Ok(()) }
    }
}

/// A file that was changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) path: PathBuf,
    pub(super) mode: u32,
    pub(super) user: u32,
    pub(super) group: u32,
    /// In the record's folder: the file as it was, and as it was written.
    pub(super) before: String,
    pub(super) after: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// The production address as the host had it.
    #[serde(with = "prefix")]
    pub(super) address: Prefix,
    pub(super) vip: String,
    pub(super) interface: String,
    #[serde(with = "prefix")]
    pub(super) new: Prefix,
    /// The new address was on the host before; it stays there.
    pub(super) new_was_here: bool,
    pub(super) label: Option<String>,
    pub(super) prefix_route: bool,
    /// The addresses of the subnet as the kernel had them.
    #[serde(with = "prefixes")]
    pub(super) order: Vec<Prefix>,
    pub(super) routes: Vec<Way>,
    pub(super) files: Vec<Kept>,
}

impl Record {
    pub(super) fn folder(state_dir: &Path, address: IpAddr) -> PathBuf {
        state_dir.join("adopt").join(address.to_string())
    }

    /// Of one address; `None` when it isn't adopted.
    pub(super) fn load(state_dir: &Path, address: IpAddr) -> Result<Option<Self>> {
        let path = Self::folder(state_dir, address).join(NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let record = serde_json::from_slice(&text).with_context(|| {
            format!("{} can't be read; the files as they were lie beside it", path.display())
        })?;
        Ok(Some(record))
    }

    /// The only address that is adopted on this host.
    pub(super) fn only(state_dir: &Path) -> Result<IpAddr> {
        let entries = fs::read_dir(state_dir.join("adopt")).into_iter().flatten().flatten();
        let all: Vec<IpAddr> =
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        match all[..] {
            [] => bail!("nothing is adopted on this host ({})", state_dir.join("adopt").display()),
            [only] => Ok(only),
            _ => {
                let all: Vec<_> = all.iter().map(ToString::to_string).collect();
                Err(anyhow!("several addresses are adopted here, say which: {}", all.join(", ")))
            }
        }
    }

    /// On the disk before this returns.
    pub(super) fn save(&self, state_dir: &Path) -> Result<()> {
        let folder = Self::folder(state_dir, self.address.address());
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        make(&folder)?;
        write_atomically(&folder.join(NAME), &text, 0o600)
            .with_context(|| folder.join(NAME).display().to_string())
    }

    pub(super) fn forget(&self, state_dir: &Path) -> Result<()> {
        let folder = Self::folder(state_dir, self.address.address());
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))
    }
}

/// Folders that are root's alone: network configuration holds passwords.
pub(super) fn make(folder: &Path) -> Result<()> {
    folder
        .parent()
        .map_or(Ok(()), private_dir)
        .and_then(|()| private_dir(folder))
        .with_context(|| format!("making {}", folder.display()))
}

pub(super) fn parse_prefix(text: &str) -> Result<Prefix, String> {
    text.parse().map_err(|_| "an address with its length: 192.168.1.189/24".to_owned())
}

mod prefix {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use standin_core::types::Prefix;

    pub(super) fn serialize<S: Serializer>(prefix: &Prefix, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(prefix)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Prefix, D::Error> {
        super::parse_prefix(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}

mod maybe_prefix {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
    use standin_core::types::Prefix;

    pub(super) fn serialize<S: Serializer>(
        prefix: &Option<Prefix>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        prefix.map(|prefix| prefix.to_string()).serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Prefix>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.as_deref().map(super::parse_prefix).transpose().map_err(de::Error::custom)
    }
}

mod prefixes {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use standin_core::types::Prefix;

    pub(super) fn serialize<S: Serializer>(all: &[Prefix], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(all.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Prefix>, D::Error> {
        let all = Vec::<String>::deserialize(from)?;
        let all = all.iter().map(|text| super::parse_prefix(text)).collect::<Result<_, _>>();
        all.map_err(de::Error::custom)
    }
}
