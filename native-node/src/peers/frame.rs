//! Many messages in one WebSocket frame, and one great message in many frames.
//!
//! The first byte of a frame tells its kind: 0 is whole messages, each after its length (u32, big
//! endian); 1 is a piece of one message with more to come; 2 is its last piece. Invariants: no
//! frame exceeds the limit that the reader stated; a message of any size up to
//! [`MESSAGE_BYTES_MAX`] gets through, because limits must never keep replicas from converging.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use quorate_core::Message;
use quorate_core::codec::{DecodeError, decode_message, encode_message};

/// Whole messages.
const BATCH: u8 = 0;
/// A piece of a message; more follow.
const PIECE: u8 = 1;
/// The last piece of a message.
const LAST_PIECE: u8 = 2;

/// The longest message. It is far beyond what objects of the largest size with all the siblings
/// that clients can make come to; it only keeps a broken peer from taking all memory.
pub const MESSAGE_BYTES_MAX: usize = 2 << 30;

/// Room for the messages that usually share a frame.
const FRAME_BYTES_USUAL: usize = 8 << 10;

/// Why a frame is not understood. The link it came on is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// No kind, or an unknown one.
    #[error("a frame of unknown kind")]
    Kind,
    /// A length says more than the frame has.
    #[error("a frame that ends within a message")]
    Short,
    /// Whole messages between the pieces of another.
    #[error("a message in pieces was not finished")]
    Unfinished,
    /// Longer than [`MESSAGE_BYTES_MAX`].
    #[error("a message of more than {0} bytes")]
    TooLong(usize),
    /// A message that the codec refuses.
    #[error("a message that cannot be read: {0}")]
    Message(#[from] DecodeError),
}

/// Packs messages into frames of at most `frame_bytes_max`.
#[derive(Debug)]
pub struct Packer {
    frame_bytes_max: usize,
    open: BytesMut,
}

impl Packer {
    /// A packer for a reader with this limit.
    pub fn new(frame_bytes_max: u32) -> Self {
        Self { frame_bytes_max: frame_bytes_max as usize, open: BytesMut::new() }
    }

    /// Adds a message; `full` is given each frame that is complete. Returns whether the message is
    /// short enough to be sent at all.
    pub fn push(&mut self, message: &Message, mut full: impl FnMut(Bytes)) -> bool {
        let encoded = encode_message(message);
        if encoded.len() > MESSAGE_BYTES_MAX {
            return false;
        }
        if self.open.len() + 5 + encoded.len() > self.frame_bytes_max {
            self.finish().map(&mut full);
        }
        if 5 + encoded.len() > self.frame_bytes_max {
            self.pieces(&encoded, full);
            return true;
        }
        if self.open.is_empty() {
            // Takes back the buffer of the frame before, once that is sent.
            self.open.reserve(FRAME_BYTES_USUAL.max(5 + encoded.len()));
            self.open.put_u8(BATCH);
        }
        self.open.put_u32(u32::try_from(encoded.len()).expect("shorter than a frame"));
        self.open.put_slice(&encoded);
        true
    }

    /// The last frame, if messages wait in it.
    pub fn finish(&mut self) -> Option<Bytes> {
        (!self.open.is_empty()).then(|| self.open.split().freeze())
    }

    fn pieces(&self, encoded: &[u8], mut full: impl FnMut(Bytes)) {
        let mut pieces = encoded.chunks(self.frame_bytes_max - 1).peekable();
        while let Some(piece) = pieces.next() {
            let kind = if pieces.peek().is_some() { PIECE } else { LAST_PIECE };
            let mut frame = BytesMut::with_capacity(1 + piece.len());
            frame.put_u8(kind);
            frame.put_slice(piece);
            full(frame.freeze());
        }
    }
}

/// Takes messages out of the frames of one link.
#[derive(Debug, Default)]
pub struct Unpacker {
    partial: Vec<u8>,
}

