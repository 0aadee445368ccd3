//! POST /v1/rerank. OpenAI has no such endpoint; the form is the one that clients of Jina's and Cohere's services send.

use axum::response::Response;
use daemon::http::{Failure, Json};
use protocol::rerank::{Document, RankedDocument, RankedText, Ranking, RerankRequest};
use protocol::vectors::ScoreRequest;
use protocol::{ApiError, ErrorEnvelope};
use uuid::Uuid;

use super::super::State;
use crate::http::asking::Asking;
use crate::inference::{Asked, Sharing};

/// Rank documents by how relevant they are to a query.
#[utoipa::path(
    post, path = "/rerank", operation_id = "create_ranking", tag = "openai",
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
    if body.top_n == Some(0) {
        return Err(ApiError::invalid("top_n", "'top_n' is 0; at least 1 is possible.").into());
    }
    let documents: Vec<String> = body.documents.into_iter().map(Document::into_text).collect();
    let asked = Asked { model: &body.model, timeout: asking.answer_timeout(), asker: &asking.asker };
    let request = ScoreRequest {
        request_id: None,
        query: body.query,
        documents: documents.clone(),
        truncate: body.truncate.unwrap_or(false),
    };
    let answer = queen.inference.score(asked, request).await?;
    let kept = body.return_documents.unwrap_or(false).then_some(documents);
    let results = rank(&answer.scores, body.top_n, kept.as_deref());
    let id = format!("rerank-{}", Uuid::new_v4().simple());
    let model = queen.inference.names.shown(&body.model);
    Ok(asking.told(Json(Ranking { id, model, results, usage: answer.usage }), Sharing::Off))
}

/// The documents by score; of equal ones, the first comes first.
fn rank(scores: &[f32], top_n: Option<u32>, documents: Option<&[String]>) -> Vec<RankedDocument> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|left, right| scores[*right].total_cmp(&scores[*left]));
    places.truncate(top_n.map_or(places.len(), |top_n| top_n as usize));
    let ranked = places.into_iter().map(|place| RankedDocument {
        index: place as u32,
        relevance_score: scores[place],
        document: documents.map(|documents| RankedText { text: documents[place].clone() }),
    });
    ranked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_relevant_comes_first_and_equals_keep_their_order() {
        let places = |top_n| rank(&[0.2, 0.9, 0.2, 0.5], top_n, None).iter().map(|one| one.index).collect();
        let all: Vec<u32> = places(None);
        assert_eq!(all, [1, 3, 0, 2]);
        let two: Vec<u32> = places(Some(2));
        assert_eq!(two, [1, 3]);
        let texts = ["a".to_owned(), "b".to_owned()];
        let ranked = rank(&[0.1, 0.8], Some(9), Some(&texts));
        assert_eq!(ranked[0].document.as_ref().unwrap().text, "b");
    }
}
