//! POST /v1/rerank and /v2/rerank. OpenAI has no such endpoint; the form is the one that clients of Jina's and Cohere's
//! services send.

use std::collections::BTreeMap;

use axum::response::Response;
use daemon::http::{Failure, Json};
use protocol::rerank::{
    ApiVersion, Document, RankedDocument, Ranking, RankingMeta, RankingTokens, RerankRequest,
};
use protocol::vectors::ScoreRequest;
use protocol::{ApiError, ErrorCode, ErrorEnvelope};
use serde_json::Value;
use uuid::Uuid;

use super::super::{Queen, State};
use crate::http::asking::Asking;
use crate::inference::{Asked, Sharing};

/// What Cohere's second version reads of a document where the caller does not say.
const DOCUMENT_TOKENS: u32 = 4096;

/// Rank documents by how relevant they are to a query.
#[utoipa::path(
    post, path = "/v1/rerank", operation_id = "create_ranking", tag = "openai",
    request_body = RerankRequest,
    responses(
        (status = 200, description = "The documents' places and scores, the most relevant first", body = Ranking),
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
    Json(body): Json<RerankRequest>,
) -> Result<Response, Failure> {
    Ok(asking.told(Json(ranked(&queen, &asking, body, "1").await?), Sharing::Off))
}

