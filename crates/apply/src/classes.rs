//! What nginx's own messages mean: which of its refusals can be mended, and how.

use std::fmt;

/// Why a running nginx didn't take a configuration that its test had found good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Somebody else listens there.
    PortTaken,
    /// The address isn't this host's, and `ip_nonlocal_bind` is off.
    AddressMissing,
    /// A zone or cache in shared memory has another key, path or size than the running one.
    ZoneChanged,
    /// A name that was found a moment ago isn't now.
    NameNotFound,
    /// An older binary's master waits for its end (USR2): a reload would load nothing.
    UpgradePending,
    /// Something else; nginx's message says what.
    Other,
}

impl Class {
    /// What a line of the error log is about.
    #[must_use]
    pub fn of(line: &str) -> Self {
        let has = |words: &str| line.contains(words);
        if has("Address already in use") || has("could not bind()") {
            Self::PortTaken
        } else if has("Cannot assign requested address") {
            Self::AddressMissing
        } else if has("while previously it used")
            || has("had previously different")
            || has("conflicts with already declared size")
            || has("is already declared for a different use")
        {
            Self::ZoneChanged
        } else if name_not_found(line).is_some() {
            Self::NameNotFound
        } else {
            Self::Other
        }
    }

    /// Whether a new binary's fresh memory (USR2), or a restart, takes the configuration.
    #[must_use]
    pub const fn needs_new_master(self) -> bool {
        matches!(self, Self::ZoneChanged)
    }

    /// How to mend it.
    #[must_use]
    pub const fn mend(self) -> &'static str {
        match self {
            Self::PortTaken => "end the process that has the port, or take the listen out",
            Self::AddressMissing => {
                "add the address to this host, or set net.ipv4.ip_nonlocal_bind (and ipv6) to 1"
            }
            Self::ZoneChanged => {
                "nginx keeps a zone's key and path for its life: upgrade it in place (kill -USR2 \
                 MASTER, then -QUIT the old one), restart it, or give the zone a new name"
            }
            Self::NameNotFound => "mend the host's DNS or /etc/hosts, or write the address",
            Self::UpgradePending => {
                "end the upgrade first: kill -QUIT the old master, or the new one to go back"
            }
            Self::Other => "see nginx's error log",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PortTaken => "a port is taken",
            Self::AddressMissing => "an address to listen at isn't this host's",
            Self::ZoneChanged => "a shared memory zone has changed",
            Self::NameNotFound => "a name can't be looked up",
            Self::UpgradePending => "an upgrade of nginx's binary is under way",
            Self::Other => "nginx refused it",
        })
    }
}

/// The name in `host not found in upstream "a.example:80" in /etc/nginx/…`.
pub(crate) fn name_not_found(said: &str) -> Option<String> {
    let (_, rest) = said.split_once("host not found in ")?;
    let mut quoted = rest.split('"');
    let name = quoted.nth(1).filter(|name| !name.is_empty());
    Some(name.unwrap_or("of an upstream").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_s_own_lines_are_told_apart() {
        let lines = [
            ("bind() to 0.0.0.0:8081 failed (98: Address already in use)", Class::PortTaken),
            ("still could not bind()", Class::PortTaken),
            (
                "bind() to 192.0.2.9:80 failed (99: Cannot assign requested address)",
                Class::AddressMissing,
            ),
            (
                "limit_req \"a\" uses the \"$uri\" key while previously it used the \"$x\" key",
                Class::ZoneChanged,
            ),
            (
                "cache \"c\" uses the \"/b\" cache path while previously it used the \"/a\" cache path",
                Class::ZoneChanged,
            ),
            ("cache \"c\" had previously different levels", Class::ZoneChanged),
            ("host not found in upstream \"a.example\" in /x:3", Class::NameNotFound),
            ("unknown directive \"sevrer\" in /x:3", Class::Other),
        ];
        for (line, class) in lines {
            assert_eq!(Class::of(line), class, "{line}");
        }
        let said = "nginx: [emerg] host not found in upstream \"a.example:80\" in /x:3";
        assert_eq!(name_not_found(said).as_deref(), Some("a.example:80"));
        assert_eq!(name_not_found("nginx: [emerg] invalid host in upstream"), None);
    }
}
