//! Chat completions that are stored: found, listed, changed and deleted.

use async_openai::traits::RequestOptionsBuilder;
use async_openai::types::chat::{CreateChatCompletionRequestArgs, Role, UpdateChatCompletionRequestArgs};
use compat_tests::Stack;
use serde_json::json;

use crate::errors::refused;
use crate::{client, question};

/// A question whose answer is stored.
fn kept() -> CreateChatCompletionRequestArgs {
    let mut request = question("Name three colours.");
    request.store(true).max_completion_tokens(4_u32);
    request
}

#[tokio::test]
async fn it_is_found_as_it_was_answered_and_changed_and_deleted() {
    let stack = Stack::start().await;
    let client = client(&stack);
    let chat = client.chat();
    let made = chat.create(kept().metadata(json!({"topic": "colours"})).build().unwrap()).await.unwrap();
    assert_eq!(made.metadata, Some(json!({"topic": "colours"}).into()));
    assert_eq!(chat.retrieve(&made.id).await.unwrap(), made);

    let change = UpdateChatCompletionRequestArgs::default().metadata(json!({"a": "b"})).build().unwrap();
    let changed = chat.update(&made.id, change).await.unwrap();
    assert_eq!(changed.metadata, Some(json!({"a": "b"}).into()));
    assert_eq!(changed.choices, made.choices);
    assert_eq!(chat.retrieve(&made.id).await.unwrap(), changed);

    let messages = chat.messages(&made.id).await.unwrap();
    let [message] = &messages.data[..] else { panic!("{messages:?}") };
    assert_eq!((message.role, message.content.as_deref()), (Role::User, Some("Name three colours.")));

    let deleted = chat.delete(&made.id).await.unwrap();
    assert_eq!((deleted.id.as_str(), deleted.deleted), (made.id.as_str(), true));
    let (status, _, error) = refused(chat.retrieve(&made.id).await);
    assert_eq!((status, error.api_error.param.as_deref()), (404, Some("completion_id")));

    let unkept = chat.create(kept().store(false).build().unwrap()).await.unwrap();
    let (status, ..) = refused(chat.retrieve(&unkept.id).await);
    assert_eq!(status, 404);
}

#[tokio::test]
async fn lists_are_paged_and_filtered() {
    let stack = Stack::start().await;
    let client = client(&stack);
    let mut made = Vec::new();
    for number in ["0", "1", "2"] {
        let request = kept().metadata(json!({"number": number})).build().unwrap();
        made.push(client.chat().create(request).await.unwrap().id);
    }
    let list = async |query: &[(&str, &str)]| {
        let page = client.chat().query(query).unwrap().list().await.unwrap();
        let ids: Vec<_> = page.data.into_iter().map(|completion| completion.id).collect();
        assert_eq!((page.first_id.as_ref(), page.last_id.as_ref()), (ids.first(), ids.last()));
        (ids, page.has_more)
    };
    assert_eq!(list(&[]).await, (made.clone(), false));
    assert_eq!(list(&[("limit", "2")]).await, (made[..2].to_vec(), true));
    assert_eq!(list(&[("after", &made[1])]).await, (made[2..].to_vec(), false));
    assert_eq!(list(&[("metadata[number]", "1")]).await, (made[1..2].to_vec(), false));
    assert_eq!(list(&[("model", "other")]).await, (vec![], false));
}
