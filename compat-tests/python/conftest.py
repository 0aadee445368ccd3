"""Real programs for the tests: a queen with her hive and workers, started by the keeper as a user starts them."""

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

MODEL = "smollm2-135m-instruct"
EMBEDDING_MODEL = "all-minilm-l6-v2"
TOKEN = "a-token-for-tests"
START_SECONDS = 60
STOP_SECONDS = 30


def required(name: str) -> Path:
    """A folder that `make test` prepares and names."""
    if name not in os.environ:
        pytest.exit(f"{name} is not set: run `make test`, which prepares what it names", returncode=2)
    return Path(os.environ[name])


@contextmanager
def running(token: str | None = None, further: tuple = ()):
    """Everything, started by `rbee-keeper up` on a data directory of its own; yields the queen's URL. `further` are models
    besides the usual ones: name, kind and file of each."""
    models = required("RBEE_TEST_MODELS")
    files = [
        (MODEL, "text-gen", models / f"{MODEL}.gguf"),
        (EMBEDDING_MODEL, "embedding", models / EMBEDDING_MODEL / "model.safetensors"),
        *further,
    ]
    keeper = required("RBEE_BIN_DIR") / "rbee-keeper"
    with tempfile.TemporaryDirectory(prefix="rbee-python-") as folder:
        data_dir = Path(folder)
        # The models are taken where they lie: the tests need no network.
        data_dir.joinpath("config.toml").write_text(
            "".join(
                f'[[hive.models]]\nreference = "{name}"\nkind = "{kind}"\nprovider = "file"\npath = "{path}"\n'
                for name, kind, path in files
            )
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RBEE_")}
        environment |= {"RBEE_HIVE_PORT": "0", "RBEE_HIVE_FIRST_WORKER_PORT": "18001"}
        if token:
            environment["RBEE_TOKEN"] = token
        command = [keeper, "up", "--port", "0", "--data-dir", data_dir, "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        try:
            yield announced_url(process)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                code = process.wait(timeout=STOP_SECONDS)
            finally:
                process.kill()
                process.stdout.close()
        assert code == 0, f"rbee-keeper up ended with {code}"


def announced_url(process: subprocess.Popen) -> str:
    """Reads the JSON that `up --json` prints when all is ready."""
    lines: queue.Queue[str] = queue.Queue()

    def read():
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    text, deadline = "", time.monotonic() + START_SECONDS
    while True:
        line = lines.get(timeout=max(0.1, deadline - time.monotonic()))
        assert line, f"rbee-keeper up ended before it was ready: {process.poll()}"
        text += line
        if line.rstrip() == "}":
            return json.loads(text)["url"]


@pytest.fixture(scope="session")
def url():
    """An open system whose model is loaded."""
    with running() as url:
        with make_client(url) as client:
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=1, timeout=120
            )
        yield url


@pytest.fixture(scope="session")
def guarded_url():
    """A system that wants a token."""
    with running(TOKEN) as url:
        yield url


def make_client(url: str, api_key: str = "none", **options) -> openai.OpenAI:
    """The official client, with nothing changed but the base URL. Retries would hide what a test is to see."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, timeout=60, **options)


@pytest.fixture
def client(url):
    with make_client(url) as client:
        yield client


@pytest.fixture
async def async_client(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def ask(client):
    """Asks the model; greedy and short unless told otherwise."""

    def ask(content="Name three colours.", **options):
        options = {"model": MODEL, "temperature": 0, "max_tokens": 24} | options
        messages = options.pop("messages", [{"role": "user", "content": content}])
        return client.chat.completions.create(messages=messages, **options)

    return ask
