//! The tokens of a prompt and the text of tokens, for who wants to know them without an execution. No slot is taken: a
//! worker whose slots are all busy answers too.

use std::sync::Arc;

use protocol::tokens::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse};
use protocol::worker::ExecuteRequest;
use protocol::{ApiError, ErrorCode};

use super::{Service, Serving, prompt};
use crate::embedding::model::Reader;
use crate::engine::{GenerationRequest, Input, check_tokens};
use crate::text::language::Language;
use crate::text::tokenizer::Ends;

/// Texts that are tokenised at once; more wait, so that they leave the processor to the executions.
pub(super) const AT_ONCE_MAX: usize = 2;
/// Bytes of a text at most, templates applied.
const TEXT_BYTES_MAX: usize = 4 << 20;
/// Tokens of a request at most, in either direction.
const TOKENS_MAX: usize = 1 << 20;

impl Service {
    /// Tells the tokens of a prompt: those that its execution would read. A prompt may be longer than the context.
    pub async fn tokenize(&self, request: TokenizeRequest) -> Result<TokenizeResponse, ApiError> {
        let ends = if request.add_special_tokens { Ends::Added } else { Ends::LeftOut };
        let tells_spellings = request.return_token_strs;
        let request = GenerationRequest::try_from(ExecuteRequest::from(request))?;
        let serving = self.serving()?;
        let (words, context_length) = (Words::of(serving), serving.context_limit() as u32);
        request.check_vocabulary(words.count())?;
        self.apart(move || {
            let field = request.input.field();
            let tokens = words.encode(request, ends)?;
            check_count(tokens.len(), field)?;
            let token_strs = tells_spellings.then(|| tokens.iter().map(|id| words.spelling(*id)).collect());
            Ok(TokenizeResponse { count: tokens.len() as u32, tokens, context_length, token_strs })
        })
        .await
    }

    /// Tells the text of tokens.
    pub async fn detokenize(&self, request: DetokenizeRequest) -> Result<DetokenizeResponse, ApiError> {
        let words = Words::of(self.serving()?);
        check_count(request.tokens.len(), "tokens")?;
        check_tokens("tokens", &request.tokens, words.count())?;
        self.apart(move || Ok(DetokenizeResponse { text: words.decode(&request.tokens)? })).await
    }

    /// Does what takes long on a thread of its own, when it is its turn.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let failed = || ApiError::new(ErrorCode::Internal, "The tokenizer failed.");
        let turn = self.tokenizing.clone().acquire_owned().await.map_err(|_| failed())?;
        let working = tokio::task::spawn_blocking(move || {
            // The turn ends with the work, even if the caller has left before.
            let _turn = turn;
            work()
        });
        working.await.map_err(|_| failed())?
    }
}

/// A model's way between texts and tokens.
enum Words {
    Decoder(Arc<Language>),
    Encoder(Arc<Reader>),
}

impl Words {
    fn of(serving: &Serving) -> Self {
        match serving {
            Serving::Text(loaded) => Self::Decoder(loaded.language.clone()),
            Serving::Vectors { reader, .. } => Self::Encoder(reader.clone()),
        }
    }

    /// How many tokens the model has.
    fn count(&self) -> usize {
        match self {
            Self::Decoder(language) => language.vocabulary.size(),
            Self::Encoder(reader) => reader.tokenizer.vocabulary(),
        }
    }

    fn encode(&self, request: GenerationRequest, ends: Ends) -> Result<Vec<u32>, ApiError> {
        let reader = match self {
            Self::Decoder(language) => {
                let measure = |_: &Language, bytes: usize, field: &str| check_bytes(bytes, field);
                return prompt::read(language, request, ends, measure).map(|prompt| prompt.tokens);
            }
            Self::Encoder(reader) => reader,
        };
        if request.suffix.is_some() {
            return Err(prompt::no_infill());
        }
        let field = request.input.field();
        match request.input {
            Input::Prompt(text) | Input::Instruction(text) => {
                check_bytes(text.len(), field)?;
                reader.tokenizer.encode_whole(&text, ends)
            }
            Input::Tokens(tokens) => Ok(tokens),
            Input::Messages(_) => {
                let message = "This model reads texts and no conversations.";
                Err(ApiError::invalid(field, message).with_action("Send 'prompt' instead."))
            }
        }
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, ApiError> {
        match self {
            Self::Decoder(language) => Ok(language.tokenizer.decode(tokens)),
            Self::Encoder(reader) => reader.tokenizer.decode(tokens),
        }
    }

    /// A token as the vocabulary spells it.
    fn spelling(&self, id: u32) -> String {
        match self {
            Self::Decoder(language) => language.vocabulary.text(id).unwrap_or_default().to_owned(),
            Self::Encoder(reader) => reader.tokenizer.spelling(id),
        }
    }
}

fn check_bytes(bytes: usize, field: &str) -> Result<(), ApiError> {
    if bytes <= TEXT_BYTES_MAX {
        return Ok(());
    }
    let message = format!("'{field}' has {bytes} bytes; {TEXT_BYTES_MAX} can be tokenised at once.");
    Err(ApiError::invalid(field, message).with_action("Send a part of the text at a time."))
}

fn check_count(tokens: usize, field: &str) -> Result<(), ApiError> {
    if tokens <= TOKENS_MAX {
        return Ok(());
    }
    let message = format!("'{field}' has {tokens} tokens; {TOKENS_MAX} are possible at once.");
    Err(ApiError::invalid(field, message).with_action("Send a part at a time."))
}
