"""Requests that are large, deep, slow or only half there: each has its answer, and none costs the server its memory."""

import json
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from conftest import eventually, eventually_all_free, running, slots
from wire import CHAT, MEBIBYTE, assert_alive, chat, exchange

HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: rbee\r\nContent-Type: application/json\r\nContent-Length: "


def chat_with(content: str) -> bytes:
    return chat(messages=[{"role": "user", "content": content}])


def error(answer: bytes) -> dict:
    return json.loads(answer)["error"]


def resident_mebibytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    [kibibytes] = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(kibibytes) / 1024


@contextmanager
def connected(url: str):
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        yield connection


def everything(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


def test_20_megabytes_without_meaning_are_read_and_answered(url):
    status, answer = exchange(url, CHAT, chat(unknown_field={"note": "n" * 20 * MEBIBYTE}))
    assert status == 200, answer
    assert json.loads(answer)["usage"]["completion_tokens"] == 1


def test_a_prompt_of_20_megabytes_is_too_long_for_the_model(url):
    status, answer = exchange(url, CHAT, chat_with("word " * (4 * MEBIBYTE)))
    assert (status, error(answer)["code"]) == (400, "context_length_exceeded"), answer
    assert_alive(url)


def test_a_body_of_40_megabytes_is_too_large(url):
    status, answer = exchange(url, CHAT, chat_with("n" * 40 * MEBIBYTE))
    assert (status, error(answer)["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert_alive(url)


def test_what_large_bodies_took_is_given_back(system):
    body = chat_with("n" * 40 * MEBIBYTE)
    exchange(system.url, CHAT, body)
    before = resident_mebibytes(system.pid)
    for _ in range(10):
        exchange(system.url, CHAT, body)
    assert resident_mebibytes(system.pid) < before + 64


def test_ten_thousand_messages(url):
    turns = [{"role": role, "content": "Hi"} for role in ("user", "assistant")] * 5_000
    status, answer = exchange(url, CHAT, chat(messages=turns))
    assert (status, error(answer)["code"]) == (400, "context_length_exceeded"), answer
    assert_alive(url)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")], ids=["arrays", "objects"])
@pytest.mark.parametrize("field", ["messages", "response_format", "tools"])
def test_json_ten_thousand_deep(url, field, opening, closing):
    deep = opening * 10_000 + "1" + closing * 10_000
    body = chat()[:-1] + f', "tool_choice": "none", "{field}": [{{"function": {deep}}}]}}'.encode()
    status, answer = exchange(url, CHAT, body)
    assert (status, error(answer)["type"]) == (400, "invalid_request_error"), answer
    assert_alive(url)


def test_halves_of_large_requests(system):
    """Clients that say 30 MiB, send 1 and leave: what they sent is not kept."""

    def a_hundred():
        for _ in range(100):
            with connected(system.url) as connection:
                connection.sendall(f"{HEAD}{30 * MEBIBYTE}\r\n\r\n".encode() + b"n" * MEBIBYTE)
        assert_alive(system.url)

    # What the first ones take the allocator may keep for the next ones; but not half of what three hundred more send.
    for _ in range(3):
        a_hundred()
    before = resident_mebibytes(system.pid)
    for _ in range(3):
        a_hundred()
    eventually(lambda: resident_mebibytes(system.pid) < before + 150, "memory grows with each client that leaves")


def test_closing_the_writing_half_is_leaving(url):
    """It cannot be told from a client that is gone, whose slot others wait for."""
    body = chat(max_tokens=1800, ignore_eos=True)
    with connected(url) as connection:
        connection.sendall(f"{HEAD}{len(body)}\r\n\r\n".encode() + body)
        eventually(lambda: slots(url).free < slots(url).all, "the request takes a slot")
        connection.shutdown(socket.SHUT_WR)
        assert everything(connection) == b""
    eventually_all_free(url)


def test_who_is_refused_before_the_body_came_keeps_the_connection(guarded_url):
    with connected(guarded_url) as connection:
        for _ in range(3):
            connection.sendall(f"{HEAD}2\r\n\r\n".encode())
            # Long enough for a refusal that waits for nothing.
            time.sleep(0.05)
            connection.sendall(b"{}")
            assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


BODY_SECONDS = 2


@pytest.fixture(scope="module")
def impatient_url():
    with running(BODY_TIMEOUT_SECONDS=str(BODY_SECONDS)) as system:
        yield system.url


@pytest.mark.parametrize("pace_seconds", [0.5, None], ids=["drop by drop", "not at all"])
def test_a_body_that_does_not_arrive_is_cut(impatient_url, pace_seconds):
    with connected(impatient_url) as connection:
        started = time.monotonic()
        connection.sendall(f"{HEAD}1000\r\n\r\n{{".encode())
        connection.settimeout(pace_seconds or 3 * BODY_SECONDS)
        while True:
            try:
                answer = connection.recv(65536)
                break
            except TimeoutError:
                assert time.monotonic() - started < 3 * BODY_SECONDS, "it is not cut"
                connection.sendall(b" ")
    assert BODY_SECONDS - 0.5 < time.monotonic() - started < 2 * BODY_SECONDS
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    assert error(answer.partition(b"\r\n\r\n")[2])["code"] == "REQUEST_TIMEOUT"


def test_a_slow_request_that_does_arrive_is_answered(impatient_url):
    body = chat()
    with connected(impatient_url) as connection:
        connection.sendall(f"{HEAD}{len(body)}\r\nConnection: close\r\n\r\n".encode())
        for byte in body[:5]:
            connection.sendall(bytes([byte]))
            time.sleep(BODY_SECONDS / 10)
        connection.sendall(body[5:])
        assert everything(connection).startswith(b"HTTP/1.1 200 ")
    eventually_all_free(impatient_url)
