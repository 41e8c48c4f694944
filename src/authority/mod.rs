//! The cluster's authority and the nodes' certificates: who belongs to the cluster.
//!
//! ```text
//! /var/lib/standin/keys/     0700
//! ├── authority.key          0600, on every node: losing the first one must not end anything
//! ├── authority.pem          the authority's certificate
//! ├── before.pem             earlier authorities, the last first: nodes that missed the change have theirs
//! ├── cross.pem              for those nodes: each authority as the one before it signed it
//! ├── node.key               0600, made here and never sent
//! ├── node.pem               this node's certificate
//! ├── tokens.json            hashes of the tokens that may still be used
//! └── lock                   who admits a node holds it
//! ```
//! A node is a member while its certificate is the authority's *and* its fingerprint stands in the
//! cluster file. So certificates don't expire: what ends a membership is the file.

pub(crate) mod crypto;
pub(crate) mod files;
pub(crate) mod roster;
pub(crate) mod token;

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use serde::{Deserialize, Serialize};
use standin_config::fingerprint::Fingerprint;

/// Changes of the authority that a node may miss and still find back.
const BEFORE: usize = 8;

/// An Ed25519 public key (RFC 8032 §5.1.5).
pub(crate) type PublicKey = [u8; 32];

/// Where the keys of a node are.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) dir: PathBuf,
}

/// What a node shows to others, and what it believes others by.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) authority: CertificateDer<'static>,
    /// Authorities before this one. A node that still has a certificate of theirs is believed if its
    /// fingerprint stands in the file, which is what counts.
    pub(crate) before: Vec<CertificateDer<'static>>,
    /// By these a node that knows an earlier authority finds its way to this one.
    pub(crate) cross: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) authority_fingerprint: Fingerprint,
}

/// The authority's key with its certificate, to sign with.
pub(crate) struct Authority {
    key: KeyPair,
    pub(crate) key_pem: String,
    pub(crate) certificate_pem: String,
}

/// A node's new key; its secret half stays where it was made.
pub(crate) struct NodeKey(KeyPair);

impl NodeKey {
    /// # Errors
    /// The kernel gives no random bytes.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(KeyPair::generate_for(&PKCS_ED25519)?))
    }

    /// The secret half, as a file has it.
    pub(crate) fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// # Errors
    /// None that is known: a key of this kind has 32 bytes.
    pub(crate) fn public(&self) -> Result<PublicKey> {
        self.0.public_key_raw().try_into().context("a key of another kind")
    }
}

/// A public key that came from elsewhere.
struct Foreign(PublicKey);

impl PublicKeyData for Foreign {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ED25519
    }
}

pub(crate) fn fingerprint_of_key(key: PublicKey) -> Fingerprint {
    Fingerprint(crypto::sha256(&Foreign(key).subject_public_key_info()))
}

/// The fingerprint of a certificate's key.
///
/// # Errors
/// The bytes are no certificate.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> Result<Fingerprint, rustls::Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(Fingerprint(crypto::sha256(&parsed.subject_public_key_info())))
}

impl Authority {
    /// Makes a new one.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub(crate) fn new(cluster: &str) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate_pem = authority_params(cluster).self_signed(&key)?.pem();
        Ok(Self { key_pem: key.serialize_pem(), key, certificate_pem })
    }

    /// # Errors
    /// A file is missing or damaged.
    pub(crate) fn open(keys: &Keys) -> Result<Self> {
        let key_pem = keys.text("authority.key")?;
        let key = KeyPair::from_pem(&key_pem)
            .with_context(|| format!("{} is damaged", keys.dir.join("authority.key").display()))?;
        Ok(Self { key, key_pem, certificate_pem: keys.text("authority.pem")? })
    }

    /// A certificate, as PEM, for a node of `cluster`.
    ///
    /// # Errors
    /// None that is known: the key is of a kind that can sign.
    pub(crate) fn issue(&self, cluster: &str, node: &str, key: PublicKey) -> Result<String> {
        let issuer = Issuer::new(authority_params(cluster), &self.key);
        let mut params = params(node);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&Foreign(key), &issuer)?.pem())
    }
}

/// What makes a member of an authority one of the next.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Renewal {
    /// PEM; the same below.
    pub(crate) authority_key: String,
    pub(crate) authority_certificate: String,
    /// The next authority's certificate as the present one signs it, and those before.
    pub(crate) cross: String,
    /// Of the member's own key.
    pub(crate) certificate: String,
}

/// The next authority, before anybody has it.
pub(crate) struct Next {
    authority: Authority,
    cross: String,
    cluster: String,
}

