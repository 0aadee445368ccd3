"""POST /v1/chat/completions with streaming, by the official SDK."""

import json
import urllib.request

import pytest

from conftest import MODEL


def test_the_shape_of_a_stream(ask):
    chunks = list(ask(stream=True))
    first, *middle, last = chunks
    assert first.choices[0].delta.role == "assistant"
    assert first.choices[0].delta.content == ""
    assert all(chunk.choices[0].delta.role is None for chunk in [*middle, last])
    assert all(chunk.choices[0].finish_reason is None for chunk in [first, *middle])
    assert last.choices[0].finish_reason in ("stop", "length")
    assert last.choices[0].delta.content is None
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.model, chunk.system_fingerprint) for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_tokens_come_one_by_one_and_join_to_the_whole_answer(ask):
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(stream=True)]
    whole = ask()
    assert "".join(pieces) == whole.choices[0].message.content
    assert sum(1 for piece in pieces if piece) > 3


def test_usage_comes_once_and_last_where_it_was_asked_for(ask):
    *chunks, last = list(ask(stream=True, stream_options={"include_usage": True}))
    assert last.choices == []
    assert last.usage == ask().usage
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


async def test_async_streams(async_client, ask):
    stream = await async_client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Name three colours."}],
        temperature=0,
        max_tokens=24,
        stream=True,
    )
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == ask().choices[0].message.content


async def test_async_without_streaming(async_client):
    completion = await async_client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=2
    )
    assert completion.usage.completion_tokens <= 2


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_short_streams_are_whole(ask, max_tokens):
    chunks = list(ask(stream=True, max_tokens=max_tokens, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == max_tokens


def test_on_the_wire_a_stream_ends_with_done(url):
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 3,
        "stream": True,
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert "no-cache" in response.headers["cache-control"]
        assert response.headers["x-accel-buffering"] == "no"
        lines = [line for line in response.read().decode().split("\n\n") if line and not line.startswith(":")]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: {") for line in lines[:-1])
