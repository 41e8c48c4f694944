//! What a cluster file lets others do on this node, and what its root has agreed to.
//!
//! A member that was taken over could change the file for all. So a file that comes over the link may
//! run, read as root or write nothing that the file in force here doesn't, unless root has said
//! `standin approve` on this node.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use standin_config::Cluster;
use standin_config::model::CheckKind;

use crate::authority::files;
use crate::link::hash;

/// Digits by which a power is approved: 128 bits, which nobody makes meet.
const DIGITS: usize = 32;

/// Powers that are remembered as waiting; a file has far fewer.
const WAITING: usize = 64;

/// All that the file makes this node do with root's rights, each in words.
pub(super) fn powers(cluster: &Cluster) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let notify = &cluster.notify;
    let user = notify.user.as_deref().unwrap_or("root");
    all.extend(notify.scripts().map(|script| format!("run {script:?} as {user}")));
    for check in &cluster.checks {
        if let CheckKind::Script { command, user } = &check.kind {
            let user = user.as_deref().unwrap_or("root");
            all.insert(format!("run {command:?} as {user}"));
        }
    }
    if let Some(nginx) = &cluster.nginx {
        all.extend(nginx.binary.iter().map(|binary| format!("run nginx from {binary:?}")));
        all.extend(
            nginx.conf.iter().map(|conf| format!("take {conf:?} for nginx's configuration")),
        );
    }
    if let Some(sync) = &cluster.sync {
        let roots = sync.paths.iter().chain(&sync.also);
        all.extend(roots.map(|root| format!("share and overwrite {root:?}")));
        all.extend(sync.rsync.iter().map(|host| format!("send the shared files to {host:?}")));
        let password = sync.rsync_password_file.iter();
        all.extend(password.map(|file| format!("read {file:?} for rsync")));
    }
    all.extend(cluster.log.file.iter().map(|file| format!("write the log to {file:?}")));
    all
}

/// What root has agreed to on this node.
#[derive(Clone, Debug)]
pub(crate) struct Approved {
    dir: PathBuf,
}

impl Approved {
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("cluster") }
    }

    /// One that can't be read approves nothing.
    fn list(&self, name: &str) -> Vec<String> {
        self.read(name).unwrap_or_default()
    }

    fn read(&self, name: &str) -> io::Result<Vec<String>> {
        let bytes = files::read_if_any(&self.dir.join(name))?.unwrap_or_default();
        // Nor does a damaged one.
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }

    fn write(&self, name: &str, list: &[String]) -> io::Result<()> {
        files::private_dir(&self.dir)?;
        files::write_atomically(&self.dir.join(name), &serde_json::to_vec(list)?, 0o600)
    }

    /// Those of `new` that nobody has agreed to; they are remembered as waiting.
    pub(super) fn missing(&self, new: BTreeSet<String>, old: &BTreeSet<String>) -> Vec<String> {
        let agreed = self.list("approved.json");
        let missing: Vec<String> = new
            .into_iter()
            .filter(|power| !old.contains(power) && !agreed.contains(&id(power)))
            .collect();
        if !missing.is_empty() {
            let waiting = missing.get(..WAITING).unwrap_or(&missing);
            // It only saves typing.
            let _ = self.write("waiting.json", waiting);
        }
        missing
    }

    /// What waits for an answer, each with what it is approved by.
    pub(crate) fn waiting(&self) -> Vec<(String, String)> {
        let agreed = self.list("approved.json");
        let all = self.list("waiting.json").into_iter().map(|power| (id(&power), power));
        all.filter(|(id, _)| !agreed.contains(id)).collect()
    }

    /// # Errors
    /// The list can't be read or written; it stays as it is.
    pub(crate) fn approve(&self, id: &str) -> io::Result<()> {
        let mut agreed = self.read("approved.json")?;
        if !agreed.iter().any(|it| it == id) {
            agreed.push(id.to_owned());
        }
        self.write("approved.json", &agreed)
    }
}

/// By what a power is approved.
pub(super) fn id(power: &str) -> String {
    hash(power.as_bytes()).chars().take(DIGITS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "cluster = \"edge\"\n[node.n1]\naddress = \"10.0.0.1\"\n[vip.web]\n\
                        virtual_router_id = 41\naddresses = [\"10.0.0.41/24\"]\nchecks = []\n";

    fn of(more: &str) -> BTreeSet<String> {
        let loaded = standin_config::load("", &format!("{FILE}{more}"));
        powers(&loaded.model.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics)))
    }

    #[test]
    fn what_a_file_may_do_needs_an_answer_once() {
        assert!(of("").is_empty());
        let more = "[notify]\nactive = [\"/etc/standin/a.sh\"]\n[check.x]\ntype = \"script\"\n\
                    command = [\"/bin/sh\", \"-c\", \"id\"]\n[log]\nfile = \"/var/log/standin\"\n\
                    [nginx]\nbinary = \"/opt/nginx\"\n[sync]\nalso = [\"/etc/letsencrypt\"]\n";
        let all = of(more);
        assert_eq!(all.len(), 5, "{all:?}");
        let dir = tempfile::tempdir().unwrap();
        let approved = Approved::of(dir.path());
        assert_eq!(approved.missing(all.clone(), &all), Vec::<String>::new());
        assert_eq!(approved.missing(all.clone(), &BTreeSet::new()).len(), 5);
        for (id, _) in approved.waiting() {
            approved.approve(&id).unwrap();
        }
        assert!(approved.waiting().is_empty());
        // A disk that can't be read is no empty list, which would take the place of what is there.
        let unreadable = tempfile::tempdir().unwrap();
        let place = unreadable.path().join("cluster/approved.json");
        std::fs::create_dir(unreadable.path().join("cluster")).unwrap();
        std::os::unix::fs::symlink("approved.json", &place).unwrap();
        Approved::of(unreadable.path()).approve("1234").unwrap_err();
        assert!(approved.missing(all, &BTreeSet::new()).is_empty());
        let as_root = of("[notify]\nactive = [\"/etc/standin/a.sh\"]\nuser = \"root\"\n");
        assert!(approved.missing(as_root, &BTreeSet::new()).len() <= 1);
    }
}
