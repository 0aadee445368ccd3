//! /v1/responses: whole and streamed, with calls and schemas, stored and gone on with.

use async_openai::traits::RequestOptionsBuilder;
use async_openai::types::responses::{
    CreateResponseArgs, FunctionCallOutputItemParam, FunctionTool, FunctionToolCall, InputItem, Item,
    ItemResource, ListInputItemsOrder, ListInputItemsQueryArgs, OutputItem, ResponseFormatJsonSchema,
    ResponseStreamEvent, ResponseTextParam, Status, TextResponseFormatConfiguration, TokenCountsBodyArgs,
    Tool, ToolChoiceFunction, ToolChoiceOptions, ToolChoiceParam,
};
use compat_tests::{MODEL, Stack};
use futures::TryStreamExt;
use serde_json::{Value, json};

use crate::errors::refused;
use crate::{client, question};

const QUESTION: &str = "Name three colours.";

/// A request; greedy and short unless more is said.
fn ask(input: &str) -> CreateResponseArgs {
    let mut request = CreateResponseArgs::default();
    request.model(MODEL).input(input).temperature(0.0).max_output_tokens(24_u32);
    request
}

fn weather() -> Tool {
    Tool::Function(FunctionTool {
        name: "get_weather".into(),
        description: Some("Tells the weather in a city.".into()),
        strict: Some(true),
        parameters: Some(json!({
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Amsterdam", "Paris", "Berlin"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
            "additionalProperties": false,
        })),
        ..FunctionTool::default()
    })
}

/// A request whose answer is a call.
fn forced() -> CreateResponseArgs {
    let mut request = ask("What will the weather be in Paris in the next 3 days?");
    request
        .tools([weather()])
        .tool_choice(ToolChoiceParam::Function(ToolChoiceFunction { name: "get_weather".into() }))
        .parallel_tool_calls(false)
        .max_output_tokens(100_u32);
    request
}

fn only_call(output: &[OutputItem]) -> &FunctionToolCall {
    let [OutputItem::FunctionCall(call)] = output else { panic!("{output:?}") };
    call
}

#[tokio::test]
async fn a_stream_joins_to_the_whole_answer() {
    let stack = Stack::start().await;
    let client = client(&stack);
    let whole = client.responses().create(ask(QUESTION).build().unwrap()).await.unwrap();
    let completion = client.chat().create(question(QUESTION).build().unwrap()).await.unwrap();
    let text = whole.output_text().unwrap();
    assert_eq!(Some(&text), completion.choices[0].message.content.as_ref());
    let usage = whole.usage.unwrap();
    assert_eq!(usage.input_tokens, completion.usage.unwrap().prompt_tokens);
    assert_eq!(usage.total_tokens, usage.input_tokens + usage.output_tokens);

    let stream = client.responses().create_stream(ask(QUESTION).build().unwrap()).await.unwrap();
    let events: Vec<_> = stream.try_collect().await.unwrap();
    let deltas: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            ResponseStreamEvent::ResponseOutputTextDelta(event) => Some(event.delta.as_str()),
            _ => None,
        })
        .collect();
    assert!(deltas.len() > 3 && deltas.concat() == text, "{deltas:?}");
    let [ResponseStreamEvent::ResponseCreated(first), .., last] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&first.response.status, first.response.output.len()), (&Status::InProgress, 0));
    let last = match last {
        ResponseStreamEvent::ResponseCompleted(event) => &event.response,
        ResponseStreamEvent::ResponseIncomplete(event) => &event.response,
        other => panic!("{other:?}"),
    };
    assert_eq!((&last.status, last.output_text()), (&whole.status, Some(text)));
    assert_eq!(&client.responses().retrieve(&last.id).await.unwrap(), last);
}

