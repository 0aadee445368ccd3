//! What a Rust program meets that uses the crate async-openai. Its types are strict: an answer that lacks a field, or has one of
//! another type, is an error here.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test tells by failing, and its name tells what it is about"
)]

mod chat;
mod endpoints;
mod errors;
mod responses;
mod stored;
mod tools;

use std::time::Duration;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::types::chat::{
    ChatCompletionRequestUserMessage, CreateChatCompletionRequestArgs, CreateChatCompletionStreamResponse,
};
use compat_tests::{MODEL, Stack, eventually};
use futures::TryStreamExt;

/// For what takes a moment on a free machine and may take long on a busy one.
const PATIENCE: Duration = Duration::from_mins(1);
/// A slot whose reader left is free within this time.
const FREED_WITHIN: Duration = Duration::from_secs(5);

fn config(stack: &Stack) -> OpenAIConfig {
    OpenAIConfig::new().with_api_base(format!("{}/v1", stack.url)).with_api_key("none")
}

/// The client as a user makes it, with nothing changed but the base URL.
fn client(stack: &Stack) -> Client<OpenAIConfig> {
    Client::with_config(config(stack))
}

/// A question; greedy and short unless more is said.
fn question(content: &str) -> CreateChatCompletionRequestArgs {
    let mut request = CreateChatCompletionRequestArgs::default();
    request
        .model(MODEL)
        .messages([ChatCompletionRequestUserMessage::from(content).into()])
        .temperature(0.0)
        .max_completion_tokens(24_u32);
    request
}

/// A question whose answer takes longer than any test.
fn long_question() -> CreateChatCompletionRequestArgs {
    let mut request = question("Tell a long story.");
    request.max_completion_tokens(5000_u32);
    request
}

/// All chunks of a streamed answer.
async fn chunks(
    client: &Client<OpenAIConfig>,
    request: &CreateChatCompletionRequestArgs,
) -> Vec<CreateChatCompletionStreamResponse> {
    client.chat().create_stream(request.build().unwrap()).await.unwrap().try_collect().await.unwrap()
}

/// The text of a streamed answer.
fn joined(chunks: &[CreateChatCompletionStreamResponse]) -> String {
    chunks
        .iter()
        .flat_map(|chunk| &chunk.choices)
        .filter_map(|choice| choice.delta.content.as_deref())
        .collect()
}

/// Waits until so many slots of the one worker are taken.
async fn taken(stack: &Stack, count: u32, within: Duration) {
    eventually("the slots are taken or free", within, async || {
        let worker = stack.worker().await;
        (worker.slots_total - worker.slots_available == count).then_some(())
    })
    .await;
}
