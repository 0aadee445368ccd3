//! What a request refers to: the conversation that goes on, and items by their ids.

use std::collections::HashMap;

use protocol::openai::responses::{Item, Response, ResponseRequest};
use protocol::{ApiError, ErrorCode};

use crate::inference::{Context, references};
use crate::store::{Object, Store, read_kept};

/// Items that one request may refer to.
const REFERENCES: usize = 256;

/// Looks up all that a request refers to.
pub async fn context(store: &Store, owner: &str, body: &ResponseRequest) -> Result<Context, ApiError> {
    let past = match &body.previous_response_id {
        Some(id) => conversation(store, owner, id).await?.ok_or_else(|| no_conversation(id))?,
        None => Vec::new(),
    };
    let ids = references(body.input.as_ref());
    if ids.len() > REFERENCES {
        let message = format!("'input' may refer to {REFERENCES} items; it refers to {}.", ids.len());
        return Err(ApiError::invalid("input", message));
    }
    let mut referenced = HashMap::new();
    for id in ids {
        if let Some(object) = store.holder(owner, &id).await?
            && let Some(item) = items(&object)?.into_iter().find(|item| item.id() == id)
        {
            referenced.insert(id, item);
        }
    }
    Ok(Context { past, referenced })
}

/// All items of a response and of those that it goes on from, in their order; `None` if not all of them are kept.
pub async fn conversation(store: &Store, owner: &str, id: &str) -> Result<Option<Vec<Item>>, ApiError> {
    let Some(turns) = store.conversation(owner, id).await? else { return Ok(None) };
    let items = turns.iter().map(items).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(items.concat()))
}

/// What a response was asked with, and what it answered.
fn items(object: &Object) -> Result<Vec<Item>, ApiError> {
    let mut items: Vec<Item> = read_kept(&object.input)?;
    let response: Response = read_kept(&object.body)?;
    items.extend(response.output);
    Ok(items)
}

/// What those are told who go on with what is not there.
pub fn no_conversation(id: &str) -> ApiError {
    let message = format!(
        "The conversation up to the response '{id}' is not stored (it is once the response has ended), not stored as a whole any \
         more, or too long."
    );
    ApiError::new(ErrorCode::PreviousResponseNotFound, message).with_param("previous_response_id")
}
