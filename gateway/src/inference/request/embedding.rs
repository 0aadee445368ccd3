//! Requests for vectors.

use protocol::ApiError;
use protocol::openai::embeddings::EmbeddingRequest;
use protocol::vectors::{EmbedRequest, EmbeddingInput};

/// Checks a request for vectors.
pub fn embed_request(body: EmbeddingRequest) -> Result<EmbedRequest, ApiError> {
    check_input(&body.input)?;
    Ok(EmbedRequest {
        request_id: None,
        input: body.input,
        dimensions: body.dimensions,
        truncate: body.truncate.unwrap_or(false),
        encoding_format: body.encoding_format.unwrap_or_default(),
    })
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
