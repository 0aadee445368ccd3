//! Vocabularies and tokenizers as GGUF headers describe them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use worker::file::gguf::Header;
use worker::text::tokenizer::{ControlTokens, Ends, Tokenizer};
use worker::text::vocabulary::{Vocabulary, byte_alphabet};

use crate::driver::{Input, Limits, alone, fuzz};
use crate::gguf::{Draft, Value};
use crate::mutate;

const MODELS: [&str; 6] = ["gpt2", "llama", "bert", "t5", "none", ""];
const PRES: [&str; 10] = [
    "gpt-2",
    "smollm",
    "llama-bpe",
    "qwen2",
    "default",
    "tekken",
    "starcoder",
    "falcon",
    "deepseek-llm",
    "klingon",
];
/// What is encoded: all kinds of signs, long runs of one sign, texts of special tokens.
fn texts() -> Vec<String> {
    vec![
        "Hello, wörld! 12345 don't  \n\n\t x".to_owned(),
        "日本語 🤖👩‍👩‍👧 \u{feff}\u{0} <|x|><|x|><s></s><0x41>".to_owned(),
        "a".repeat(3000),
        " ".repeat(3000),
        "ab".repeat(1500),
        "\n1".repeat(1000),
        String::new(),
    ]
}

/// A tokenizer in parts.
#[derive(Clone)]
struct Parts {
    model: String,
    pre: Option<String>,
    tokens: Vec<String>,
    kinds: Vec<i64>,
    scores: Option<Vec<f32>>,
    merges: Option<Vec<String>>,
    ids: Vec<(&'static str, u64)>,
    flags: Vec<(&'static str, bool)>,
    /// Changes to the written header that the parts cannot say.
    noise: Option<u64>,
}

impl Parts {
    fn draft(&self) -> Draft {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let mut draft = Draft::default();
        draft.set(&key("model"), Value::Text(self.model.clone().into_bytes()));
        if let Some(pre) = &self.pre {
            draft.set(&key("pre"), Value::Text(pre.clone().into_bytes()));
        }
        draft.set(&key("tokens"), Value::texts(&self.tokens));
        let kinds = self.kinds.iter().map(|kind| (*kind as i32).to_le_bytes().to_vec()).collect();
        draft.set(&key("token_type"), Value::List(5, None, kinds));
        if let Some(scores) = &self.scores {
            let scores = scores.iter().map(|score| score.to_le_bytes().to_vec()).collect();
            draft.set(&key("scores"), Value::List(6, None, scores));
        }
        if let Some(merges) = &self.merges {
            draft.set(&key("merges"), Value::texts(merges));
        }
        for (name, id) in &self.ids {
            draft.set(&key(name), Value::Number(4, *id));
        }
        for (name, flag) in &self.flags {
            draft.set(&key(name), Value::Number(7, u64::from(*flag)));
        }
        if let Some(seed) = self.noise {
            return draft.altered(&draft, &mut Rng::with_seed(seed));
        }
        draft
    }

    fn alter_token(&mut self, rng: &mut Rng) {
        let nth = rng.usize(..self.tokens.len().max(1));
        let Some(token) = self.tokens.get_mut(nth) else { return };
        match rng.u8(..5) {
            0 => token.clear(),
            1 => *token = token.repeat(rng.usize(1..300)),
            2 => *token = "a".repeat(rng.usize(1..400)),
            3 => ["<0x41>", "<0xZZ>", "▁", "<|x|>", "Ġ", "</s>", "\u{0}"][rng.usize(..7)].clone_into(token),
            _ => {
                let mut bytes = token.clone().into_bytes();
                mutate::bytes(&mut bytes, "Ġ▁é".as_bytes(), rng);
                *token = String::from_utf8_lossy(&bytes).into_owned();
            }
        }
    }
}

impl Input for Parts {
    fn altered(&self, other: &Self, rng: &mut Rng) -> Self {
        let mut parts = self.clone();
        let nth = rng.usize(..parts.tokens.len().max(1));
        match rng.u8(..18) {
            0 => MODELS[rng.usize(..MODELS.len())].clone_into(&mut parts.model),
            1 => parts.pre = Some(PRES[rng.usize(..PRES.len())].to_owned()),
            2 => parts.pre = None,
            3..=5 => parts.alter_token(rng),
            6 if nth < parts.tokens.len() => drop(parts.tokens.remove(nth)),
            7 => {
                // Many tokens that each begin with the one before.
                let many = rng.usize(1..200);
                let sign = ["a", " ", "▁", "ab"][rng.usize(..4)];
                let kind = rng.i64(1..7);
                for len in 1..many {
                    parts.tokens.push(sign.repeat(len));
                    parts.kinds.push(kind);
                    parts.scores.iter_mut().for_each(|scores| scores.push(len as f32));
                }
            }
            8 if nth < parts.kinds.len() => parts.kinds[nth] = rng.i64(-1..9),
            9 => {
                let kind = rng.i64(1..7);
                parts.kinds.iter_mut().for_each(|known| *known = kind);
            }
            10 => {
                let scores = [f32::NAN, f32::INFINITY, -0.0, f32::MIN, 1e9];
                if let Some(score) = parts.scores.as_mut().and_then(|scores| scores.get_mut(nth)) {
                    *score = scores[rng.usize(..scores.len())];
                }
            }
            11 => parts.scores.clone_from(&other.scores),
            12 => parts.merges.clone_from(&other.merges),
            13 | 14 => {
                let merges = parts.merges.get_or_insert_default();
                let part = |rng: &mut Rng| parts.tokens.get(rng.usize(..parts.tokens.len().max(1))).cloned();
                let separator = [" ", "", "  ", "\t"][rng.usize(..8).min(3) * usize::from(rng.u8(..) < 40)];
                let merge =
                    format!("{}{separator}{}", part(rng).unwrap_or_default(), part(rng).unwrap_or_default());
                merges.insert(rng.usize(..=merges.len()), merge.clone());
                if rng.bool() {
                    parts.tokens.push(merge.replace(' ', ""));
                    parts.kinds.push(1);
                }
            }
            15 => {
                let keys =
                    ["bos_token_id", "eos_token_id", "unknown_token_id", "eot_token_id", "padding_token_id"];
                parts.ids.push((
                    keys[rng.usize(..keys.len())],
                    if rng.bool() { mutate::edge(rng) } else { nth as u64 },
                ));
            }
            16 => {
                let keys = ["add_bos_token", "add_eos_token", "add_space_prefix", "remove_extra_whitespaces"];
                parts.flags.push((keys[rng.usize(..keys.len())], rng.bool()));
            }
            _ => parts.noise = Some(rng.u64(..)),
        }
        parts.tokens.truncate(3000);
        parts
    }

    fn bytes(&self) -> Vec<u8> {
        self.draft().bytes()
    }
}

fn byte_level() -> Parts {
    let mut tokens: Vec<String> = byte_alphabet().iter().map(char::to_string).collect();
    let merges = ["t h", "h e", "i n", "Ġ a", "a a", "a b", "aa aa", "th e", "Ġ Ġ", "Ċ Ċ"];
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut kinds = vec![1; tokens.len()];
    tokens.extend(["<|x|>", "<|endoftext|>", "\n\n"].map(str::to_owned));
    kinds.extend([3, 3, 4]);
    let ids = vec![("eos_token_id", tokens.len() as u64 - 2)];
    let merges = Some(merges.map(str::to_owned).to_vec());
    Parts {
        model: "gpt2".to_owned(),
        pre: Some("smollm".to_owned()),
        tokens,
        kinds,
        scores: None,
        merges,
        ids,
        flags: Vec::new(),
        noise: None,
    }
}

fn sentence_piece() -> Parts {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    let mut kinds = vec![2, 3, 3];
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    kinds.extend([6; 256]);
    tokens.extend(["▁", "a", "b", "ab", "▁ab", "ba", "aa", "aaaa", "日", "日本", "\n\n"].map(str::to_owned));
    kinds.resize(tokens.len(), 1);
    let scores = Some((0..tokens.len()).map(|id| -(id as f32)).collect());
    let ids = vec![("bos_token_id", 1), ("eos_token_id", 2), ("unknown_token_id", 0)];
    Parts {
        model: "llama".to_owned(),
        pre: None,
        tokens,
        kinds,
        scores,
        merges: None,
        ids,
        flags: vec![("add_bos_token", true)],
        noise: None,
    }
}

fn use_all(bytes: &[u8], texts: &[String]) -> Result<(), String> {
    let header = Header::read(bytes).map_err(|error| error.to_string())?;
    let metadata = header.metadata(bytes);
    let vocabulary = Arc::new(Vocabulary::read(metadata).map_err(|error| error.to_string())?);
    let tokenizer = Tokenizer::read(metadata, vocabulary.clone(), Path::new("/nonexistent/model.gguf"))
        .map_err(|error| error.to_string())?;
    for text in texts {
        let ids = tokenizer.encode_prompt(text, Ends::Added)?;
        // A space may be spelt as the three bytes of ▁; besides there is what stands around every prompt.
        assert!(ids.len() <= text.len() * 3 + 5, "{} tokens of {} bytes", ids.len(), text.len());
        assert!(ids.iter().all(|id| (*id as usize) < vocabulary.size()));
        let plain = tokenizer.encode(text, ControlTokens::Plain)?;
        let mut bytes = Vec::new();
        for id in &plain {
            vocabulary.append_bytes(*id, &mut bytes);
        }
    }
    Ok(())
}

#[test]
fn tokenizer_metadata() {
    let alone = alone();
    let texts = texts();
    let seeds = vec![byte_level(), sentence_piece()];
    for seed in &seeds {
        use_all(&seed.bytes(), &texts).unwrap();
    }
    // The texts that are encoded are a few kilobytes each, and a special token may match at each of their bytes.
    let limits = Limits { memory_factor: 100, memory_bytes: 8 << 20, time: Duration::from_millis(300) };
    fuzz(&alone, "tokenizer", seeds, &limits, |bytes| use_all(bytes, &texts));
}
