//! Chat completions that were kept.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::ChatCompletion;
use super::request::{ChatMessage, Content, ContentPart, MessageToolCall, Role};
use crate::openai::metadata::Metadata;

/// One message that a kept chat completion answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoredMessage {
    /// The completion's id and the message's number.
    pub id: String,
    /// Who spoke.
    pub role: Role,
    /// What was said, as one text.
    pub content: Option<String>,
    /// The parts that it was said in, if it was.
    pub content_parts: Option<Vec<ContentPart>>,
    /// Always null; a refusal is a part.
    pub refusal: Option<String>,
    /// The speaker's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Calls that the assistant made in this turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<MessageToolCall>>,
    /// Which call a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// rbee: what the assistant thought first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
}

impl StoredMessage {
    /// The message of this number, to be kept with a completion.
    pub fn new(completion_id: &str, number: usize, message: &ChatMessage) -> Self {
        let (content, content_parts) = match &message.content {
            None => (None, None),
            Some(Content::Text(text)) => (Some(text.clone()), None),
            Some(Content::Parts(parts)) => {
                let texts = parts.iter().filter_map(|part| part.text.as_deref().or(part.refusal.as_deref()));
                (Some(texts.collect()), Some(parts.clone()))
            }
        };
        Self {
            id: format!("{completion_id}-{number}"),
            role: message.role,
            content,
            content_parts,
            refusal: message.refusal.clone(),
            name: message.name.clone(),
            tool_calls: message.tool_calls.clone(),
            tool_call_id: message.tool_call_id.clone(),
            reasoning_content: message.reasoning_content.clone(),
        }
    }
}

/// Answer of GET /v1/chat/completions/{completion_id}/messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StoredMessageList {
    /// Always "list".
    pub object: &'static str,
    /// The messages of this page.
    pub data: Vec<StoredMessage>,
    /// The first one's id.
    pub first_id: Option<String>,
    /// The last one's id, to be given as `after`.
    pub last_id: Option<String>,
    /// Whether there are more after it.
    pub has_more: bool,
}

/// Answer of GET /v1/chat/completions.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatCompletionList {
    /// Always "list".
    pub object: &'static str,
    /// The completions of this page.
    pub data: Vec<ChatCompletion>,
    /// The first one's id.
    pub first_id: Option<String>,
    /// The last one's id, to be given as `after`.
    pub last_id: Option<String>,
    /// Whether there are more after it.
    pub has_more: bool,
}

/// Body of POST /v1/chat/completions/{completion_id}.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(example = json!({"metadata": {"topic": "greetings"}}))]
pub struct ChatCompletionUpdate {
    /// Replaces the completion's; null leaves none.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    #[serde(deserialize_with = "Option::deserialize")]
    pub metadata: Option<Metadata>,
}

/// Answer of DELETE /v1/chat/completions/{completion_id}.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChatCompletionDeleted {
    /// The completion's id.
    pub id: String,
    /// Always "chat.completion.deleted".
    pub object: &'static str,
    /// Always true.
    pub deleted: bool,
}
