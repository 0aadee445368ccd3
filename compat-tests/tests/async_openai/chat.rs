//! POST /v1/chat/completions, whole and streamed, left in the middle and in company.

use std::time::Duration;

use async_openai::types::chat::{ChatCompletionStreamOptions, FinishReason, Role};
use compat_tests::{MODEL, Stack};
use futures::StreamExt;
use futures::future::join_all;

use crate::{FREED_WITHIN, PATIENCE, chunks, client, joined, long_question, question, taken};

#[tokio::test]
async fn a_stream_joins_to_the_whole_answer() {
    let stack = Stack::start().await;
    let client = client(&stack);
    let request = question("Name three colours.");

    let whole = client.chat().create(request.build().unwrap()).await.unwrap();
    assert!(whole.id.starts_with("chatcmpl-"));
    assert_eq!((whole.object.as_str(), whole.model.as_str()), ("chat.completion", MODEL));
    let [choice] = &whole.choices[..] else { panic!("{whole:?}") };
    assert_eq!((choice.index, choice.message.role), (0, Role::Assistant));
    let text = choice.message.content.clone().unwrap();
    assert!(!text.trim().is_empty());
    let usage = whole.usage.unwrap();
    assert_eq!(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);

    let streamed = chunks(&client, &request).await;
    assert_eq!(joined(&streamed), text);
    assert!(
        streamed.iter().all(|chunk| chunk.object == "chat.completion.chunk" && chunk.id == streamed[0].id)
    );
    let [first, .., last] = &streamed[..] else { panic!("{streamed:?}") };
    assert_eq!(first.choices[0].delta.role, Some(Role::Assistant));
    assert_eq!(last.choices[0].finish_reason, choice.finish_reason);
    let ends = streamed.iter().filter(|chunk| chunk.choices[0].finish_reason.is_some()).count();
    assert_eq!(ends, 1);
}

#[tokio::test]
async fn usage_choices_and_log_probabilities() {
    let stack = Stack::start().await;
    let client = client(&stack);
    let mut request = question("Name three colours.");
    request.n(2_u8).seed(7).temperature(1.2).max_completion_tokens(4_u32).logprobs(true).top_logprobs(2_u8);
    let whole = client.chat().create(request.build().unwrap()).await.unwrap();
    assert_eq!(whole.choices.iter().map(|choice| choice.index).collect::<Vec<_>>(), [0, 1]);
    for choice in &whole.choices {
        let tokens = choice.logprobs.as_ref().unwrap().content.as_ref().unwrap();
        // A token may be a part of a character: only the bytes tell all.
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.bytes.clone().unwrap()).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), choice.message.content.as_deref().unwrap());
        assert!(tokens.iter().all(|token| token.logprob <= 0.0 && token.top_logprobs.len() == 2));
    }

    request
        .stream_options(ChatCompletionStreamOptions { include_usage: Some(true), include_obfuscation: None });
    let streamed = chunks(&client, &request).await;
    let (last, rest) = streamed.split_last().unwrap();
    assert!(last.choices.is_empty() && rest.iter().all(|chunk| chunk.usage.is_none()));
    let (streamed, whole) = (last.usage.clone().unwrap(), whole.usage.unwrap());
    assert_eq!(
        (streamed.prompt_tokens, streamed.completion_tokens),
        (whole.prompt_tokens, whole.completion_tokens)
    );
}

#[tokio::test]
async fn whoever_leaves_frees_the_slot() {
    let stack = Stack::start().await;
    stack.warm_up().await;
    let client = client(&stack);
    let request = long_question().build().unwrap();

    let mut stream = client.chat().create_stream(request.clone()).await.unwrap();
    for _ in 0..3 {
        stream.next().await.unwrap().unwrap();
    }
    taken(&stack, 1, PATIENCE).await;
    drop(stream);
    taken(&stack, 0, FREED_WITHIN).await;

    let chat = client.chat();
    let whole = chat.create(request);
    assert!(
        tokio::time::timeout(Duration::from_secs(1), whole).await.is_err(),
        "it takes longer than a second"
    );
    taken(&stack, 0, FREED_WITHIN).await;
}

#[tokio::test]
async fn sixty_four_clients_at_once_get_the_answer_that_one_gets_alone() {
    let stack = Stack::start().await;
    let request = question("Name three colours.");
    let ask = async |_| {
        let answer = client(&stack).chat().create(request.build().unwrap()).await.unwrap();
        let choice = answer.choices.into_iter().next().unwrap();
        assert!(matches!(choice.finish_reason, Some(FinishReason::Stop | FinishReason::Length)));
        choice.message.content.unwrap()
    };
    let alone = ask(0).await;
    let together = join_all((0..64).map(ask)).await;
    assert!(together.iter().all(|answer| *answer == alone), "{alone:?} and {together:?}");
}
