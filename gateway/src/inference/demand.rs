//! What a request for text needs, as far as it can be told before a worker has read it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use protocol::hive::ModelKind;
use protocol::routing::RoutingTask;
use protocol::task::TaskKind;
use protocol::worker::{ExecuteRequest, Message};

use tokio::time::Instant;

use super::{Asker, InferenceRequest};
use crate::scheduler::Demand;

/// What a token has on average.
const BYTES_PER_TOKEN: usize = 4;
/// A text without turns has a beginning at each multiple of this.
const BLOCK_BYTES: usize = 1024;
/// Beginnings of one prompt at most.
const BEGINNINGS_MAX: usize = 64;

/// Another one with each start, so that nobody can make two prompts look alike.
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The demand of a request for this model of the catalogs.
pub(super) fn demand(model: &str, request: &InferenceRequest, asker: &Asker) -> Demand {
    let order = &request.order;
    let bytes = bytes(order) + request.vectors.as_ref().map_or(0, |vectors| vectors.input.bytes());
    let prompt_tokens = order.prompt_tokens.as_ref().map_or(bytes / BYTES_PER_TOKEN, Vec::len);
    let choices = request.choices();
    Demand {
        model: model.to_owned(),
        priority: request.priority,
        key: asker.caller.clone(),
        placement: request.placement.clone(),
        deadline: request.deadline,
        prompt_tokens: u32::try_from(prompt_tokens).unwrap_or(u32::MAX),
        answer_tokens_max: match request.kind() {
            ModelKind::TextGen => order.max_tokens.map(|tokens| tokens.saturating_mul(choices)),
            ModelKind::Embedding | ModelKind::Rerank => Some(0),
        },
        bytes,
        beginnings: beginnings(model, order, session(request, asker)),
        avoid: None,
        arrival: None,
    }
}

/// The same as a routing script sees it.
pub(super) fn task(demand: &Demand, request: &InferenceRequest, asker: &Asker) -> RoutingTask {
    let kind = if request.vectors.is_some() { TaskKind::Embedding } else { TaskKind::TextGen };
    RoutingTask {
        max_tokens: request.order.max_tokens,
        session: request.session.clone(),
        tags: request.tags.iter().map(|(name, tag)| (name.clone(), tag.clone())).collect(),
        compliance: request.compliance.clone(),
        stream: request.wants_stream,
        ..task_of(demand, kind, asker)
    }
}

/// What a routing script sees of any demand.
pub(super) fn task_of(demand: &Demand, kind: TaskKind, asker: &Asker) -> RoutingTask {
    let left = demand.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    RoutingTask {
        id: asker.correlation_id.to_string(),
        model: demand.model.clone(),
        priority: demand.priority,
        prompt_tokens: demand.prompt_tokens,
        kind,
        key: demand.key.to_string(),
        deadline_ms: left.map(|left| left.as_millis() as u64),
        ..RoutingTask::default()
    }
}

fn texts(order: &ExecuteRequest) -> impl Iterator<Item = &str> {
    let messages = order.messages.iter().flatten();
    let turns = messages.flat_map(|message| {
        let calls = message.tool_calls.iter().map(|call| &*call.arguments);
        std::iter::once(&*message.content).chain(message.reasoning.as_deref()).chain(calls)
    });
    let plain = [&order.prompt, &order.instruction, &order.suffix];
    plain.into_iter().filter_map(|text| text.as_deref()).chain(turns)
}

fn bytes(order: &ExecuteRequest) -> usize {
    let tokens = order.prompt_tokens.as_ref().map_or(0, |tokens| tokens.len() * size_of::<u32>());
    texts(order).map(str::len).sum::<usize>() + tokens
}

/// Hashes of the prompt up to each turn's end, or to each block's; the shortest first.
fn beginnings(model: &str, order: &ExecuteRequest, session: Option<u64>) -> Arc<[u64]> {
    let mut hasher = HASHES.build_hasher();
    hasher.write(model.as_bytes());
    let mut hashes = Vec::new();
    if let Some(messages) = &order.messages {
        for message in messages {
            hash_turn(&mut hasher, message);
            hashes.push(hasher.finish());
        }
        // The latest turns tell conversations apart, the first one those with the same instructions.
        let surplus = hashes.len().saturating_sub(BEGINNINGS_MAX);
        if surplus > 0 {
            hashes.drain(1..=surplus);
        }
    } else if let Some(text) = order.prompt.as_ref().or(order.instruction.as_ref()) {
        for block in text.as_bytes().chunks_exact(BLOCK_BYTES).take(BEGINNINGS_MAX) {
            hasher.write(block);
            hashes.push(hasher.finish());
        }
    }
    // Before all else, the worker that had the session's last request.
    hashes.extend(session);
    hashes.into()
}

fn session(request: &InferenceRequest, asker: &Asker) -> Option<u64> {
    let session = request.session.as_deref()?;
    Some(HASHES.hash_one((&*asker.caller, session)))
}

fn hash_turn(hasher: &mut impl Hasher, message: &Message) {
    for text in [&message.role, &message.content] {
        hasher.write_usize(text.len());
        hasher.write(text.as_bytes());
    }
    for call in &message.tool_calls {
        hasher.write(call.arguments.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(turns: &[&str]) -> ExecuteRequest {
        let message = |content: &&str| Message {
            role: "user".to_owned(),
            content: (*content).to_owned(),
            ..Message::default()
        };
        ExecuteRequest { messages: Some(turns.iter().map(message).collect()), ..ExecuteRequest::default() }
    }

    #[test]
    fn a_conversation_that_goes_on_begins_like_itself() {
        let first = beginnings("m", &order(&["a", "b"]), None);
        let second = beginnings("m", &order(&["a", "b", "c"]), None);
        assert_eq!(first[..], second[..2]);
        assert_ne!(beginnings("m", &order(&["ab"]), None)[0], first[1]);
        assert_ne!(beginnings("other", &order(&["a"]), None)[0], first[0]);
    }

    #[test]
    fn a_long_conversation_keeps_its_first_beginning_and_the_latest() {
        let turns: Vec<_> = (0..200).map(|turn| turn.to_string()).collect();
        let turns: Vec<_> = turns.iter().map(String::as_str).collect();
        let all = beginnings("m", &order(&turns), None);
        let earlier = beginnings("m", &order(&turns[..199]), None);
        assert_eq!(all.len(), BEGINNINGS_MAX);
        assert_eq!((all[0], all[BEGINNINGS_MAX - 2]), (earlier[0], earlier[BEGINNINGS_MAX - 1]));
    }
}
