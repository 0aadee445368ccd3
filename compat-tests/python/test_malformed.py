"""Malformed requests, byte by byte: each gets a 4xx with the envelope, and the server answers after each."""

import json
import socket
from urllib.parse import urlsplit

import pytest

from conftest import MODEL
from wire import CHAT, MEBIBYTE, assert_alive, assert_envelope, chat, exchange


def without(*names: str) -> bytes:
    return json.dumps({name: value for name, value in json.loads(chat()).items() if name not in names}).encode()


CASES = {
    "empty body": (CHAT, b""),
    "half an object": (CHAT, b'{"model": "'),
    "an unclosed object": (CHAT, chat()[:-1]),
    "two objects": (CHAT, chat() + chat()),
    "a trailing comma": (CHAT, b'{"model": "m",}'),
    "single quotes": (CHAT, b"{'model': 'm'}"),
    "an array": (CHAT, b"[]"),
    "a string": (CHAT, b'"hello"'),
    "null": (CHAT, b"null"),
    "a number": (CHAT, b"1e999"),
    "not JSON": (CHAT, b"model=m&messages=hi"),
    "invalid UTF-8": (CHAT, b'{"model": "\xff\xfe\xfa"}'),
    "invalid UTF-8 in a message": (CHAT, chat().replace(b"Hi", b"\xc3\x28")),
    "half a surrogate pair": (CHAT, chat().replace(b"Hi", rb"\ud800")),
    "a zero byte": (CHAT, b"\0" * 64),
    "deep arrays": (CHAT, b"[" * 100_000),
    "deep objects": (CHAT, b'{"a":' * 100_000),
    "no model": (CHAT, without("model")),
    "no messages": (CHAT, without("messages")),
    "a number for the model": (CHAT, chat(model=5)),
    "a string for the messages": (CHAT, chat(messages="Hi")),
    "a string for a message": (CHAT, chat(messages=["Hi"])),
    "a number for the content": (CHAT, chat(messages=[{"role": "user", "content": 5}])),
    "a message without a role": (CHAT, chat(messages=[{"content": "Hi"}])),
    "a string for the temperature": (CHAT, chat(temperature="hot")),
    "a negative max_tokens": (CHAT, chat(max_tokens=-1)),
    "a fraction for max_tokens": (CHAT, chat(max_tokens=1.5)),
    "a string for stream": (CHAT, chat(stream="yes")),
    "a number for stop": (CHAT, chat(stop=5)),
    "an object for the seed": (CHAT, chat(seed={})),
    "a number for a tool": (CHAT, chat(tools=[5])),
    "a tool without a kind": (CHAT, chat(tools=[{"function": {"name": "f"}}])),
    "a number for the tool choice": (CHAT, chat(tool_choice=5)),
    "a string for the response format": (CHAT, chat(response_format="json")),
    "a completion without a prompt": ("/v1/completions", json.dumps({"model": MODEL}).encode()),
    "a completion of an object": ("/v1/completions", json.dumps({"model": MODEL, "prompt": {}}).encode()),
    "a completion of negative tokens": ("/v1/completions", json.dumps({"model": MODEL, "prompt": [-1]}).encode()),
    "a task with an unknown priority": ("/v2/tasks", b'{"prompt": "Hi", "priority": "urgent"}'),
    "a task with nothing to do": ("/v2/tasks", json.dumps({"model": MODEL}).encode()),
    "a task that is not JSON": ("/v2/tasks", b"{"),
    "a body of 64 MiB": (CHAT, b'{"model": "' + b"m" * (64 * MEBIBYTE)),
}


def test_there_are_enough_cases():
    assert len(CASES) >= 30


@pytest.mark.parametrize("name", CASES)
def test_malformed(url, name):
    path, body = CASES[name]
    status, answer = exchange(url, path, body)
    assert 400 <= status < 500, (status, answer)
    assert_envelope(answer)
    assert_alive(url)


def test_a_wrong_media_type(url):
    status, answer = exchange(url, CHAT, chat(), "Content-Type: text/xml")
    assert status == 415
    assert_envelope(answer)


@pytest.mark.parametrize(("method", "path", "expected"), [("PUT", CHAT, 405), ("POST", "/v1/nothing", 404)])
def test_wrong_doors(url, method, path, expected):
    status, answer = exchange(url, path, chat(), method=method)
    assert status == expected
    assert_envelope(answer)
    assert_alive(url)


def test_a_body_that_never_comes(url):
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: rbee\r\nContent-Length: 1000\r\n\r\n{{".encode())
    assert_alive(url)