#[tokio::test]
async fn it_is_kept_until_it_is_deleted() {
    let stack = Stack::start().await;
    let client = client(&stack);
    let responses = client.responses();
    let made = responses.create(ask(QUESTION).build().unwrap()).await.unwrap();
    assert_eq!(responses.retrieve(&made.id).await.unwrap(), made);
    let deleted = responses.delete(&made.id).await.unwrap();
    assert_eq!((deleted.id.as_str(), deleted.deleted), (made.id.as_str(), true));
    let (status, _, error) = refused(responses.retrieve(&made.id).await);
    assert_eq!((status, error.api_error.param.as_deref()), (404, Some("response_id")));
    let (status, ..) = refused(responses.delete(&made.id).await);
    assert_eq!(status, 404);

    let unkept = responses.create(ask(QUESTION).store(false).build().unwrap()).await.unwrap();
    let (status, ..) = refused(responses.retrieve(&unkept.id).await);
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_conversation_goes_on() {
    let stack = Stack::start().await;
    let client = client(&stack);
    let responses = client.responses();
    let first = responses.create(ask("My name is Ada.").build().unwrap()).await.unwrap();
    let mut request = ask("What is my name?");
    request.previous_response_id(first.id.as_str());
    let second = responses.create(request.build().unwrap()).await.unwrap();
    assert_eq!(second.previous_response_id.as_ref(), Some(&first.id));

    let counted = TokenCountsBodyArgs::default()
        .model(MODEL)
        .input("What is my name?")
        .previous_response_id(first.id.as_str())
        .build()
        .unwrap();
    let counted = responses.get_input_token_counts(counted).await.unwrap().input_tokens;
    let (first_usage, second_usage) = (first.usage.as_ref().unwrap(), second.usage.as_ref().unwrap());
    assert_eq!(counted, second_usage.input_tokens);
    assert!(counted > first_usage.total_tokens);

    let query =
        ListInputItemsQueryArgs::default().order(ListInputItemsOrder::Asc).limit(2_u32).build().unwrap();
    let page = client.responses().query(&query).unwrap().list_input_items(&second.id).await.unwrap();
    assert_eq!((page.data.len(), page.has_more), (2, true));
    let OutputItem::Message(answer) = &first.output[0] else { panic!("{first:?}") };
    // The crate reads every item of a list as a reference.
    let ItemResource::ItemReference(listed) = &page.data[1] else { panic!("{page:?}") };
    assert_eq!((&listed.id, page.last_id.as_ref()), (&answer.id, Some(&answer.id)));

    let mut request = ask("And?");
    request.previous_response_id("resp_x");
    let (status, code, _) = refused(responses.create(request.build().unwrap()).await);
    assert_eq!((status, code.as_deref()), (400, Some("previous_response_not_found")));
}

#[tokio::test]
async fn a_tool_is_called_and_its_answer_read() {
    let stack = Stack::start().await;
    let client = client(&stack);
    let responses = client.responses();
    let asked = responses.create(forced().build().unwrap()).await.unwrap();
    let call = only_call(&asked.output);
    assert_eq!((asked.status, call.name.as_str()), (Status::Completed, "get_weather"));
    let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
    assert!((1..=7).contains(&arguments["days"].as_u64().unwrap()), "{arguments}");

    let stream = responses.create_stream(forced().build().unwrap()).await.unwrap();
    let events: Vec<_> = stream.try_collect().await.unwrap();
    let pieces = events.iter().filter_map(|event| match event {
        ResponseStreamEvent::ResponseFunctionCallArgumentsDelta(event) => Some(event.delta.as_str()),
        _ => None,
    });
    assert_eq!(pieces.collect::<String>(), call.arguments);
    let Some(ResponseStreamEvent::ResponseCompleted(last)) = events.last() else { panic!("{events:?}") };
    assert_eq!(only_call(&last.response.output).arguments, call.arguments);

    let result = FunctionCallOutputItemParam {
        call_id: Some(call.call_id.clone()),
        output: r#"{"forecast": "rain"}"#.into(),
        id: None,
        status: None,
        name: None,
        namespace: None,
        caller: None,
    };
    let mut request = forced();
    request.tool_choice(ToolChoiceOptions::None).max_output_tokens(24_u32);
    let alone = responses.create(request.build().unwrap()).await.unwrap();
    request.input(vec![InputItem::from(Item::from(result))]).previous_response_id(asked.id.as_str());
    let told = responses.create(request.build().unwrap()).await.unwrap();
    assert!(told.output_text().is_some_and(|text| !text.trim().is_empty()), "{told:?}");
    // The call and its result are part of what the model reads.
    assert!(told.usage.unwrap().input_tokens > alone.usage.unwrap().input_tokens + 20);
}

#[tokio::test]
async fn an_answer_keeps_to_its_schema() {
    let stack = Stack::start().await;
    let client = client(&stack);
    let schema = json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 120}},
        "required": ["name", "age"],
        "additionalProperties": false,
    });
    let format =
        ResponseFormatJsonSchema { description: None, name: "person".into(), schema, strict: Some(true) };
    let format = TextResponseFormatConfiguration::JsonSchema(format);
    let mut request = ask("Ada is 36.");
    request.text(ResponseTextParam { format: format.clone(), verbosity: None }).max_output_tokens(100_u32);
    let response = client.responses().create(request.build().unwrap()).await.unwrap();
    assert_eq!(response.status, Status::Completed);
    let person: Value = serde_json::from_str(&response.output_text().unwrap()).unwrap();
    assert!(person["name"].is_string() && person["age"].as_i64().unwrap() <= 120, "{person}");
    assert_eq!(response.text.unwrap().format, format);
}

#[tokio::test]
async fn what_cannot_be_honoured_is_refused_by_name() {
    let stack = Stack::start().await;
    let client = client(&stack);
    let responses = client.responses();
    let (status, _, error) = refused(responses.create(ask("Hi").temperature(3.0).build().unwrap()).await);
    assert_eq!((status, error.api_error.param.as_deref()), (400, Some("temperature")));
    let unknown = || ask("Hi").model("no-such-model").build().unwrap();
    let (status, code, _) = refused(responses.create(unknown()).await);
    assert_eq!((status, code.as_deref()), (404, Some("model_not_found")));
    let (status, ..) = refused(responses.create_stream(unknown()).await);
    assert_eq!(status, 404, "a stream that cannot begin is a status too");
}
