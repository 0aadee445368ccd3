"""/v1/responses, by the official SDK. What a small model says is not looked at; what it is made to say is."""

import json
import time
import urllib.request
from typing import get_args

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_item import ResponseItem
from pydantic import BaseModel, TypeAdapter

from conftest import MODEL

WEATHER = {
    "type": "function",
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
}
QUESTION = "What will the weather be in Paris in the next 3 days?"
FORCED = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_output_tokens": 100}
# The SDK's own types by the names of events.
EVENTS = {
    get_args(event.model_fields["type"].annotation)[0]: event for event in get_args(get_args(ResponseStreamEvent)[0])
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture
def respond(client):
    """Asks the model; greedy and short unless told otherwise."""

    def respond(input="Name three colours.", **options):
        options = {"model": MODEL, "temperature": 0, "max_output_tokens": 24} | options
        return client.responses.create(input=input, **options)

    return respond


def wire(url, path, body=None):
    """The bytes of an answer that was made for this request, as no SDK changes them."""
    data = json.dumps(body).encode() if body is not None else None
    headers = {"Content-Type": "application/json", "X-Rbee-Cache": "off"}
    request = urllib.request.Request(f"{url}/v1{path}", data, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read().decode()


def events_on_the_wire(url, **body):
    """All events of a stream, each validated by the SDK's type of its name."""
    body = {"model": MODEL, "temperature": 0, "max_output_tokens": 24, "stream": True} | body
    frames = [frame for frame in wire(url, "/responses", body).split("\n\n") if frame and not frame.startswith(":")]
    events = []
    for number, frame in enumerate(frames):
        name, data = frame.split("\n")
        data = json.loads(data.removeprefix("data: "))
        assert name == f"event: {data['type']}"
        assert data["sequence_number"] == number
        events.append(EVENTS[data["type"]].model_validate(data))
    return events


def names(events):
    """The names in order, each once where it comes several times in a row."""
    all_names = [event.type.removeprefix("response.") for event in events]
    return [name for number, name in enumerate(all_names) if number == 0 or all_names[number - 1] != name]


def calls_of(response):
    return [item for item in response.output if item.type == "function_call"]


def check_weather(call):
    assert (call.type, call.name, call.status) == ("function_call", "get_weather", "completed")
    assert call.id.startswith("fc_") and call.call_id
    arguments = json.loads(call.arguments)
    assert arguments.keys() == {"city", "days"}
    assert arguments["city"] in ("Amsterdam", "Paris", "Berlin") and 1 <= arguments["days"] <= 7


def test_the_shape_of_a_response(url):
    body = {"model": MODEL, "input": "Hi", "max_output_tokens": 200, "temperature": 0, "metadata": {"a": "b"}}
    response = Response.model_validate_json(wire(url, "/responses", body))
    assert response.id.startswith("resp_") and response.object == "response"
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    assert response.completed_at >= response.created_at
    assert (response.model, response.metadata, response.max_output_tokens) == (MODEL, {"a": "b"}, 200)
    assert (response.tool_choice, response.tools, response.parallel_tool_calls) == ("auto", [], True)
    assert (response.text.format.type, response.truncation, response.background) == ("text", "disabled", False)
    [message] = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert message.id.startswith("msg_")
    [part] = message.content
    assert part.text == response.output_text != ""
    assert part.annotations == []
    usage = response.usage
    assert usage.input_tokens > 0 and usage.output_tokens > 0
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens_details.reasoning_tokens == 0


def test_it_says_what_a_chat_completion_says(respond, ask):
    completion = ask()
    response = respond()
    assert response.output_text == completion.choices[0].message.content
    assert response.usage.input_tokens == completion.usage.prompt_tokens
    told = respond(instructions="You are a pirate.", max_output_tokens=1)
    messages = [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": "Name three colours."}]
    assert told.usage.input_tokens == ask(messages=messages, max_tokens=1).usage.prompt_tokens
    assert told.instructions == "You are a pirate."


def test_the_events_of_a_text(url, respond):
    events = events_on_the_wire(url, input="Name three colours.")
    assert names(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete" if events[-1].type == "response.incomplete" else "completed",
    ]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    whole = respond()
    assert len(deltas) > 3
    assert "".join(delta.delta for delta in deltas) == whole.output_text
    assert {delta.item_id for delta in deltas} == {events[-1].response.output[0].id}
    assert events[0].response.status == "in_progress" and events[0].response.output == []
    assert events[-1].response.usage.total_tokens == whole.usage.total_tokens
    assert len({event.response.id for event in events if hasattr(event, "response")}) == 1


def test_the_events_of_a_call(url, respond):
    events = events_on_the_wire(url, input=QUESTION, **FORCED)
    assert names(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    [call] = calls_of(events[-1].response)
    check_weather(call)
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert len(deltas) > 3 and "".join(deltas) == call.arguments
    [whole] = calls_of(respond(QUESTION, **FORCED))
    assert whole.arguments == call.arguments


def test_the_sdks_own_assembly_of_a_stream(client, respond):
    with client.responses.stream(
        model=MODEL, input="Name three colours.", temperature=0, max_output_tokens=200
    ) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots[-1] == final.output_text == respond(max_output_tokens=200).output_text
    with client.responses.stream(model=MODEL, input=QUESTION, temperature=0, **FORCED) as stream:
        final = stream.get_final_response()
    check_weather(final.output[0])


async def test_async_streams(async_client, respond):
    stream = await async_client.responses.create(
        model=MODEL, input="Name three colours.", temperature=0, max_output_tokens=24, stream=True
    )
    pieces = [event.delta async for event in stream if event.type == "response.output_text.delta"]
    assert "".join(pieces) == respond().output_text


@pytest.mark.parametrize("limit", [0, 3])
def test_a_limit_leaves_it_incomplete(url, respond, limit):
    response = respond(max_output_tokens=limit)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.completed_at is None
    assert response.usage.output_tokens == limit
    [message] = response.output
    assert message.status == "incomplete"
    last = events_on_the_wire(url, input="Name three colours.", max_output_tokens=limit)[-1]
    assert last.type == "response.incomplete"
    assert last.response.output[0].content == message.content


def test_it_is_kept_and_deleted(client, respond):
    made = respond(metadata={"topic": "colours"})
    kept = client.responses.retrieve(made.id)
    assert kept == made
    assert client.responses.delete(made.id) is None
    for gone in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError) as caught:
            gone(made.id)
        assert caught.value.param == "response_id"


def test_a_streamed_one_is_kept_when_its_last_event_is_told(client, respond):
    for event in respond(stream=True):
        last = event
    assert client.responses.retrieve(last.response.id) == last.response


def test_what_is_not_to_be_stored_is_not(client, respond):
    for options in ({}, {"stream": True}):
        answer = respond(store=False, **options)
        made = list(answer)[-1].response if options else answer
        assert made.store is False
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(made.id)
        with pytest.raises(openai.BadRequestError) as caught:
            respond("And?", previous_response_id=made.id)
        assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")


def test_a_conversation_goes_on(respond, ask):
    first = respond("My name is Ada.", instructions="Be kind.")
    second = respond("What is my name?", previous_response_id=first.id, instructions="Be brief.")
    assert second.previous_response_id == first.id
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "What is my name?"},
    ]
    completion = ask(messages=messages)
    assert second.usage.input_tokens == completion.usage.prompt_tokens
    assert second.output_text == completion.choices[0].message.content


def test_a_conversation_of_which_a_part_is_gone_is_gone(client, respond):
    first = respond("One.", max_output_tokens=1)
    second = respond("Two.", previous_response_id=first.id, max_output_tokens=1)
    client.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        respond("Three.", previous_response_id=second.id)
    assert caught.value.code == "previous_response_not_found"


def test_what_it_was_made_from(url, client, respond):
    first = respond("One.", max_output_tokens=4)
    second = respond(
        [{"role": "developer", "content": "Count."}, {"role": "user", "content": [{"type": "input_text", "text": "Two."}]}],
        previous_response_id=first.id,
        max_output_tokens=1,
    )
    listed = json.loads(wire(url, f"/responses/{second.id}/input_items?order=asc"))
    items = [TypeAdapter(ResponseItem).validate_python(item) for item in listed["data"]]
    assert [item.role for item in items] == ["user", "assistant", "developer", "user"]
    assert [item.content[0].text for item in items] == ["One.", first.output_text, "Count.", "Two."]
    ids = [item.id for item in items]
    assert len(set(ids)) == 4
    assert [item.id for item in client.responses.input_items.list(second.id)] == ids[::-1]
    page = client.responses.input_items.list(second.id, limit=3, order="asc", include=["message.output_text.logprobs"])
    assert (page.has_more, [item.id for item in page.data]) == (True, ids[:3])
    assert [item.id for item in client.responses.input_items.list(second.id, limit=1)] == ids[::-1]
    rest = client.responses.input_items.list(second.id, after=ids[2], order="asc")
    assert [item.id for item in rest.data] == ids[3:]
    for options, param in [({"limit": 0}, "limit"), ({"order": "up"}, "order"), ({"after": "msg_x"}, "after")]:
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.input_items.list(second.id, **options)
        assert caught.value.param == param


def test_items_can_be_named_instead_of_said(respond):
    first = respond("My name is Ada.")
    said = respond([{"role": "user", "content": "Hi."}, first.output[0].to_dict()], max_output_tokens=1)
    named = respond(
        [{"role": "user", "content": "Hi."}, {"type": "item_reference", "id": first.output[0].id}], max_output_tokens=1
    )
    assert named.usage.input_tokens == said.usage.input_tokens
    with pytest.raises(openai.BadRequestError) as caught:
        respond([{"type": "item_reference", "id": "msg_x"}])
    assert caught.value.param == "input[0].id"


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_round_trip_of_a_tool(respond, goes_on):
    asked = respond(QUESTION, **FORCED)
    [call] = calls_of(asked)
    check_weather(call)
    output = {"type": "function_call_output", "call_id": call.call_id, "output": '{"forecast": "rain"}'}
    if goes_on:
        told = respond([output], previous_response_id=asked.id, tools=[WEATHER], tool_choice="none")
    else:
        told = respond([{"role": "user", "content": QUESTION}, call.to_dict(), output], tools=[WEATHER], tool_choice="none")
    assert told.output_text.strip()
    # What was called and answered is part of what the model reads.
    assert told.usage.input_tokens > respond(QUESTION, max_output_tokens=1).usage.input_tokens + 20


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "get_weather"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]},
    ],
)
def test_a_tool_that_is_chosen_is_called(respond, choice):
    time = {"type": "function", "name": "get_time", "parameters": None, "strict": False}
    response = respond(QUESTION, **(FORCED | {"tools": [time, WEATHER], "tool_choice": choice}))
    [call] = calls_of(response)
    check_weather(call)
    assert response.tool_choice.to_dict() == choice
    assert [tool.strict for tool in response.tools] == [False, True]


