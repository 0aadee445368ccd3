"""POST /v1/messages by the official Anthropic SDK. The model is small: what it says of its own will is not looked at."""

import json
from typing import Literal

import anthropic
import pytest
from pydantic import BaseModel

from conftest import MODEL, TOKEN

QUESTION = [{"role": "user", "content": "Name three colours."}]
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather in a city.",
    "input_schema": {
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
TIME = {"name": "get_time", "description": "Tells the time.", "input_schema": {"type": "object"}}


def make_anthropic(url: str, api_key: str = "none") -> anthropic.Anthropic:
    """The official client, with nothing changed but the base URL. Retries would hide what a test is to see."""
    return anthropic.Anthropic(base_url=url, api_key=api_key, max_retries=0, timeout=60)


@pytest.fixture
def claude(url):
    with make_anthropic(url) as client:
        yield client


@pytest.fixture
def options():
    """A greedy and short answer. The SDK has no name for temperature any more; the interface has."""
    return {"model": MODEL, "messages": QUESTION, "max_tokens": 24, "extra_body": {"temperature": 0}}


@pytest.fixture
def create(claude, options):
    return lambda **changed: claude.messages.create(**options | changed)


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def prompt_tokens(usage):
    return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens


def test_a_whole_answer(create):
    message = create()
    assert message.id.startswith("msg_")
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    [block] = message.content
    assert block.type == "text" and block.text
    assert message.stop_reason in ("end_turn", "max_tokens") and message.stop_sequence is None
    assert prompt_tokens(message.usage) > 5
    assert 0 < message.usage.output_tokens <= 24
    assert message._request_id


def test_the_answer_is_the_one_that_openais_interface_gives(create, ask):
    assert text_of(create()) == ask().choices[0].message.content


def test_events_come_in_their_order(create):
    events = list(create(stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"} and len(kinds) > 8
    start, delta = events[0].message, events[-2]
    assert start.content == [] and start.stop_reason is None
    assert prompt_tokens(start.usage) == prompt_tokens(delta.usage)
    assert delta.delta.stop_reason in ("end_turn", "max_tokens")
    assert delta.usage.output_tokens > 0


def test_a_stream_joins_to_the_whole_answer(claude, options, create):
    whole = create()
    with claude.messages.stream(**options) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == text_of(whole) == text_of(final)
    assert len(pieces) > 3
    assert final.stop_reason == whole.stop_reason
    assert prompt_tokens(final.usage) == prompt_tokens(whole.usage)
    assert final.usage.output_tokens == whole.usage.output_tokens


async def test_async(url, options, create):
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        whole = await client.messages.create(**options)
        async with client.messages.stream(**options) as stream:
            pieces = [piece async for piece in stream.text_stream]
    assert "".join(pieces) == text_of(whole) == text_of(create())


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence_is_named_and_not_told(claude, options, create, stream):
    text = text_of(create())
    words = [word for word in text.split() if len(word) > 3]
    options |= {"stop_sequences": ["never said", words[2]]}
    if stream:
        with claude.messages.stream(**options) as events:
            message = events.get_final_message()
    else:
        message = claude.messages.create(**options)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", words[2])
    assert text_of(message) == text[: text.index(words[2])]


def test_the_token_limit_and_the_contexts_end(create):
    message = create(max_tokens=3)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 3)
    assert create(max_tokens=0).content == []
    # More than the context holds, which is what many clients always ask for.
    assert create(max_tokens=1_000_000, stop_sequences=[" "]).stop_reason == "stop_sequence"


def test_instructions_and_blocks_reach_the_model(create):
    plain = create(system="Answer in French.")
    blocks = [{"type": "text", "text": "Answer in French.", "cache_control": {"type": "ephemeral"}}]
    content = [{"type": "text", "text": "Name three colours."}]
    same = create(system=blocks, messages=[{"role": "user", "content": content}])
    assert text_of(plain) == text_of(same)
    assert prompt_tokens(plain.usage) == prompt_tokens(same.usage)
    assert prompt_tokens(create(system="Answer in French, please.").usage) > prompt_tokens(plain.usage)


def test_a_conversation_goes_on(create):
    first = create()
    messages = [*QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": "Two more."}]
    second = create(messages=messages)
    assert text_of(second)
    assert prompt_tokens(second.usage) > prompt_tokens(first.usage) + first.usage.output_tokens


def test_what_was_computed_before_is_told_as_read_from_the_cache(create):
    system = "You know a lot about colours. " * 20
    create(system=system)
    usage = create(system=system).usage
    assert usage.cache_read_input_tokens >= 64
    assert usage.input_tokens > 0 and usage.cache_creation_input_tokens == 0


def test_tokens_are_counted_as_usage_tells_them(claude, create):
    ephemeral = {"type": "ephemeral"}
    for asked in (
        {"messages": QUESTION},
        {"messages": QUESTION, "system": [{"type": "text", "text": "Be brief.", "cache_control": ephemeral}]},
        {"messages": QUESTION, "tools": [WEATHER, TIME], "tool_choice": {"type": "auto"}},
        {"messages": [*QUESTION, {"role": "assistant", "content": "Red."}, {"role": "user", "content": "Two more."}]},
    ):
        counted = claude.messages.count_tokens(model=MODEL, **asked).input_tokens
        assert counted == prompt_tokens(create(max_tokens=1, **asked).usage)
    assert claude.beta.messages.count_tokens(model=MODEL, messages=QUESTION).input_tokens > 5
    # More than the context holds is counted too: that is what callers want to know.
    long = [{"role": "user", "content": "word " * 10_000}]
    assert claude.messages.count_tokens(model=MODEL, messages=long).input_tokens > 10_000
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.count_tokens(model=MODEL, messages=[])
    assert caught.value.body["error"]["param"] == "messages"
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.count_tokens(model="no-such-model", messages=QUESTION)


def test_a_tools_round_trip(create):
    choice = {"type": "any", "disable_parallel_tool_use": True}
    question = {"role": "user", "content": "What will the weather be in Paris in the next 3 days?"}
    called = create(messages=[question], tools=[WEATHER], tool_choice=choice, max_tokens=100)
    assert called.stop_reason == "tool_use"
    [call] = [block for block in called.content if block.type == "tool_use"]
    assert call.name == "get_weather" and call.id
    assert call.input["city"] in ("Amsterdam", "Paris", "Berlin") and 1 <= call.input["days"] <= 7
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "Sunny, 21 degrees."}]}
    messages = [
        question,
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
    ]
    answer = create(messages=messages, tools=[WEATHER], tool_choice={"type": "none"})
    assert answer.stop_reason != "tool_use" and text_of(answer)


