"""Measures the queue: admission and scheduling with a large fleet that is made up, fairness, what routing scripts cost, and durable tasks a second
on SQLite and on PostgreSQL.

Prints figures and writes bench/results/queue-<date>.json. bench/README.md tells the method.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

from machine import await_idle, machine, spread

RESULTS = Path(__file__).parent / "results"
CASES = ("scheduling", "routing", "sqlite", "postgres")
SCRIPTS = Path(__file__).parent.parent / "examples" / "routing"
# A closure that must be interpreted, as a method call must.
INTERPRETED = 'fn route_task(task, workers) { workers.filter(|w| w.node.starts_with("node")).least_loaded() }'
TASKS_A_SECOND = re.compile(r"^(.*): (\d+) tasks/s; acknowledged within ([\d.]+) ms \(median\), ([\d.]+) ms \(99 %\)$", re.M)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3, help="times that each is measured (default 3)")
    arguments.add_argument("--only", nargs="*", choices=CASES, default=CASES, help="measure these, and keep the day's others")
    options = arguments.parse_args()
    path = RESULTS / f"queue-{datetime.date.today().isoformat()}.json"
    figures = json.loads(path.read_text())["figures"] if path.exists() else {}
    measure = {"scheduling": scheduling, "routing": routing, "sqlite": store, "postgres": lambda: store(os.environ["RBEE_TEST_POSTGRES"])}
    for case in options.only:
        rounds = []
        for _ in range(options.rounds):
            await_idle()
            rounds.append(measure[case]())
        figures[case] = together(rounds)
        print(f"== {case}\n{json.dumps(figures[case], indent=2)}", flush=True)
    report = {"date": datetime.date.today().isoformat(), "machine": machine(), "figures": figures}
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {path}")


def example(name: str, *arguments: str):
    """What an example program prints; a database of its own is a file in the working directory, on a disk."""
    program = Path(os.environ["RBEE_BIN_DIR"]) / "examples" / name
    with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
        return subprocess.run([program, *arguments], capture_output=True, text=True, check=True, cwd=folder).stdout


def scheduling():
    return json.loads(example("queue"))


def routing():
    with tempfile.NamedTemporaryFile("w", prefix="interpreted", suffix=".rhai") as script:
        script.write(INTERPRETED)
        script.flush()
        named = [SCRIPTS / f"{name}.rhai" for name in ("model-size", "priority-and-compliance")]
        figures = json.loads(example("routing", *named, script.name))
    return {re.sub("^interpreted.*", "interpreted", name): costs for name, costs in figures.items()}


def store(database: str | None = None):
    text = example("store", *(["--database", database] if database else []))
    found = TASKS_A_SECOND.findall(text)
    if not found:
        raise SystemExit(f"no figures in: {text}")
    return {name: {"tasks_per_s": int(rate), "ack_ms_p50": float(median), "ack_ms_p99": float(high)} for name, rate, median, high in found}


def together(rounds: list):
    """Each figure as minimum, median and maximum of the rounds; what is the same in all, once."""
    first = rounds[0]
    if isinstance(first, dict):
        return {name: together([figures[name] for figures in rounds]) for name in first}
    if all(figure == first for figure in rounds):
        return first
    return spread([float(figure) for figure in rounds])


if __name__ == "__main__":
    main()
