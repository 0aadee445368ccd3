"""The look at all answers finds what is wrong with them."""

import json

import httpx2
import pytest

import strict

WHOLE = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "system_fingerprint": "f",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "logprobs": None, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


def chunk(delta, finish_reason=None, **fields):
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]
    return WHOLE | {"object": "chat.completion.chunk", "choices": choices, "usage": None} | fields


CHUNKS = [chunk({"role": "assistant", "content": ""}), chunk({"content": "Hi"}), chunk({}, "stop")]


def found(body: bytes, path="/v1/chat/completions", status=200, content_type="application/json"):
    """What is found when the SDK's client reads this answer."""
    answer = httpx2.Response(status, content=iter([body[:7], body[7:]]), headers={"Content-Type": content_type})
    transport = httpx2.MockTransport(lambda _: answer)
    with httpx2.Client(transport=transport, event_hooks={"response": [strict.watch]}) as client:
        assert client.post(f"http://rbee{path}", json={}).content == body
    violations = list(strict.violations)
    strict.violations.clear()
    return violations


def stream(*frames):
    frames = [frame if isinstance(frame, str) else json.dumps(frame, separators=(",", ":")) for frame in frames]
    body = "".join(frame if frame.startswith(":") else f"data: {frame}\n\n" for frame in frames)
    return found(body.encode(), content_type="text/event-stream; charset=utf-8")


def test_nothing_is_found_where_nothing_is_wrong():
    assert found(json.dumps(WHOLE).encode()) == []
    assert stream(CHUNKS[0], ": a comment\n\n", *CHUNKS[1:], "[DONE]") == []
    assert stream(CHUNKS[0], {"error": {"message": "m", "type": "server_error", "param": None, "code": "c"}}) == []


@pytest.mark.parametrize(
    "change",
    [
        {"id": None},
        {"created": "1"},
        {"created": 1.5},
        {"object": "completion"},
        {"choices": [{"index": 0, "message": {"role": "assistant"}}]},
        {"choices": [WHOLE["choices"][0] | {"finish_reason": "end"}]},
        {"choices": [WHOLE["choices"][0] | {"finish_reason": None}]},
        {"choices": [WHOLE["choices"][0] | {"message": {"role": "user", "content": "Hi"}}]},
        {"usage": WHOLE["usage"] | {"total_tokens": "2"}},
        {"usage": WHOLE["usage"] | {"total": 2}},
        {"fingerprint": "f"},
    ],
)
def test_an_answer_of_another_shape(change):
    assert found(json.dumps(WHOLE | change).encode())


def test_an_answer_that_is_not_json():
    assert found(b"Internal Server Error", status=500)
    assert found(b'{"error": "not found"}', status=404)
    assert found(b"{}", path="/v1/a-path-without-a-type")


@pytest.mark.parametrize(
    "frames",
    [
        [*CHUNKS],
        [*CHUNKS[:2], "[DONE]"],
        [*CHUNKS, CHUNKS[2], "[DONE]"],
        [*CHUNKS, CHUNKS[1], "[DONE]"],
        [*CHUNKS, "[DONE]", "[DONE]"],
        [CHUNKS[0], chunk({"content": "Hi"}, id="chatcmpl-2"), CHUNKS[2], "[DONE]"],
        [CHUNKS[0], chunk({"content": 5}), CHUNKS[2], "[DONE]"],
        [CHUNKS[0], chunk({"text": "Hi"}), CHUNKS[2], "[DONE]"],
        [*CHUNKS, "[DONE]\ndata: more"],
        [*CHUNKS, {"error": "lost"}],
    ],
)
def test_a_stream_of_another_shape(frames):
    assert stream(*frames)
