//! Typed access to a file's key-value pairs. Lists stay in the file until somebody asks for them: a tokenizer's hold
//! a quarter of a million texts.

use std::collections::HashMap;

use crate::error::LoadError;
use crate::file::cursor::Cursor;

/// The type of a value, by GGUF's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    List,
    U64,
    I64,
    F64,
}

impl Kind {
    const BY_NUMBER: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::List,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, LoadError> {
        let number = cursor.u32()?;
        Self::BY_NUMBER.get(number as usize).copied().ok_or_else(|| {
            LoadError::Corrupted(format!("metadata {key} has the type {number}; 0 to 12 are possible"))
        })
    }

    /// Bytes of a value, or the least that it can have.
    fn least_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Text => 8,
            Self::List => 12,
        }
    }
}

/// Where a value lies in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The value's type, or its items' if it is a list.
    kind: Kind,
    /// How many items a list has.
    count: Option<usize>,
    start: usize,
}

impl Place {
    /// Reads a value's type and goes past the value, which must lie in the file whole.
    pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, LoadError> {
        let mut kind = Kind::read(cursor, key)?;
        let mut count = None;
        if kind == Kind::List {
            kind = Kind::read(cursor, key)?;
            if kind == Kind::List {
                return Err(LoadError::Unsupported(format!("metadata {key} is a list of lists")));
            }
            count = Some(cursor.count(&format!("items of {key}"), kind.least_bytes())?);
        }
        let start = cursor.at();
        let items = count.unwrap_or(1);
        if kind == Kind::Text {
            for _ in 0..items {
                cursor.skip_text()?;
            }
        } else {
            // A list's count was held against the bytes left, so the product is no larger than they are.
            cursor.take((items * kind.least_bytes()) as u64)?;
        }
        Ok(Self { kind, count, start })
    }

    fn name(self) -> String {
        match self.count {
            Some(count) => format!("a list of {count} {:?}", self.kind),
            None => format!("{:?}", self.kind),
        }
    }
}

/// One value, or one item of a list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Item<'a> {
    /// A whole number of a type without sign.
    Unsigned(u64),
    /// A whole number of a type with sign.
    Signed(i64),
    /// A number with a fraction.
    Real(f64),
    /// A yes or no.
    Flag(bool),
    /// A text.
    Text(&'a str),
}

impl<'a> Item<'a> {
    fn read(cursor: &mut Cursor<'a>, kind: Kind) -> Result<Self, LoadError> {
        Ok(match kind {
            Kind::U8 => Self::Unsigned(cursor.u8()?.into()),
            Kind::U16 => Self::Unsigned(cursor.u16()?.into()),
            Kind::U32 => Self::Unsigned(cursor.u32()?.into()),
            Kind::U64 => Self::Unsigned(cursor.u64()?),
            Kind::I8 => Self::Signed((cursor.u8()? as i8).into()),
            Kind::I16 => Self::Signed((cursor.u16()? as i16).into()),
            Kind::I32 => Self::Signed((cursor.u32()? as i32).into()),
            Kind::I64 => Self::Signed(cursor.u64()? as i64),
            Kind::F32 => Self::Real(f32::from_bits(cursor.u32()?).into()),
            Kind::F64 => Self::Real(f64::from_bits(cursor.u64()?)),
            Kind::Bool => Self::Flag(match cursor.u8()? {
                0 => false,
                1 => true,
                other => return Err(LoadError::Corrupted(format!("{other} is no boolean"))),
            }),
            Kind::Text => Self::Text(cursor.text()?),
            Kind::List => return Err(LoadError::Unsupported("a list of lists".to_owned())),
        })
    }

    /// As a whole number that is not negative.
    pub fn count(self) -> Option<usize> {
        match self {
            Self::Unsigned(number) => usize::try_from(number).ok(),
            Self::Signed(number) => usize::try_from(number).ok(),
            _ => None,
        }
    }
}

/// A file's key-value pairs.
#[derive(Debug, Clone, Copy)]
pub struct Metadata<'a> {
    pairs: &'a HashMap<String, Place>,
    bytes: &'a [u8],
}

impl<'a> Metadata<'a> {
    pub(super) fn new(pairs: &'a HashMap<String, Place>, bytes: &'a [u8]) -> Self {
        Self { pairs, bytes }
    }

