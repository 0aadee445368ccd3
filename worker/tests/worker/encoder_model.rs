//! Folders of small encoders: shapes and configurations as recorded, weights by the record's formula.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// A model's folder, which goes away with it.
pub struct EncoderModel {
    pub path: PathBuf,
    _folder: tempfile::TempDir,
}

/// The model of a recorded case. Its words are `t0` to `t299`, each a token.
pub fn encoder_model(record: &Value) -> EncoderModel {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let write = |name: &str, json: &Value| std::fs::write(path.join(name), json.to_string()).unwrap();
    write("config.json", &record["config"]);
    write("tokenizer.json", &tokenizer());
    write_weights(&path.join("model.safetensors"), record["tensors"].as_object().unwrap());
    EncoderModel { path, _folder: folder }
}

fn tokenizer() -> Value {
    let words: Map<String, Value> = (0..300).map(|id| (format!("t{id}"), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "t0"},
    })
}

fn write_weights(path: &Path, tensors: &Map<String, Value>) {
    let mut header = Map::new();
    let mut data = Vec::new();
    for (name, shape) in tensors {
        let shape: Vec<usize> =
            shape.as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap() as usize).collect();
        let start = data.len();
        data.extend(weights(name, &shape).flat_map(f32::to_le_bytes));
        let place = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), place);
    }
    let header = Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length[..], header.as_bytes(), &data].concat()).unwrap();
}

/// Numbers that follow from a tensor's name: splitmix64 over its 64-bit FNV-1a hash.
fn weights(name: &str, shape: &[usize]) -> impl Iterator<Item = f32> {
    let hash = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    let is_norm = shape.len() == 1 && name.ends_with(".weight");
    let (spread, centre) = if is_norm { (0.125, 1.0) } else { (0.25, 0.0) };
    (1..=shape.iter().product::<usize>() as u64).map(move |index| {
        let mut z = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let unit = (z >> 40) as f32 / (1 << 23) as f32 - 1.0;
        unit * spread + centre
    })
}
