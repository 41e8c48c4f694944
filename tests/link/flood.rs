//! Ten thousand malformed connections, frames and joins, from a machine that knows nothing of the cluster.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, DigitallySignedStruct, Error, SignatureScheme,
    StreamOwned, version,
};
use standin_linux::spawn;

use super::hosts::{Host, ms, skipped, wait_until};
use super::{N1, N2, Pair, SOON, connected, daemon, wait_connected};

/// Of these, some go through TLS: ten thousand handshakes would take a minute.
const CONNECTIONS: usize = 10_000;
const FRAMES_EVERY: usize = 25;

/// What a process grows by anyway: a few pages of an allocator.
const GROWTH_KB: u64 = 2_048;

/// Believes everybody.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn config() -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(&[&version::TLS13]).unwrap().dangerous();
    let verifier = Arc::new(Gullible(provider));
    builder.with_custom_certificate_verifier(verifier)
}

/// A client with the certificate of the host's node, which believes everybody.
fn with_certificate(host: &Host) -> Arc<ClientConfig> {
    let pem = |name: &str| host.read(&format!("/var/lib/standin/keys/{name}")).into_bytes();
    let chain = vec![CertificateDer::from_pem_slice(&pem("node.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&pem("node.key")).unwrap();
    Arc::new(config().with_client_auth_cert(chain, key).unwrap())
}

/// Connects from the host with its own node's certificate; hands back how it ended.
pub(crate) fn offer(host: &Host, to: &str) -> String {
    let config = with_certificate(host);
    let to = SocketAddr::from((to.parse::<IpAddr>().unwrap(), 8412));
    let network = spawn::network_of(host.pid).unwrap();
    let client = std::thread::spawn(move || {
        spawn::enter_network(network.as_fd()).unwrap();
        let connection = ClientConnection::new(config, ServerName::from(to.ip())).unwrap();
        let mut tls = StreamOwned::new(connection, TcpStream::connect(to).unwrap());
        let _sent = tls.write_all(b"\0\0\0\x02\0{}");
        tls.read_to_end(&mut Vec::new()).map_or_else(|error| error.to_string(), |_| String::new())
    });
    client.join().unwrap()
}

/// Malformed in ways of their own.
fn frame(number: usize) -> Vec<u8> {
    match number % 8 {
        0 => vec![0xff; 64],
        1 => b"\xff\xff\xff\xff\x00".to_vec(),
        2 => b"\x00\x00\x00\x40\x09nonsense".to_vec(),
        3 => [b"\x00\x00\x0f\xff\x00".as_slice(), &[b'['; 4095]].concat(),
        4 => b"\x00\x00\x00\x05\x00{\"a\":".to_vec(),
        5 => b"\x00\x00\x00\x0f\x00{\"type\":\"ping\"}".to_vec(),
        6 => join(number),
        _ => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    }
}

/// A whole request to join, with a token that nobody gave.
fn join(number: usize) -> Vec<u8> {
    let secret = [u8::try_from(number % 251).unwrap(); 16];
    let join = serde_json::json!({
        "type": "join", "protocol": 1, "token_id": secret[..4], "token_secret": secret,
        "node": format!("n{number}"), "addresses": ["192.168.1.66"], "priority": 100,
        "public_key": ([secret, secret].concat()),
    });
    let text = join.to_string();
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&length, [0].as_slice(), text.as_bytes()].concat()
}

/// The end of the connection is all the answer that there is.
fn attack(to: SocketAddr, config: &Arc<ClientConfig>, number: usize) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut answer = Vec::new();
    if number.is_multiple_of(FRAMES_EVERY) {
        let name = ServerName::from(to.ip());
        let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        let mut tls = StreamOwned::new(connection, stream);
        tls.write_all(&frame(number / FRAMES_EVERY)).unwrap();
        let _ended = tls.sock.shutdown(std::net::Shutdown::Write);
        let _ended = tls.read_to_end(&mut answer);
    } else {
        let _sent = stream.write_all(&frame(number));
        let _ended = stream.shutdown(std::net::Shutdown::Write);
        let _ended = stream.read_to_end(&mut answer);
    }
}

/// Its own memory, and its part of what it shares.
fn own_kb(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    // Of its own: code comes and goes, and counts by how many run it.
    let line = rollup.lines().find(|line| line.starts_with("Pss_Anon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn only_child(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn ten_thousand_malformed_frames_and_joins_cost_no_memory_and_one_line() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (first, _second) = pair.running();
    wait_connected(&pair);
    let stranger = pair.lan.host("stranger", &["192.168.1.66/24"]);
    let child = only_child(first.pid);
    let to = SocketAddr::from((N1.parse::<IpAddr>().unwrap(), 8412));
    let network = spawn::network_of(stranger.pid).unwrap();
    let attacker = std::thread::spawn(move || {
        spawn::enter_network(network.as_fd()).unwrap();
        let config = Arc::new(config().with_no_client_auth());
        // The first ones make what is kept for later ones.
        (0..500).for_each(|number| attack(to, &config, number));
        let before = own_kb(child);
        (0..CONNECTIONS).for_each(|number| attack(to, &config, number));
        (before, own_kb(child))
    });
    let (before, after) = attacker.join().unwrap();
    eprintln!("own memory: {before} kB before, {after} kB after {CONNECTIONS} connections");
    assert!(after < before + GROWTH_KB, "{before} kB, then {after} kB");
    wait_until("the count", SOON, || {
        let refused = pair.n1.try_status().unwrap()["link"]["refused"].as_u64();
        refused >= Some(10_000)
    });
    let said = pair.n1.events().iter().filter(|it| it["kind"] == "link_refused").count();
    assert!(said <= 2, "said {said} times");
    let lines = pair.n1.read("/run/logs/standin").matches("192.168.1.66").count();
    assert!(lines <= 2, "{lines} lines");
    assert!(!pair.n1.read(super::FILE).contains("192.168.1.66"), "nobody has joined");
    std::thread::sleep(ms(50));
    assert!(connected(&pair.n1, "n2") && connected(&pair.n2, "n1"), "the nodes' own link stays");
}

/// Sessions of a member that was taken over; each is greeted properly.
const SESSIONS: usize = 400;

#[test]
fn a_member_that_sends_nonsense_costs_no_memory_and_few_lines() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (first, second) = pair.running();
    wait_connected(&pair);
    // Who owns n1 has its keys, and its address.
    first.stop();
    let config = with_certificate(&pair.n1);
    let child = only_child(second.pid);
    let to = SocketAddr::from((N2.parse::<IpAddr>().unwrap(), 8412));
    let network = spawn::network_of(pair.n1.pid).unwrap();
    let hello = serde_json::json!({
        "type": "hello", "protocol": 1, "oldest": 1, "version": "9", "cluster": "edge", "node": "n1",
    })
    .to_string();
    let attacker = std::thread::spawn(move || {
        spawn::enter_network(network.as_fd()).unwrap();
        let length = u32::try_from(hello.len()).unwrap().to_be_bytes();
        let hello = [&length, [0].as_slice(), hello.as_bytes()].concat();
        let session = |number: usize| {
            let connection = ClientConnection::new(Arc::clone(&config), to.ip().into()).unwrap();
            let stream = TcpStream::connect(to).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            let mut tls = StreamOwned::new(connection, stream);
            tls.write_all(&hello).unwrap();
            let _sent = tls.write_all(&frame(number));
            let _ended = tls.sock.shutdown(std::net::Shutdown::Write);
            let _ended = tls.read_to_end(&mut Vec::new());
        };
        (0..50).for_each(session);
        let before = own_kb(child);
        (0..SESSIONS).for_each(session);
        (before, own_kb(child))
    });
    let (before, after) = attacker.join().unwrap();
    eprintln!("own memory: {before} kB before, {after} kB after {SESSIONS} sessions");
    assert!(after < before + GROWTH_KB, "{before} kB, then {after} kB");
    let of_links = |kind: &str| pair.n2.events().iter().filter(|it| it["kind"] == kind).count();
    let (up, down) = (of_links("link_up"), of_links("link_down"));
    assert!((1..=30).contains(&up) && (1..=30).contains(&down), "up {up} times, down {down} times");
    let lines = pair.n2.read("/run/logs/standin").lines().count();
    assert!(lines < 120, "{lines} lines");
    // The node itself comes back.
    let _first = daemon(&pair.n1);
    wait_connected(&pair);
}
