//! What the cluster file says of the shared files, on this node.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use standin_config::Cluster;
use standin_config::fingerprint::Fingerprint;
use standin_config::model::{SyncSource, Trigger};
use standin_core::sync::{Config, Source};
use standin_tree::globs::Globs;
use standin_tree::read::Spec;
use standin_tree::watch::Options;

use super::pattern::Values;

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) config: Config,
    /// Empty: the directory of nginx's main configuration file, and `also`.
    paths: Vec<PathBuf>,
    pub(crate) also: Vec<PathBuf>,
    pub(crate) exclude: Vec<String>,
    pub(crate) rsync: Vec<String>,
    pub(crate) rsync_password_file: Option<PathBuf>,
    pub(super) values: Arc<Values>,
    pub(crate) settle: Duration,
    full_scan: Duration,
    /// What is this node's own, wherever it was told to keep it.
    own: Vec<PathBuf>,
    /// The keys of all nodes.
    pub(crate) members: BTreeSet<Fingerprint>,
}

impl Settings {
    /// `None`: nothing is shared; `own`: what never is, besides the usual places.
    pub(crate) fn of(cluster: &Cluster, node: &str, own: Vec<PathBuf>) -> Option<Self> {
        let sync = cluster.sync.as_ref()?;
        Some(Self {
            config: Config {
                node: node.to_owned(),
                source: match &sync.source {
                    SyncSource::Active => Source::Active,
                    SyncSource::Node(name) => Source::Node(name.clone()),
                },
                trigger: match sync.trigger {
                    Trigger::Save => standin_core::sync::Trigger::Save,
                    Trigger::Reload => standin_core::sync::Trigger::Reload,
                },
            },
            paths: sync.paths.clone(),
            also: sync.also.clone(),
            exclude: sync.exclude.clone(),
            rsync: sync.rsync.clone(),
            rsync_password_file: sync.rsync_password_file.clone(),
            values: Arc::new(values(cluster, node)),
            settle: sync.settle,
            full_scan: sync.full_scan,
            own,
            members: cluster.nodes.iter().filter_map(|node| node.fingerprint).collect(),
        })
    }

    /// The files, where nginx's main configuration file is `conf`.
    ///
    /// # Errors
    /// In words: a path that can't be shared, or no path at all.
    pub(crate) fn spec(&self, conf: Option<&PathBuf>) -> Result<Spec, String> {
        let mut roots = self.paths.clone();
        if roots.is_empty() {
            let folder = conf.and_then(|conf| conf.parent());
            let folder = folder.ok_or("nginx's configuration hasn't been found yet")?;
            if let Some(why) = standin_config::not_shared(folder) {
                return Err(format!(
                    "{}, where nginx's main configuration file lies, can't be shared: {why}; name what \
                     is to be shared with paths in [sync]",
                    folder.display()
                ));
            }
            roots.push(folder.to_owned());
        }
        roots.extend(self.also.iter().cloned());
        for root in &roots {
            let overlaps = |own: &&PathBuf| root.starts_with(own) || own.starts_with(root);
            if let Some(own) = self.own.iter().find(overlaps) {
                return Err(format!(
                    "{} can't be shared: {} is this node's own. Keep it elsewhere (--file, \
                     --state-dir), or name other paths in [sync]",
                    root.display(),
                    own.display()
                ));
            }
        }
        let exclude = Globs::new(&self.exclude).map_err(|fault| fault.to_string())?;
        Spec::new(roots, exclude).map_err(|fault| fault.to_string())
    }

    pub(crate) fn options(&self) -> Options {
        Options::new(self.settle, self.full_scan)
    }
}

/// What patterns may ask for: what the file says of each node that has the shared files.
fn values(cluster: &Cluster, own: &str) -> Values {
    let nodes = cluster.nodes.iter().filter(|node| !node.vrrp_only).map(|node| {
        let mut values = node.values.clone();
        values.insert("name".to_owned(), node.name.to_string());
        // There is always one.
        if let Some(address) = node.addresses.first() {
            values.insert("address".to_owned(), address.to_string());
        }
        (node.name.to_string(), values)
    });
    Values { own: own.to_owned(), nodes: nodes.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(own: &[&str]) -> Settings {
        let text = "cluster = \"edge\"\n[node.n1]\naddress = \"192.0.2.1\"\n[nginx]\n[sync]\n";
        let cluster = standin_config::load("standin.toml", text).model.unwrap();
        Settings::of(&cluster, "n1", own.iter().map(PathBuf::from).collect()).unwrap()
    }

    #[test]
    fn the_folder_of_a_main_file_beside_standins_own_is_not_shared() {
        let settings = settings(&[]);
        assert!(settings.spec(Some(&PathBuf::from("/etc/nginx/nginx.conf"))).is_ok());
        let why = settings.spec(Some(&PathBuf::from("/etc/nginx.conf"))).unwrap_err();
        assert!(why.contains("/etc/standin") && why.contains("paths in [sync]"), "{why}");
    }

    #[test]
    fn what_was_told_to_lie_among_nginx_files_is_not_shared() {
        let conf = PathBuf::from("/srv/nginx/nginx.conf");
        assert!(settings(&["/srv/nginx-standin"]).spec(Some(&conf)).is_ok());
        for own in ["/srv/nginx/standin.toml", "/srv/nginx", "/srv"] {
            let why = settings(&[own]).spec(Some(&conf)).unwrap_err();
            assert!(why.contains(own) && why.contains("--state-dir"), "{why}");
        }
    }
}
