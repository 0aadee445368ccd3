//! How a text is cut into words before byte pairs are merged, by the names that GGUF files have for it.
//!
//! Models were trained with expressions that end in `\s+(?!\S)|\s+`: of several spaces before a word, the last one
//! belongs to the word. Looking ahead would cost the guarantee of linear time, so that end is written `\s+` here and the
//! last space is given back afterwards.

use regex::Regex;

use crate::error::LoadError;

/// What becomes of a run of spaces before a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spaces {
    /// As matched.
    Keep,
    /// The last one is left to the word.
    LeaveLast,
    /// The same, but for runs that end a line: another branch of the expression matched those.
    LeaveLastInLine,
}

type Pattern = (&'static str, Spaces);

const GPT2: Pattern =
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", Spaces::LeaveLast);
const LLAMA3: Pattern = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    Spaces::LeaveLastInLine,
);
const QWEN2: Pattern = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    Spaces::LeaveLastInLine,
);
const QWEN35: Pattern = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    Spaces::LeaveLastInLine,
);
const TEKKEN: Pattern = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    Spaces::LeaveLastInLine,
);
const O200K: Pattern = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    Spaces::LeaveLastInLine,
);
const DEEPSEEK3: Pattern = (
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"##,
    Spaces::LeaveLastInLine,
);

const fn plain(pattern: &'static str) -> Pattern {
    (pattern, Spaces::Keep)
}

/// The expressions, applied one after the other to what the one before left whole.
const BY_NAME: [(&[&str], &[Pattern]); 12] = [
    (&["default"], &[plain(r"[\p{P}\$\+<=>\^~\|]+"), GPT2, plain(r"\p{N}+"), plain("[0-9][0-9][0-9]")]),
    (
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "roberta-bpe",
            "gigachat",
            "exaone4",
            "jina-es",
            "jina-de",
        ],
        &[GPT2],
    ),
    (
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        &[plain(r"\p{N}"), GPT2],
    ),
    (&["falcon"], &[plain(r"[\p{P}\$\+<=>\^~\|`]+"), GPT2, plain("[0-9][0-9][0-9]")]),
    (&["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"], &[LLAMA3]),
    (&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], &[LLAMA3]),
    (&["qwen2", "deepseek-r1-qwen", "stablelm2"], &[QWEN2]),
    (&["qwen35"], &[QWEN35]),
    (&["tekken"], &[TEKKEN]),
    (&["gpt-4o", "llama4"], &[O200K]),
    (
        &["deepseek-coder"],
        &[
            plain(r"[\r\n]"),
            plain(r"\s?\p{L}+"),
            plain(r"\s?\p{P}+"),
            plain("[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+"),
            plain(r"\p{N}"),
        ],
    ),
    (
        &["deepseek-v3"],
        &[plain(r"\p{N}{1,3}"), plain("[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+"), DEEPSEEK3],
    ),
];

