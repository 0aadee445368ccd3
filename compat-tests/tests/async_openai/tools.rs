//! Calls of tools and answers in a schema. The model is small: what it says of its own will is not looked at, what it is made to
//! is.

use async_openai::types::chat::{
    ChatCompletionMessageToolCalls, ChatCompletionNamedToolChoice, ChatCompletionRequestAssistantMessageArgs,
    ChatCompletionRequestMessage, ChatCompletionRequestToolMessage, ChatCompletionRequestUserMessage,
    ChatCompletionTool, ChatCompletionToolChoiceOption, ChatCompletionTools, CreateChatCompletionRequestArgs,
    FinishReason, FunctionObjectArgs, ResponseFormat, ResponseFormatJsonSchema, ToolChoiceOptions,
};
use compat_tests::Stack;
use serde_json::{Value, json};

use crate::{chunks, client, joined, question};

const QUESTION: &str = "What will the weather be in Paris in the next 3 days?";

/// A question whose answer is a call.
fn forced() -> CreateChatCompletionRequestArgs {
    let function = FunctionObjectArgs::default()
        .name("get_weather")
        .description("Tells the weather in a city.")
        .strict(true)
        .parameters(json!({
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Amsterdam", "Paris", "Berlin"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
            "additionalProperties": false,
        }))
        .build()
        .unwrap();
    let mut request = question(QUESTION);
    request
        .tools([ChatCompletionTools::Function(ChatCompletionTool { function })])
        .tool_choice(ChatCompletionToolChoiceOption::Function(ChatCompletionNamedToolChoice {
            function: "get_weather".into(),
        }))
        .parallel_tool_calls(false)
        .max_completion_tokens(100_u32);
    request
}

#[tokio::test]
async fn a_tool_is_called_and_its_answer_read() {
    let stack = Stack::start().await;
    let client = client(&stack);
    let mut request = forced();
    let whole = client.chat().create(request.build().unwrap()).await.unwrap();
    assert_eq!(whole.choices[0].finish_reason, Some(FinishReason::ToolCalls));
    let calls = whole.choices[0].message.tool_calls.clone().unwrap();
    let [ChatCompletionMessageToolCalls::Function(call)] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!(call.function.name, "get_weather");
    let arguments: Value = serde_json::from_str(&call.function.arguments).unwrap();
    assert!((1..=7).contains(&arguments["days"].as_u64().unwrap()), "{arguments}");

    let streamed = chunks(&client, &request).await;
    let pieces: Vec<_> = streamed
        .iter()
        .flat_map(|chunk| chunk.choices[0].delta.tool_calls.iter().flatten())
        .map(|call| (call.id.is_some(), call.function.clone().unwrap()))
        .collect();
    assert_eq!(pieces[0].1.name.as_deref(), Some("get_weather"));
    assert_eq!(pieces.iter().filter(|(has_id, _)| *has_id).count(), 1);
    let text: String = pieces.iter().filter_map(|(_, function)| function.arguments.as_deref()).collect();
    assert_eq!(text, call.function.arguments);

    let asked = ChatCompletionRequestUserMessage::from(QUESTION);
    let called =
        ChatCompletionRequestAssistantMessageArgs::default().tool_calls(calls.clone()).build().unwrap();
    let told = ChatCompletionRequestToolMessage {
        content: r#"{"forecast": "rain"}"#.into(),
        tool_call_id: call.id.clone(),
    };
    let messages: [ChatCompletionRequestMessage; 3] = [asked.into(), called.into(), told.into()];
    request.messages(messages).tool_choice(ChatCompletionToolChoiceOption::Mode(ToolChoiceOptions::None));
    let answer = client.chat().create(request.build().unwrap()).await.unwrap();
    let message = &answer.choices[0].message;
    assert!(message.tool_calls.is_none() && !message.content.clone().unwrap().trim().is_empty());
}

#[tokio::test]
async fn an_answer_keeps_to_its_schema() {
    let stack = Stack::start().await;
    let client = client(&stack);
    let schema = json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 120}},
        "required": ["name", "age"],
        "additionalProperties": false,
    });
    let json_schema =
        ResponseFormatJsonSchema { description: None, name: "person".into(), schema, strict: Some(true) };
    let mut request = question("Describe a person.");
    request.response_format(ResponseFormat::JsonSchema { json_schema }).max_completion_tokens(200_u32);
    let whole = client.chat().create(request.build().unwrap()).await.unwrap();
    assert_eq!(whole.choices[0].finish_reason, Some(FinishReason::Stop));
    let text = whole.choices[0].message.content.clone().unwrap();
    let person: Value = serde_json::from_str(&text).unwrap();
    assert!(person["name"].is_string() && person["age"].as_i64().unwrap() <= 120, "{person}");
    assert_eq!(joined(&chunks(&client, &request).await), text);
}
