//! Files as candle's own writer makes them, and what hostile ones can do to them.

use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::*;

/// A file without tensors that holds these pairs.
pub(crate) fn with_pairs(pairs: &[(&str, Value)]) -> Vec<u8> {
    with_tensors(pairs, &[])
}

fn with_tensors(pairs: &[(&str, Value)], tensors: &[(&str, &QTensor)]) -> Vec<u8> {
    let pairs: Vec<(&str, &Value)> = pairs.iter().map(|(key, value)| (*key, value)).collect();
    let mut file = std::io::Cursor::new(Vec::new());
    write(&mut file, &pairs, tensors).unwrap();
    file.into_inner()
}

fn read(bytes: &[u8]) -> Result<Header, String> {
    Header::read(bytes).map_err(|error| error.to_string())
}

fn open(bytes: &[u8]) -> Result<ModelFile, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    ModelFile::open(&path).map_err(|error| error.to_string())
}

fn sample() -> Vec<u8> {
    let weights = Tensor::arange(0f32, 64.0, &Device::Cpu).unwrap().reshape((2, 32)).unwrap();
    let quantised = QTensor::quantize(&weights, GgmlDType::Q8_0).unwrap();
    let plain = QTensor::quantize(&weights, GgmlDType::F32).unwrap();
    let list = |items: Vec<Value>| Value::Array(items);
    with_tensors(
        &[
            ("a.count", Value::U16(7)),
            ("a.below", Value::I32(-7)),
            ("a.real", Value::F32(0.5)),
            ("a.flag", Value::Bool(true)),
            ("a.text", Value::String("héllo".to_owned())),
            ("a.same", list(vec![Value::U32(4), Value::U32(4)])),
            ("a.mixed", list(vec![Value::U32(4), Value::U32(5)])),
            ("a.texts", list(vec![Value::String(String::new()), Value::String("x y".to_owned())])),
            ("a.reals", list(vec![Value::F32(-1.0), Value::F32(2.0)])),
        ],
        &[("blk.0.q", &quantised), ("plain", &plain)],
    )
}

#[test]
fn values_have_the_types_that_they_are_asked_for_in() {
    let bytes = sample();
    let header = read(&bytes).unwrap();
    let metadata = header.metadata(&bytes);
    assert_eq!(metadata.count("a.count").unwrap(), Some(7));
    assert_eq!(metadata.uniform_count("a.count").unwrap(), Some(7));
    assert_eq!(metadata.uniform_count("a.same").unwrap(), Some(4));
    assert_eq!(metadata.float("a.real").unwrap(), Some(0.5));
    assert_eq!(metadata.flag("a.flag").unwrap(), Some(true));
    assert_eq!(metadata.text("a.text").unwrap(), Some("héllo"));
    assert_eq!(metadata.texts("a.texts").unwrap(), Some(vec!["", "x y"]));
    assert_eq!(metadata.floats("a.reals").unwrap(), Some(vec![-1.0, 2.0]));
    assert_eq!(metadata.counts("a.mixed").unwrap(), Some(vec![4, 5]));
    assert_eq!((metadata.count("none").unwrap(), metadata.texts("none").unwrap()), (None, None));
    for (wrong, says) in [
        (metadata.count("a.below").map(drop), "a.below is I32 where a count is due"),
        (metadata.count("a.same").map(drop), "a.same is a list of 2 U32 where a count is due"),
        (metadata.uniform_count("a.mixed").map(drop), "a.mixed differs from layer to layer"),
        (metadata.text("a.count").map(drop), "a.count is U16 where a text is due"),
        (metadata.texts("a.text").map(drop), "a.text is Text"),
        (metadata.texts("a.same").map(drop), "a.same is a list of 2 U32"),
        (metadata.required_text("none").map(drop), "the header lacks none"),
    ] {
        let error = wrong.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn tensors_are_the_files_own_bytes() {
    let file = open(&sample()).unwrap();
    assert_eq!(file.weight_bytes(), 2 * 34 + 64 * 4);
    assert!(file.has("plain") && !file.has("plai"));
    let stored = file.tensor("blk.0.q", &[2, 32]).unwrap();
    assert_eq!((stored.format, stored.bytes.len()), (kernels::Format::Q8_0, 68));
    let plain = file.tensor("plain", &[2, 32]).unwrap();
    let values: Vec<f32> =
        plain.bytes.chunks_exact(4).map(|f| f32::from_le_bytes(f.try_into().unwrap())).collect();
    assert!(values.iter().enumerate().all(|(at, value)| (*value - at as f32).abs() < 1e-9), "{values:?}");
    file.release("plain");
    file.release("nothing");
    assert_eq!(file.tensor("plain", &[2, 32]).unwrap().bytes[4..8], 1f32.to_le_bytes());
    assert!(file.tensor("plain", &[32, 2]).unwrap_err().to_string().contains("shape [2, 32]"));
    assert!(file.tensor("none", &[1]).unwrap_err().to_string().contains("lacks the tensor none"));
}

/// The sample with the bytes after the `nth` place of `after` replaced.
fn altered(after: &[u8], skip: usize, by: &[u8]) -> Vec<u8> {
    let mut bytes = sample();
    let at = bytes.windows(after.len()).position(|window| window == after).unwrap() + after.len() + skip;
    bytes[at..at + by.len()].copy_from_slice(by);
    bytes
}

#[test]
fn what_is_wrong_is_said_with_numbers() {
    let huge = u64::MAX.to_le_bytes();
    let sample = sample();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"GGUF".to_vec(), "4 bytes are no GGUF file"),
        ([b"ggjt", &sample[4..]].concat(), "begins with 'ggjt'"),
        (altered(b"GGUF", 0, &[1, 0, 0, 0]), "GGUF version 1"),
        (altered(b"GGUF", 0, &[9, 0, 0, 0]), "GGUF version 9"),
        (altered(b"GGUF", 0, &[0, 0, 0, 3]), "big-endian"),
        (altered(b"GGUF", 4, &huge), "claims 18446744073709551615 tensors"),
        (altered(b"GGUF", 12, &huge), "claims 18446744073709551615 key-value pairs"),
        (altered(b"a.text", 4, &huge), "18446744073709551615 bytes are due"),
        (altered(b"a.texts", 8, &huge), "claims 18446744073709551615 items of a.texts"),
        (altered(b"a.texts", 4, &[9, 0, 0, 0]), "a list of lists"),
        (altered(b"a.count", 0, &[13, 0, 0, 0]), "type 13"),
        (altered(b"a.coun", 0, b"\xff"), "no UTF-8"),
        (altered(b"blk.0.q", 0, &[5, 0, 0, 0]), "5 dimensions"),
        (altered(b"blk.0.q", 0, &[0, 0, 0, 0]), "0 dimensions"),
        (altered(b"blk.0.q", 4, &[31]), "impossible shape [2, 31]"),
        (altered(b"blk.0.q", 4, &[0]), "impossible shape"),
        (altered(b"blk.0.q", 4, &[0, 0, 0, 0, 0, 0, 0, 0x80]), "impossible shape"),
        (altered(b"blk.0.q", 24, &[1]), "offset 1, which is no multiple of the alignment 32"),
        (altered(b"blk.0.q", 24, &[0, 0, 0, 0, 0, 0, 0, 0xff]), "truncated"),
        (altered(b"blk.0.q", 24, &(!31u64).to_le_bytes()), "impossible shape"),
        (sample[..sample.len() - 1].to_vec(), "truncated"),
        (sample[..295].to_vec(), "the file ends inside its header"),
    ];
    for (bytes, says) in cases {
        let error = read(&bytes).unwrap_err();
        assert!(error.contains(says), "'{error}' lacks '{says}'");
    }
}