/// Families whose vocabularies hold words that their merges do not lead to, and whose prompts begin with a token of
/// their own even where the file says nothing of it.
const WHOLE_WORDS: [&str; 6] = ["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "tekken"];

/// Whether a family's words are looked up whole before anything is merged.
pub fn has_whole_words(name: &str) -> bool {
    WHOLE_WORDS.contains(&name)
}

/// A way of cutting texts.
#[derive(Debug)]
pub(super) struct Words(Vec<(Regex, Spaces)>);

impl Words {
    /// The way of this name, if it is known.
    pub(super) fn named(name: &str) -> Result<Option<Self>, LoadError> {
        let Some((_, patterns)) = BY_NAME.iter().find(|(names, _)| names.contains(&name)) else {
            return Ok(None);
        };
        let compile = |(pattern, spaces): &Pattern| Ok((Regex::new(pattern)?, *spaces));
        let steps: Result<_, regex::Error> = patterns.iter().map(compile).collect();
        steps
            .map(|steps| Some(Self(steps)))
            .map_err(|error| LoadError::Failed(format!("pre-tokenizer: {error}")))
    }

    /// The names that are known, for messages.
    pub(super) fn known() -> String {
        let names: Vec<&str> = BY_NAME.iter().flat_map(|(names, _)| *names).copied().collect();
        names.join(", ")
    }

    /// Shows each word of a text, in order and without gaps.
    pub(super) fn each<'a>(&self, text: &'a str, visit: &mut dyn FnMut(&'a str)) {
        cut(&self.0, text, visit);
    }
}

fn cut<'a>(steps: &[(Regex, Spaces)], text: &'a str, visit: &mut dyn FnMut(&'a str)) {
    let Some(((pattern, spaces), rest)) = steps.split_first() else { return visit(text) };
    let mut at = 0;
    while let Some(found) = pattern.find_at(text, at) {
        let end = found.end() - given_back(found.as_str(), *spaces, found.end() == text.len());
        for piece in [&text[at..found.start()], &text[found.start()..end]] {
            if !piece.is_empty() {
                cut(rest, piece, visit);
            }
        }
        at = end;
    }
    if at < text.len() {
        cut(rest, &text[at..], visit);
    }
}

/// Bytes at the end of a match that belong to the next word.
fn given_back(matched: &str, spaces: Spaces, at_end: bool) -> usize {
    if spaces == Spaces::Keep || at_end {
        return 0;
    }
    let mut signs = matched.chars();
    let Some(last) = signs.next_back() else { return 0 };
    let ends_line = spaces == Spaces::LeaveLastInLine && matches!(last, '\r' | '\n');
    let is_run = last.is_whitespace() && !signs.as_str().is_empty() && signs.all(char::is_whitespace);
    if is_run && !ends_line { last.len_utf8() } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
    };

    use super::*;

    fn words<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        let mut words = Vec::new();
        Words::named(name).unwrap().unwrap().each(text, &mut |word| words.push(word));
        words
    }

    #[test]
    fn every_pattern_compiles_and_unknown_names_are_none() {
        for name in BY_NAME.iter().flat_map(|(names, _)| *names) {
            assert!(Words::named(name).unwrap().is_some(), "{name}");
        }
        assert!(Words::named("klingon").unwrap().is_none());
    }

    #[test]
    fn families_cut_as_they_were_trained() {
        let text = "It's 12345  Élan\n\n don't";
        assert_eq!(words("gpt-2", text), ["It", "'s", " 12345", " ", " Élan", "\n\n", " don", "'t"]);
        assert_eq!(words("smollm", "a 123"), ["a", " ", "1", "2", "3"]);
        assert_eq!(
            words("llama-bpe", text),
            ["It", "'s", " ", "123", "45", " ", " Élan", "\n\n", " don", "'t"]
        );
        assert_eq!(words("qwen2", "x=10;\n y"), ["x", "=", "1", "0", ";\n", " y"]);
        assert_eq!(words("tekken", "HTTPServer camelCase É"), ["HTTPServer", " camel", "Case", " É"]);
        assert_eq!(words("gpt-4o", "We'll GO'S"), ["We'll", " GO'S"]);
        assert_eq!(words("deepseek-v3", "a1234漢字b"), ["a", "123", "4", "漢字", "b"]);
        assert_eq!(words("falcon", "a, 1234"), ["a", ",", " ", "123", "4"]);
        assert_eq!(words("default", "a, 1234"), ["a", ",", " ", "123", "4"]);
        assert_eq!(words("deepseek-coder", "a b1\n"), ["a", " b", "1", "\n"]);
    }

    /// The words by the expression with its look-ahead, as the tokenizers crate computes them.
    fn oracle(pattern: &str, text: &str) -> Vec<String> {
        let end = pattern.strip_suffix(r"|\s+").unwrap();
        let pattern = SplitPattern::Regex(format!(r"{end}|\s+(?!\S)|\s+"));
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
        let mut cut = PreTokenizedString::from(text);
        split.pre_tokenize(&mut cut).unwrap();
        let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(text, _, _)| text.to_owned()).collect()
    }

    proptest! {
        #[test]
        fn giving_the_last_space_back_equals_looking_ahead(text in r"([ \t\r\n\u{a0}]|'s|'LL|[a-cA-C]|[0-9]|[.,!/]|é|\u{301}|漢|🤖){0,40}") {
            for pattern in [GPT2, LLAMA3, QWEN2, QWEN35, TEKKEN, O200K, DEEPSEEK3] {
                let mut ours = Vec::new();
                let step = (Regex::new(pattern.0).unwrap(), pattern.1);
                cut(&[step], &text, &mut |word| ours.push(word.to_owned()));
                prop_assert_eq!(&ours, &oracle(pattern.0, &text), "{}", pattern.0);
            }
        }
    }
}
