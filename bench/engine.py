"""Measures the engine beside llama.cpp: same files, same threads, same prompts, runs in turn.

Prints a table and writes bench/results/engine-<date>.json. bench/README.md tells the method.
"""

import argparse
import datetime
import json
import os
import selectors
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from latency import measure_latency, measure_load
from machine import await_idle, machine, spread
from processes import Worker

FOLDER = Path(__file__).parent
THREADS = 2
PREFILL, DECODE = "prefill_tokens_per_second", "decode_tokens_per_second"
# Ways to run llama.cpp; the fastest is the one that we are compared with.
LLAMA_SINGLE = [[], ["--flash-attention"]]
LLAMA_STREAMS = LLAMA_SINGLE + [["--unified-kv"], ["--flash-attention", "--unified-kv"]]


@dataclass
class Case:
    """One shape of work, and the ratios to llama.cpp that are asked of it."""

    name: str
    model: str
    prompt_tokens: int
    new_tokens: int
    wanted: dict[str, float]
    streams: int = 1

    def flags(self):
        """What both programs are told."""
        flags = {"prompt-tokens": self.prompt_tokens, "new-tokens": self.new_tokens, "streams": self.streams}
        return [text for name, value in flags.items() for text in (f"--{name}", str(value))]


CASES = [
    Case("smollm2-decode", "smollm2-135m-instruct.gguf", 16, 128, {DECODE: 2.5}),
    Case("smollm2-512", "smollm2-135m-instruct.gguf", 512, 128, {PREFILL: 3.5, DECODE: 2.5}),
    Case("smollm2-8-streams", "smollm2-135m-instruct.gguf", 16, 64, {DECODE: 3.0}, streams=8),
    Case("gemma3-decode", "gemma-3-270m.gguf", 16, 128, {DECODE: 1.8}),
    Case("gemma3-512", "gemma-3-270m.gguf", 512, 64, {PREFILL: 1.8, DECODE: 1.8}),
    Case("1b-q4_k-decode", "llama-1b-q4_k.gguf", 16, 48, {DECODE: 1.0}),
    Case("1b-q4_k-512", "llama-1b-q4_k.gguf", 512, 16, {PREFILL: 1.0, DECODE: 1.0}),
    Case("1b-q8_0-decode", "llama-1b-q8_0.gguf", 16, 48, {DECODE: 1.0}),
    Case("1b-q8_0-512", "llama-1b-q8_0.gguf", 512, 16, {PREFILL: 1.0, DECODE: 1.0}),
]
OTHERS = {"latency": measure_latency, "load": measure_load}


def main():
    names = [case.name for case in CASES] + list(OTHERS)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each program in each case (default 5)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CASE", help=", ".join(names))
    options = parser.parse_args()
    programs, models = Path(os.environ["RBEE_BIN_DIR"]), Path(os.environ["RBEE_TEST_MODELS"])
    report = Report()
    for case in CASES:
        if case.name in options.only:
            report.add(case.name, compare(case, programs, find_model(models, case.model), options.rounds))
    for name, measure in OTHERS.items():
        if name in options.only:
            report.add(name, measure(programs, models))
    report.print()


def find_model(models: Path, name: str):
    """A model of the tests, or a synthetic one beside them, which is written if it is not there."""
    if (models / name).exists():
        return models / name
    path = models.parent / "synthetic" / name
    if not path.exists():
        kind = path.stem.removeprefix("llama-1b-")
        subprocess.run([sys.executable, FOLDER / "synthetic.py", kind, path], check=True)
    return path


def compare(case: Case, programs: Path, model: Path, rounds: int):
    """Runs of llama.cpp, of our engine and of our engine behind its door, in turn."""
    llama_ways = fastest_ways(case, model)
    runs = {"llama.cpp": [], "engine": [], "http": []}
    for _ in range(rounds):
        await_idle()
        by_way = {tuple(way): run_llama(case, model, way) for way in llama_ways.values()}
        runs["llama.cpp"].append({figure: by_way[tuple(way)][figure] for figure, way in llama_ways.items()})
        runs["engine"].append(run_engine(case, programs, model))
        runs["http"].append(run_door(case, programs, model))
    figures = {figure: compared(figure, wanted, runs) for figure, wanted in case.wanted.items()}
    for figure, way in llama_ways.items():
        figures[figure]["llama_cpp_flags"] = way
    return {"prompt_tokens": case.prompt_tokens, "new_tokens": case.new_tokens, "streams": case.streams} | figures


