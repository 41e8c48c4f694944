//! What nginx processes call themselves: `nginx: master process /usr/sbin/nginx -c …`.

use std::path::PathBuf;

/// What stands before the colon; forks rename themselves or not (Angie does, Tengine doesn't).
pub const NAMES: &[&str] = &["nginx", "angie", "openresty", "tengine", "freenginx"];

/// The role of an nginx process by its title.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Title {
    Master(Arguments),
    Worker {
        /// It finishes its connections and goes.
        leaving: bool,
    },
    /// A cache manager, a cache loader, a privileged agent.
    Other,
}

/// What the master was started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// As it was typed: absolute, relative, or a bare name.
    pub program: PathBuf,
    /// `-c`
    pub conf: Option<PathBuf>,
    /// `-p`
    pub prefix: Option<PathBuf>,
    /// `-g`, directives that stand before the configuration file's.
    pub globals: Option<String>,
}

impl Title {
    /// `None` for the title of anything but an nginx.
    #[must_use]
    pub fn parse(title: &str) -> Option<Self> {
        let (name, role) = title.split_once(": ")?;
        if !NAMES.contains(&name) {
            return None;
        }
        if let Some(rest) = role.strip_prefix("master process") {
            return Some(Self::Master(Arguments::parse(command(rest))));
        }
        if let Some(rest) = role.strip_prefix("worker process") {
            return Some(Self::Worker { leaving: rest.contains("is shutting down") });
        }
        Some(Self::Other)
    }
}

/// Angie writes ` v1.10.3 #1 [/usr/sbin/angie -c …]`, the others ` /usr/sbin/nginx -c …`.
fn command(rest: &str) -> &str {
    match rest.split_once('[') {
        Some((version, command)) if version.trim_start().starts_with('v') => {
            command.trim_end().trim_end_matches(']')
        }
        _ => rest,
    }
}

impl Arguments {
    /// Takes apart what nginx has joined with blanks; a path with a blank in it can't be told.
    fn parse(command: &str) -> Self {
        let mut found = Self::default();
        let mut words = command.split_ascii_whitespace().peekable();
        found.program = words.next().map(PathBuf::from).unwrap_or_default();
        while let Some(word) = words.next() {
            let Some(option) = word.strip_prefix('-') else { continue };
            // `-c FILE` and `-cFILE` are the same to nginx.
            let Some((letter, glued)) = option.split_at_checked(1) else { continue };
            let mut value = || (!glued.is_empty()).then_some(glued).or_else(|| words.next());
            match letter {
                "c" => found.conf = value().map(PathBuf::from),
                "p" => found.prefix = value().map(PathBuf::from),
                "e" => {
                    value();
                }
                "g" => {
                    let mut globals = glued.to_owned();
                    while let Some(next) = words.next_if(|next| !is_option(next)) {
                        globals.push(' ');
                        globals.push_str(next);
                    }
                    found.globals = Some(globals.trim().to_owned());
                }
                _ => {}
            }
        }
        found
    }

    /// The value of a directive in `-g`: `pid` of `daemon off; pid /run/x.pid;`.
    #[must_use]
    pub fn global(&self, directive: &str) -> Option<&str> {
        let globals = self.globals.as_deref()?;
        globals.split(';').find_map(|statement| {
            let (name, value) = statement.trim().split_once(|c: char| c.is_ascii_whitespace())?;
            (name == directive).then(|| value.trim().trim_matches(['"', '\'']))
        })
    }
}

fn is_option(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next() == Some('-')
        && letters.next().is_some_and(|letter| "cpgetTqvVhs".contains(letter))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn master(title: &str) -> Arguments {
        match Title::parse(title) {
            Some(Title::Master(arguments)) => arguments,
            other => panic!("{title}: {other:?}"),
        }
    }

    #[test]
    fn masters_of_every_flavour_are_known_with_what_they_were_started_with() {
        let plain =
            master("nginx: master process /usr/sbin/nginx -g daemon on; master_process on;");
        assert_eq!(plain.program, Path::new("/usr/sbin/nginx"));
        assert_eq!(plain.globals.as_deref(), Some("daemon on; master_process on;"));
        assert_eq!(plain.conf, None);

        let plan = master(
            "nginx: master process /usr/local/nginx/sbin/nginx -p /usr/local/nginx -c conf/nginx.conf",
        );
        assert_eq!(plan.prefix.as_deref(), Some(Path::new("/usr/local/nginx")));
        assert_eq!(plan.conf.as_deref(), Some(Path::new("conf/nginx.conf")));

        let angie = master(
            "angie: master process v1.11.5 PRO #1 [/usr/sbin/angie -c /etc/angie/angie.conf]",
        );
        assert_eq!(angie.program, Path::new("/usr/sbin/angie"));
        assert_eq!(angie.conf.as_deref(), Some(Path::new("/etc/angie/angie.conf")));

        let bare = master("nginx: master process nginx");
        assert_eq!(bare.program, Path::new("nginx"));
        assert_eq!(master("angie: master process v1.12.0").program, Path::new("v1.12.0"));
    }

    #[test]
    fn the_pid_directive_of_a_command_line_is_found() {
        let title = "nginx: master process nginx -g pid /tmp/x.pid; daemon off; -c /x/nginx.conf";
        let arguments = master(title);
        assert_eq!(arguments.global("pid"), Some("/tmp/x.pid"));
        assert_eq!(arguments.global("user"), None);
        assert_eq!(arguments.conf.as_deref(), Some(Path::new("/x/nginx.conf")));
        assert_eq!(
            master("nginx: master process nginx -c/x.conf").conf.as_deref(),
            Some(Path::new("/x.conf"))
        );
    }

    #[test]
    fn workers_helpers_and_strangers_are_told_apart() {
        assert_eq!(Title::parse("nginx: worker process"), Some(Title::Worker { leaving: false }));
        assert_eq!(
            Title::parse("angie: worker process #3"),
            Some(Title::Worker { leaving: false })
        );
        assert_eq!(
            Title::parse("nginx: worker process is shutting down"),
            Some(Title::Worker { leaving: true })
        );
        assert_eq!(Title::parse("nginx: cache manager process"), Some(Title::Other));
        assert_eq!(Title::parse("vim: master process"), None);
        assert_eq!(Title::parse("/usr/sbin/nginx -t"), None);
    }
}
