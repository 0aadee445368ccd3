"""Measures what the queen costs between a client and a worker, beside nginx that only passes bytes on.

The worker is a mock that answers at once. Prints a table and writes bench/results/gateway-<date>.json. bench/README.md
tells the method.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from gateways import Mock, Nginx, Queen, descriptor_limit, nginx_version
from machine import await_idle, machine, spread

RESULTS = Path(__file__).parent / "results"
CASES = ("added", "first_token", "rate", "tokens", "held", "overload")
CLIENTS = 64
OVERLOAD_SLOTS, OVERLOAD_SECONDS = 8, 60
ROUND_SECONDS = 4
FAST_STREAMS, FAST_TOKENS = 4, 50_000
HELD_STREAMS = (512, 2_000, 5_000, 10_000)
TOKENS_PER_SECOND = 5
HELD_SECONDS = 20
OPENED_PER_SECOND = 1500
# Descriptors that a gateway needs besides its streams' two each.
SPARE_DESCRIPTORS = 64


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5, help="rounds of the cases that are measured in turn (default 5)")
    arguments.add_argument("--requests", type=int, default=5000, help="requests of one client to each (default 5000)")
    arguments.add_argument("--streams", type=int, nargs="*", default=HELD_STREAMS, help="streams to hold at the same time")
    arguments.add_argument("--only", nargs="*", choices=CASES, default=CASES, help="measure these, and keep the day's others")
    options = arguments.parse_args()
    if nginx_version() is None:
        sys.exit("nginx is not installed, which the queen is compared with: apt-get install nginx-light")
    bench = Bench(Path(os.environ["RBEE_BIN_DIR"]), options)
    path = RESULTS / f"gateway-{datetime.date.today().isoformat()}.json"
    figures = json.loads(path.read_text())["figures"] if path.exists() else {}
    for case in options.only:
        figures[case] = getattr(bench, case)()
        print(f"== {case}\n{json.dumps(figures[case], indent=2)}", flush=True)
    report = {"date": datetime.date.today().isoformat(), "machine": machine(), "nginx": nginx_version(), "figures": figures}
    path.write_text(json.dumps(report, indent=2) + "\n")
    print_table(figures)
    print(f"written to {path}")


class Bench:
    """One method for each case."""

    def __init__(self, programs: Path, options):
        self.programs, self.options = programs, options

    def added(self):
        """Microseconds that a gateway adds to a short answer, at one client."""
        return self.in_turns([])

    def first_token(self):
        """Microseconds that a gateway adds to the first token of a stream, at one client."""
        return self.in_turns(["--stream"])

    def in_turns(self, flags: list[str]):
        await_idle()
        with Mock(self.programs) as mock, Queen(self.programs, mock) as queen, Nginx(mock) as nginx:
            targets = {"direct": mock, "queen": queen, "nginx": nginx}
            addresses = [flag for target in targets.values() for flag in ("--target", target.address)]
            report = self.load("turns", *addresses, "--requests", str(self.options.requests), *flags)
        of = lambda name: dict(zip(targets, report[name]))  # noqa: E731
        added = of("added_us")
        del added["direct"]
        return {"time_us": of("time_us"), "added_us": added}

    def rate(self):
        """Requests a second and processor time of one, at 64 clients."""
        return self.rounds(self.rate_of, "requests_per_second")

    def rate_of(self, gateway):
        before = gateway.cpu_seconds()
        report = self.load(
            "rate", "--target", gateway.address, "--clients", str(CLIENTS), "--seconds", str(ROUND_SECONDS)
        )
        cpu_us = (gateway.cpu_seconds() - before) / report["requests"] * 1e6
        return {
            "requests_per_second": report["requests_per_second"],
            "cpu_us_per_request": cpu_us,
            "p50_us": report["time_us"]["p50"],
            "p99_us": report["time_us"]["p99"],
        }

    def tokens(self):
        """Tokens a second and processor time of one, where they come as fast as they are taken."""
        return self.rounds(self.tokens_of, "tokens_per_second")

    def tokens_of(self, gateway):
        before = gateway.cpu_seconds()
        report = self.load(*hold(gateway, FAST_STREAMS, FAST_TOKENS, 1))
        assert not report["broken"], report["reasons"]
        tokens = FAST_STREAMS * FAST_TOKENS
        return {
            "tokens_per_second": tokens / report["seconds"],
            "cpu_us_per_token": (gateway.cpu_seconds() - before) / tokens * 1e6,
        }

    def rounds(self, measure, compared: str):
        """Queen and nginx in turn, and the ratio of their medians."""
        await_idle()
        with Mock(self.programs) as mock, Queen(self.programs, mock) as queen, Nginx(mock) as nginx:
            gateways = {"queen": queen, "nginx": nginx}
            for gateway in gateways.values():
                measure(gateway)
            measured = {name: [] for name in gateways}
            for _ in range(self.options.rounds):
                for name, gateway in gateways.items():
                    measured[name].append(measure(gateway))
        figures = {
            name: {key: spread([one[key] for one in rounds]) for key in rounds[0]} for name, rounds in measured.items()
        }
        medians = [figures[name][compared]["median"] for name in gateways]
        return figures | {"queen_to_nginx": round(medians[0] / medians[1], 3)}

    def held(self):
        """Streams at the same time, and whether each of them is whole."""
        most = (descriptor_limit() - SPARE_DESCRIPTORS) // 2
        figures = []
        for streams in self.options.streams:
            if streams > most:
                print(f"{descriptor_limit()} descriptors are enough for {most} streams, not for {streams}")
            row = {"streams": min(streams, most)}
            for name in ("direct", "queen", "nginx"):
                await_idle()
                with Mock(self.programs) as mock, self.gateway(name, mock) as gateway:
                    row[name] = self.hold(gateway, row["streams"])
                print(f"{row['streams']} streams, {name}: {row[name]}", flush=True)
            figures.append(row)
        return figures

    def overload(self):
        """Fifty times as many requests as can be served, of which few are urgent: what is served, who waits, how the rest
        is refused, and what of it stays in memory."""
        await_idle()
        slots = str(OVERLOAD_SLOTS)
        with Mock(self.programs, "--slots", slots) as mock, Queen(self.programs, mock) as queen:
            command = ["overload", "--target", queen.address, "--slots", slots, "--seconds", str(OVERLOAD_SECONDS)]
            process = subprocess.Popen([self.programs / "gateway-load", *command], stdout=subprocess.PIPE, text=True)
            process.stdout.readline()
            resident = []
            cpu, started = queen.cpu_seconds(), time.perf_counter()
            for _ in range(OVERLOAD_SECONDS // 5):
                time.sleep(5)
                resident.append(round(queen.resident_bytes() / 2**20, 1))
            cpu_share = (queen.cpu_seconds() - cpu) / (time.perf_counter() - started)
            report = json.loads(process.stdout.readline())
            process.wait()
        return report | {"slots": OVERLOAD_SLOTS, "cpu_share": round(cpu_share, 3), "resident_mib_every_5_s": resident}

    def gateway(self, name: str, mock: Mock):
        if name == "direct":
            # The mock ends once.
            return Borrowed(mock)
        return Queen(self.programs, mock) if name == "queen" else Nginx(mock)

    def hold(self, gateway, streams: int):
        seconds = streams / OPENED_PER_SECOND + HELD_SECONDS + 4
        command = hold(gateway, streams, int(seconds * TOKENS_PER_SECOND), 1_000_000 // TOKENS_PER_SECOND)
        command += ["--opened-per-second", str(OPENED_PER_SECOND)]
        idle_bytes = gateway.resident_bytes()
        process = subprocess.Popen([self.programs / "gateway-load", *command], stdout=subprocess.PIPE, text=True)
        process_says = lambda: json.loads(process.stdout.readline())  # noqa: E731
        usage = {}
        report = process_says()
        if "held" in report:
            before, started = gateway.cpu_seconds(), time.perf_counter()
            time.sleep(HELD_SECONDS)
            share = (gateway.cpu_seconds() - before) / (time.perf_counter() - started)
            resident = gateway.resident_bytes()
            usage = {
                "cpu_share": round(share, 3),
                "cpu_us_per_token": round(share / (streams * TOKENS_PER_SECOND) * 1e6, 2),
                "resident_mib": round(resident / 2**20, 1),
                "kib_per_stream": round((resident - idle_bytes) / streams / 1024, 1),
            }
            report = process_says()
        process.wait()
        return {key: report[key] for key in ("broken", "reasons", "first_token_us", "lateness_us")} | usage

    def load(self, *command: str):
        """What the load program reports in its last line."""
        run = subprocess.run([self.programs / "gateway-load", *command], stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(run.stdout.splitlines()[-1])


class Borrowed:
    """A mock that is asked without a gateway, and ended by whoever started it."""

    def __init__(self, mock: Mock):
        self.mock = mock

    def __enter__(self):
        return self.mock

    def __exit__(self, *_):
        pass


def hold(gateway, streams: int, tokens: int, pace_us: int):
    command = ["hold", "--target", gateway.address, "--streams", str(streams)]
    return [*command, "--tokens", str(tokens), "--pace-us", str(pace_us)]


def print_table(figures: dict):
    for case in ("added", "first_token"):
        for name, times in figures.get(case, {"added_us": {}})["added_us"].items():
            print(f"{case:12} {name:6} + {times['p50']:5} µs p50  {times['p99']:6} µs p99")
    for case, unit in (("rate", "request"), ("tokens", "token")):
        for name in ("queen", "nginx") if case in figures else ():
            row = figures[case][name]
            print(f"{case:12} {name:6} {row[f'{unit}s_per_second']['median']:10.0f} {unit}s/s"
                  f"  {row[f'cpu_us_per_{unit}']['median']:6.1f} µs of CPU each")
        if case in figures:
            print(f"{case:12} queen / nginx {figures[case]['queen_to_nginx']}")
    for row in figures.get("held", []):
        for name in ("direct", "queen", "nginx"):
            one = row[name]
            print(f"held {row['streams']:7} {name:6} {one['broken']:5} broken  {one.get('cpu_share', 0):5.2f} CPU"
                  f"  {one.get('resident_mib', 0):7.1f} MiB  late {one['lateness_us']['p99']:7} µs p99")


if __name__ == "__main__":
    main()
