//! TLS 1.3 and nothing older: who is believed on either side of a connection.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    ServerConfig, SignatureScheme, version,
};
use standin_config::fingerprint::Fingerprint;

use crate::authority::{Identity, crypto, fingerprint};

/// The present authority and those before it.
fn believe(roots: &mut RootCertStore, identity: &Identity) -> Result<()> {
    for authority in std::iter::once(&identity.authority).chain(&identity.before) {
        roots.add(authority.clone()).context("the authority's certificate")?;
    }
    Ok(())
}

/// What this node shows: nodes that know an earlier authority only need the way from there.
fn chain(identity: &Identity) -> Vec<CertificateDer<'static>> {
    let own = [&identity.certificate, &identity.authority];
    own.into_iter().chain(&identity.cross).cloned().collect()
}

/// For the listener: a client without a certificate may only ask to join.
///
/// # Errors
/// The keys don't fit together.
pub(crate) fn server(identity: &Identity) -> Result<ServerConfig> {
    let provider = crypto::provider();
    let mut roots = RootCertStore::empty();
    believe(&mut roots, identity)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(identity), identity.key.clone_key())
        .context("this node's key and certificate")?;
    // Each connection proves itself anew, so that a node that was removed stays out.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// For a connection to the node with this fingerprint, and to none else.
///
/// # Errors
/// The keys don't fit together.
pub(crate) fn client(identity: &Identity, peer: Fingerprint) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    believe(&mut roots, identity)?;
    let believed = Believed::Node { roots, peer };
    let builder = believing(believed)?;
    let mut config = builder.with_client_auth_cert(chain(identity), identity.key.clone_key())?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// For a machine that joins: it knows the authority's fingerprint only.
///
/// # Errors
/// None that is known.
pub(crate) fn joiner(authority: Fingerprint) -> Result<ClientConfig> {
    let mut config = believing(Believed::AnyOf { authority })?.with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn believing(
    believed: Believed,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>> {
    let provider = crypto::provider();
    let verifier = Verifier { believed, provider: Arc::clone(&provider) };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

#[derive(Debug)]
enum Believed {
    Node {
        roots: RootCertStore,
        peer: Fingerprint,
    },
    /// Any node whose chain ends in this authority.
    AnyOf {
        authority: Fingerprint,
    },
}

/// Nodes have no names that TLS knows; a key is who they are.
#[derive(Debug)]
struct Verifier {
    believed: Believed,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let chained = |roots: &RootCertStore| {
            let between = intermediates;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, between, now, algorithms)
        };
        match &self.believed {
            Believed::Node { roots, peer } => {
                chained(roots)?;
                if fingerprint(end_entity)? != *peer {
                    return Err(CertificateError::ApplicationVerificationFailure.into());
                }
            }
            Believed::AnyOf { authority } => {
                let root = intermediates
                    .iter()
                    .find(|one| fingerprint(one).is_ok_and(|found| found == *authority))
                    .ok_or(CertificateError::UnknownIssuer)?;
                let mut roots = RootCertStore::empty();
                roots.add(root.clone().into_owned())?;
                chained(&roots)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 isn't spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Words for an operator instead of TLS's own.
pub(crate) fn words(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        // Authorities of clusters with one name differ in their keys only, hence the second.
        Some(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => "its certificate is of another authority".to_owned(),
        Some(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => {
            "its key isn't the one whose fingerprint stands in the cluster file".to_owned()
        }
        Some(Error::AlertReceived(
            AlertDescription::UnknownCA | AlertDescription::DecryptError,
        )) => "to the other side this node's certificate is of another authority".to_owned(),
        Some(Error::AlertReceived(alert)) => {
            format!("it refused this node's certificate ({alert:?})")
        }
        _ => error.to_string(),
    }
}
