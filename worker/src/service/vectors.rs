//! Vectors of texts, and how relevant documents are to a query.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::hive::ModelKind;
use protocol::vectors::{
    EmbedRequest, EmbedResponse, EmbeddingInput, EncodingFormat, ScoreRequest, ScoreResponse, Vector,
    VectorUsage,
};
use protocol::{ApiError, ErrorCode};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Ending, Service, Serving, wrong_kind};
use crate::embedding::encoder::Tokens;
use crate::embedding::engine::{Job, VectorEngine};
use crate::embedding::model::Reader;
use crate::embedding::tokenizer::TooLong;

/// Texts of one request at most.
const TEXTS_MAX: usize = 2048;
/// Tokens of one request at most.
const TOKENS_MAX: usize = 1 << 20;

/// What a request of either kind says besides its texts.
struct Order {
    request_id: Option<String>,
    default_id: String,
    dimensions: Option<usize>,
}

impl Service {
    /// Makes vectors of texts.
    pub async fn embed(&self, request: EmbedRequest, default_id: String) -> Result<EmbedResponse, ApiError> {
        let (engine, reader) = self.vector_model(ModelKind::Embedding)?;
        check_count("input", request.input.len())?;
        let dimensions =
            request.dimensions.map(|wanted| check_dimensions(wanted, reader.width)).transpose()?;
        let too_long = too_long(request.truncate);
        let order = Order { request_id: request.request_id, default_id, dimensions };
        let reading = reader.clone();
        let read = move || read_input(&reading, request.input, too_long);
        let (vectors, usage) = self.compute(engine, order, read).await?;
        let write = |vector: Vec<f32>| match request.encoding_format {
            EncodingFormat::Float => Vector::Float(vector),
            EncodingFormat::Base64 => Vector::Base64(base64_of(&vector)),
        };
        let embeddings = vectors.into_iter().map(write).collect();
        Ok(EmbedResponse { embeddings, model: self.config.model_ref.clone(), usage })
    }

    /// Tells how relevant documents are to a query.
    pub async fn score(&self, request: ScoreRequest, default_id: String) -> Result<ScoreResponse, ApiError> {
        let (engine, reader) = self.vector_model(ModelKind::Rerank)?;
        check_count("documents", request.documents.len())?;
        let too_long = too_long(request.truncate);
        let most = request.document_tokens.map_or(usize::MAX, |tokens| tokens as usize);
        let order = Order { request_id: request.request_id, default_id, dimensions: None };
        let reading = reader.clone();
        let read = move || {
            let pair = |(index, document): (usize, &String)| {
                let param = format!("documents[{index}]");
                reading.tokenizer.encode_pair(&request.query, document, most, too_long, &param)
            };
            request.documents.iter().enumerate().map(pair).collect()
        };
        let (labels, usage) = self.compute(engine, order, read).await?;
        let scores = labels.iter().map(|labels| logistic(labels.first().copied().unwrap_or_default()));
        Ok(ScoreResponse { scores: scores.collect(), model: self.config.model_ref.clone(), usage })
    }

    fn vector_model(&self, wanted: ModelKind) -> Result<(&VectorEngine, &Arc<Reader>), ApiError> {
        match self.serving()? {
            Serving::Vectors { engine, reader } if reader.kind == wanted => Ok((engine, reader)),
            other => Err(wrong_kind(other.kind())),
        }
    }

