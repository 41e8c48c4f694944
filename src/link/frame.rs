//! Frames: a length (u32, of the payload), a kind (u8), a payload. Bounds are looked at before anything
//! is read, kept or parsed.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A JSON message.
const JSON: u8 = 0;

/// Bytes of files; only who has asked for them gets any.
const BULK: u8 = 1;

const HEADER: usize = 5;

/// Between nodes: 1,024 VIPs of a summary, each with names of 63 letters, are below it.
pub(crate) const PEER_BYTES: usize = 512 * 1024;

/// From whom nobody knows yet: a request to join has some 400 bytes.
pub(crate) const STRANGER_BYTES: usize = 4 * 1024;

/// To a joiner: the cluster file, escaped as JSON, with certificates.
pub(crate) const JOINED_BYTES: usize = 4 * standin_config::MAX_FILE_BYTES;

/// Deeper than any message is.
const NESTING: usize = 16;

/// Bytes that are asked of the connection at once; the buffer grows with what has come, not with
/// what was announced.
const CHUNK: usize = 4 * 1024;
const MOST: usize = 64 * 1024;

/// What came.
pub(crate) enum Frame<T> {
    Message(T),
    Bulk(Vec<u8>),
}

/// Reads frames; [`Reader::next`] may be dropped and called again.
pub(crate) struct Reader<R> {
    inner: R,
    bytes: Vec<u8>,
    limit: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) const fn new(inner: R, limit: usize) -> Self {
        Self { inner, bytes: Vec::new(), limit }
    }

    /// From now on no message is longer than this.
    pub(crate) const fn limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The next message.
    ///
    /// # Errors
    /// The connection has ended, or the frame is none; nothing more can be read then.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        match self.frame().await? {
            Frame::Message(message) => Ok(message),
            Frame::Bulk(_) => Err(malformed("files that nobody asked for")),
        }
    }

    /// The next message, or bytes of files.
    ///
    /// # Errors
    /// As above.
    pub(crate) async fn frame<T: DeserializeOwned>(&mut self) -> io::Result<Frame<T>> {
        loop {
            if let Some(frame) = self.whole()? {
                return Ok(frame);
            }
            let chunk = self.bytes.len().clamp(CHUNK, MOST);
            self.bytes.reserve(chunk);
            if (&mut self.inner).take(chunk as u64).read_buf(&mut self.bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn whole<T: DeserializeOwned>(&mut self) -> io::Result<Option<Frame<T>>> {
        let Some((header, rest)) = self.bytes.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [a, b, c, d, kind] = *header;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if kind != JSON && kind != BULK {
            return Err(malformed(&format!("a frame of the unknown kind {kind}")));
        }
        if length > self.limit {
            let text = format!("a frame of {length} bytes; at most {} are taken", self.limit);
            return Err(malformed(&text));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let frame = if kind == BULK { Frame::Bulk(payload.to_vec()) } else { parsed(payload)? };
        self.bytes.drain(..HEADER + length);
        if self.bytes.capacity() > 4 * CHUNK && self.bytes.len() < CHUNK {
            self.bytes.shrink_to(CHUNK);
        }
        Ok(Some(frame))
    }
}

fn parsed<T: DeserializeOwned>(payload: &[u8]) -> io::Result<Frame<T>> {
    if too_deep(payload) {
        return Err(malformed(&format!("a message nested deeper than {NESTING}")));
    }
    serde_json::from_slice(payload)
        .map(Frame::Message)
        .map_err(|error| malformed(&format!("a message that can't be read ({error})")))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it sent {what}"))
}

fn too_deep(payload: &[u8]) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in payload {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                if depth > NESTING {
                    return true;
                }
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Sends a message.
///
/// # Errors
/// The connection has ended, or the message is longer than any reader takes.
pub(crate) async fn send<W: AsyncWrite + Unpin>(
    to: &mut W,
    message: &impl Serialize,
) -> io::Result<()> {
    send_frame(to, JSON, &serde_json::to_vec(message)?).await
}

/// Sends bytes of files.
///
/// # Errors
/// As above.
pub(crate) async fn send_bulk<W: AsyncWrite + Unpin>(to: &mut W, bytes: &[u8]) -> io::Result<()> {
    send_frame(to, BULK, bytes).await
}

async fn send_frame<W: AsyncWrite + Unpin>(to: &mut W, kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.push(kind);
    frame.extend_from_slice(payload);
    to.write_all(&frame).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Reader::new(bytes, 1000).next())
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
        frame.push(kind);
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn frames_are_read_one_by_one() {
        let mut bytes = frame(0, b"[1]");
        bytes.extend(frame(0, b"{\"a\": \"]]]\"}"));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut reader = Reader::new(bytes.as_slice(), 1000);
            assert_eq!(reader.next::<Value>().await.unwrap(), serde_json::json!([1]));
            assert!(reader.next::<Value>().await.unwrap().is_object());
            let end = reader.next::<Value>().await.unwrap_err();
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        });
    }

    #[test]
    fn what_is_no_frame_is_refused_before_it_is_kept() {
        let refused = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert!(refused(&[255; 5]).contains("unknown kind"));
        assert!(refused(&[255, 255, 255, 255, 0]).contains("at most 1000"));
        assert!(refused(&frame(0, b"{\"a\"")).contains("can't be read"));
        assert!(refused(&frame(0, &[b'['; 17])).contains("nested"));
        assert!(read(&frame(0, b"\"[[[[[[[[[[[[[[[[[[\\\"[[[\"")).is_ok());
        assert!(read(&[0, 0, 0, 9, 0, 1]).is_err(), "half a frame");
    }

    #[test]
    fn any_bytes_at_all_only_end_the_connection() {
        let mut seed = 1_u32;
        for length in 0..2_000 {
            let bytes: Vec<u8> = (0..length % 64)
                .map(|at| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // The first bytes are small, so that some are frames.
                    if at < 3 { 0 } else { seed.to_be_bytes()[0] & 0x7f }
                })
                .collect();
            let _ = read(&bytes);
        }
    }
}