def fastest_ways(case: Case, model: Path):
    """The flags under which llama.cpp is fastest, for each figure."""
    ways = LLAMA_SINGLE if case.streams == 1 else LLAMA_STREAMS
    await_idle()
    tried = [(way, [run_llama(case, model, way) for _ in range(2)]) for way in ways]
    best = lambda figure: max(tried, key=lambda entry: max(run[figure] for run in entry[1]))[0]  # noqa: E731
    return {figure: best(figure) for figure in case.wanted}


def compared(figure: str, wanted: float, runs: dict):
    """The spreads of one figure, and the ratios of the medians."""
    values = {name: [run[figure] for run in of_program] for name, of_program in runs.items()}
    medians = {name: statistics.median(of_program) for name, of_program in values.items()}
    return {name: spread(of_program) for name, of_program in values.items()} | {
        "ratio": round(medians["engine"] / medians["llama.cpp"], 3),
        "ratio_http": round(medians["http"] / medians["llama.cpp"], 3),
        "wanted": wanted,
    }


def run_json(command: list):
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert outcome.returncode == 0, f"{command[0]} failed: {outcome.stderr[-2000:]}"
    return json.loads(outcome.stdout)


def run_llama(case: Case, model: Path, way: list[str]):
    command = [sys.executable, FOLDER / "llama.py", "--model", model, "--threads", str(THREADS)]
    return run_json([*command, *case.flags(), *way])


def run_engine(case: Case, programs: Path, model: Path):
    command = [programs / "worker-rbee", "bench", "--data-dir", "/nonexistent", "--json", "--model", model]
    return run_json([*command, "--threads", str(THREADS), *case.flags()])


def run_door(case: Case, programs: Path, model: Path):
    """The same through HTTP, on a worker of its own: streams that begin together."""
    with Worker(programs, model, "--threads", str(THREADS), "--slots", str(case.streams)) as worker:
        worker.generate(prompt(31, 16), 2)
        asked = [prompt(stream, case.prompt_tokens) for stream in range(case.streams)]
        answers = read_all([worker.open({"prompt_tokens": tokens, "max_tokens": case.new_tokens}) for tokens in asked])
    started = min(answer.started for answer in answers)
    all_read = max(answer.first_token for answer in answers)
    first = min(answer.first_token for answer in answers)
    last = max(answer.last for answer in answers)
    return {
        PREFILL: sum(answer.prompt_tokens for answer in answers) / (all_read - started),
        DECODE: sum(answer.new_tokens - 1 for answer in answers) / (last - first),
    }


def prompt(stream: int, length: int):
    """Tokens that every model here has, spread over the vocabulary; no two streams begin alike."""
    return [(index * 7_919 + stream) % 32_000 for index in range(length)]


def read_all(answers: list):
    """Reads streams side by side until all have ended."""
    with selectors.DefaultSelector() as selector:
        for answer in answers:
            selector.register(answer.socket, selectors.EVENT_READ, answer)
        while selector.get_map():
            for key, _ in selector.select():
                key.data.read()
                if key.data.ended:
                    selector.unregister(key.fileobj)
    return answers


class Report:
    """The day's results. A case that is measured again takes its former place."""

    def __init__(self):
        date = datetime.date.today().isoformat()
        self.path = FOLDER / "results" / f"engine-{date}.json"
        known = json.loads(self.path.read_text())["cases"] if self.path.exists() else {}
        version = run_json([sys.executable, FOLDER / "llama.py", "--model", "-", "--system-info"])
        self.content = {"date": date, "machine": machine(), "threads": THREADS, "llama.cpp": version, "cases": known}

    def add(self, name: str, figures: dict):
        self.content["cases"][name] = figures
        self.path.write_text(json.dumps(self.content, indent=2) + "\n")
        print(f"{name}: {json.dumps(figures)}", flush=True)

    def print(self):
        """The comparisons as a table: medians in tokens/s, and what is asked of the ratio."""
        print(f"\n{'case':18} {'figure':8} {'llama.cpp':>10} {'engine':>10} {'http':>10} {'ratio':>7} {'http':>7} {'wanted':>7}")
        for name, case in self.content["cases"].items():
            for figure in (PREFILL, DECODE):
                if figure in case:
                    row = case[figure]
                    speeds = " ".join(f"{row[who]['median']:10.1f}" for who in ("llama.cpp", "engine", "http"))
                    ratios = f"{row['ratio']:7.2f} {row['ratio_http']:7.2f} {row['wanted']:7.2f}"
                    print(f"{name:18} {figure.split('_')[0]:8} {speeds} {ratios}")
        print(f"\nwritten to {self.path}")


if __name__ == "__main__":
    main()
