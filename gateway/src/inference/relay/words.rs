//! Counts, reasons and log probabilities in OpenAI's words.

use std::collections::BTreeMap;

use protocol::events::{self, FinishReason, LikelyToken, TokenUsage};
use protocol::openai::chat::{ChatFinishReason, Logprobs, TokenLogprob, TopLogprob};
use protocol::openai::completions::CompletionLogprobs;
use protocol::openai::usage::{CompletionTokensDetails, PromptTokensDetails, Usage};

/// What OpenAI's interface says of a token that is next to impossible; JSON has no infinity.
const UNLIKELY: f32 = -9999.0;

/// Who cancels does not read on.
pub(super) fn finish_reason(reason: FinishReason) -> ChatFinishReason {
    match reason {
        FinishReason::Stop | FinishReason::Cancelled => ChatFinishReason::Stop,
        FinishReason::Length => ChatFinishReason::Length,
        FinishReason::ToolCalls => ChatFinishReason::ToolCalls,
    }
}

pub(super) fn usage(usage: TokenUsage) -> Usage {
    Usage {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        total_tokens: usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.cached_tokens },
        completion_tokens_details: CompletionTokensDetails { reasoning_tokens: usage.reasoning_tokens },
    }
}

/// Two counts as one.
pub(super) fn sum(first: TokenUsage, second: TokenUsage) -> TokenUsage {
    TokenUsage {
        prompt_tokens: first.prompt_tokens + second.prompt_tokens,
        completion_tokens: first.completion_tokens + second.completion_tokens,
        cached_tokens: first.cached_tokens + second.cached_tokens,
        reasoning_tokens: first.reasoning_tokens + second.reasoning_tokens,
    }
}

fn logprob_of(token: &LikelyToken) -> f32 {
    token.logprob.unwrap_or(UNLIKELY).max(UNLIKELY)
}

/// In the shape of chat completions.
pub(super) fn logprobs(tokens: &[events::TokenLogprob]) -> Logprobs {
    let top = |token: &LikelyToken| TopLogprob {
        token: token.text.clone(),
        logprob: logprob_of(token),
        bytes: token.bytes.clone(),
    };
    let content = tokens.iter().map(|told| TokenLogprob {
        token: told.token.text.clone(),
        logprob: logprob_of(&told.token),
        bytes: told.token.bytes.clone(),
        top_logprobs: told.top.iter().map(top).collect(),
    });
    Logprobs { content: content.collect(), refusal: None }
}

/// In the shape of text completions. `characters` counts those before the first token and is moved on.
pub(super) fn completion_logprobs(
    tokens: &[events::TokenLogprob],
    characters: &mut TextOffset,
) -> CompletionLogprobs {
    let mut lists = CompletionLogprobs::default();
    for events::TokenLogprob { token, top } in tokens {
        lists.tokens.push(token.text.clone());
        lists.token_logprobs.push(token.logprob.map(|_| logprob_of(token)));
        let top: BTreeMap<String, f32> =
            top.iter().map(|token| (token.text.clone(), logprob_of(token))).collect();
        lists.top_logprobs.push((!top.is_empty()).then_some(top));
        lists.text_offset.push(characters.begin(&token.bytes));
    }
    lists
}

/// Counts the characters of tokens, of which several may make one character.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TextOffset {
    characters: usize,
}

impl TextOffset {
    /// Where a token of these bytes begins: a token in the middle of a character begins where that does.
    fn begin(&mut self, bytes: &[u8]) -> usize {
        let is_inside = bytes.first().is_some_and(|byte| byte & 0xc0 == 0x80);
        let begin = self.characters.saturating_sub(usize::from(is_inside));
        self.characters += bytes.iter().filter(|byte| *byte & 0xc0 != 0x80).count();
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(bytes: &[u8], logprob: Option<f32>) -> events::TokenLogprob {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let token = LikelyToken { id: 1, text, bytes: bytes.to_vec(), logprob };
        events::TokenLogprob { top: logprob.map(|_| token.clone()).into_iter().collect(), token }
    }

    #[test]
    fn the_older_shape_has_lists_side_by_side() {
        let tokens = [
            token(b"ab", None),
            token(b"\xc3", Some(-1.0)),
            token(b"\xa9", Some(-0.5)),
            token(b"c", Some(f32::NEG_INFINITY)),
        ];
        let mut offset = TextOffset::default();
        let lists = completion_logprobs(&tokens, &mut offset);
        assert_eq!(lists.tokens, ["ab", "\u{fffd}", "\u{fffd}", "c"]);
        assert_eq!(lists.token_logprobs, [None, Some(-1.0), Some(-0.5), Some(-9999.0)]);
        assert_eq!(lists.text_offset, [0, 2, 2, 3]);
        assert_eq!(lists.top_logprobs[0], None);
        assert_eq!(lists.top_logprobs[3].as_ref().unwrap().get("c"), Some(&-9999.0));
        assert_eq!(completion_logprobs(&tokens[..1], &mut offset).text_offset, [4]);
    }
}