def test_a_format(respond):
    options = {"text": {"format": {"type": "json_schema", "name": "person", "schema": SCHEMA, "strict": True}}}
    response = respond("Ada is 36.", max_output_tokens=100, temperature=1.2, **options)
    person = json.loads(response.output_text)
    assert person.keys() == {"name", "age"} and 0 <= person["age"] <= 99
    assert response.text.format.schema_ == SCHEMA
    any_object = respond("Say it in JSON: Ada is 36.", max_output_tokens=200, text={"format": {"type": "json_object"}})
    if any_object.status == "completed":
        assert isinstance(json.loads(any_object.output_text), dict)


def test_pydantic_models(client):
    class Person(BaseModel):
        name: str
        age: int

    parsed = client.responses.parse(
        model=MODEL, input="Ada is 36.", text_format=Person, temperature=0, max_output_tokens=100
    )
    assert isinstance(parsed.output_parsed, Person)
    called = client.responses.parse(
        model=MODEL,
        input="Ada is 36.",
        tools=[openai.pydantic_function_tool(Person)["function"] | {"type": "function"}],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_output_tokens=100,
    )
    assert Person(**json.loads(called.output[0].arguments))


def test_log_probabilities(url, respond):
    response = respond(include=["message.output_text.logprobs"], top_logprobs=2)
    tokens = response.output[0].content[0].logprobs
    assert "".join(token.token for token in tokens) == response.output_text
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens)
    events = events_on_the_wire(url, input="Name three colours.", top_logprobs=1)
    told = [token for event in events if event.type == "response.output_text.delta" for token in event.logprobs]
    assert [token.token for token in told] == [token.token for token in tokens]


