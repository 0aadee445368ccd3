//! What is the same for all operations, and so is told once: errors, and headers in both directions.

use protocol::ErrorEnvelope;
use protocol::anthropic::AnthropicError;
use utoipa::ToSchema;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{HttpMethod, Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder};

const EVENT_STREAM: &str = "text/event-stream";

/// The names of the responses that stand for all errors: of most operations, and of Anthropic's.
const FAILURE: &str = "Failure";
const ANTHROPIC_FAILURE: &str = "AnthropicFailure";

/// Headers of every answer: name, type, meaning.
const OF_ANSWERS: [(&str, Type, &str); 3] = [
    (
        "x-request-id",
        Type::String,
        "The id that the server's log knows the request by: the caller's own, if it sent one.",
    ),
    ("openai-processing-ms", Type::Integer, "Milliseconds until the answer's head."),
    (
        "server-timing",
        Type::String,
        "Where they went: route, queue, worker and overhead, of requests that a worker answers.",
    ),
];

/// Headers of errors besides.
const OF_ERRORS: [(&str, Type, &str); 3] = [
    ("x-should-retry", Type::String, "true or false: whether the same request may succeed later."),
    ("retry-after", Type::Integer, "Seconds until it may, where that is known."),
    ("retry-after-ms", Type::Integer, "The same in milliseconds."),
];

/// Headers that every request may have.
const OF_REQUESTS: [(&str, &str); 1] =
    [("x-request-id", "An id of the caller's for this request: 1 to 64 letters, digits, dots, `_` and `-`.")];

/// Headers that a POST may have besides.
const OF_POSTS: [(&str, &str); 4] = [
    (
        "idempotency-key",
        "The same request under the same key is done once and answered again; 1 to 255 bytes.",
    ),
    ("x-request-timeout-ms", "Milliseconds after which an answer is of no use; then it is a 504."),
    ("x-deadline", "The same as a time of RFC 3339."),
    ("x-rbee-cache", "`off`: compute the answer, even where it would be one that is kept."),
];

/// Adds it to the operations of all paths.
pub(super) fn describe(document: &mut OpenApi) {
    let components = document.components.get_or_insert_default();
    for (name, kind, meaning) in OF_ANSWERS.iter().chain(&OF_ERRORS) {
        let header = HeaderBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(kind.clone())))
            .description(Some(*meaning));
        components.headers.insert((*name).to_owned(), header.build().into());
    }
    for (name, meaning) in OF_REQUESTS.iter().chain(&OF_POSTS) {
        let parameter = ParameterBuilder::new()
            .name(*name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(*meaning))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
        components.parameters.insert((*name).to_owned(), parameter.build().into());
    }
    components.responses.insert(FAILURE.to_owned(), failure(&ErrorEnvelope::name()).into());
    components.responses.insert(ANTHROPIC_FAILURE.to_owned(), failure(&AnthropicError::name()).into());
    for item in document.paths.paths.values_mut() {
        let operations = [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Delete, &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                complete(&method, operation);
            }
        }
    }
}

fn failure(envelope: &str) -> Response {
    let mut response = ResponseBuilder::new()
        .description("Any other error; docs/errors.md lists them.")
        .content("application/json", Content::new(Some(Ref::from_schema_name(envelope))))
        .build();
    add_headers(&mut response, &OF_ANSWERS[..2]);
    add_headers(&mut response, &OF_ERRORS);
    response
}

fn complete(method: &HttpMethod, operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response {
            if let Some(RefOr::T(content)) = response.content.get_mut(EVENT_STREAM) {
                content.schema = content.schema.take().map(frame);
            }
            add_headers(response, if status == "200" { &OF_ANSWERS } else { &OF_ANSWERS[..2] });
        }
    }
    let is_anthropics = operation.tags.iter().flatten().any(|tag| tag == "anthropic");
    let name = if is_anthropics { ANTHROPIC_FAILURE } else { FAILURE };
    let failure = Ref::new(format!("#/components/responses/{name}"));
    operation.responses.responses.insert("default".to_owned(), RefOr::Ref(failure));
    let of_posts = if *method == HttpMethod::Post { &OF_POSTS[..] } else { &[] };
    let parameters = operation.parameters.get_or_insert_default();
    for (name, _) in OF_REQUESTS.iter().chain(of_posts) {
        parameters.push(RefOr::Ref(Ref::new(format!("#/components/parameters/{name}"))));
    }
}

/// A handler names what a stream's frames tell; readers of the document take the schema of a stream for that of a frame.
fn frame(told: RefOr<Schema>) -> RefOr<Schema> {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let mut json = text().content_media_type("application/json").build();
    json.content_schema = Some(Box::new(told));
    let done = text().description(Some("The end, in OpenAI's older form.")).enum_values(Some(["[DONE]"]));
    let data = AnyOfBuilder::new().item(json).item(done);
    let name = text().description(Some("The event's name, where it has one."));
    ObjectBuilder::new().property("event", name).property("data", data).required("data").into()
}

fn add_headers(response: &mut Response, headers: &[(&str, Type, &str)]) {
    for (name, ..) in headers {
        let header = Ref::new(format!("#/components/headers/{name}"));
        response.headers.insert((*name).to_owned(), RefOr::Ref(header));
    }
}