impl Unpacker {
    /// The messages that `frame` completes, in their order.
    pub fn push(&mut self, mut frame: Bytes) -> Result<Vec<Message>, FrameError> {
        if frame.is_empty() {
            return Err(FrameError::Kind);
        }
        match frame.get_u8() {
            BATCH if !self.partial.is_empty() => Err(FrameError::Unfinished),
            BATCH => batch(frame),
            kind @ (PIECE | LAST_PIECE) => {
                if self.partial.len() + frame.len() > MESSAGE_BYTES_MAX {
                    return Err(FrameError::TooLong(MESSAGE_BYTES_MAX));
                }
                self.partial.extend_from_slice(&frame);
                if kind == PIECE {
                    return Ok(Vec::new());
                }
                let whole = std::mem::take(&mut self.partial);
                Ok(vec![decode_message(&whole)?])
            }
            _ => Err(FrameError::Kind),
        }
    }
}

fn batch(mut frame: Bytes) -> Result<Vec<Message>, FrameError> {
    let mut messages = Vec::new();
    while frame.has_remaining() {
        let len = frame.try_get_u32().map_err(|_| FrameError::Short)? as usize;
        if len > frame.len() {
            return Err(FrameError::Short);
        }
        messages.push(decode_message(&frame.split_to(len))?);
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::{Body, Key, Request, Run};

    fn ping(seq: u64) -> Message {
        Message { run: Run(1), layout: None, body: Body::Ping { seq } }
    }

    fn great(bytes: usize) -> Message {
        let put = quorate_core::Put::new(Key::new("b", "k").unwrap(), vec![7; bytes].into());
        let timeout = quorate_core::Duration::from_secs(1);
        let body = Body::Forward { seq: 1, to: Run(2), request: Request::Put(put), timeout };
        Message { run: Run(1), layout: None, body }
    }

    fn pack(limit: u32, messages: &[Message]) -> Vec<Bytes> {
        let mut packer = Packer::new(limit);
        let mut frames = Vec::new();
        for message in messages {
            assert!(packer.push(message, |frame| frames.push(frame)));
        }
        frames.extend(packer.finish());
        frames
    }

    #[test]
    fn all_waiting_messages_travel_in_one_frame() {
        let messages: Vec<_> = (0..100).map(ping).collect();
        let frames = pack(1 << 20, &messages);
        assert_eq!(frames.len(), 1);
        assert_eq!(Unpacker::default().push(frames[0].clone()), Ok(messages));
    }

    #[test]
    fn a_message_greater_than_a_frame_travels_in_pieces() {
        let messages = vec![ping(1), great(10_000), ping(2), great(1_000), ping(3)];
        let frames = pack(1024, &messages);
        assert!(frames.len() > 11 && frames.iter().all(|frame| frame.len() <= 1024));
        let mut unpacker = Unpacker::default();
        let out: Vec<_> = frames.into_iter().flat_map(|f| unpacker.push(f).unwrap()).collect();
        assert_eq!(out, messages);
    }

    #[test]
    fn a_message_that_just_fits_or_just_does_not_arrives_whole() {
        let len = encode_message(&great(500)).len();
        for limit in len..len + 12 {
            let messages = vec![great(500), ping(1)];
            let frames = pack(u32::try_from(limit).unwrap(), &messages);
            assert!(frames.iter().all(|frame| frame.len() <= limit));
            let mut unpacker = Unpacker::default();
            let out: Vec<_> = frames.into_iter().flat_map(|f| unpacker.push(f).unwrap()).collect();
            assert_eq!(out, messages);
        }
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let mut whole = pack(1 << 20, &[ping(1), ping(2)])[0].to_vec();
        for (frame, want) in [
            (vec![], FrameError::Kind),
            (vec![9, 1, 2], FrameError::Kind),
            (vec![BATCH, 0, 0], FrameError::Short),
            (vec![BATCH, 255, 255, 255, 255, 1], FrameError::Short),
            (vec![BATCH, 0, 0, 0, 0], FrameError::Message(DecodeError::Empty)),
        ] {
            assert_eq!(Unpacker::default().push(frame.into()), Err(want));
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x9f, 0xff] {
                let kept = std::mem::replace(&mut whole[at], value);
                drop(Unpacker::default().push(whole.clone().into()));
                whole[at] = kept;
            }
            drop(Unpacker::default().push(whole[..at].to_vec().into()));
        }
    }

    #[test]
    fn a_message_in_pieces_must_be_finished_before_the_next() {
        let mut unpacker = Unpacker::default();
        assert_eq!(unpacker.push(Bytes::from_static(&[PIECE, 1])), Ok(vec![]));
        let next = pack(1 << 20, &[ping(1)]).remove(0);
        assert_eq!(unpacker.push(next), Err(FrameError::Unfinished));
    }
}
