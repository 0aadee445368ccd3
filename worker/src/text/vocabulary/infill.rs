//! The tokens by which a model fills a gap in a text.

use crate::error::LoadError;

/// The marks of a text with a gap. Models that know them were trained on `prefix`, what stands before the gap, `suffix`,
/// what stands after it, and `middle`, behind which they write what belongs between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the type says it")]
pub struct InfillMarks {
    pub prefix: u32,
    pub suffix: u32,
    pub middle: u32,
}

/// Where headers name the marks: by the newer key or by the older one.
const KEYS: [[&str; 2]; 3] = [
    ["tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"],
    ["tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"],
    ["tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"],
];

/// Where headers name what parts and pads files of code, behind which another file would begin.
pub(super) const SEPARATOR_KEYS: [&str; 3] =
    ["tokenizer.ggml.fim_pad_token_id", "tokenizer.ggml.fim_rep_token_id", "tokenizer.ggml.fim_sep_token_id"];

/// The marks' texts by family, for the many files whose headers do not name them.
const TEXTS: [[&str; 3]; 6] = [
    // Qwen, CodeGemma.
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    // StarCoder, Granite.
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    // SantaCoder.
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    // DeepSeek, whose hole is where what stands after the gap begins.
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    // CodeLlama, as SentencePiece spells it and without that.
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
    ["<PRE>", "<SUF>", "<MID>"],
];

impl InfillMarks {
    /// The marks that a header names, or else those whose texts are tokens. Marks of two families are never mixed.
    pub(super) fn find(
        by_key: impl Fn(&str) -> Result<Option<u32>, LoadError>,
        by_text: impl Fn(&str) -> Option<u32>,
    ) -> Result<Option<Self>, LoadError> {
        let mut named = [None; 3];
        for (mark, [newer, older]) in named.iter_mut().zip(KEYS) {
            *mark = match by_key(newer)? {
                None => by_key(older)?,
                found => found,
            };
        }
        let spelt = TEXTS.iter().map(|texts| texts.map(&by_text));
        Ok([named].into_iter().chain(spelt).find_map(Self::of))
    }

    fn of(marks: [Option<u32>; 3]) -> Option<Self> {
        let [prefix, suffix, middle] = marks;
        Some(Self { prefix: prefix?, suffix: suffix?, middle: middle? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(keys: &[(&str, u32)], texts: &[(&str, u32)]) -> Option<[u32; 3]> {
        let look_up = |pairs: &[(&str, u32)], wanted: &str| {
            pairs.iter().find(|(name, _)| *name == wanted).map(|(_, id)| *id)
        };
        let by_key = |key: &str| Ok(look_up(keys, key.strip_prefix("tokenizer.ggml.").unwrap()));
        let marks = InfillMarks::find(by_key, |text| look_up(texts, text)).unwrap();
        marks.map(|marks| [marks.prefix, marks.suffix, marks.middle])
    }

    #[test]
    fn a_header_goes_before_texts_and_newer_keys_before_older_ones() {
        let older = [("prefix_token_id", 1), ("suffix_token_id", 2), ("middle_token_id", 3)];
        let texts = [("<|fim_prefix|>", 7), ("<|fim_suffix|>", 8), ("<|fim_middle|>", 9)];
        assert_eq!(find(&older, &texts), Some([1, 2, 3]));
        assert_eq!(find(&[&older[..], &[("fim_mid_token_id", 4)]].concat(), &[]), Some([1, 2, 4]));
        assert_eq!(find(&older[..2], &texts), Some([7, 8, 9]));
        assert_eq!(find(&[], &texts), Some([7, 8, 9]));
    }

    #[test]
    fn all_three_marks_are_of_one_family() {
        assert_eq!(find(&[], &[("<PRE>", 1), ("<SUF>", 2), ("▁<MID>", 3)]), None);
        assert_eq!(
            find(&[], &[("<｜fim▁begin｜>", 1), ("<｜fim▁hole｜>", 2), ("<｜fim▁end｜>", 3), ("<PRE>", 4)]),
            Some([1, 2, 3])
        );
        assert_eq!(find(&[("fim_pre_token_id", 1), ("fim_suf_token_id", 2)], &[]), None);
    }

    #[test]
    fn a_key_that_leads_nowhere_is_an_error() {
        let broken = |_: &str| Err(LoadError::Corrupted("there is no such token".to_owned()));
        assert!(InfillMarks::find(broken, |_| None).is_err());
    }
}