/// The same, as the second version of Cohere's interface has it: what is too long is cut.
#[utoipa::path(
    post, path = "/v2/rerank", operation_id = "create_ranking_v2", tag = "openai",
    request_body = RerankRequest,
    responses(
        (status = 200, description = "The documents' places and scores, the most relevant first", body = Ranking),
        (status = 400, description = "The request is not valid, or a text is too long", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
        (status = 429, description = "The queue is full", body = ErrorEnvelope),
        (status = 503, description = "No capacity now; retry-after tells when", body = ErrorEnvelope),
        (status = 504, description = "The deadline has passed", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn create_v2(
    queen: State,
    asking: Asking,
    Json(mut body): Json<RerankRequest>,
) -> Result<Response, Failure> {
    body.max_tokens_per_doc.get_or_insert(DOCUMENT_TOKENS);
    Ok(asking.told(Json(ranked(&queen, &asking, body, "2").await?), Sharing::Off))
}

async fn ranked(
    queen: &Queen,
    asking: &Asking,
    body: RerankRequest,
    version: &'static str,
) -> Result<Ranking, ApiError> {
    check(&body)?;
    let fields = body.rank_fields.unwrap_or_else(|| vec!["text".to_owned()]);
    let texts = body.documents.iter().enumerate().map(|(index, document)| text(index, document, &fields));
    let request = ScoreRequest {
        request_id: None,
        query: body.query,
        documents: texts.collect::<Result<_, _>>()?,
        document_tokens: body.max_tokens_per_doc,
        truncate: body.truncate.unwrap_or(body.max_tokens_per_doc.is_some()),
    };
    let asked = Asked::in_person(&body.model, asking.answer_timeout(), &asking.asker);
    let answer = queen.inference.score(asked, request).await?;
    let told = body.return_documents.unwrap_or(false).then_some(&body.documents[..]);
    Ok(Ranking {
        id: format!("rerank-{}", Uuid::new_v4().simple()),
        model: queen.inference.names.shown(&body.model),
        results: rank(&answer.scores, body.top_n, told),
        meta: RankingMeta {
            api_version: ApiVersion { version },
            tokens: RankingTokens { input_tokens: answer.usage.prompt_tokens },
        },
        usage: answer.usage,
    })
}

fn check(body: &RerankRequest) -> Result<(), ApiError> {
    let counts = [
        ("top_n", body.top_n),
        ("max_chunks_per_doc", body.max_chunks_per_doc),
        ("max_tokens_per_doc", body.max_tokens_per_doc),
    ];
    if let Some((param, _)) = counts.iter().find(|(_, count)| *count == Some(0)) {
        return Err(ApiError::invalid(*param, format!("'{param}' is 0; at least 1 is possible.")));
    }
    let mode = body.relevant_spans.as_ref().and_then(|spans| spans.mode.as_deref());
    if mode.is_some_and(|mode| mode != "disabled") {
        let message = "'relevant_spans': this server does not tell which parts of a document are relevant.";
        return Err(ApiError::new(ErrorCode::UnsupportedParameter, message).with_param("relevant_spans"));
    }
    Ok(())
}

/// What is read of a document.
fn text(index: usize, document: &Document, fields: &[String]) -> Result<String, ApiError> {
    let object = match document {
        Document::Text(text) => return Ok(text.clone()),
        Document::Object(object) => object,
    };
    let texts: Vec<&str> =
        fields.iter().filter_map(|field| object.get(field).and_then(Value::as_str)).collect();
    if texts.is_empty() {
        let param = format!("documents[{index}]");
        let message =
            format!("'{param}' has text in none of the fields that 'rank_fields' names, or in 'text'.");
        return Err(ApiError::invalid(param, message));
    }
    Ok(texts.join("\n"))
}

/// The documents by score; of equal ones, the first comes first.
fn rank(scores: &[f32], top_n: Option<u32>, documents: Option<&[Document]>) -> Vec<RankedDocument> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|left, right| scores[*right].total_cmp(&scores[*left]));
    places.truncate(top_n.map_or(places.len(), |top_n| top_n as usize));
    let ranked = places.into_iter().map(|place| RankedDocument {
        index: place as u32,
        relevance_score: scores[place],
        document: documents.map(|documents| told(&documents[place])),
    });
    ranked.collect()
}

fn told(document: &Document) -> BTreeMap<String, Value> {
    match document {
        Document::Text(text) => BTreeMap::from([("text".to_owned(), text.as_str().into())]),
        Document::Object(object) => object.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_most_relevant_comes_first_and_equals_keep_their_order() {
        let places = |top_n| rank(&[0.2, 0.9, 0.2, 0.5], top_n, None).iter().map(|one| one.index).collect();
        let all: Vec<u32> = places(None);
        assert_eq!(all, [1, 3, 0, 2]);
        let two: Vec<u32> = places(Some(2));
        assert_eq!(two, [1, 3]);
    }

    #[test]
    fn documents_come_back_as_they_went() {
        let documents: Vec<Document> =
            serde_json::from_value(json!(["a", {"title": "B", "text": "b", "pages": 3}])).unwrap();
        let ranked = rank(&[0.1, 0.8], Some(9), Some(&documents));
        let told: Vec<_> = ranked.into_iter().map(|one| json!(one.document.unwrap())).collect();
        assert_eq!(told, [json!({"title": "B", "text": "b", "pages": 3}), json!({"text": "a"})]);
    }

    #[test]
    fn objects_are_read_by_their_fields() {
        let read = |document: Value, fields: &[&str]| {
            let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
            text(2, &serde_json::from_value(document).unwrap(), &fields)
        };
        let object = || json!({"text": "b", "title": "B", "pages": 3});
        assert_eq!(read(json!("a"), &["title"]).unwrap(), "a");
        assert_eq!(read(object(), &["text"]).unwrap(), "b");
        assert_eq!(read(object(), &["title", "author", "text"]).unwrap(), "B\nb");
        for (document, field) in [(object(), "pages"), (json!({"image": "https://example.com"}), "text")] {
            assert_eq!(read(document, &[field]).unwrap_err().param.as_deref(), Some("documents[2]"));
        }
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        for (param, value) in [
            ("top_n", json!(0)),
            ("max_chunks_per_doc", json!(0)),
            ("max_tokens_per_doc", json!(0)),
            ("relevant_spans", json!({"mode": "enabled"})),
        ] {
            let body = json!({"query": "q", "documents": ["a"], param: value});
            let error = check(&serde_json::from_value(body).unwrap()).unwrap_err();
            assert_eq!((error.param.as_deref(), error.code.status()), (Some(param), 400));
        }
        let body = json!({
            "query": "q", "documents": [], "top_n": 1, "max_chunks_per_doc": 10, "priority": 0,
            "relevant_spans": {"mode": "disabled"},
        });
        assert!(check(&serde_json::from_value(body).unwrap()).is_ok());
    }
}
