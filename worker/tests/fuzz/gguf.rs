//! GGUF headers.

use std::time::Duration;

use fastrand::Rng;
use worker::file::gguf::Header;
use worker::text::architecture::Architecture;

use crate::driver::{Input, Limits, alone, fuzz};
use crate::mutate;

const TEXT: u32 = 8;
const LIST: u32 = 9;
/// Bytes of a value of each type; texts and lists have their own lengths.
const WIDTHS: [usize; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];

/// A header in parts.
#[derive(Clone, Default)]
pub struct Draft {
    pub pairs: Vec<(Vec<u8>, Value)>,
    pub tensors: Vec<Tensor>,
    version: Option<u32>,
    /// Claimed counts that are not the true ones.
    tensor_count: Option<u64>,
    pair_count: Option<u64>,
    data_bytes: usize,
    noise: Option<u64>,
}

#[derive(Clone)]
pub enum Value {
    Number(u32, u64),
    Text(Vec<u8>),
    /// The type, a claimed count if it is not the true one, and each item's bytes.
    List(u32, Option<u64>, Vec<Vec<u8>>),
}

#[derive(Clone)]
pub struct Tensor {
    name: Vec<u8>,
    dims: Vec<u64>,
    format: u32,
    offset: u64,
}

fn text(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

impl Value {
    pub fn texts(items: &[impl AsRef<str>]) -> Self {
        let framed = |item: &str| [&(item.len() as u64).to_le_bytes()[..], item.as_bytes()].concat();
        Self::List(TEXT, None, items.iter().map(|item| framed(item.as_ref())).collect())
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(kind, number) => {
                out.extend(kind.to_le_bytes());
                out.extend(&number.to_le_bytes()[..WIDTHS.get(*kind as usize).copied().unwrap_or(4)]);
            }
            Self::Text(bytes) => {
                out.extend(TEXT.to_le_bytes());
                text(bytes, out);
            }
            Self::List(kind, count, items) => {
                out.extend(LIST.to_le_bytes());
                out.extend(kind.to_le_bytes());
                out.extend(count.unwrap_or(items.len() as u64).to_le_bytes());
                out.extend(items.iter().flatten());
            }
        }
    }

    fn alter(&mut self, rng: &mut Rng) {
        match self {
            Self::Number(kind, number) => {
                if rng.bool() {
                    *number = mutate::edge(rng);
                } else {
                    *kind = rng.u32(..14);
                }
            }
            Self::Text(bytes) => mutate::bytes(bytes, b"gpt2llama\xff", rng),
            Self::List(kind, count, items) => match rng.u8(..6) {
                0 => *count = Some(mutate::edge(rng)),
                1 => *kind = rng.u32(..14),
                2 if !items.is_empty() => drop(items.remove(rng.usize(..items.len()))),
                3 if !items.is_empty() => {
                    let copy = items[rng.usize(..items.len())].clone();
                    items.insert(rng.usize(..items.len()), copy);
                }
                4 if !items.is_empty() => {
                    let item = rng.usize(..items.len());
                    items[item] = mutate::edge(rng).to_le_bytes()[..items[item].len().min(8)].to_vec();
                }
                _ if !items.is_empty() => {
                    let item = rng.usize(..items.len());
                    let at = rng.usize(..items[item].len().max(1));
                    if let Some(byte) = items[item].get_mut(at) {
                        *byte = rng.u8(..);
                    }
                }
                _ => {}
            },
        }
    }
}

impl Draft {
    pub fn set(&mut self, key: &str, value: Value) {
        self.pairs.retain(|(known, _)| known != key.as_bytes());
        self.pairs.push((key.as_bytes().to_vec(), value));
    }

    fn alter_tensor(&mut self, rng: &mut Rng) {
        let count = self.tensors.len();
        if count == 0 {
            return;
        }
        let nth = rng.usize(..count);
        let tensor = &mut self.tensors[nth];
        match rng.u8(..7) {
            0 => tensor.offset = mutate::edge(rng),
            1 => tensor.offset = rng.u64(..100) * 32,
            2 => tensor.format = rng.u32(..42),
            3 => tensor.dims.push(mutate::edge(rng)),
            4 if !tensor.dims.is_empty() => {
                let dim = rng.usize(..tensor.dims.len());
                tensor.dims[dim] = mutate::edge(rng);
            }
            5 => {
                let copy = tensor.clone();
                self.tensors.push(copy);
            }
            _ => mutate::bytes(&mut tensor.name, b"blk.0", rng),
        }
    }
}

