//! Attributes of spans, events and links, kept as the bytes in which they are exported.
//!
//! Input: names and values in export order. Output: the same when somebody asks, and the bytes: each attribute is a field `attributes` of OTLP's
//! `Span` (trace.proto), a `KeyValue` (common.proto). So a span's attributes are written once when the span is made and copied once when it is sent; several
//! spans share one allocation ([`Storage`]).

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::protobuf::{
    length_delimited, push_bytes, push_message, push_varint, take_bytes, take_varint, variable,
    varint_len,
};

/// `Span.attributes`.
const ATTRIBUTES: u8 = length_delimited(9);
/// `KeyValue.key`.
const KEY: u8 = length_delimited(1);
/// `KeyValue.value`, an `AnyValue`.
const VALUE: u8 = length_delimited(2);
/// `AnyValue.string_value`.
const STRING: u8 = length_delimited(1);
/// `AnyValue.bool_value`.
const BOOL: u8 = variable(2);
/// `AnyValue.int_value`.
const INT: u8 = variable(3);

/// Value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Text.
    Text(&'a str),
    /// A whole number.
    Int(i64),
    /// A truth value.
    Bool(bool),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// Attributes in export order.
#[derive(Clone)]
pub struct Attributes(Encoded);

/// Fields `attributes` of OTLP's `Span`.
#[derive(Clone)]
enum Encoded {
    Own(Vec<u8>),
    /// A part of a [`Storage`].
    Shared(Bytes),
}

impl Attributes {
    /// Appends an attribute; names are not compared with the ones that are there.
    #[inline(always)]
    pub fn push<'a>(&mut self, name: &str, value: impl Into<Value<'a>>) {
        push_key_value(self.own(), ATTRIBUTES, name, value.into());
    }

    /// Appends all of these.
    pub fn append(&mut self, others: &Self) {
        self.own().extend_from_slice(others.encoded());
    }

    /// Takes all away, and keeps their room.
    pub fn clear(&mut self) {
        self.own().clear();
    }

    #[inline(always)]
    fn own(&mut self) -> &mut Vec<u8> {
        if let Encoded::Shared(_) = self.0 {
            self.leave_storage();
        }
        match &mut self.0 {
            Encoded::Own(bytes) => bytes,
            Encoded::Shared(_) => unreachable!("it has left"),
        }
    }

    #[cold]
    fn leave_storage(&mut self) {
        self.0 = Encoded::Own(self.encoded().to_vec());
    }

    /// The value of the first attribute of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Value<'_>> {
        self.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        let mut rest = self.encoded();
        std::iter::from_fn(move || {
            (take_varint(&mut rest)? == u64::from(ATTRIBUTES)).then_some(())?;
            key_value(take_bytes(&mut rest)?)
        })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.encoded().is_empty()
    }

    /// Fields `attributes` of OTLP's `Span`.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        match &self.0 {
            Encoded::Own(bytes) => bytes,
            Encoded::Shared(bytes) => bytes,
        }
    }
}

impl Default for Attributes {
    fn default() -> Self {
        Self(Encoded::Own(Vec::new()))
    }
}

impl PartialEq for Attributes {
    fn eq(&self, other: &Self) -> bool {
        self.encoded() == other.encoded()
    }
}

impl Eq for Attributes {}

/// Room for the attributes of spans that follow each other: not each of them is an allocation, and none has more room than it needs.
#[derive(Debug, Default)]
pub struct Storage(BytesMut);

impl Storage {
    /// Bytes in one allocation. One span that stays keeps it from being freed, so it is no larger than a dozen spans need.
    const SIZE: usize = 8 << 10;