#[test]
fn every_beginning_of_a_file_is_an_error() {
    let bytes = sample();
    for len in 0..bytes.len() {
        assert!(read(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
}

#[test]
fn twice_the_same_name_is_an_error() {
    let twice = with_pairs(&[("k", Value::U8(1)), ("k", Value::U8(1))]);
    assert!(read(&twice).unwrap_err().contains("the key k twice"));
    let tensor =
        QTensor::quantize(&Tensor::zeros(4, candle_core::DType::F32, &Device::Cpu).unwrap(), GgmlDType::F32)
            .unwrap();
    let twice = with_tensors(&[], &[("t", &tensor), ("t", &tensor)]);
    assert!(read(&twice).unwrap_err().contains("the tensor t twice"));
}

#[test]
fn impossible_alignments_are_refused_and_others_hold() {
    for (alignment, allowed) in
        [(0, false), (1, false), (24, false), (u32::MAX, false), (1 << 22, false), (64, true)]
    {
        let bytes = with_pairs(&[("general.alignment", Value::U32(alignment))]);
        let outcome = read(&bytes);
        assert_eq!(outcome.is_ok(), allowed, "{alignment}: {outcome:?}");
    }
}

#[test]
fn a_foreign_format_is_an_error_only_where_its_tensor_is_wanted() {
    let mut bytes = sample();
    let at = bytes.windows(7).position(|window| window == b"blk.0.q").unwrap() + 7 + 4 + 16;
    for (number, says) in [(10, "Q2_K (type 10)"), (99, "type 99")] {
        bytes[at] = number;
        let file = open(&bytes).unwrap();
        let error = file.tensor("blk.0.q", &[2, 32]).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("IQ4_XS"), "{error}");
        assert!(file.tensor("plain", &[2, 32]).is_ok());
    }
}

#[test]
fn a_part_of_a_model_is_refused_with_the_way_out() {
    let part = |count, number| {
        open(&with_pairs(&[("split.count", Value::U16(count)), ("split.no", Value::U16(number))]))
    };
    let error = part(3, 1).unwrap_err();
    assert!(error.contains("part 2 of 3") && error.contains("--merge"), "{error}");
    assert!(part(1, 0).is_ok());
}
