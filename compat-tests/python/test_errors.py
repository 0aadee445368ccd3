"""Errors arrive as the SDK's own exception classes, with code and parameter."""

import openai
import pytest

from conftest import MODEL, TOKEN, make_client


def test_an_unknown_model(ask):
    with pytest.raises(openai.NotFoundError) as caught:
        ask(model="no-such-model")
    error = caught.value
    assert error.code == "model_not_found"
    assert error.type == "not_found_error"
    assert "no-such-model" in error.message
    assert error.body["details"]["suggested_action"]
    assert error.request_id
    assert error.body["correlation_id"] == error.request_id


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_first_byte_is_a_status_for_streams_too(ask, stream):
    with pytest.raises(openai.NotFoundError):
        ask(model="no-such-model", stream=stream)


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("temperature", 3),
        ("temperature", -0.1),
        ("top_p", -0.1),
        ("top_p", 1.5),
        ("n", 0),
        ("n", 129),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("frequency_penalty", 2.5),
        ("presence_penalty", -3),
        ("logit_bias", {"word": 1}),
        ("top_logprobs", 2),
        ("reasoning_effort", "enormous"),
        ("web_search_options", {}),
        ("moderation", {"model": "omni-moderation-latest"}),
        ("modalities", ["text", "audio"]),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(ask, param, value):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(**{param: value})
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"role": "nobody", "content": "Hi"}], "messages[0].role"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}], "messages[0].content"),
    ],
)
def test_messages_that_make_no_sense(ask, messages, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(messages=messages)
    assert caught.value.param.startswith(param)


def test_a_prompt_longer_than_the_context(ask):
    with pytest.raises(openai.BadRequestError) as caught:
        ask("word " * 20_000)
    error = caught.value
    assert error.code == "context_length_exceeded"
    numbers = [int(word) for word in error.message.replace(",", " ").replace(".", " ").split() if word.isdigit()]
    assert max(numbers) > 20_000 and len(numbers) >= 2, error.message


def test_the_server_wants_its_token(guarded_url):
    for key in ("wrong", "none"):
        with make_client(guarded_url, api_key=key) as client, pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"
    with make_client(guarded_url, api_key=TOKEN) as client:
        assert MODEL in [model.id for model in client.models.list()]


def test_an_unknown_endpoint(url):
    with make_client(url) as client, pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.list()