    /// The same attributes, here.
    pub fn keep(&mut self, attributes: &Attributes) -> Attributes {
        let bytes = attributes.encoded();
        if bytes.len() > self.0.capacity() {
            self.0 = BytesMut::with_capacity(bytes.len().max(Self::SIZE));
        }
        self.0.extend_from_slice(bytes);
        Attributes(Encoded::Shared(self.0.split().freeze()))
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'a, V: Into<Value<'a>>> FromIterator<(&'a str, V)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (&'a str, V)>>(list: I) -> Self {
        let mut attributes = Self::default();
        for (name, value) in list {
            attributes.push(name, value);
        }
        attributes
    }
}

/// Appends a field with this key that holds a `KeyValue`.
///
/// Inlined, because nearly every name is a constant: then its copy and most lengths are too. Lengths of one byte cover nearly every attribute.
#[inline(always)]
pub(crate) fn push_key_value(out: &mut Vec<u8>, field: u8, name: &str, value: Value<'_>) {
    let value_size = match value {
        Value::Text(text) => 2 + text.len(),
        Value::Int(number) => 1 + varint_len(number as u64),
        Value::Bool(_) => 2,
    };
    let size = 2 + name.len() + 2 + value_size;
    if size >= 0x80 || name.is_empty() {
        return push_long_key_value(out, field, name, value);
    }
    // Everything before the value at once: with a constant name these are a few stores, and one look at the capacity.
    // A name of 121 bytes with an empty text is the longest: 129 bytes.
    let mut head = [0; 0x88];
    let value_at = 4 + name.len();
    head[..4].copy_from_slice(&[field, size as u8, KEY, name.len() as u8]);
    head[4..value_at].copy_from_slice(name.as_bytes());
    let mut push_head = |rest: [u8; 4], out: &mut Vec<u8>| {
        head[value_at..value_at + 4].copy_from_slice(&rest);
        out.extend_from_slice(&head[..value_at + 4]);
    };
    match value {
        Value::Text(text) => {
            push_head([VALUE, value_size as u8, STRING, text.len() as u8], out);
            out.extend_from_slice(text.as_bytes());
        }
        Value::Int(number @ 0..0x80) => push_head([VALUE, 2, INT, number as u8], out),
        Value::Int(number @ 0x80..0x4000) => {
            push_head([VALUE, 3, INT, number as u8 | 0x80], out);
            out.push((number >> 7) as u8);
        }
        Value::Int(number) => {
            push_head([VALUE, value_size as u8, INT, number as u8 | 0x80], out);
            push_varint(out, number as u64 >> 7);
        }
        Value::Bool(truth) => push_head([VALUE, 2, BOOL, u8::from(truth)], out),
    }
}

/// The same for any lengths.
#[inline(never)]
fn push_long_key_value(out: &mut Vec<u8>, field: u8, name: &str, value: Value<'_>) {
    push_message::<2>(out, field, |out| {
        push_bytes(out, KEY, name.as_bytes());
        push_message::<2>(out, VALUE, |out| match value {
            Value::Text(text) => {
                out.push(STRING);
                push_varint(out, text.len() as u64);
                out.extend_from_slice(text.as_bytes());
            }
            Value::Int(number) => {
                out.push(INT);
                push_varint(out, number as u64);
            }
            Value::Bool(truth) => out.extend_from_slice(&[BOOL, u8::from(truth)]),
        });
    });
}

/// Name and value of what [`push_key_value`] wrote.
fn key_value(mut field: &[u8]) -> Option<(&str, Value<'_>)> {
    let mut name = "";
    if field.first() == Some(&KEY) {
        field = &field[1..];
        name = std::str::from_utf8(take_bytes(&mut field)?).ok()?;
    }
    field = field.strip_prefix(&[VALUE])?;
    let (kind, mut value) = take_bytes(&mut field)?.split_first()?;
    let value = match *kind {
        STRING => Value::Text(std::str::from_utf8(take_bytes(&mut value)?).ok()?),
        INT => Value::Int(take_varint(&mut value)? as i64),
        _ => Value::Bool(take_varint(&mut value)? != 0),
    };
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_pushed() {
        let long = "x".repeat(20_000);
        let list = [
            ("a", Value::Int(-1)),
            ("", Value::Text("")),
            ("b", Value::Bool(false)),
            (long.as_str(), Value::Text(&long)),
            ("a", Value::Int(i64::MAX)),
        ];
        let attributes: Attributes = list.into_iter().collect();
        assert!(attributes.iter().eq(list));
        assert_eq!(attributes.get("a"), Some(Value::Int(-1)));
        assert_eq!(attributes.get("c"), None);
        assert!(Attributes::default().is_empty() && !attributes.is_empty());
    }

    #[test]
    fn several_share_one_storage_and_none_changes_another() {
        let mut storage = Storage::default();
        let mut written = Attributes::default();
        let kept: Vec<Attributes> = (0..100)
            .map(|index| {
                written.clear();
                written.push("index", index);
                written.push(
                    "text",
                    "x".repeat(usize::try_from(index * 3).unwrap_or(0)).as_str(),
                );
                storage.keep(&written)
            })
            .collect();
        let mut changed = kept[7].clone();
        changed.push("more", true);
        assert_eq!(changed.get("more"), Some(Value::Bool(true)));
        for (index, attributes) in (0_i64..).zip(&kept) {
            assert_eq!(attributes.iter().count(), 2);
            assert_eq!(attributes.get("index"), Some(Value::Int(index)));
        }
        assert_eq!(kept[99], written);
    }

    #[test]
    fn takes_names_and_texts_of_any_length() {
        let text = "y".repeat(140);
        let values: Vec<Value<'_>> = (0..=text.len())
            .map(|length| Value::Text(&text[..length]))
            .chain([0, 0x7f, 0x80, 0x3fff, 0x4000, i64::MIN].map(Value::Int))
            .chain([Value::Bool(true)])
            .collect();
        for length in 0..=140 {
            let name = "x".repeat(length);
            let list = values.iter().map(|value| (name.as_str(), *value));
            let attributes: Attributes = list.clone().collect();
            assert!(attributes.iter().eq(list), "{length}");
        }
    }
}