impl Input for Draft {
    fn altered(&self, other: &Self, rng: &mut Rng) -> Self {
        let mut draft = self.clone();
        let pair = rng.usize(..draft.pairs.len().max(1));
        match rng.u8(..20) {
            0 => draft.version = Some(mutate::edge(rng) as u32),
            1 => draft.tensor_count = Some(mutate::edge(rng)),
            2 => draft.pair_count = Some(mutate::edge(rng)),
            3 => draft.noise = Some(rng.u64(..)),
            4 if !draft.pairs.is_empty() => drop(draft.pairs.remove(pair)),
            5 if !draft.pairs.is_empty() => {
                let copy = draft.pairs[pair].clone();
                draft.pairs.push(copy);
            }
            6 => draft.set("general.alignment", Value::Number(rng.u32(..8), mutate::edge(rng))),
            7 => draft.set("general.alignment", Value::Number(4, 8 << rng.u32(..8))),
            8 if !draft.pairs.is_empty() => mutate::bytes(&mut draft.pairs[pair].0, b"llama.", rng),
            9 if !other.pairs.is_empty() => {
                draft.pairs.push(other.pairs[rng.usize(..other.pairs.len())].clone());
            }
            10 => draft.data_bytes = rng.usize(..4096),
            11..=14 => draft.alter_tensor(rng),
            _ if !draft.pairs.is_empty() => draft.pairs[pair].1.alter(rng),
            _ => {}
        }
        draft
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.unwrap_or(3).to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.pair_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            text(key, &mut out);
            value.write(&mut out);
        }
        for tensor in &self.tensors {
            text(&tensor.name, &mut out);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            out.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            out.extend(tensor.format.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32) + self.data_bytes, 0);
        if let Some(seed) = self.noise {
            mutate::bytes(&mut out, b"GGUF\x03", &mut Rng::with_seed(seed));
        }
        out
    }
}

/// The header of a small model of one family.
fn family(name: &str) -> Draft {
    let mut draft = Draft { data_bytes: 40_000, ..Draft::default() };
    draft.set("general.architecture", Value::Text(name.into()));
    for (key, number) in [
        ("block_count", 2),
        ("context_length", 4096),
        ("embedding_length", 64),
        ("feed_forward_length", 96),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 32),
        ("attention.sliding_window", 8),
        ("rope.dimension_count", 32),
    ] {
        draft.set(&format!("{name}.{key}"), Value::Number(4, number));
    }
    for (key, number) in
        [("attention.layer_norm_rms_epsilon", 1e-5f32), ("rope.freq_base", 1e4), ("rope.scaling.factor", 2.0)]
    {
        draft.set(&format!("{name}.{key}"), Value::Number(6, number.to_bits().into()));
    }
    draft.set(&format!("{name}.rope.scaling.type"), Value::Text(b"linear".to_vec()));
    draft.set("split.count", Value::Number(2, 1));
    draft.set("a.list", Value::List(4, None, vec![vec![1, 0, 0, 0]; 9]));
    draft.set("a.texts", Value::texts(&["a", "", "ccc"]));
    for (nth, (name, format, bytes)) in [
        ("token_embd.weight", 8, 34 * 2 * 64),
        ("blk.0.attn_q.weight", 12, 144 * 64),
        ("output_norm.weight", 0, 256 * 64),
    ]
    .into_iter()
    .enumerate()
    {
        let width = if format == 12 { 256 } else { 64 };
        draft.tensors.push(Tensor {
            name: name.into(),
            dims: vec![width, 64],
            format,
            offset: (nth as u64) * 13_312 % (40_000 - bytes),
        });
    }
    draft
}

const KEYS: [&str; 8] = [
    "general.alignment",
    "llama.block_count",
    "llama.rope.freq_base",
    "a.list",
    "a.texts",
    "split.count",
    "general.architecture",
    "tokenizer.ggml.tokens",
];

/// Reads a header and everything that can be asked of it.
fn read_all(bytes: &[u8]) -> Result<(), String> {
    let header = Header::read(bytes).map_err(|error| error.to_string())?;
    let metadata = header.metadata(bytes);
    for key in KEYS {
        let _ = (metadata.count(key), metadata.uniform_count(key), metadata.float(key), metadata.flag(key));
        let _ = (metadata.text(key), metadata.texts(key).map(drop), metadata.floats(key).map(drop));
    }
    for (_, entry) in header.tensors() {
        assert!(entry.range().end <= bytes.len() && entry.range().start <= entry.range().end);
        if let Ok(format) = entry.format() {
            let elements: usize = entry.dims().iter().product();
            assert_eq!(format.bytes(elements), Some(entry.range().len()));
        }
    }
    Architecture::read(metadata).map(drop).map_err(|error| error.to_string())
}

const LIMITS: Limits = Limits { memory_factor: 32, memory_bytes: 64 << 10, time: Duration::from_millis(50) };

#[test]
fn gguf_headers_by_parts() {
    let alone = alone();
    let seeds = ["llama", "qwen2", "qwen3", "gemma3"].map(family).to_vec();
    assert!(seeds.iter().all(|seed| read_all(&seed.bytes()).is_ok()), "the seeds are sound");
    fuzz(&alone, "gguf-parts", seeds, &LIMITS, read_all);
}

#[test]
fn gguf_headers_by_bytes() {
    let alone = alone();
    let mut seeds: Vec<Vec<u8>> = ["llama", "gemma3"].map(|name| family(name).bytes()).to_vec();
    seeds.push(b"GGUF\x03\0\0\0".to_vec());
    // The real models' headers are megabytes of texts, so they join long runs only.
    if std::env::var_os("RBEE_FUZZ_SECONDS").is_some() {
        seeds.extend(real_headers());
    }
    fuzz(&alone, "gguf-bytes", seeds, &LIMITS, read_all);
}

/// The headers of the models that the other tests use, cut where the tensors begin.
pub fn real_headers() -> Vec<Vec<u8>> {
    let Some(folder) = std::env::var_os("RBEE_TEST_MODELS") else { return Vec::new() };
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"))
        .map(|path| {
            let mut bytes = std::fs::read(path).unwrap();
            let header = Header::read(&bytes).unwrap();
            let end = header.tensors().map(|(_, entry)| entry.range().start).min().unwrap();
            drop(header);
            bytes.truncate(end);
            bytes
        })
        .collect()
}
