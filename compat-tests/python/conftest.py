"""Real programs for the tests: a queen with her hive and workers, started by the keeper as a user starts them."""

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import openai
import pytest

import strict

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


class System(NamedTuple):
    """A queen that runs."""

    url: str
    pid: int


@contextmanager
def running(further: tuple = (), data_dir: Path | None = None, **settings: str):
    """Everything, started by `rbee-keeper up` with these RBEE_ settings on a data directory, by default one of its own. `further`
    are models besides the usual ones: name, kind and file of each."""
    models = required("RBEE_TEST_MODELS")
    files = [
        (MODEL, "text-gen", models / f"{MODEL}.gguf"),
        (EMBEDDING_MODEL, "embedding", models / EMBEDDING_MODEL / "model.safetensors"),
        *further,
    ]
    keeper = required("RBEE_BIN_DIR") / "rbee-keeper"
    with nullcontext(data_dir) if data_dir else tempfile.TemporaryDirectory(prefix="rbee-python-") as folder:
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
        # An answer that is found again tells nothing of the way to it.
        settings = {"CACHE_MB": "0"} | settings
        environment |= {f"RBEE_{name}": value for name, value in settings.items()}
        command = [keeper, "up", "--port", "0", "--data-dir", data_dir, "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        try:
            yield announced(process)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                code = process.wait(timeout=STOP_SECONDS)
            finally:
                process.kill()
                process.stdout.close()
        assert code == 0, f"rbee-keeper up ended with {code}"


def announced(process: subprocess.Popen) -> System:
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
            ready = json.loads(text)
            return System(ready["url"], ready["pid"])


@pytest.fixture(scope="session")
def system():
    """An open system whose model is loaded."""
    with running() as system:
        with make_client(system.url) as client:
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=1, timeout=120
            )
        yield system


@pytest.fixture(scope="session")
def url(system):
    return system.url


@pytest.fixture(scope="module")
def guarded_url():
    """A system that wants a token."""
    with running(TOKEN=TOKEN) as system:
        yield system.url


@pytest.fixture(scope="module")
def narrow_url():
    """A system that serves one and lets one more wait, and that tells at once when a model must be loaded first."""
    with running(HIVE_SLOTS="1", QUEUE_LIMIT="1", COLD_START_SECONDS="0") as system:
        yield system.url


@pytest.fixture(autouse=True)
def no_violations():
    """Whatever a test asked and looked at, all its answers had the SDK's types."""
    strict.violations.clear()
    yield
    assert not strict.violations, "\n".join(strict.violations)


def options_for(url: str, http_client: type, hooks: list, options: dict) -> dict:
    # Retries would hide what a test is to see.
    defaults = {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0, "timeout": 60}
    return defaults | {"http_client": http_client(event_hooks={"response": hooks})} | options


def make_client(url: str, *hooks, **options) -> openai.OpenAI:
    """The official client, with nothing changed but the base URL; its answers are watched. Hooks see each of them too."""
    return openai.OpenAI(**options_for(url, openai.DefaultHttpxClient, [strict.watch, *hooks], options))


def make_async_client(url: str, **options) -> openai.AsyncOpenAI:
    """The same for asyncio."""
    return openai.AsyncOpenAI(**options_for(url, openai.DefaultAsyncHttpxClient, [strict.watch_async], options))


class Slots(NamedTuple):
    """How many requests the workers take, and how many more they would."""

    free: int
    all: int


def slots(url: str) -> Slots:
    with urllib.request.urlopen(f"{url}/v2/workers/list", timeout=10) as response:
        workers = json.load(response)["workers"]
    return Slots(*(sum(worker[name] for worker in workers) for name in ("slots_available", "slots_total")))


def eventually(holds, otherwise: str, within: float = 5):
    """Asks again until it holds."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


def eventually_all_free(url: str):
    eventually(lambda: slots(url).free == slots(url).all, "a worker is still busy 5 s after its reader left")


@pytest.fixture
def client(url):
    with make_client(url) as client:
        yield client


@pytest.fixture
async def async_client(url):
    async with make_async_client(url) as client:
        yield client


@pytest.fixture
def ask(client):
    """Asks the model; greedy and short unless told otherwise."""

    def ask(content="Name three colours.", **options):
        options = {"model": MODEL, "temperature": 0, "max_tokens": 24} | options
        messages = options.pop("messages", [{"role": "user", "content": content}])
        return client.chat.completions.create(messages=messages, **options)

    return ask