impl Next {
    /// Makes the authority after that of `keys`.
    ///
    /// # Errors
    /// A file is missing or damaged, or the kernel gives no random bytes.
    pub(crate) fn new(keys: &Keys, cluster: &str) -> Result<Self> {
        let (present, authority) = (Authority::open(keys)?, Authority::new(cluster)?);
        let issuer = Issuer::new(authority_params(cluster), &present.key);
        let params = authority_params(cluster);
        let mut cross = params.signed_by(&authority.key, &issuer)?.pem();
        cross.push_str(&keys.text_if_any("cross.pem")?);
        Ok(Self { authority, cross: bounded(&cross), cluster: cluster.to_owned() })
    }

    /// For the member with this key.
    ///
    /// # Errors
    /// None that is known.
    pub(crate) fn of(&self, node: &str, key: PublicKey) -> Result<Renewal> {
        Ok(Renewal {
            authority_key: self.authority.key_pem.clone(),
            authority_certificate: self.authority.certificate_pem.clone(),
            cross: self.cross.clone(),
            certificate: self.authority.issue(&self.cluster, node, key)?,
        })
    }
}

/// The first [`BEFORE`] certificates of a PEM file.
fn bounded(pem: &str) -> String {
    const END: &str = "-----END CERTIFICATE-----\n";
    let pem = pem.replace("\r\n", "\n");
    pem.split_inclusive(END).take(BEFORE).collect()
}

/// The public key of a certificate, if it is of the kind that nodes have.
pub(crate) fn public_key(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let info = ParsedCertificate::try_from(certificate).ok()?.subject_public_key_info();
    let key: PublicKey = info.last_chunk().copied()?;
    (Foreign(key).subject_public_key_info() == info.as_ref()).then_some(key)
}

