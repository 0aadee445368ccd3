//! Safetensors headers.

use std::time::Duration;

use fastrand::Rng;
use serde_json::json;
use worker::file::safetensors::Header;

use crate::driver::{Input, Limits, alone, fuzz};
use crate::mutate::Json;

/// A header as JSON, behind its length, before some data.
#[derive(Clone)]
struct File {
    header: Json,
    claimed: Option<u64>,
    data_bytes: usize,
}

impl Input for File {
    fn altered(&self, other: &Self, rng: &mut Rng) -> Self {
        let mut file = self.clone();
        match rng.u8(..12) {
            0 => file.claimed = Some(crate::mutate::edge(rng)),
            1 => file.data_bytes = rng.usize(..300),
            _ => file.header = file.header.altered(&other.header, rng),
        }
        file
    }

    fn bytes(&self) -> Vec<u8> {
        let json = self.header.bytes();
        let claimed = self.claimed.unwrap_or(json.len() as u64);
        [&claimed.to_le_bytes()[..], &json, &vec![0; self.data_bytes]].concat()
    }
}

#[test]
fn safetensors_headers() {
    let alone = alone();
    let file = |value, data_bytes| File { header: Json { value, noise: None }, claimed: None, data_bytes };
    let entry = |dtype: &str, dims: &[usize], from: usize, to: usize| json!({"dtype": dtype, "shape": dims, "data_offsets": [from, to]});
    let seeds = vec![
        file(
            json!({"__metadata__": {"format": "pt"}, "a": entry("F32", &[2, 3], 0, 24), "b": entry("F16", &[8], 24, 40)}),
            40,
        ),
        file(
            json!({"x": entry("BF16", &[1, 1, 4], 0, 8), "y": entry("I64", &[2], 8, 24), "z": entry("U8", &[0], 24, 24)}),
            24,
        ),
        file(json!({}), 0),
    ];
    let read = |bytes: &[u8]| Header::read(bytes).map(drop).map_err(|error| error.to_string());
    assert!(seeds.iter().all(|seed| read(&seed.bytes()).is_ok()), "the seeds are sound");
    // A header's numbers are held in a form for any JSON before they are read as numbers.
    let limits = Limits { memory_factor: 64, memory_bytes: 64 << 10, time: Duration::from_millis(50) };
    fuzz(&alone, "safetensors", seeds, &limits, read);
}
