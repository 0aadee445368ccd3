//! What an answer consumed, as chat and text completions tell it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an answer consumed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompt, chat template included.
    pub prompt_tokens: u32,
    /// Tokens generated in all choices.
    pub completion_tokens: u32,
    /// Both together.
    pub total_tokens: u32,
    /// More about the prompt's.
    pub prompt_tokens_details: PromptTokensDetails,
    /// More about the generated ones.
    pub completion_tokens_details: CompletionTokensDetails,
}

/// More about a prompt's tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Those that an earlier request had left computed.
    pub cached_tokens: u32,
}

/// More about generated tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CompletionTokensDetails {
    /// Those that were thought, not said.
    pub reasoning_tokens: u32,
}

/// `usage` has three states on the wire: absent, null, and an object.
pub(super) mod nullable_usage {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Usage;

    #[expect(clippy::ref_option, clippy::option_option, reason = "serde's `with` fixes the signature")]
    pub(in crate::openai) fn serialize<S: Serializer>(
        value: &Option<Option<Usage>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.flatten().serialize(serializer)
    }

    #[expect(clippy::option_option, reason = "absent, null and an object are three things")]
    pub(in crate::openai) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<Usage>>, D::Error> {
        Option::<Usage>::deserialize(deserializer).map(Some)
    }
}
