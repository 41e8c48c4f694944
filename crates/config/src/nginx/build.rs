//! How an nginx binary was built: flavour, version and compiled-in paths, from what `nginx -V` says.

use std::fmt;
use std::path::PathBuf;

/// Whose nginx it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavour {
    #[default]
    Nginx,
    OpenResty,
    Tengine,
    Angie,
    Freenginx,
}

/// What nginx opens or makes without being told, and where when nothing was configured.
const WRITES: [(&str, &str); 8] = [
    ("--error-log-path", "logs/error.log"),
    ("--http-log-path", "logs/access.log"),
    ("--lock-path", "logs/nginx.lock"),
    ("--http-client-body-temp-path", "client_body_temp"),
    ("--http-proxy-temp-path", "proxy_temp"),
    ("--http-fastcgi-temp-path", "fastcgi_temp"),
    ("--http-uwsgi-temp-path", "uwsgi_temp"),
    ("--http-scgi-temp-path", "scgi_temp"),
];

impl Flavour {
    /// What stands before the slash in `nginx version: openresty/1.25.3.1`.
    const WORDS: [(&str, Self); 5] = [
        ("openresty", Self::OpenResty),
        ("tengine", Self::Tengine),
        ("angie", Self::Angie),
        ("freenginx", Self::Freenginx),
        ("nginx", Self::Nginx),
    ];

    fn named(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, flavour)| *flavour)
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nginx => "nginx",
            Self::OpenResty => "OpenResty",
            Self::Tengine => "Tengine",
            Self::Angie => "Angie",
            Self::Freenginx => "freenginx",
        })
    }
}

/// What `-V` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Build {
    pub flavour: Flavour,
    /// The flavour's own, `1.25.3.1` of `openresty/1.25.3.1`.
    pub version: String,
    pub prefix: PathBuf,
    /// Absolute.
    pub conf_path: PathBuf,
    /// Absolute.
    pub pid_path: PathBuf,
    /// Absolute: logs and temporary directories that a configuration doesn't have to name.
    pub writes: Vec<PathBuf>,
}

impl Build {
    /// Reads what `-V` printed; `None` when that is no nginx.
    #[must_use]
    pub fn parse(said: &str) -> Option<Self> {
        let versions = said.lines().filter_map(|line| line.split_once(" version: "));
        // Forks that also say which nginx they come from say their own name first.
        let (flavour, version) = versions.filter_map(|(_, what)| named_version(what)).next()?;
        let arguments = said.lines().find_map(|line| line.strip_prefix("configure arguments:"));
        let arguments = split(arguments.unwrap_or_default());
        let option = |name: &str| {
            let mut values = arguments.iter().rev().filter_map(|word| word.strip_prefix(name));
            values.find_map(|rest| rest.strip_prefix('=')).map(PathBuf::from)
        };
        let (home, stem) = match flavour {
            Flavour::Angie => ("/usr/local/angie", "angie"),
            _ => ("/usr/local/nginx", "nginx"),
        };
        let prefix = option("--prefix").unwrap_or_else(|| PathBuf::from(home));
        let writes = WRITES
            .iter()
            .map(|(name, compiled)| option(name).unwrap_or_else(|| PathBuf::from(compiled)));
        let writes = writes.filter(|path| path.as_os_str() != "stderr");
        let writes = writes.map(|path| prefix.join(path)).collect();
        let conf_path = option("--conf-path").unwrap_or_else(|| format!("conf/{stem}.conf").into());
        let pid_path = option("--pid-path").unwrap_or_else(|| format!("logs/{stem}.pid").into());
        Some(Self {
            flavour,
            version,
            conf_path: prefix.join(conf_path),
            pid_path: prefix.join(pid_path),
            writes,
            prefix,
        })
    }
}

/// `openresty/1.25.3.1`, `Tengine/2.2.2 (nginx/1.8.1)`
fn named_version(what: &str) -> Option<(Flavour, String)> {
    let (name, rest) = what.split_once('/')?;
    let version = rest.split_ascii_whitespace().next()?;
    Some((Flavour::named(name)?, version.to_owned()))
}

/// Splits as a shell would: configure writes arguments with blanks in single quotes.
fn split(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for letter in line.chars() {
        match (letter, quote) {
            (letter, Some(open)) if letter == open => quote = None,
            ('\'' | '"', None) => quote = Some(letter),
            (' ' | '\t', None) => words.push(String::new()),
            _ => words.last_mut().into_iter().for_each(|word| word.push(letter)),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const FIXTURES: [(&str, Flavour, &str, &str, &str); 7] = [
        (
            include_str!("fixtures/debian.txt"),
            Flavour::Nginx,
            "1.22.1",
            "/etc/nginx/nginx.conf",
            "/run/nginx.pid",
        ),
        (
            include_str!("fixtures/source.txt"),
            Flavour::Nginx,
            "1.27.4",
            "/usr/local/nginx/conf/nginx.conf",
            "/usr/local/nginx/logs/nginx.pid",
        ),
        (
            include_str!("fixtures/openresty.txt"),
            Flavour::OpenResty,
            "1.25.3.1",
            "/usr/local/openresty/nginx/conf/nginx.conf",
            "/usr/local/openresty/nginx/logs/nginx.pid",
        ),
        (
            include_str!("fixtures/tengine.txt"),
            Flavour::Tengine,
            "3.1.0",
            "/usr/local/tengine/conf/nginx.conf",
            "/usr/local/tengine/logs/nginx.pid",
        ),
        (
            include_str!("fixtures/tengine_old.txt"),
            Flavour::Tengine,
            "2.2.2",
            "/etc/nginx/nginx.conf",
            "/var/run/nginx.pid",
        ),
        (
            include_str!("fixtures/angie.txt"),
            Flavour::Angie,
            "1.11.0",
            "/etc/angie/angie.conf",
            "/run/angie.pid",
        ),
        (
            include_str!("fixtures/freenginx.txt"),
            Flavour::Freenginx,
            "1.27.5",
            "/usr/local/nginx/conf/nginx.conf",
            "/usr/local/nginx/logs/nginx.pid",
        ),
    ];

    #[test]
    fn every_flavour_tells_its_name_its_version_and_its_paths() {
        for (said, flavour, version, conf, pid) in FIXTURES {
            let build = Build::parse(said).unwrap();
            assert_eq!(build.flavour, flavour);
            assert_eq!(build.version, version);
            assert_eq!(build.conf_path, Path::new(conf));
            assert_eq!(build.pid_path, Path::new(pid));
            assert!(build.writes.iter().all(|path| path.is_absolute()));
        }
    }

    #[test]
    fn what_is_no_nginx_is_none() {
        assert_eq!(Build::parse(""), None);
        assert_eq!(Build::parse("Apache version: Apache/2.4"), None);
        assert_eq!(Build::parse("nginx version: "), None);
    }

    #[test]
    fn quoted_configure_arguments_stay_whole() {
        assert_eq!(split(" --a='x y' --b=\"c d\" --e"), ["--a=x y", "--b=c d", "--e"]);
    }
}
