//! Pieces of files in a bulk frame: several small ones, or a part of a long one.
//!
//! A piece: kind (u8), hash (32 bytes), offset (u64), total (u64), length (u32), bytes; numbers are
//! big-endian. Nothing is compressed: on the networks of such clusters it costs more than it saves.

/// Bytes of a frame: enough that TLS and system calls don't count, and 0.1 s on a slow line.
pub(crate) const FRAME: usize = 128 * 1024;

const HEADER: usize = 1 + 32 + 8 + 8 + 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The list of a generation's files, by its tree's hash.
    List,
    /// A file's content, by its hash.
    Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub(crate) kind: Kind,
    pub(crate) hash: [u8; 32],
    pub(crate) offset: u64,
    /// Of the whole, as the sender has it.
    pub(crate) total: u64,
    pub(crate) bytes: &'a [u8],
}

/// Appends as much of `rest` as there is room for; how much that was.
pub(crate) fn put(
    frame: &mut Vec<u8>,
    (kind, hash): (Kind, &[u8; 32]),
    offset: u64,
    total: u64,
    rest: &[u8],
) -> usize {
    let bytes = rest.get(..room(frame)).unwrap_or(rest);
    let Ok(length) = u32::try_from(bytes.len()) else { return 0 };
    frame.push(match kind {
        Kind::List => 0,
        Kind::Content => 1,
    });
    frame.extend_from_slice(hash);
    frame.extend_from_slice(&offset.to_be_bytes());
    frame.extend_from_slice(&total.to_be_bytes());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(bytes);
    bytes.len()
}

/// Bytes of a file for which there is room.
pub(crate) const fn room(frame: &[u8]) -> usize {
    FRAME.saturating_sub(frame.len() + HEADER)
}

/// Whether a useful part of another file fits.
pub(crate) const fn has_room(frame: &[u8]) -> bool {
    room(frame) >= 512
}

/// The pieces of a frame; `None` when it is none.
pub(crate) fn pieces(mut frame: &[u8]) -> Option<Vec<Piece<'_>>> {
    let mut found = Vec::new();
    while !frame.is_empty() {
        let (kind, rest) = frame.split_first()?;
        let kind = match kind {
            0 => Kind::List,
            1 => Kind::Content,
            _ => return None,
        };
        let (hash, rest) = rest.split_first_chunk::<32>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (total, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let bytes = rest.get(..length)?;
        frame = rest.get(length..)?;
        let (offset, total) = (u64::from_be_bytes(*offset), u64::from_be_bytes(*total));
        if offset.checked_add(length as u64)? > total {
            return None;
        }
        found.push(Piece { kind, hash: *hash, offset, total, bytes });
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_as_they_went_in() {
        let mut frame = Vec::new();
        let (one, two) = ([1; 32], [2; 32]);
        assert_eq!(put(&mut frame, (Kind::Content, &one), 0, 3, b"abc"), 3);
        assert_eq!(put(&mut frame, (Kind::List, &two), 5, 6, b"f"), 1);
        let long = vec![7; 2 * FRAME];
        let fits = put(&mut frame, (Kind::Content, &two), 0, long.len() as u64, &long);
        assert!(fits < FRAME && !has_room(&frame) && frame.len() <= FRAME);
        let found = pieces(&frame).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!((found[1].kind, found[1].offset, found[1].bytes), (Kind::List, 5, &b"f"[..]));
        assert_eq!(put(&mut Vec::new(), (Kind::Content, &one), 0, 0, b""), 0, "an empty file");
    }

    #[test]
    fn what_is_no_frame_is_none() {
        let mut frame = Vec::new();
        put(&mut frame, (Kind::Content, &[1; 32]), 0, 3, b"abc");
        for end in 1..frame.len() {
            assert!(pieces(&frame[..end]).is_none(), "{end}");
        }
        frame[0] = 9;
        assert!(pieces(&frame).is_none());
        let mut beyond = Vec::new();
        put(&mut beyond, (Kind::Content, &[1; 32]), 2, 3, b"abc");
        assert!(pieces(&beyond).is_none(), "more than the whole");
        assert!(pieces(&[]).unwrap().is_empty());
    }
}