def test_a_streamed_call_is_put_together_by_the_sdk(claude, options, create):
    options |= {
        "messages": [{"role": "user", "content": "What will the weather be in Paris?"}],
        "tools": [TIME, WEATHER],
        "tool_choice": {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
        "max_tokens": 100,
    }
    [whole] = claude.messages.create(**options).content
    with claude.messages.stream(**options) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    [call] = final.content
    assert final.stop_reason == "tool_use"
    assert (call.name, call.input) == (whole.name, whole.input)
    assert len(parts) > 3 and json.loads("".join(parts)) == call.input


class Colour(BaseModel):
    colour: Literal["red", "green", "blue"]
    is_dark: bool


def test_a_schema_is_kept_to(claude, options):
    message = claude.messages.parse(**options | {"max_tokens": 200}, output_format=Colour)
    assert isinstance(message.parsed_output, Colour)


@pytest.mark.parametrize(
    "thinking",
    [{"type": "disabled"}, {"type": "adaptive", "display": "summarized"}, {"type": "enabled", "budget_tokens": 1024}],
)
def test_thinking_is_accepted_by_models_that_do_not(create, thinking):
    assert text_of(create(thinking=thinking, max_tokens=1100, stop_sequences=[","]))


def test_what_claude_code_sends(claude, options):
    ephemeral = {"type": "ephemeral"}
    tools = [WEATHER | {"cache_control": ephemeral}] + [TIME | {"name": f"mcp__server__tool_{n}"} for n in range(9)]
    message = claude.beta.messages.create(
        **options,
        system=[{"type": "text", "text": text, "cache_control": ephemeral} for text in ("You help.", "Be brief. " * 100)],
        tools=tools,
        metadata={"user_id": "user_1_account__session_2"},
        thinking={"type": "adaptive"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        output_config={"effort": "medium"},
        betas=["claude-code-20250219", "interleaved-thinking-2025-05-14", "context-management-2025-06-27"],
        extra_headers={"x-app": "cli"},
    )
    assert prompt_tokens(message.usage) > 500


def test_models_have_the_sdks_form(claude):
    models = list(claude.models.list(limit=1))
    assert MODEL in [model.id for model in models]
    assert all(model.type == "model" and model.display_name == model.id for model in models)
    model = claude.models.retrieve(MODEL)
    assert model.id == MODEL and model.created_at.year >= 1970 and model.max_input_tokens == 8192


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"extra_body": {"temperature": 1.5}}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}]}, "messages[0].content[0]"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "Red"}]}, "messages[1]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "nobody"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}}, "output_config.format.schema"),
        ({"container": "c"}, "container"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_honoured_is_refused_by_name(create, changed, param, stream):
    with pytest.raises(anthropic.BadRequestError) as caught:
        create(**changed, stream=stream)
    error = caught.value
    assert error.type == "invalid_request_error"
    assert error.body["type"] == "error" and error.body["error"]["param"].startswith(param)
    assert error.request_id and error.body["request_id"] == error.request_id


def test_errors_are_the_sdks_own(create, guarded_url):
    with pytest.raises(anthropic.NotFoundError) as caught:
        create(model="no-such-model")
    assert caught.value.type == "not_found_error" and caught.value.body["error"]["code"] == "model_not_found"
    with pytest.raises(anthropic.BadRequestError) as caught:
        create(messages=[{"role": "user", "content": "word " * 20_000}])
    assert caught.value.body["error"]["code"] == "context_length_exceeded" and "8192" in caught.value.api_message
    with make_anthropic(guarded_url, "wrong") as client, pytest.raises(anthropic.AuthenticationError) as caught:
        client.models.list()
    assert caught.value.type == "authentication_error" and caught.value.request_id
    with make_anthropic(guarded_url, TOKEN) as client:
        assert MODEL in [model.id for model in client.models.list()]
        with pytest.raises(anthropic.NotFoundError) as caught:
            client.messages.batches.list()
    assert caught.value.type == "not_found_error" and caught.value.request_id
