"""What the SDK does about refusals: it waits as long as it was told to, and asks again."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import openai
import pytest

from conftest import EMBEDDING_MODEL, MODEL, eventually_all_free, make_client

SHORT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
ENDLESS = SHORT | {"max_tokens": 1800, "stream": True, "extra_body": {"ignore_eos": True}}


class Attempts:
    """A hook that notes what each attempt of a request met, and when."""

    def __init__(self):
        self.answers: list[tuple[float, httpx2.Response]] = []
        self.first = threading.Event()

    def __call__(self, response):
        self.answers.append((time.monotonic(), response))
        self.first.set()

    def statuses(self):
        return [response.status_code for _, response in self.answers]

    def pause(self):
        """From the first refusal to the next answer."""
        return self.answers[1][0] - self.answers[0][0]


@contextmanager
def full(url):
    """While the one slot is taken and the one place in the queue too."""
    with make_client(url) as client:
        with client.chat.completions.create(**ENDLESS) as running:
            assert next(iter(running)).choices[0].delta.role == "assistant"
            with client.chat.completions.create(**ENDLESS):
                yield
    eventually_all_free(url)


def test_a_model_that_is_not_loaded_yet_is_waited_for(narrow_url):
    attempts = Attempts()
    with make_client(narrow_url, attempts, max_retries=2) as client:
        answer = client.chat.completions.with_raw_response.create(**SHORT)
    assert answer.parse().usage.completion_tokens == 1
    assert (attempts.statuses(), answer.retries_taken) == ([503, 200], 1)
    assert attempts.answers[0][1].headers["retry-after"] == "5"
    assert attempts.pause() >= 5


def test_a_model_that_is_not_loaded_yet_is_a_503(narrow_url):
    with make_client(narrow_url) as client, pytest.raises(openai.InternalServerError) as caught:
        client.embeddings.create(model=EMBEDDING_MODEL, input="Hi")
    error = caught.value
    assert (error.status_code, error.code, error.type) == (503, "MODEL_LOADING", "service_unavailable")
    assert EMBEDDING_MODEL in error.message


def test_a_full_queue_is_a_429_with_its_reasons(narrow_url):
    with full(narrow_url), make_client(narrow_url) as client, pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**SHORT)
    error = caught.value
    assert (error.code, error.type) == ("QUEUE_FULL", "rate_limit_error")
    headers = error.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"], headers["x-should-retry"]) == ("1", "1000", "true")
    # Which bound was met, and how far.
    assert "interactive_requests" in error.message and "1 requests with 0 KiB are waiting" in error.message
    assert error.body["details"]["policy_label"] == "interactive_requests"


def test_a_full_queue_is_asked_again_after_the_time_it_tells(narrow_url):
    attempts = Attempts()
    with ThreadPoolExecutor(1) as pool, make_client(narrow_url, attempts, max_retries=2) as client:
        with full(narrow_url):
            answer = pool.submit(client.chat.completions.with_raw_response.create, **SHORT)
            assert attempts.first.wait(timeout=10)
        answer = answer.result(timeout=30)
    assert answer.parse().usage.completion_tokens == 1
    assert (attempts.statuses(), answer.retries_taken) == ([429, 200], 1)
    # Left to itself the SDK asks again after half a second at most.
    assert attempts.pause() >= 1


def test_the_sdk_gives_up_when_its_retries_are_used(narrow_url):
    attempts = Attempts()
    with full(narrow_url), make_client(narrow_url, attempts, max_retries=1) as client:
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**SHORT)
    assert attempts.statuses() == [429, 429]
    assert attempts.pause() >= 1


def test_what_cannot_succeed_is_not_asked_again(narrow_url):
    attempts = Attempts()
    with make_client(narrow_url, attempts, max_retries=2) as client, pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**SHORT | {"temperature": 3})
    assert attempts.statuses() == [400]


def test_nobody_listens():
    with make_client("http://127.0.0.1:1") as client, pytest.raises(openai.APIConnectionError) as caught:
        client.models.list()
    assert not isinstance(caught.value, openai.APITimeoutError)