    fn required<T>(key: &str, value: Option<T>) -> Result<T, LoadError> {
        value.ok_or_else(|| LoadError::Corrupted(format!("the header lacks {key}")))
    }

    /// A value that is no list, as `read` takes it; `wanted` names that in the error.
    fn single<T>(
        self,
        key: &str,
        wanted: &str,
        read: impl Fn(Item<'a>) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        let Some(place) = self.pairs.get(key) else { return Ok(None) };
        let value = match place.count {
            None => read(Self::item(key, &mut Cursor::new(self.bytes, place.start), place.kind)?),
            Some(_) => None,
        };
        let wrong =
            || LoadError::Corrupted(format!("metadata {key} is {} where {wanted} is due", place.name()));
        value.ok_or_else(wrong).map(Some)
    }

    fn item(key: &str, cursor: &mut Cursor<'a>, kind: Kind) -> Result<Item<'a>, LoadError> {
        Item::read(cursor, kind).map_err(|error| LoadError::Corrupted(format!("metadata {key}: {error}")))
    }

    /// A whole number that is not negative.
    pub fn count(self, key: &str) -> Result<Option<usize>, LoadError> {
        self.single(key, "a count", Item::count)
    }

    /// A count that must be there.
    pub fn required_count(self, key: &str) -> Result<usize, LoadError> {
        Self::required(key, self.count(key)?)
    }

    /// A count that the format allows to differ by layer; such files are refused.
    pub fn uniform_count(self, key: &str) -> Result<Option<usize>, LoadError> {
        if self.pairs.get(key).is_none_or(|place| place.count.is_none()) {
            return self.count(key);
        }
        let counts = self.counts(key)?.unwrap_or_default();
        match counts.first() {
            Some(first) if counts.iter().all(|count| count == first) => Ok(Some(*first)),
            _ => Err(LoadError::Unsupported(format!("{key} differs from layer to layer"))),
        }
    }

    /// A number with a fraction.
    pub fn float(self, key: &str) -> Result<Option<f32>, LoadError> {
        self.single(key, "a number", as_float)
    }

    /// A number that must be there.
    pub fn required_float(self, key: &str) -> Result<f32, LoadError> {
        Self::required(key, self.float(key)?)
    }

    /// A yes or no.
    pub fn flag(self, key: &str) -> Result<Option<bool>, LoadError> {
        self.single(key, "a boolean", |item| match item {
            Item::Flag(flag) => Some(flag),
            _ => None,
        })
    }

    /// A text.
    pub fn text(self, key: &str) -> Result<Option<&'a str>, LoadError> {
        self.single(key, "a text", as_text)
    }

    /// A text that must be there.
    pub fn required_text(self, key: &str) -> Result<&'a str, LoadError> {
        Self::required(key, self.text(key)?)
    }

    /// A list, each item as `read` takes it.
    pub fn list<T>(
        self,
        key: &str,
        read: impl Fn(Item<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, LoadError> {
        let Some(place) = self.pairs.get(key) else { return Ok(None) };
        let wrong =
            || LoadError::Corrupted(format!("metadata {key} is {}, which does not fit", place.name()));
        let count = place.count.ok_or_else(wrong)?;
        let mut cursor = Cursor::new(self.bytes, place.start);
        // The count was held against the file's bytes when the header was read.
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(read(Self::item(key, &mut cursor, place.kind)?).ok_or_else(wrong)?);
        }
        Ok(Some(items))
    }

    /// A list of texts.
    pub fn texts(self, key: &str) -> Result<Option<Vec<&'a str>>, LoadError> {
        self.list(key, as_text)
    }

    /// A list of numbers with fractions.
    pub fn floats(self, key: &str) -> Result<Option<Vec<f32>>, LoadError> {
        self.list(key, as_float)
    }

    /// A list of whole numbers.
    pub fn counts(self, key: &str) -> Result<Option<Vec<usize>>, LoadError> {
        self.list(key, Item::count)
    }
}

fn as_text(item: Item<'_>) -> Option<&str> {
    match item {
        Item::Text(text) => Some(text),
        _ => None,
    }
}

fn as_float(item: Item<'_>) -> Option<f32> {
    match item {
        Item::Real(number) => Some(number as f32),
        _ => None,
    }
}
