//! Endpoints of OpenAI's that this version has a clear answer for and nothing more.

use axum::routing::{MethodFilter, on};
use daemon::http::Failure;
use protocol::{ApiError, ErrorCode, ErrorEnvelope};
use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::{Content, ObjectBuilder, OpenApi, PathItem, Ref, Required, ResponseBuilder, Type};

use super::super::Routes;

/// A family of endpoints: what is missing, what works instead, and which they are.
struct Family {
    tag: &'static str,
    missing: &'static str,
    instead: &'static str,
    operations: &'static [(HttpMethod, &'static str, &'static str)],
}

const FAMILIES: [Family; 4] = [
    Family {
        tag: "openai",
        missing: "Models are not deleted over this interface.",
        instead: "Take the model out of the hive's settings, or its file out of the data directory.",
        operations: &[(HttpMethod::Delete, "/v1/models/{*model}", "delete_model")],
    },
    Family {
        tag: "images",
        missing: "No worker of this version makes images.",
        instead: "Text and embeddings work: POST /v1/chat/completions, POST /v1/embeddings.",
        operations: &[
            (HttpMethod::Post, "/v1/images/generations", "create_image"),
            (HttpMethod::Post, "/v1/images/edits", "create_image_edit"),
            (HttpMethod::Post, "/v1/images/variations", "create_image_variation"),
        ],
    },
    Family {
        tag: "audio",
        missing: "No worker of this version speaks or listens.",
        instead: "Text and embeddings work: POST /v1/chat/completions, POST /v1/embeddings.",
        operations: &[
            (HttpMethod::Post, "/v1/audio/speech", "create_speech"),
            (HttpMethod::Post, "/v1/audio/transcriptions", "create_transcription"),
            (HttpMethod::Post, "/v1/audio/translations", "create_translation"),
        ],
    },
    Family {
        tag: "moderations",
        missing: "No model for moderation is configured.",
        instead: "Ask a chat model for a verdict, with a JSON schema as response_format.",
        operations: &[(HttpMethod::Post, "/v1/moderations", "create_moderation")],
    },
];

impl Family {
    fn refusal(&self) -> ApiError {
        ApiError::new(ErrorCode::NotAvailable, self.missing).with_action(self.instead)
    }
}

/// Adds the endpoints.
pub(in crate::http) fn add(mut routes: Routes) -> Routes {
    for family in &FAMILIES {
        for (method, path, _) in family.operations {
            let refuse = async move || Failure(family.refusal());
            routes = routes.route(path, on(filter(method), refuse));
        }
    }
    routes
}

fn filter(method: &HttpMethod) -> MethodFilter {
    match method {
        HttpMethod::Delete => MethodFilter::DELETE,
        HttpMethod::Post => MethodFilter::POST,
        _ => MethodFilter::GET,
    }
}

/// Describes the endpoints.
pub(in crate::http) fn describe(document: &mut OpenApi) {
    for family in &FAMILIES {
        for (method, path, operation_id) in family.operations {
            let refusal = ResponseBuilder::new().description(family.missing).content(
                "application/json",
                Content::new(Some(Ref::from_schema_name(ErrorEnvelope::name()))),
            );
            let mut operation = OperationBuilder::new()
                .tag(family.tag)
                .operation_id(Some(*operation_id))
                .summary(Some(family.missing))
                .description(Some(family.instead))
                .response("501", refusal);
            if let Some((_, name)) = path.replace('*', "").split_once('{') {
                let name = name.split('}').next().unwrap_or_default();
                let text = ObjectBuilder::new().schema_type(Type::String);
                operation = operation.parameter(
                    ParameterBuilder::new()
                        .name(name)
                        .parameter_in(ParameterIn::Path)
                        .required(Required::True)
                        .schema(Some(text)),
                );
            }
            let item = PathItem::new(method.clone(), operation);
            let paths = &mut document.paths.paths;
            match paths.get_mut(*path) {
                Some(known) => known.merge_operations(item),
                None => drop(paths.insert((*path).to_owned(), item)),
            }
        }
    }
}
