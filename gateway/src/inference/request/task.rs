//! Tasks of /v2.

use std::time::Duration;

use protocol::config::DEFAULT_EMBEDDING_MODEL;
use protocol::openai::embeddings::EmbeddingRequest;
use protocol::openai::metadata::Metadata;
use protocol::task::{PlacementMode, TaskKind, TaskPlacement, TaskRequest};
use protocol::worker::{ExecuteRequest, Message, ToolChoice};
use protocol::{ApiError, ErrorCode};
use tokio::time::Instant;

use super::{InferenceRequest, TOP_LOGPROBS_MAX, checked, embed_request, labels, refuse_first, within};
use crate::hives::NodeName;
use crate::scheduler::{Mode, Placement};

/// A session's name has this many bytes at most.
const SESSION_BYTES_MAX: usize = 256;

/// A set of rules' name has this many at most.
const COMPLIANCE_BYTES_MAX: usize = 64;

/// Checks a task; `default_model` answers where none is named.
pub fn task_request(body: TaskRequest, default_model: &str) -> Result<InferenceRequest, ApiError> {
    match body.kind {
        TaskKind::TextGen => {}
        TaskKind::Embedding => return vector_request(body),
        TaskKind::ImageGen | TaskKind::AudioGen => {
            let message = "Tasks of the kinds text-gen and embedding are served by this version.";
            return Err(ApiError::new(ErrorCode::UnsupportedParameter, message).with_param("kind"));
        }
    }
    let refused = [
        ("input", body.input.is_some(), "inputs to text that are neither a prompt nor messages"),
        ("dimensions", body.dimensions.is_some(), "dimensions of text"),
        ("truncate", body.truncate, "leaving out parts of prompts"),
        ("n", body.n.is_some_and(|n| n != 1), "more or fewer answers to a task than one"),
    ];
    refuse_first(&refused)?;
    manners(&body.tags, body.compliance.as_deref(), body.session_id.as_deref())?;
    let placement = placement(body.placement, body.node.as_deref())?;
    let (instruction, messages) = match (body.prompt, body.messages) {
        (Some(prompt), None) if !prompt.is_empty() => (Some(prompt), None),
        (Some(_), None) => return Err(ApiError::invalid("prompt", "'prompt' is empty.")),
        (None, Some(messages)) => (None, Some(known_roles(messages)?)),
        (None, None) => {
            return Err(ApiError::invalid("prompt", "One of 'prompt' and 'messages' is required."));
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("prompt", "Only one of 'prompt' and 'messages' can be given."));
        }
    };
    within("logprobs", body.logprobs, 0..=TOP_LOGPROBS_MAX)?;
    if !body.tools.is_empty() && messages.is_none() {
        return Err(ApiError::invalid("tools", "'tools' may be given with 'messages' only."));
    }
    if body.tools.is_empty() && matches!(body.tool_choice, Some(ToolChoice::Required | ToolChoice::Named(_)))
    {
        return Err(ApiError::invalid("tool_choice", "'tool_choice' needs 'tools'."));
    }
    let order = ExecuteRequest {
        instruction,
        messages,
        max_tokens: body.max_tokens,
        temperature: body.temperature,
        top_p: body.top_p,
        top_k: body.top_k,
        min_p: body.min_p,
        typical_p: body.typical_p,
        presence_penalty: body.presence_penalty,
        frequency_penalty: body.frequency_penalty,
        repetition_penalty: body.repetition_penalty,
        logit_bias: body.logit_bias,
        seed: body.seed,
        stop: body.stop.unwrap_or_default(),
        min_tokens: body.min_tokens,
        ignore_eos: body.ignore_eos,
        logprobs: body.logprobs,
        constraint: body.constraint,
        tools: body.tools,
        tool_choice: body.tool_choice,
        parallel_tool_calls: body.parallel_tool_calls,
        template_options: body.template_options,
        stream: true,
        ..ExecuteRequest::default()
    };
    Ok(InferenceRequest {
        model: body.model.unwrap_or_else(|| default_model.to_owned()),
        order: checked(order)?,
        names: &[("instruction", "prompt")],
        priority: body.priority,
        placement,
        session: body.session_id,
        tags: body.tags,
        compliance: body.compliance,
        // Its events are there for whoever wants them.
        wants_stream: true,
        deadline: deadline(body.deadline_ms),
        vectors: None,
    })
}

/// What a task for vectors may say.
const OF_VECTORS: [&str; 12] = [
    "kind",
    "model",
    "input",
    "dimensions",
    "truncate",
    "priority",
    "deadline_ms",
    "placement",
    "node",
    "session_id",
    "tags",
    "compliance",
];

