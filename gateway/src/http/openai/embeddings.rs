//! POST /v1/embeddings.

use axum::response::Response;
use daemon::http::{Failure, Json};
use protocol::openai::embeddings::{Embedding, EmbeddingList, EmbeddingRequest};
use protocol::vectors::{EmbedRequest, EmbeddingInput};
use protocol::{ApiError, ErrorEnvelope};

use super::super::State;
use crate::http::asking::Asking;
use crate::inference::Asked;

/// Make vectors of texts.
#[utoipa::path(
    post, path = "/v1/embeddings", operation_id = "create_embedding", tag = "openai",
    request_body = EmbeddingRequest,
    responses(
        (status = 200, description = "A vector for each text", body = EmbeddingList),
        (status = 400, description = "The request is not valid, or a text is too long", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
        (status = 429, description = "The queue is full", body = ErrorEnvelope),
        (status = 503, description = "No capacity now; retry-after tells when", body = ErrorEnvelope),
        (status = 504, description = "The deadline has passed", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn create(
    queen: State,
    asking: Asking,
    Json(body): Json<EmbeddingRequest>,
) -> Result<Response, Failure> {
    check_input(&body.input)?;
    let asked = Asked { model: &body.model, timeout: asking.answer_timeout(), asker: &asking.asker };
    let request = EmbedRequest {
        request_id: None,
        input: body.input,
        dimensions: body.dimensions,
        truncate: body.truncate.unwrap_or(false),
        encoding_format: body.encoding_format.unwrap_or_default(),
    };
    let (answer, sharing) = queen.inference.embed(asked, request).await?;
    let embeddings = answer.embeddings.into_iter().zip(0..);
    let data = embeddings.map(|(embedding, index)| Embedding { object: "embedding", index, embedding });
    let model = queen.inference.names.shown(&body.model);
    let list = EmbeddingList { object: "list", data: data.collect(), model, usage: answer.usage };
    Ok(asking.told(Json(list), sharing))
}

/// An empty text is a mistake of the caller's and not a text, as it is at OpenAI.
fn check_input(input: &EmbeddingInput) -> Result<(), ApiError> {
    let empty = |param: String| {
        let message = format!("'{param}' is empty.");
        Err(ApiError::invalid(param, message))
    };
    let first_empty = match input {
        EmbeddingInput::Text(text) if text.is_empty() => return empty("input".to_owned()),
        EmbeddingInput::Texts(texts) => texts.iter().position(String::is_empty),
        EmbeddingInput::TokenLists(lists) => lists.iter().position(Vec::is_empty),
        EmbeddingInput::Text(_) | EmbeddingInput::Tokens(_) => None,
    };
    match first_empty {
        Some(index) => empty(format!("input[{index}]")),
        None if input.is_empty() => empty("input".to_owned()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn empty_texts_are_refused_by_their_place() {
        let check = |input: Value| check_input(&serde_json::from_value(input).unwrap());
        for (input, param) in [
            (json!(""), "input"),
            (json!([]), "input"),
            (json!(["a", ""]), "input[1]"),
            (json!([[1], [2], []]), "input[2]"),
        ] {
            assert_eq!(check(input).unwrap_err().param.as_deref(), Some(param));
        }
        for input in [json!("a"), json!([1]), json!(["a", " "]), json!([[1]])] {
            assert!(check(input).is_ok());
        }
    }
}
