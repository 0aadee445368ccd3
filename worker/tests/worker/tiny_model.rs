//! Writes small GGUF files of random weights, one for each family, with a byte-level vocabulary.

use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use worker::text::vocabulary::byte_alphabet;

const HIDDEN: usize = 64;
const CONTEXT: usize = 4096;
const FEED_FORWARD: usize = 96;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
/// Local and global layers, rotated ones and one that is not.
const LAYERS: usize = 4;

const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'robot' %}{{ raise_exception('no robots') }}{% endif %}\
    <|turn|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|turn|>{% endif %}";

/// A model file in a folder that goes away with it.
pub struct TinyModel {
    pub path: PathBuf,
    _folder: tempfile::TempDir,
}

/// All families.
pub const FAMILIES: [&str; 10] =
    ["llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "granite", "smollm3", "olmo2"];

/// A model of one of the families.
pub fn tiny_model(family: &str) -> TinyModel {
    tiny_model_in(family, if family == "llama" { GgmlDType::Q4_1 } else { GgmlDType::Q8_0 })
}

/// A model of one of the families, with its weights in this format.
pub fn tiny_model_in(family: &str, dtype: GgmlDType) -> TinyModel {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("{family}.gguf"));
    write_model(&path, family, dtype, LAYERS, &Changes::default());
    TinyModel { path, _folder: folder }
}

/// A llama that computes long enough on a step to be caught in the middle of things, and that knows no end: random weights
/// would choose it at some time.
pub fn slow_model() -> TinyModel {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slow.gguf");
    let endless = Changes { left_out: &["tokenizer.ggml.eos_token_id"], ..Changes::default() };
    write_model(&path, "llama", GgmlDType::Q4_1, 48, &endless);
    TinyModel { path, _folder: folder }
}

/// A llama with further tokens, which its file calls a user's, and with further keys in its header.
pub fn tiny_model_with(tokens: &[&str], metadata: &[(&str, u32)]) -> TinyModel {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("with.gguf");
    let mut changes = Changes { tokens, ..Changes::default() };
    changes.metadata = metadata.iter().map(|(key, id)| ((*key).to_owned(), Value::U32(*id))).collect();
    write_model(&path, "llama", GgmlDType::Q8_0, LAYERS, &changes);
    TinyModel { path, _folder: folder }
}

/// What is otherwise than in a family's usual file.
#[derive(Default)]
struct Changes<'a> {
    /// Keys that the header lacks.
    left_out: &'a [&'a str],
    tokens: &'a [&'a str],
    metadata: Vec<(String, Value)>,
}