/// Checks a task for vectors.
fn vector_request(body: TaskRequest) -> Result<InferenceRequest, ApiError> {
    let said = serde_json::to_value(&body).unwrap_or_default();
    let names = said.as_object().into_iter().flat_map(serde_json::Map::keys);
    if let Some(name) = names.into_iter().find(|name| !OF_VECTORS.contains(&name.as_str())) {
        let message = format!("'{name}' has no meaning for tasks of the kind embedding.");
        return Err(ApiError::invalid(name, message));
    }
    let Some(input) = body.input else {
        return Err(ApiError::invalid("input", "'input' is required for tasks of the kind embedding."));
    };
    let vectors = embed_request(EmbeddingRequest {
        model: String::new(),
        input,
        encoding_format: None,
        dimensions: body.dimensions,
        truncate: Some(body.truncate),
    })?;
    manners(&body.tags, body.compliance.as_deref(), body.session_id.as_deref())?;
    Ok(InferenceRequest {
        model: body.model.unwrap_or_else(|| DEFAULT_EMBEDDING_MODEL.to_owned()),
        vectors: Some(vectors),
        priority: body.priority,
        placement: placement(body.placement, body.node.as_deref())?,
        session: body.session_id,
        tags: body.tags,
        compliance: body.compliance,
        deadline: deadline(body.deadline_ms),
        ..InferenceRequest::default()
    })
}

/// Checks what tasks of every kind may say.
fn manners(tags: &Metadata, compliance: Option<&str>, session_id: Option<&str>) -> Result<(), ApiError> {
    labels("tags", tags)?;
    within("compliance", compliance.map(str::len), 1..=COMPLIANCE_BYTES_MAX)?;
    within("session_id", session_id.map(str::len), 1..=SESSION_BYTES_MAX)
}

fn deadline(deadline_ms: Option<u64>) -> Option<Instant> {
    deadline_ms.map(|deadline_ms| Instant::now() + Duration::from_millis(deadline_ms))
}

/// A node of its own is the same as a pin on it.
fn placement(placement: Option<TaskPlacement>, node: Option<&str>) -> Result<Placement, ApiError> {
    let Some(TaskPlacement { mode, node: wanted, worker }) = placement else {
        return Ok(node.map(NodeName::from).map(Placement::on_node).unwrap_or_default());
    };
    if node.is_some() {
        return Err(ApiError::invalid("node", "Only one of 'node' and 'placement' can be given."));
    }
    let mode = match mode {
        PlacementMode::Auto => Mode::Auto,
        PlacementMode::Prefer => Mode::Prefer,
        PlacementMode::Pin => Mode::Pin,
    };
    if wanted.is_none() && worker.is_none() && mode != Mode::Auto {
        let message = "'placement' needs a 'node' or a 'worker' where its mode is not auto.";
        return Err(ApiError::invalid("placement", message));
    }
    Ok(Placement { mode, node: wanted.as_deref().map(NodeName::from), worker, ..Placement::default() })
}

fn known_roles(messages: Vec<Message>) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "'messages' is empty; at least one message is needed."));
    }
    let is_known = |role: &str| matches!(role, "system" | "user" | "assistant" | "tool");
    match messages.iter().position(|message| !is_known(&message.role)) {
        Some(index) => {
            let param = format!("messages[{index}].role");
            let message = format!("'{param}' must be system, user, assistant or tool.");
            Err(ApiError::invalid(param, message))
        }
        None => Ok(messages),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tasks_fields_are_honoured_or_refused_by_name() {
        let task = |body: serde_json::Value| task_request(serde_json::from_value(body).unwrap(), "m");
        let request =
            task(json!({"prompt": "go", "min_p": 0.1, "logit_bias": {"7": -1}, "min_tokens": 2})).unwrap();
        assert_eq!(request.model, "m");
        assert_eq!((request.order.min_p, request.order.min_tokens), (Some(0.1), Some(2)));
        assert_eq!(request.order.logit_bias.get(&7), Some(&-1.0));
        for (body, param) in [
            (json!({}), "prompt"),
            (json!({"prompt": "go", "messages": []}), "prompt"),
            (json!({"messages": [{"role": "ghost", "content": "boo"}]}), "messages[0].role"),
            (json!({"prompt": "go", "n": 2}), "n"),
            (json!({"prompt": "go", "tools": [{"name": "f"}]}), "tools"),
            (json!({"prompt": "go", "tool_choice": "required"}), "tool_choice"),
            (json!({"prompt": "go", "session_id": ""}), "session_id"),
            (json!({"prompt": "go", "placement": {"mode": "pin"}}), "placement"),
            (json!({"prompt": "go", "placement": {"mode": "pin", "node": "n"}, "node": "m"}), "node"),
            (json!({"prompt": "go", "typical_p": 2}), "typical_p"),
            (json!({"prompt": "go", "input": "a"}), "input"),
            (json!({"kind": "embedding"}), "input"),
            (json!({"kind": "embedding", "input": ["a", ""]}), "input[1]"),
            (json!({"kind": "embedding", "input": "a", "prompt": "go"}), "prompt"),
            (json!({"kind": "embedding", "input": "a", "temperature": 0}), "temperature"),
            (json!({"kind": "image-gen", "prompt": "go"}), "kind"),
        ] {
            assert_eq!(task(body.clone()).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
    }
}
