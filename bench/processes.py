"""The programs under measurement, started and stopped: one worker, or a queen with her hive and worker."""

import http.client
import json
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

STOP_SECONDS = 20


def get(url: str, path: str):
    """The JSON that a GET answers, and its status."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, json.load(answer)


def announced(process: subprocess.Popen):
    """The URL at the end of the first line that a program prints."""
    line = process.stdout.readline()
    assert "http://" in line, f"the program ended at its start: {process.poll()}"
    return line[line.index("http://") :].strip()


class Worker:
    """A worker that takes requests; `ready_seconds` is how long that took."""

    def __init__(self, programs: Path, model: Path, *flags: str):
        command = [programs / "worker-rbee", "--data-dir", "/nonexistent", "--model", model, "--port", "0"]
        started = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "--exit-with-parent", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.url = announced(self.process)
        while get(self.url, "/v1/ready")[0] != 200:
            assert self.process.poll() is None, "the worker ended at its start"
            time.sleep(0.002)
        self.ready_seconds = time.perf_counter() - started

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=STOP_SECONDS)
        self.process.stdout.close()

    def resident_bytes(self):
        """Memory that the process holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])

    def open(self, body: dict):
        """Sends a streamed request; the connection is non-blocking once it is sent."""
        return Answer(self.url, "/v1/execute", {"stream": True, "temperature": 0, "ignore_eos": True, **body})

    def generate(self, prompt: str | list[int], max_tokens: int):
        """One request to its end; the prompt is a text, or tokens."""
        name = "prompt" if isinstance(prompt, str) else "prompt_tokens"
        answer = self.open({name: prompt, "max_tokens": max_tokens})
        while not answer.ended:
            answer.read()
        return answer


class Answer:
    """A streamed answer on a plain socket. It notes when bytes come and reads them when all is over: a client that
    parses takes time from the processors that it measures."""

    def __init__(self, url: str, path: str, body: dict):
        address = urlsplit(url)
        payload = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\ncontent-type: application/json\r\n"
        self.socket = socket.create_connection((address.hostname, address.port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.bytes, self.ended, self.first_token = b"", False, None
        self.started = time.perf_counter()
        self.socket.sendall(head.encode() + f"content-length: {len(payload)}\r\n\r\n".encode() + payload)

    def read(self):
        """Takes what has come."""
        part = self.socket.recv(1 << 16)
        self.bytes += part
        if self.first_token is None and b"event: token" in self.bytes:
            self.first_token = time.perf_counter()
        if not part:
            self.ended, self.last = True, time.perf_counter()
            self.socket.close()

    def event(self, name: str):
        """The data of the first event of this name."""
        marker = f"event: {name}".encode()
        assert marker in self.bytes, self.bytes[-2000:]
        rest = self.bytes[self.bytes.index(marker) :]
        return json.loads(rest[rest.index(b"data: ") + 6 :].split(b"\n", 1)[0])

    @property
    def prompt_tokens(self):
        return self.event("started")["prompt_tokens"]

    @property
    def new_tokens(self):
        return self.event("end")["usage"]["completion_tokens"]


class Stack:
    """A queen with her hive and one worker, on free ports and a data directory of their own."""

    def __init__(self, programs: Path, reference: str, model: Path):
        self.programs, self.reference, self.model = programs, reference, model

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="rbee-bench-")
        data_dir = Path(self.folder.name)
        data_dir.joinpath("config.toml").write_text(catalog_entry(self.reference, self.model))
        command = [self.programs / "queen-rbee", "daemon", "--port", "0", "--local-hive", "spawn", "--hive-port", "0"]
        command += ["--data-dir", data_dir, "--log-level", "warn", "--exit-with-parent"]
        # What is measured is answering, and not finding an answer again.
        command += ["--cache-mb", "0"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = announced(self.process)
        while not get(self.url, "/v1/models")[1]["data"]:
            time.sleep(0.05)
        return self

    def worker_url(self):
        """Where the one worker listens, once a request has started it."""
        return get(self.url, "/v2/workers/list")[1]["workers"][0]["url"]

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=STOP_SECONDS)
        self.process.stdin.close()
        self.process.stdout.close()
        self.folder.cleanup()


def catalog_entry(reference: str, model: Path):
    """The settings that make a file a model of the catalog."""
    entry = f'reference = "{reference}"\nkind = "text-gen"\nprovider = "file"\npath = "{model}"\n'
    return f"[[hive.models]]\n{entry}"