def test_tokens_are_counted_without_an_answer(client, respond):
    first = respond("One.", max_output_tokens=1)
    asked = {"input": "Two.", "previous_response_id": first.id, "instructions": "Count.", "tools": [WEATHER]}
    counted = client.responses.input_tokens.count(model=MODEL, **asked)
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == respond(asked.pop("input"), max_output_tokens=1, **asked).usage.input_tokens
    assert client.responses.input_tokens.count(model=MODEL, input="word " * 20_000).input_tokens > 20_000


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {"model": "x"}}, "moderation"),
        ({"include": ["everything"]}, "include[0]"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
        ({"metadata": {"k": "x" * 513}}, "metadata.k"),
        ({"reasoning": {"effort": "enormous"}}, "reasoning.effort"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "input[0].call_id"),
        ({"input": [{"type": "file_search_call", "id": "fs_1", "queries": [], "status": "completed"}]}, "input[0].type"),
        ({"previous_response_id": "resp_x"}, "previous_response_id"),
        ({"input": "word " * 20_000}, "input"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(respond, options, param):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            respond(**({"stream": stream} | options))
        assert caught.value.param == param
        assert caught.value.type == "invalid_request_error"


def test_a_schema_that_cannot_be_kept_to_is_refused_with_a_pointer(respond):
    bad = {"type": "object", "properties": {"city": {"not": {"type": "integer"}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        respond(tools=[WEATHER | {"parameters": bad}], tool_choice="required")
    assert caught.value.param == "tools[0].parameters"
    assert caught.value.body["details"]["pointer"] == "/properties/city/not"
    with pytest.raises(openai.BadRequestError) as caught:
        respond(text={"format": {"type": "json_schema", "name": "x", "schema": bad}})
    assert caught.value.param == "text.format.schema"


def ended(client, response_id):
    """A response that is made in the background, when it has ended."""
    deadline = time.monotonic() + 60
    while (response := client.responses.retrieve(response_id)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline, response
        time.sleep(0.05)
    return response


def test_a_response_is_made_in_the_background(client, respond):
    made = respond(background=True, metadata={"for": "later"})
    assert (made.status, made.background, made.output) == ("queued", True, [])
    response = ended(client, made.id)
    assert (response.id, response.status, response.metadata) == (made.id, "incomplete", {"for": "later"})
    assert (response.usage.output_tokens, response.incomplete_details.reason) == (24, "max_output_tokens")
    assert response.output_text == respond().output_text
    # It is a part of a conversation like any other.
    assert respond("And three more.", previous_response_id=made.id).status == "incomplete"
    assert [item.type for item in client.responses.input_items.list(made.id)] == ["message"]
    # One that has ended stays as it is.
    assert client.responses.cancel(made.id) == response
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_the_events_of_a_response_in_the_background_are_told_again(client, respond):
    events = list(respond(background=True, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.incomplete")
    response = events[-1].response
    assert ended(client, response.id).output == response.output
    seen = len(events) // 2
    again = list(client.responses.retrieve(response.id, stream=True, starting_after=seen))
    assert [event.sequence_number for event in again] == list(range(seen + 1, len(events)))
    assert [event.type for event in again] == [event.type for event in events[seen + 1 :]]
    assert again[-1].response.output == response.output


def test_a_response_in_the_background_is_cancelled(client, respond):
    made = respond("Tell a very long story.", background=True, max_output_tokens=3000)
    deadline = time.monotonic() + 60
    while not client.responses.retrieve(made.id).output:
        assert time.monotonic() < deadline
    cancelled = client.responses.cancel(made.id)
    assert (cancelled.id, cancelled.status) == (made.id, "cancelled")
    assert cancelled.output_text and client.responses.retrieve(made.id) == cancelled


def test_what_is_not_made_in_the_background_has_no_such_ways(client, respond):
    with pytest.raises(openai.BadRequestError) as caught:
        respond(background=True, store=False)
    assert caught.value.param == "background"
    made = respond(max_output_tokens=1)
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(made.id)
    with pytest.raises(openai.BadRequestError):
        list(client.responses.retrieve(made.id, stream=True))


def test_an_unknown_model(respond):
    with pytest.raises(openai.NotFoundError) as caught:
        respond(model="no-such-model")
    assert caught.value.code == "model_not_found"


def test_what_was_said_before_can_be_answered_without_more(client):
    first = client.responses.create(model=MODEL, input="Name a colour.", max_output_tokens=8, temperature=0)
    counted = client.responses.input_tokens.count(model=MODEL, previous_response_id=first.id)
    second = client.responses.create(
        model=MODEL, previous_response_id=first.id, max_output_tokens=4, temperature=0
    )
    assert second.usage.input_tokens == counted.input_tokens > first.usage.input_tokens
