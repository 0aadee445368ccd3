"""Measures the whole path with a real model: SDK → queen → worker, beside the worker asked directly.

Prints a table and writes bench/results/spine-<date>.json. bench/README.md tells the method.
"""

import argparse
import datetime
import http.client
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import openai

from machine import machine, spread
from processes import Stack, catalog_entry

MODEL = "smollm2-135m-instruct"
PROMPT_TOKENS = 512
NEW_TOKENS = 128
RESULTS = Path(__file__).parent / "results"


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5, help="measurements of each figure (default 5)")
    arguments.add_argument("--pairs", type=int, default=60, help="pairs of short requests, queen and worker in turn")
    options = arguments.parse_args()
    programs = Path(os.environ["RBEE_BIN_DIR"])
    model = Path(os.environ["RBEE_TEST_MODELS"]) / f"{MODEL}.gguf"
    figures = {"inside the worker": inside_the_worker(programs, model)}
    figures["second start"] = second_start(programs, model)
    with Stack(programs, MODEL, model) as stack:
        complete(openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none"), "Hello", 1)
        figures["through the SDK"] = through_the_sdk(stack.url, options.rounds)
        figures["time added by the queen"] = added_time(stack.url, stack.worker_url(), options.pairs)
    report = {"date": datetime.date.today().isoformat(), "machine": machine(), "model": MODEL, "figures": figures}
    path = RESULTS / f"spine-{report['date']}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    print(f"written to {path}")


def second_start(programs: Path, model: Path):
    """Seconds from `rbee-keeper up` to its word that all is ready, with the model there already."""
    times = []
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as folder:
        Path(folder, "config.toml").write_text(catalog_entry(MODEL, model))
        environment = {**os.environ, "RBEE_HIVE_PORT": "0"}
        command = [programs / "rbee-keeper", "up", "--port", "0", "--data-dir", folder]
        for _ in range(6):
            started = time.perf_counter()
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
            )
            while "rbee is ready" not in process.stdout.readline():
                assert process.poll() is None, "rbee-keeper up ended before it was ready"
            times.append(time.perf_counter() - started)
            process.send_signal(signal.SIGINT)
            process.wait(timeout=20)
    # The first start makes the catalog.
    return {"seconds_to_ready": spread(times[1:])}


def inside_the_worker(programs: Path, model: Path):
    command = [programs / "worker-rbee", "bench", "--model", model, "--json"]
    command += ["--prompt-tokens", str(PROMPT_TOKENS), "--new-tokens", str(NEW_TOKENS)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def complete(client: openai.OpenAI, text: str, max_tokens: int):
    """One streamed completion: the times of its chunks with text, and its usage."""
    started = time.perf_counter()
    chunks, usage = [], None
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": text}],
        max_tokens=max_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            chunks.append(time.perf_counter() - started)
        usage = chunk.usage or usage
    return chunks, usage


def through_the_sdk(url: str, rounds: int):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    prefill, decode, first_token = [], [], []
    for number in range(rounds):
        long_prompt = f"Round {number}. " + "The quick brown fox jumps over the lazy dog. " * 47
        chunks, usage = complete(client, long_prompt, 1)
        prefill.append(usage.prompt_tokens / chunks[0])
        chunks, usage = complete(client, f"Round {number}. Count from one to one hundred in words.", NEW_TOKENS)
        first_token.append(chunks[0] * 1000)
        decode.append((usage.completion_tokens - 1) / (chunks[-1] - chunks[0]))
    return {
        "prefill_tokens_per_second": spread(prefill),
        "decode_tokens_per_second": spread(decode),
        "first_token_ms_short_prompt": spread(first_token),
    }


def added_time(queen_url: str, worker_url: str, pairs: int):
    """The same short request to the queen and to her worker, in turn, each on a connection that stays open."""
    messages = [{"role": "user", "content": "Hi"}]
    body = {"messages": messages, "max_tokens": 1, "temperature": 0, "stream": False}
    queen = timed_poster(queen_url, "/v1/chat/completions", {"model": MODEL, **body})
    worker = timed_poster(worker_url, "/v1/execute", body)
    for warm_up in (queen, worker) * 3:
        warm_up()
    times = [(queen(), worker()) for _ in range(pairs)]
    added = [through_queen - direct for through_queen, direct in times]
    return {
        "queen_ms": spread([through_queen for through_queen, _ in times]),
        "worker_ms": spread([direct for _, direct in times]),
        "added_ms": spread(added),
        "ratio_of_medians": round(
            statistics.median(through_queen for through_queen, _ in times) / statistics.median(direct for _, direct in times), 4
        ),
    }


def timed_poster(url: str, path: str, body: dict):
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    payload = json.dumps(body)

    def post() -> float:
        started = time.perf_counter()
        connection.request("POST", path, payload, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        assert response.status == 200, text
        return (time.perf_counter() - started) * 1000

    return post


if __name__ == "__main__":
    main()
