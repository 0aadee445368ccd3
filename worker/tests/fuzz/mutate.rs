//! Changes to bytes and to JSON that know nothing of what is read from them.

use fastrand::Rng;
use serde_json::Value;

use crate::driver::Input;

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 20] = [
    0,
    1,
    2,
    7,
    31,
    32,
    255,
    256,
    65_535,
    1 << 20,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fff0,
    0xffff_ffff_ffff_fffe,
    u64::MAX,
];

/// A number that is likely to hurt.
pub fn edge(rng: &mut Rng) -> u64 {
    let number = EDGES[rng.usize(..EDGES.len())];
    if rng.u8(..) < 60 { number.wrapping_add(rng.u64(..5)).wrapping_sub(2) } else { number }
}

/// A place in a list of this length; beginnings and ends, where headers have their numbers, come more often.
fn place(len: usize, rng: &mut Rng) -> usize {
    match rng.u8(..3) {
        _ if len == 0 => 0,
        0 => rng.usize(..len.min(64)),
        1 => len - 1 - rng.usize(..len.min(256)),
        _ => rng.usize(..len),
    }
}

/// Changes bytes in one place.
pub fn bytes(bytes: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    let at = place(bytes.len(), rng);
    let span = at..bytes.len().min(at + 1 + place(bytes.len().min(300), rng));
    match rng.u8(..10) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << rng.u8(..8),
        1 if !bytes.is_empty() => bytes[at] = rng.u8(..),
        2 => overwrite(bytes, at, &edge(rng).to_le_bytes()),
        3 => overwrite(bytes, at, &(edge(rng) as u32).to_le_bytes()),
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(span)),
        6 => {
            let copy = bytes[span].to_vec();
            bytes.splice(at..at, copy);
        }
        7 => {
            let from = place(other.len(), rng);
            let copy = &other[from..other.len().min(from + 1 + rng.usize(..200))];
            let end = bytes.len().min(at + rng.usize(..200));
            bytes.splice(at..end, copy.iter().copied());
        }
        8 => number(bytes, at, rng),
        _ => {
            let noise: Vec<u8> = (0..rng.usize(1..20)).map(|_| rng.u8(..)).collect();
            bytes.splice(at..at, noise);
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, by: &[u8]) {
    let room = bytes.len().min(at + by.len()) - at.min(bytes.len());
    bytes[at..at + room].copy_from_slice(&by[..room]);
}

/// Replaces the next number that is written in digits.
fn number(bytes: &mut Vec<u8>, at: usize, rng: &mut Rng) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|offset| at + offset) else {
        return;
    };
    let len = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    bytes.splice(start..start + len, edge(rng).to_string().into_bytes());
}

/// Bytes without structure.
impl Input for Vec<u8> {
    fn altered(&self, other: &Self, rng: &mut Rng) -> Self {
        let mut altered = self.clone();
        bytes(&mut altered, other, rng);
        altered
    }

    fn bytes(&self) -> Vec<u8> {
        self.clone()
    }
}

/// A JSON document, optionally inside a frame of bytes.
#[derive(Clone)]
pub struct Json {
    pub value: Value,
    /// Applied to the written text; a change that would make it no JSON any more.
    pub noise: Option<u64>,
}

impl Input for Json {
    fn altered(&self, other: &Self, rng: &mut Rng) -> Self {
        let mut altered = self.clone();
        if rng.u8(..) < 10 {
            altered.noise = Some(rng.u64(..));
        }
        let donor = node(&mut other.value.clone(), rng).clone();
        change(node(&mut altered.value, rng), donor, rng);
        altered
    }

    fn bytes(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(&self.value).unwrap();
        if let Some(seed) = self.noise {
            bytes(&mut text, b"[[[[{\"a\":", &mut Rng::with_seed(seed));
        }
        text
    }
}

/// A node anywhere in the document.
fn node<'a>(value: &'a mut Value, rng: &mut Rng) -> &'a mut Value {
    let children = match value {
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    };
    if children == 0 || rng.u8(..) < 50 {
        return value;
    }
    let nth = rng.usize(..children);
    match value {
        Value::Array(items) => node(&mut items[nth], rng),
        Value::Object(map) => node(map.values_mut().nth(nth).unwrap(), rng),
        other => other,
    }
}

fn change(value: &mut Value, donor: Value, rng: &mut Rng) {
    let texts = ["", " ", "\u{0}", "\u{feff}é", "(a+)+$", "[", "<unk>", "▁", "a b c", "\\p{L}+", "(?=x)*"];
    *value = match (rng.u8(..9), &mut *value) {
        (0, _) => Value::Null,
        (1, _) => Value::from(edge(rng)),
        (2, _) => Value::from(-(edge(rng) as f64)),
        (3, _) => Value::from(texts[rng.usize(..texts.len())]),
        (4, Value::Array(items)) if !items.is_empty() => {
            let copy = items[rng.usize(..items.len())].clone();
            items.insert(rng.usize(..items.len()), copy);
            return;
        }
        (4 | 5, Value::Array(items)) if !items.is_empty() => {
            items.remove(rng.usize(..items.len()));
            return;
        }
        (4 | 5, Value::Object(map)) if !map.is_empty() => {
            let key = map.keys().nth(rng.usize(..map.len())).unwrap().clone();
            let taken = map.shift_remove(&key).unwrap();
            if rng.bool() {
                map.insert(texts[rng.usize(..texts.len())].to_owned(), taken);
            }
            return;
        }
        (6, Value::String(text)) => Value::from(text.repeat(rng.usize(..50))),
        (7, inner) => Value::from(vec![inner.take()]),
        _ => donor,
    };
}
