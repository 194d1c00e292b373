//! The protobuf encoding of an ONNX file, without the bytes of its large tensors.
//!
//! The file is walked once, with a buffer. What comes out is the same message in which each large `raw_data` is
//! replaced by a `segment`: where these bytes lie in the file. So a model with its weights inside needs no more memory
//! than one with its weights beside it. Depth, number of messages and lengths are checked on the way, before anything
//! is decoded: a message of two bytes on disk may be hundreds in memory.
//!
//! Format: <https://protobuf.dev/programming-guides/encoding>; field numbers from `onnx.proto`.

use std::fs::File;
use std::io::{BufReader, Read};

/// Tensors of fewer bytes stay where they are.
const SMALL: u64 = 1024;
/// Deeper than any graph of a decoder; prost itself stops at 100.
const MAX_DEPTH: u32 = 60;
/// A hundred times what a large mixture of experts has.
const MAX_MESSAGES: u64 = 2_000_000;

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// Fields of `TensorProto`.
const SEGMENT: u32 = 3;
const RAW_DATA: u32 = 9;

/// A message whose fields matter here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Training,
    Function,
    Graph,
    Node,
    Attribute,
    Sparse,
    Tensor,
    /// Copied as it is.
    Other,
}

impl Message {
    /// What a field of bytes holds.
    fn field(self, number: u32) -> Self {
        match (self, number) {
            (Self::Model, 7) | (Self::Training, 1 | 2) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::Sparse,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Self::Tensor,
            _ => Self::Other,
        }
    }

    /// Whether `onnx.proto` (1.23) has this field in `ModelProto`.
    fn knows(self, number: u32) -> bool {
        self != Self::Model || matches!(number, 1..=8 | 14 | 20 | 25 | 26)
    }
}

/// The message with segments for its large tensors.
///
/// # Errors
/// Says what is wrong, and at which byte.
pub(super) fn without_tensors(file: &File, length: u64) -> Result<Vec<u8>, String> {
    let mut walk = Walk { reader: BufReader::with_capacity(1 << 16, file), at: 0, messages: 0, graphs: 0 };
    let message = walk.message(Message::Model, length, 0)?;
    if walk.graphs == 0 {
        return Err("holds no graph: this is not an ONNX model".to_owned());
    }
    Ok(message)
}

struct Walk<'a> {
    reader: BufReader<&'a File>,
    /// Bytes consumed.
    at: u64,
    messages: u64,
    /// Of the model itself.
    graphs: u32,
}

impl Walk<'_> {
    fn message(&mut self, kind: Message, length: u64, depth: u32) -> Result<Vec<u8>, String> {
        self.messages = self.messages.saturating_add(1);
        if self.messages > MAX_MESSAGES {
            return Err(format!("holds more than {MAX_MESSAGES} nodes, attributes and tensors"));
        }
        if depth > MAX_DEPTH {
            return Err(format!("is nested more than {MAX_DEPTH} deep at byte {}", self.at));
        }
        let end = self.at.checked_add(length).ok_or("declares a length past 2^64")?;
        let (mut out, mut raw) = (Vec::new(), false);
        while self.at < end {
            let start = self.at;
            let key = self.varint()?;
            let number = u32::try_from(key >> 3).unwrap_or(u32::MAX);
            let wire = u8::try_from(key & 7).unwrap_or(u8::MAX);
            if number == 0 || number > 0x1fff_ffff || !kind.knows(number) {
                return Err(format!("has bytes at {start} that are no part of an ONNX model (field {number})"));
            }
            match wire {
                VARINT => {
                    let value = self.varint()?;
                    put_varint(&mut out, key);
                    put_varint(&mut out, value);
                }
                FIXED64 => self.copy(key, 8, end, &mut out)?,
                FIXED32 => self.copy(key, 4, end, &mut out)?,
                BYTES => {
                    let length = self.varint()?;
                    if self.at.checked_add(length).is_none_or(|field_end| field_end > end) {
                        let left = end.saturating_sub(self.at);
                        return Err(format!(
                            "is cut off or damaged: a field at byte {start} declares {length} bytes where {left} are left"
                        ));
                    }
                    let field = kind.field(number);
                    if kind == Message::Model && field == Message::Graph {
                        self.graphs = self.graphs.saturating_add(1);
                        if self.graphs > 1 {
                            return Err(format!("holds a second graph at byte {start}"));
                        }
                    }
                    match (kind, number) {
                        (Message::Tensor, SEGMENT) => {
                            return Err(format!("has a tensor in segments at byte {start}, which nobody reads"));
                        }
                        (Message::Tensor, RAW_DATA) if raw => {
                            return Err(format!("has a tensor with two values at byte {start}"));
                        }
                        (Message::Tensor, RAW_DATA) => {
                            raw = true;
                            if length > SMALL {
                                self.skip(length, &mut out)?
                            } else {
                                self.bytes(key, length, &mut out)?
                            }
                        }
                        _ if field == Message::Other => self.bytes(key, length, &mut out)?,
                        _ => {
                            let message = self.message(field, length, depth.saturating_add(1))?;
                            put_varint(&mut out, key);
                            put_varint(&mut out, u64::try_from(message.len()).unwrap_or(u64::MAX));
                            out.extend_from_slice(&message);
                        }
                    }
                }
                _ => return Err(format!("has a field of an unknown kind ({wire}) at byte {start}")),
            }
        }
        if self.at == end { Ok(out) } else { Err(format!("has a field that ends past its message, at byte {end}")) }
    }

    /// Past the bytes of a tensor, with a segment in their place.
    fn skip(&mut self, length: u64, out: &mut Vec<u8>) -> Result<(), String> {
        let begin = self.at;
        let mut left = length;
        while left > 0 {
            let step = i64::try_from(left).unwrap_or(i64::MAX);
            self.reader.seek_relative(step).map_err(|error| error.to_string())?;
            left = left.saturating_sub(step.unsigned_abs());
        }
        self.at = self.at.saturating_add(length);
        let mut segment = Vec::new();
        // Fields 1 and 2, varints.
        segment.push(1 << 3);
        put_varint(&mut segment, begin);
        segment.push(2 << 3);
        put_varint(&mut segment, self.at);
        put_varint(out, u64::from(SEGMENT << 3 | u32::from(BYTES)));
        put_varint(out, u64::try_from(segment.len()).unwrap_or(u64::MAX));
        out.extend_from_slice(&segment);
        Ok(())
    }

    fn bytes(&mut self, key: u64, length: u64, out: &mut Vec<u8>) -> Result<(), String> {
        put_varint(out, key);
        put_varint(out, length);
        self.take(length, out)
    }

    fn copy(&mut self, key: u64, length: u64, end: u64, out: &mut Vec<u8>) -> Result<(), String> {
        if end.saturating_sub(self.at) < length {
            return Err(format!("is cut off at byte {end}"));
        }
        put_varint(out, key);
        self.take(length, out)
    }

    fn take(&mut self, length: u64, out: &mut Vec<u8>) -> Result<(), String> {
        let read = self.reader.by_ref().take(length).read_to_end(out).map_err(|error| error.to_string())?;
        self.at = self.at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        if u64::try_from(read) == Ok(length) { Ok(()) } else { Err(format!("is cut off at byte {}", self.at)) }
    }

    fn varint(&mut self) -> Result<u64, String> {
        let start = self.at;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.reader.read_exact(&mut byte).map_err(|_| format!("is cut off at byte {}", self.at))?;
            self.at = self.at.saturating_add(1);
            let [byte] = byte;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(format!("has a number of more than 64 bits at byte {start}"))
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}
