//! The cluster's authority and the nodes' certificates: who belongs to the cluster.
//!
//! ```text
//! /var/lib/standin/keys/     0700
//! ├── authority.key          0600, on every node: losing the first one must not end anything
//! ├── authority.pem          the authority's certificate
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
use standin_config::fingerprint::Fingerprint;

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

    pub(crate) fn exist(&self) -> bool {
        self.dir.join("node.pem").exists()
    }

    fn text(&self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))
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

    /// # Errors
    /// There are keys.
    pub(crate) fn must_be_new(&self) -> Result<()> {
        if self.dir.exists() {
            let dir = self.dir.display();
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
        Ok(Identity {
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
    fn keys_are_written_whole_and_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::of(dir.path());
        assert!(!keys.exist());
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
