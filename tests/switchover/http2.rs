//! An HTTP/2 client with TLS 1.3: one request after the other on one connection (RFC 9113).

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// GET, https, `/` from the static table, and an authority that isn't (RFC 7541, appendix A, 6.2.2).
const REQUEST: &[u8] = b"\x82\x87\x84\x01\x03web";

/// `:status: 200` of the static table.
const GOOD: u8 = 0x88;

pub(crate) struct Client<S: Read + Write> {
    stream: StreamOwned<ClientConnection, S>,
    last_id: u32,
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn begin(stream: S) -> io::Result<Self> {
        let provider = rustls::crypto::ring::default_provider();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from("web").map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let mut this = Self { stream: StreamOwned::new(connection, stream), last_id: 0 };
        this.stream.write_all(PREFACE)?;
        this.send(SETTINGS, 0, 0, &[])?;
        // As much as there may be: what is read is never missing room.
        this.send(WINDOW_UPDATE, 0, 0, &0x3fff_0000_u32.to_be_bytes())?;
        Ok(this)
    }

    /// The body of the answer.
    pub(crate) fn ask(&mut self) -> io::Result<String> {
        let id = if self.last_id == 0 { 1 } else { self.last_id + 2 };
        self.last_id = id;
        self.send(HEADERS, END_STREAM | END_HEADERS, id, REQUEST)?;
        let mut body = Vec::new();
        loop {
            let (kind, flags, stream, payload) = self.receive()?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[])?,
                PING if flags & ACK == 0 => self.send(PING, ACK, 0, &payload)?,
                GOAWAY | RST_STREAM => return Err(io::ErrorKind::UnexpectedEof.into()),
                HEADERS if stream == id && payload.first() != Some(&GOOD) => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                DATA if stream == id => body.extend(payload),
                _ => {}
            }
            if stream == id && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                return String::from_utf8(body).map_err(io::Error::other);
            }
        }
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?.to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame)?;
        self.stream.flush()
    }

    fn receive(&mut self) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        let mut header = [0; 9];
        self.stream.read_exact(&mut header)?;
        let [a, b, c, kind, flags, stream @ ..] = header;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = Vec::new();
        (&mut self.stream).take(length.into()).read_to_end(&mut payload)?;
        Ok((kind, flags, u32::from_be_bytes(stream) & 0x7fff_ffff, payload))
    }
}

/// The test made the certificate itself.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
