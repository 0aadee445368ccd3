//! Every endpoint besides chat: completions, embeddings, models.

use async_openai::types::chat::CompletionFinishReason;
use async_openai::types::completions::CreateCompletionRequestArgs;
use async_openai::types::embeddings::{CreateEmbeddingRequestArgs, EncodingFormat};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use compat_tests::{EMBEDDING_MODEL, MODEL, Stack};
use futures::TryStreamExt;

use crate::client;

const PROMPT: &str = "Once upon a time there was";
const WIDTH: usize = 384;

#[tokio::test]
async fn texts_are_continued() {
    let stack = Stack::start().await;
    let client = client(&stack);
    let mut request = CreateCompletionRequestArgs::default();
    request.model(MODEL).prompt([PROMPT, "The capital of France is"]).temperature(0.0).max_tokens(8_u32);
    request.echo(true).logprobs(2_u8);
    let whole = client.completions().create(request.build().unwrap()).await.unwrap();
    assert_eq!((whole.object.as_str(), whole.choices.len()), ("text_completion", 2));
    let choice = &whole.choices[0];
    assert!(choice.text.starts_with(PROMPT) && choice.text.len() > PROMPT.len());
    assert_eq!(choice.finish_reason, Some(CompletionFinishReason::Length));
    let logprobs = choice.logprobs.as_ref().unwrap();
    assert_eq!((logprobs.tokens.concat(), logprobs.token_logprobs[0]), (choice.text.clone(), None));

    let stream = client.completions().create_stream(request.build().unwrap()).await.unwrap();
    let streamed: Vec<_> = stream.try_collect().await.unwrap();
    for choice in &whole.choices {
        let pieces = streamed.iter().flat_map(|chunk| &chunk.choices);
        let pieces = pieces.filter(|piece| piece.index == choice.index);
        assert_eq!(pieces.map(|piece| piece.text.as_str()).collect::<String>(), choice.text);
    }
}

#[tokio::test]
async fn vectors_are_the_same_in_base64_and_as_numbers() {
    let stack = Stack::start().await;
    let client = client(&stack);
    let mut request = CreateEmbeddingRequestArgs::default();
    request.model(EMBEDDING_MODEL).input(["a first text", "a second one"]);
    let numbers = client.embeddings().create(request.build().unwrap()).await.unwrap();
    assert_eq!(numbers.usage.prompt_tokens, 10);
    request.encoding_format(EncodingFormat::Base64);
    let packed = client.embeddings().create_base64(request.build().unwrap()).await.unwrap();
    assert_eq!(numbers.data.len(), 2);
    for (numbers, packed) in numbers.data.iter().zip(&packed.data) {
        assert_eq!(numbers.index, packed.index);
        let bytes = STANDARD.decode(&packed.embedding.0).unwrap();
        let unpacked: Vec<f32> =
            bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        assert_eq!((unpacked.len(), &unpacked), (WIDTH, &numbers.embedding));
        let square: f32 = unpacked.iter().map(|value| value * value).sum();
        assert!((square - 1.0).abs() < 1e-5, "{square}");
    }
}

#[tokio::test]
async fn models_are_listed_and_looked_up() {
    let stack = Stack::start().await;
    let client = client(&stack);
    let listed = client.models().list().await.unwrap();
    assert_eq!(listed.object, "list");
    for name in [MODEL, EMBEDDING_MODEL] {
        assert!(listed.data.iter().any(|model| model.id == name && model.object == "model"), "{listed:?}");
    }
    assert_eq!(client.models().retrieve(MODEL).await.unwrap().id, MODEL);
}
