"""Requests as bytes on a connection, for what no SDK would send."""

import json
import selectors
import socket
import time
from urllib.parse import urlsplit

from conftest import MODEL

MEBIBYTE = 1024 * 1024
CHAT = "/v1/chat/completions"


def chat(**fields) -> bytes:
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1} | fields).encode()


def assert_envelope(answer: bytes):
    error = json.loads(answer)["error"]
    assert error["message"] and error["code"]
    assert error["type"] in ("invalid_request_error", "not_found_error")
    assert error["details"]["suggested_action"]
    assert error["correlation_id"]
    assert "param" in error and error["retriable"] is False


def assert_alive(url: str):
    status, _ = exchange(url, CHAT, chat())
    assert status == 200


def exchange(url: str, path: str, body: bytes, header="Content-Type: application/json", method="POST"):
    """Sends the bytes as they are and reads the answer, which may come before all are sent."""
    address = urlsplit(url)
    head = f"{method} {path} HTTP/1.1\r\nHost: rbee\r\n{header}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    pending, received = memoryview(head.encode() + body), b""
    deadline = time.monotonic() + 60
    with socket.create_connection((address.hostname, address.port)) as connection, selectors.DefaultSelector() as ready:
        connection.setblocking(False)
        ready.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while not is_complete(received):
            assert time.monotonic() < deadline, received
            for _, events in ready.select(timeout=1):
                if events & selectors.EVENT_READ:
                    data = connection.recv(65536)
                    assert data, f"the server closed the connection after {received!r}"
                    received += data
                elif events & selectors.EVENT_WRITE:
                    pending = pending[connection.send(pending[:MEBIBYTE]) :]
                    if not pending:
                        ready.modify(connection, selectors.EVENT_READ)
    head, _, answer = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), answer


def is_complete(received: bytes) -> bool:
    head, end, answer = received.partition(b"\r\n\r\n")
    if not end:
        return False
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if b"content-length" in headers:
        return len(answer) >= int(headers[b"content-length"])
    return answer.endswith(b"0\r\n\r\n")