fn authority_params(cluster: &str) -> CertificateParams {
    let mut params = params(&format!("standin authority of {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // A host whose clock is years off must still find its peers; 9999 is "no end" (RFC 5280 §4.1.2.5).
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    params
}

impl Keys {
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("keys") }
    }

    /// Whether this machine is a node with keys.
    ///
    /// # Errors
    /// That can't be seen: a disk that fails is no machine without keys.
    pub(crate) fn exist(&self) -> Result<bool> {
        let path = self.dir.join("node.pem");
        path.try_exists().with_context(|| format!("can't look for {}", path.display()))
    }

    /// `None`: this machine has no keys.
    ///
    /// # Errors
    /// As [`Keys::exist`] and [`Keys::identity`].
    pub(crate) fn identity_if_any(&self) -> Result<Option<Identity>> {
        self.exist()?.then(|| self.identity()).transpose()
    }

    fn text(&self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))
    }

    /// What all members know and nobody else, for one purpose; another authority has another one.
    ///
    /// # Errors
    /// There are no keys.
    pub(crate) fn secret(&self, purpose: &str) -> Result<[u8; 32]> {
        let key = self.text("authority.key")?;
        Ok(crypto::keyed(key.as_bytes(), &[b"standin: ", purpose.as_bytes()]))
    }

    /// Writes all keys of a node, or none.
    ///
    /// # Errors
    /// There are keys already, or they can't be written.
    pub(crate) fn create(
        &self,
        authority: (&str, &str),
        node: &NodeKey,
        certificate: &str,
    ) -> Result<()> {
        self.must_be_new()?;
        let beside = self.dir.with_extension("new");
        match std::fs::remove_dir_all(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        files::private_dir(&beside)?;
        let (key, authority_certificate) = authority;
        let node_key = node.pem();
        for (name, text) in [
            ("authority.key", key),
            ("authority.pem", authority_certificate),
            ("node.key", &node_key),
            ("node.pem", certificate),
        ] {
            files::write_atomically(&beside.join(name), text.as_bytes(), 0o600)?;
        }
        std::fs::rename(&beside, &self.dir)
            .with_context(|| format!("can't make {}", self.dir.display()))
    }

    fn text_if_any(&self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            other => other.with_context(|| format!("can't read {}", path.display())),
        }
    }

    /// What a member that missed a change of the authority gets; `None`: it has the present one.
    ///
    /// # Errors
    /// A file is missing or damaged.
    pub(crate) fn renewal(&self, cluster: &str, node: &str, key: PublicKey) -> Result<Renewal> {
        let authority = Authority::open(self)?;
        Ok(Renewal {
            certificate: authority.issue(cluster, node, key)?,
            authority_key: authority.key_pem,
            authority_certificate: authority.certificate_pem,
            cross: self.text_if_any("cross.pem")?,
        })
    }

    /// Takes the next authority in the place of the present one: all of it, or nothing. Tokens of the
    /// present one end.
    ///
    /// # Errors
    /// It isn't for this node's key, or can't be written.
    pub(crate) fn renew(&self, renewal: &Renewal) -> Result<()> {
        let present = self.identity()?;
        let of = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes());
        let (authority, own) = (of(&renewal.authority_certificate)?, of(&renewal.certificate)?);
        if fingerprint(&own)? != present.fingerprint {
            bail!("the new certificate is of another key");
        }
        if fingerprint(&authority)? == present.authority_fingerprint {
            return Ok(());
        }
        let key = KeyPair::from_pem(&renewal.authority_key).context("the new authority's key")?;
        let key: PublicKey = key.public_key_raw().try_into().context("a key of another kind")?;
        if fingerprint_of_key(key) != fingerprint(&authority)? {
            bail!("the new authority's key and its certificate are two");
        }
        let before = self.text("authority.pem")? + &self.text_if_any("before.pem")?;
        let beside = self.dir.with_extension("new");
        match std::fs::remove_dir_all(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        files::private_dir(&beside)?;
        for (name, text) in [
            ("authority.key", &renewal.authority_key),
            ("authority.pem", &renewal.authority_certificate),
            ("before.pem", &bounded(&before)),
            ("cross.pem", &bounded(&renewal.cross)),
            ("node.key", &self.text("node.key")?),
            ("node.pem", &renewal.certificate),
        ] {
            files::write_atomically(&beside.join(name), text.as_bytes(), 0o600)?;
        }
        standin_linux::files::exchange(&beside, &self.dir)
            .with_context(|| format!("can't change {}", self.dir.display()))?;
        // What was there before is of no use any more.
        std::fs::remove_dir_all(&beside)
            .with_context(|| format!("can't remove {}", beside.display()))
    }

    /// # Errors
    /// There are keys.
    pub(crate) fn must_be_new(&self) -> Result<()> {
        let dir = self.dir.display();
        // Also one that can't be read, or that leads nowhere.
        let found = self.dir.symlink_metadata();
        if !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            bail!(
                "{dir} exists: this machine is a node of a cluster already. Nothing was changed. \
                 If it is to become a node of another one, move {dir} away first"
            );
        }
        Ok(())
    }

    /// # Errors
    /// A file is missing or damaged; the message says which.
    pub(crate) fn identity(&self) -> Result<Identity> {
        let certificate = |name: &str| -> Result<CertificateDer<'static>> {
            let text = self.text(name)?;
            CertificateDer::from_pem_slice(text.as_bytes())
                .with_context(|| format!("{} is damaged", self.dir.join(name).display()))
        };
        let (node, authority) = (certificate("node.pem")?, certificate("authority.pem")?);
        let key = PrivateKeyDer::from_pem_slice(self.text("node.key")?.as_bytes())
            .with_context(|| format!("{} is damaged", self.dir.join("node.key").display()))?;
        let several = |name: &str| -> Result<Vec<CertificateDer<'static>>> {
            let text = self.text_if_any(name)?;
            CertificateDer::pem_slice_iter(text.as_bytes())
                .collect::<Result<_, _>>()
                .with_context(|| format!("{} is damaged", self.dir.join(name).display()))
        };
        Ok(Identity {
            before: several("before.pem")?,
            cross: several("cross.pem")?,
            fingerprint: fingerprint(&node)?,
            authority_fingerprint: fingerprint(&authority)?,
            certificate: node,
            authority,
            key,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_disk_that_cannot_be_read_is_no_machine_without_keys() {
        let dir = tempfile::tempdir().unwrap();
        // As with any failure of the disk the kernel says neither yes nor no.
        std::os::unix::fs::symlink("keys", dir.path().join("keys")).unwrap();
        let keys = Keys::of(dir.path());
        let said = format!("{:#}", keys.exist().unwrap_err());
        assert!(said.contains("keys/node.pem"), "{said}");
        assert!(keys.identity_if_any().is_err());
        assert!(keys.must_be_new().is_err(), "no keys are made beside those that may be there");
    }

    #[test]
    fn keys_are_written_whole_and_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::of(dir.path());
        assert!(!keys.exist().unwrap());
        let authority = Authority::new("edge").unwrap();
        let key = NodeKey::new().unwrap();
        let certificate = authority.issue("edge", "n1", key.public().unwrap()).unwrap();
        keys.create((&authority.key_pem, &authority.certificate_pem), &key, &certificate).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&keys.dir), 0o700);
        assert_eq!(mode(&keys.dir.join("authority.key")), 0o600);
        let identity = keys.identity().unwrap();
        assert_eq!(identity.fingerprint, fingerprint_of_key(key.public().unwrap()));
        let again = keys.create(("", ""), &key, "");
        assert!(again.unwrap_err().to_string().contains("already"));
        // A reopened authority is the same one.
        let reopened = Authority::open(&keys).unwrap();
        assert_eq!(reopened.key.public_key_raw(), authority.key.public_key_raw());
    }
}
