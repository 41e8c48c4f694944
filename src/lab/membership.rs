//! Makes the nodes of a lab members of one cluster, so that they have the peer link.

use anyhow::{Result, anyhow};
use standin_config::Cluster;

use super::hosts::Host;
use crate::authority::roster::{self, Newcomer};
use crate::authority::{Authority, NodeKey, fingerprint_of_key};

const DIR: &str = "/var/lib/standin/keys";

/// Keys that live as long as the lab.
pub(super) struct Membership {
    /// The cluster file with everybody's fingerprint.
    pub(super) text: String,
    /// By node, each file with its name; none for who isn't a standin.
    files: Vec<Vec<(&'static str, String)>>,
}

impl Membership {
    /// Nobody is a member: VRRP decides alone.
    pub(super) fn none(cluster: &Cluster, text: String) -> Self {
        Self { text, files: cluster.nodes.iter().map(|_| Vec::new()).collect() }
    }

    /// Makes keys for every standin of the file.
    ///
    /// # Errors
    /// The file is written in a way that fingerprints can't be added to.
    pub(super) fn found(cluster: &Cluster, mut text: String) -> Result<Self> {
        let authority = Authority::new(&cluster.name)?;
        let mut files = Vec::new();
        for node in &cluster.nodes {
            if node.vrrp_only {
                files.push(Vec::new());
                continue;
            }
            let key = NodeKey::new()?;
            let public = key.public()?;
            let certificate = authority.issue(&cluster.name, &node.name, public)?;
            let fingerprint = fingerprint_of_key(public);
            match node.fingerprint {
                // The file is a real cluster's, whose keys are where they belong.
                Some(real) => text = text.replace(&real.to_string(), &fingerprint.to_string()),
                None => {
                    let newcomer = Newcomer {
                        name: node.name.clone(),
                        addresses: node.addresses.clone(),
                        priority: 0,
                        fingerprint,
                    };
                    text = roster::add(&text, &newcomer).map_err(|why| anyhow!(why))?;
                }
            }
            files.push(vec![
                ("authority.key", authority.key_pem.clone()),
                ("authority.pem", authority.certificate_pem.clone()),
                ("node.key", key.pem()),
                ("node.pem", certificate),
            ]);
        }
        Ok(Self { text, files })
    }

    /// Puts the node's keys where its daemon looks for them.
    pub(super) fn furnish(&self, host: &mut Host, node: usize) -> Result<()> {
        let files = self.files.get(node).map_or(&[][..], Vec::as_slice);
        for (name, text) in files {
            host.write(&format!("{DIR}/{name}"), text)?;
        }
        if !files.is_empty() {
            host.run(&["chmod", "-R", "go-rwx", DIR])?;
        }
        Ok(())
    }
}