    /// Reads texts on a thread of its own and has the engine compute them. Dropping the future cancels.
    async fn compute(
        &self,
        engine: &VectorEngine,
        order: Order,
        read: impl FnOnce() -> Result<Vec<Tokens>, ApiError> + Send + 'static,
    ) -> Result<(Vec<Vec<f32>>, VectorUsage), ApiError> {
        let slot = self.take_slot()?;
        let reading = tokio::task::spawn_blocking(read).await;
        let texts = reading.map_err(|_| ApiError::new(ErrorCode::Internal, "The tokenizer failed."))??;
        let tokens: usize = texts.iter().map(|text| text.ids.len()).sum();
        if tokens > TOKENS_MAX {
            let message = format!("The request has {tokens} tokens; {TOKENS_MAX} are possible at once.");
            return Err(ApiError::invalid("input", message).with_action("Send fewer texts in one request."));
        }
        let cancel = CancellationToken::new();
        let ending = Ending { cancel: cancel.clone(), freed: slot.freed() };
        self.register(order.request_id, order.default_id, ending)?;
        let cancelled = cancel.clone();
        let _on_leaving = cancel.clone().drop_guard();
        let (reply, answer) = oneshot::channel();
        engine.submit(Job { texts, dimensions: order.dimensions, cancel, reply, slot })?;
        let results = answer.await.map_err(|_| unanswered(&cancelled, &self.stop))??;
        Ok((results, VectorUsage::of(tokens as u32)))
    }
}

/// Why a job was dropped without an answer.
fn unanswered(cancelled: &CancellationToken, stop: &CancellationToken) -> ApiError {
    if cancelled.is_cancelled() {
        return ApiError::invalid("request_id", "The execution was cancelled.");
    }
    if stop.is_cancelled() {
        return ApiError::new(ErrorCode::WorkerShuttingDown, "The worker is shutting down.");
    }
    ApiError::new(ErrorCode::Internal, "The worker's engine ended unexpectedly.")
}

fn read_input(reader: &Reader, input: EmbeddingInput, too_long: TooLong) -> Result<Vec<Tokens>, ApiError> {
    let tokenizer = &reader.tokenizer;
    match input {
        EmbeddingInput::Text(text) => Ok(vec![tokenizer.encode(&text, too_long, "input")?]),
        EmbeddingInput::Tokens(ids) => Ok(vec![tokenizer.take(ids, too_long, "input")?]),
        EmbeddingInput::Texts(texts) => {
            let texts = texts.iter().enumerate();
            texts.map(|(index, text)| tokenizer.encode(text, too_long, &format!("input[{index}]"))).collect()
        }
        EmbeddingInput::TokenLists(lists) => {
            let lists = lists.into_iter().enumerate();
            lists.map(|(index, ids)| tokenizer.take(ids, too_long, &format!("input[{index}]"))).collect()
        }
    }
}

fn too_long(truncate: bool) -> TooLong {
    if truncate { TooLong::Cut } else { TooLong::Refuse }
}

fn check_count(param: &str, count: usize) -> Result<(), ApiError> {
    if (1..=TEXTS_MAX).contains(&count) {
        return Ok(());
    }
    Err(ApiError::invalid(param, format!("'{param}' has {count} texts; 1 to {TEXTS_MAX} are possible.")))
}

fn check_dimensions(wanted: u32, width: usize) -> Result<usize, ApiError> {
    if (1..=width).contains(&(wanted as usize)) {
        return Ok(wanted as usize);
    }
    let message = format!("'dimensions' is {wanted}; of this model's {width}, 1 to {width} can be kept.");
    Err(ApiError::invalid("dimensions", message))
}

/// The bytes of the numbers, the lowest of each first, as clients decode them.
fn base64_of(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

fn logistic(label: f32) -> f32 {
    1.0 / (1.0 + (-label).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_their_limits_are_told() {
        assert_eq!(check_dimensions(384, 384).unwrap(), 384);
        for wanted in [0, 385] {
            let error = check_dimensions(wanted, 384).unwrap_err();
            assert!(error.message.contains(&wanted.to_string()) && error.message.contains("384"), "{error}");
        }
        assert!(check_count("input", 2048).is_ok());
        assert!(check_count("input", 0).unwrap_err().message.contains("has 0 texts"));
        assert!(check_count("input", 2049).unwrap_err().message.contains("2048"));
    }

    #[test]
    fn vectors_are_written_as_clients_read_them() {
        assert_eq!(base64_of(&[1.0, -2.5]), "AACAPwAAIMA=");
        assert!((logistic(0.0) - 0.5).abs() < 1e-9);
        assert!(logistic(-200.0) >= 0.0 && logistic(200.0) <= 1.0);
    }
}
