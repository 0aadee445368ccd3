"""Calls of tools, by the official SDK. The model is small: what it says of its own will is not looked at, what it is made to is."""

import json

import openai
import pytest
from pydantic import BaseModel

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Amsterdam", "Paris", "Berlin"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "description": "Tells the time."}}
FORCED = {"type": "function", "function": {"name": "get_weather"}}
QUESTION = "What will the weather be in Paris in the next 3 days?"


def calls_of(completion):
    [choice] = completion.choices
    return choice.message.tool_calls


def check_weather(call):
    assert call.type == "function"
    assert call.id
    assert call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert arguments.keys() == {"city", "days"}
    assert arguments["city"] in ("Amsterdam", "Paris", "Berlin")
    assert 1 <= arguments["days"] <= 7


def test_a_forced_tool_is_called_with_arguments_that_fit(ask):
    completion = ask(QUESTION, tools=[TIME, WEATHER], tool_choice=FORCED, parallel_tool_calls=False, max_tokens=100)
    [call] = calls_of(completion)
    check_weather(call)
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.choices[0].message.content is None


@pytest.mark.parametrize("seed", range(5))
def test_a_required_call_is_one_of_the_tools_at_any_temperature(ask, seed):
    completion = ask(
        QUESTION,
        tools=[TIME, WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=1.5,
        seed=seed,
        max_tokens=200,
    )
    [call] = calls_of(completion)
    assert completion.choices[0].finish_reason == "tool_calls"
    if call.function.name == "get_weather":
        check_weather(call)
    else:
        assert (call.function.name, json.loads(call.function.arguments)) == ("get_time", {})


def test_only_allowed_tools_are_called(ask):
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [FORCED]}}
    completion = ask(QUESTION, tools=[TIME, WEATHER], tool_choice=allowed, parallel_tool_calls=False, max_tokens=100)
    check_weather(calls_of(completion)[0])


def test_a_stream_assembles_to_the_same(ask):
    options = {"tools": [WEATHER], "tool_choice": FORCED, "parallel_tool_calls": False, "max_tokens": 100}
    [whole] = calls_of(ask(QUESTION, **options))
    chunks = list(ask(QUESTION, stream=True, **options))
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [delta.function.name for delta in deltas if delta.function.name] == ["get_weather"]
    assert deltas[0].id and deltas[0].type == "function"
    assert all(delta.index == 0 and not delta.id for delta in deltas[1:])
    assert len(deltas) > 3, "arguments come as they are written"
    assert "".join(delta.function.arguments for delta in deltas) == whole.function.arguments
    assert not any(chunk.choices[0].delta.content for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_sdks_own_assembly_of_a_stream(client):
    from conftest import MODEL

    with client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        tools=[WEATHER],
        tool_choice=FORCED,
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=100,
    ) as stream:
        for _ in stream:
            pass
        completion = stream.get_final_completion()
    check_weather(calls_of(completion)[0])


def test_a_round_trip(ask):
    question = {"role": "user", "content": QUESTION}
    forced = ask(messages=[question], tools=[WEATHER], tool_choice=FORCED, parallel_tool_calls=False, max_tokens=100)
    message = forced.choices[0].message
    answer = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"forecast": "rain"}'}
    told = ask(messages=[question, message, answer], tools=[WEATHER], tool_choice="none")
    assert told.choices[0].message.content.strip()
    assert told.choices[0].message.tool_calls is None
    # What was called and answered is part of what the model reads.
    assert told.usage.prompt_tokens > ask(messages=[question]).usage.prompt_tokens + 20


def test_tools_are_shown_to_the_model_unless_none_may_be_called(ask):
    plain = ask(max_tokens=1).usage.prompt_tokens
    assert ask(tools=[WEATHER], max_tokens=1).usage.prompt_tokens > plain + 30
    assert ask(tools=[WEATHER], tool_choice="none", max_tokens=1).usage.prompt_tokens == plain


def test_arguments_as_a_pydantic_model(client):
    from conftest import MODEL

    class Forecast(BaseModel):
        city: str
        days: int

    completion = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        tools=[openai.pydantic_function_tool(Forecast)],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=200,
    )
    [call] = calls_of(completion)
    assert isinstance(call.function.parsed_arguments, Forecast)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools[0].function.name"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
        ({"tools": [TIME], "tool_choice": FORCED}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"functions": [{"name": "f"}]}, "functions"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].tool_call_id",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(ask, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(**options)
    assert caught.value.param == param


def test_a_strict_schema_that_cannot_be_kept_to_is_refused_with_a_pointer(ask):
    tool = json.loads(json.dumps(WEATHER))
    tool["function"]["parameters"]["properties"]["city"] = {"not": {"type": "integer"}}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(tools=[tool], tool_choice="required")
    assert caught.value.param == "tools[0].function.parameters"
    assert caught.value.body["details"]["pointer"] == "/properties/city/not"