fn write_model(path: &Path, family: &str, dtype: GgmlDType, layers: usize, changes: &Changes<'_>) {
    let mut tokens = vocabulary();
    let own = tokens.len();
    tokens.extend(changes.tokens.iter().map(|token| (*token).to_owned()));
    let mut metadata = architecture(family, layers);
    metadata.extend(tokenizer(&tokens, own));
    metadata.retain(|(key, _)| !changes.left_out.contains(&key.as_str()));
    metadata.extend(changes.metadata.iter().cloned());
    let tensors = tensors(family, dtype, layers, tokens.len());
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

/// All bytes, a few merged pairs, and two control tokens.
fn vocabulary() -> Vec<String> {
    let mut tokens: Vec<String> = byte_alphabet().iter().map(char::to_string).collect();
    tokens.extend(["th", "he", "in", "Ġa"].map(str::to_owned));
    tokens.extend(["<|last|>", "<|turn|>"].map(str::to_owned));
    tokens
}

/// `own` of the tokens are the usual ones, with the control tokens last; what follows is a user's.
fn tokenizer(tokens: &[String], own: usize) -> Vec<(String, Value)> {
    let texts =
        |texts: &[&str]| Value::Array(texts.iter().map(|text| Value::String((*text).to_owned())).collect());
    let control = own - 2;
    let kind = |id| match id {
        _ if id < control => 1,
        _ if id < own => 3,
        _ => 4,
    };
    let kinds = (0..tokens.len()).map(|id| Value::I32(kind(id))).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    [
        ("tokenizer.ggml.model", Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::String("smollm".to_owned())),
        ("tokenizer.ggml.tokens", texts(&tokens)),
        ("tokenizer.ggml.token_type", Value::Array(kinds)),
        ("tokenizer.ggml.merges", texts(&["t h", "h e", "i n", "Ġ a"])),
        ("tokenizer.ggml.eos_token_id", Value::U32(control as u32)),
        ("tokenizer.chat_template", Value::String(TEMPLATE.to_owned())),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

fn architecture(family: &str, layers: usize) -> Vec<(String, Value)> {
    let mut metadata = vec![("general.architecture".to_owned(), Value::String(family.to_owned()))];
    let mut set = |key: &str, value: Value| metadata.push((format!("{family}.{key}"), value));
    set("block_count", Value::U32(layers as u32));
    set("context_length", Value::U32(CONTEXT as u32));
    set("embedding_length", Value::U32(HIDDEN as u32));
    set("feed_forward_length", Value::U32(FEED_FORWARD as u32));
    set("attention.head_count", Value::U32(HEADS as u32));
    set("attention.head_count_kv", Value::U32(KV_HEADS as u32));
    set("attention.key_length", Value::U32(HEAD_DIM as u32));
    set("attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    set("rope.freq_base", Value::F32(10_000.0));
    match family {
        "gemma2" => {
            set("attention.sliding_window", Value::U32(8));
            set("attn_logit_softcapping", Value::F32(2.0));
            set("final_logit_softcapping", Value::F32(1.0));
        }
        "gemma3" => set("attention.sliding_window", Value::U32(8)),
        "phi3" => {
            set("attention.sliding_window", Value::U32(20));
            set("rope.dimension_count", Value::U32(24));
            set("rope.scaling.attn_factor", Value::F32(1.2));
            set("rope.scaling.original_context_length", Value::U32(64));
        }
        "granite" => {
            set("embedding_scale", Value::F32(12.0));
            set("residual_scale", Value::F32(0.22));
            set("attention.scale", Value::F32(0.1));
            set("logit_scale", Value::F32(8.0));
        }
        "qwen3" => {
            set("rope.scaling.type", Value::String("yarn".to_owned()));
            set("rope.scaling.factor", Value::F32(4.0));
            set("rope.scaling.original_context_length", Value::U32(64));
        }
        _ => {}
    }
    metadata
}

fn tensors(family: &str, dtype: GgmlDType, layers: usize, vocabulary: usize) -> Vec<(String, QTensor)> {
    let mut tensors = Vec::new();
    let matrix = |out: usize, input: usize, spread: f32| random(&[out, input], 0.0, spread, dtype);
    let norm = |len: usize| random(&[len], 1.0, 0.1, GgmlDType::F32);
    // Embeddings this small leave a tied head undecided between many tokens.
    tensors.push(("token_embd.weight".to_owned(), matrix(vocabulary, HIDDEN, 0.05)));
    if family == "llama" {
        tensors.push(("output.weight".to_owned(), matrix(vocabulary, HIDDEN, 0.2)));
    }
    tensors.push(("output_norm.weight".to_owned(), norm(HIDDEN)));
    if family == "phi3" {
        for part in ["rope_factors_long.weight", "rope_factors_short.weight"] {
            tensors.push((part.to_owned(), random(&[12], 2.0, 0.3, GgmlDType::F32)));
        }
    }
    for layer in 0..layers {
        let mut add = |part: &str, tensor: QTensor| tensors.push((format!("blk.{layer}.{part}"), tensor));
        if family != "olmo2" {
            add("attn_norm.weight", norm(HIDDEN));
            add("ffn_norm.weight", norm(HIDDEN));
        }
        if matches!(family, "gemma2" | "gemma3" | "olmo2") {
            add("post_attention_norm.weight", norm(HIDDEN));
            add("post_ffw_norm.weight", norm(HIDDEN));
        }
        if family == "phi3" {
            add("attn_qkv.weight", matrix((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN, 0.1));
            add("ffn_up.weight", matrix(2 * FEED_FORWARD, HIDDEN, 0.1));
        } else {
            add("attn_q.weight", matrix(HEADS * HEAD_DIM, HIDDEN, 0.1));
            add("attn_k.weight", matrix(KV_HEADS * HEAD_DIM, HIDDEN, 0.1));
            add("attn_v.weight", matrix(KV_HEADS * HEAD_DIM, HIDDEN, 0.1));
            add("ffn_gate.weight", matrix(FEED_FORWARD, HIDDEN, 0.1));
            add("ffn_up.weight", matrix(FEED_FORWARD, HIDDEN, 0.1));
        }
        add("attn_output.weight", matrix(HIDDEN, HEADS * HEAD_DIM, 0.1));
        add("ffn_down.weight", matrix(HIDDEN, FEED_FORWARD, 0.1));
        if family == "qwen2" {
            for (part, heads) in
                [("attn_q.bias", HEADS), ("attn_k.bias", KV_HEADS), ("attn_v.bias", KV_HEADS)]
            {
                add(part, random(&[heads * HEAD_DIM], 0.0, 0.1, GgmlDType::F32));
            }
        }
        if matches!(family, "qwen3" | "gemma3") {
            add("attn_q_norm.weight", norm(HEAD_DIM));
            add("attn_k_norm.weight", norm(HEAD_DIM));
        }
        if family == "olmo2" {
            add("attn_q_norm.weight", norm(HEADS * HEAD_DIM));
            add("attn_k_norm.weight", norm(KV_HEADS * HEAD_DIM));
        }
    }
    tensors
}

fn random(dims: &[usize], mean: f32, spread: f32, dtype: GgmlDType) -> QTensor {
    QTensor::quantize(&Tensor::randn(mean, spread, dims, &Device::Cpu).unwrap(), dtype).unwrap()
}
