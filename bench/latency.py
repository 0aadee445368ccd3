"""Time to the first token, and the start of a worker: what a user waits for."""

import statistics
import time
from itertools import count
from pathlib import Path

import openai

from machine import await_idle, percentiles, spread
from processes import Stack, Worker

MODEL = "smollm2-135m-instruct"
REQUESTS = 100
# Words that are one token each in this model's vocabulary, so that the number of words is the number of tokens.
WORDS = "time people water house world music light river story garden school morning summer window paper stone".split()
SHARED_WORDS = 512


def words(number: int, length: int):
    """A text of this many words that begins like no other."""
    mixed = [WORDS[(number * 7 + index * (number % 13 + 1)) % len(WORDS)] for index in range(length - 3)]
    digits = [WORDS[number // 16**place % 16] for place in range(3)]
    return " ".join(digits + mixed)


def measure_latency(programs: Path, models: Path):
    """Milliseconds to the first token: a prompt of 20 tokens, and 20 more behind 512 that are in the cache."""
    model = models / f"{MODEL}.gguf"
    return {"worker": by_worker(programs, model), "queen": by_queen(programs, model)}


def by_worker(programs: Path, model: Path):
    numbers = count()

    def first_token(prompt: str):
        answer = worker.generate(prompt, 2)
        lengths.append(answer.prompt_tokens)
        return (answer.first_token - answer.started) * 1000

    def measure(prefix: str, length: int):
        lengths.clear()
        first_token(prefix + words(next(numbers), length))
        times = [first_token(prefix + words(next(numbers), length)) for _ in range(REQUESTS)]
        return percentiles(times) | {"prompt_tokens_median": statistics.median(lengths)}

    lengths = []
    with Worker(programs, model, "--threads", "2") as worker:
        await_idle()
        short = measure("", 20)
        # Twice, so that the measured ones find it.
        shared = words(4000, SHARED_WORDS) + " "
        first_token(shared)
        return {"short_prompt_ms": short, "after_shared_prefix_ms": measure(shared, 20)}


def by_queen(programs: Path, model: Path):
    """By the official SDK; the words are what the user says, and the model's template adds its own to them."""
    numbers = count()

    def first_token(text: str):
        started = time.perf_counter()
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": text}], max_tokens=2, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )
        arrived = None
        for chunk in stream:
            if arrived is None and chunk.choices and chunk.choices[0].delta.content:
                arrived = (time.perf_counter() - started) * 1000
            if chunk.usage:
                lengths.append(chunk.usage.prompt_tokens)
        return arrived

    def measure(prefix: str, length: int):
        lengths.clear()
        first_token(prefix + words(next(numbers), length))
        times = [first_token(prefix + words(next(numbers), length)) for _ in range(REQUESTS)]
        # An answer that is over at once has no first token.
        times = [milliseconds for milliseconds in times if milliseconds is not None]
        return percentiles(times) | {"prompt_tokens_median": statistics.median(lengths)}

    lengths = []
    with Stack(programs, MODEL, model) as stack, openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none") as client:
        first_token("Hello")
        await_idle()
        short = measure("", 20)
        shared = words(4000, SHARED_WORDS) + " "
        first_token(shared)
        return {"short_prompt_ms": short, "after_shared_prefix_ms": measure(shared, 20)}


def measure_load(programs: Path, models: Path):
    """Seconds from a worker's start to its readiness with the file in the page cache, and the memory it holds then."""
    figures = {}
    for name in (MODEL, "gemma-3-270m"):
        model = models / f"{name}.gguf"
        model.read_bytes()
        await_idle()
        seconds, resident = [], []
        for _ in range(5):
            with Worker(programs, model, "--threads", "2") as worker:
                seconds.append(worker.ready_seconds)
                resident.append(worker.resident_bytes())
        file_bytes = model.stat().st_size
        figures[name] = {
            "seconds_to_ready": spread(seconds),
            "file_bytes": file_bytes,
            "resident_bytes": round(statistics.median(resident)),
            "resident_to_file": round(statistics.median(resident) / file_bytes, 3),
        }
    return figures
