"""The machine that measures: what it is, whether it is idle, and how figures of several rounds are put together."""

import os
import platform
import statistics
import sys
import time
from pathlib import Path

# Above this share of all processors, something else runs.
BUSY_SHARE = 0.06
LOOK_SECONDS = 0.4
PATIENCE_SECONDS = 120


def spread(values: list[float]):
    """Minimum, median and maximum."""
    ordered = sorted(values)
    return {"min": round(ordered[0], 3), "median": round(statistics.median(ordered), 3), "max": round(ordered[-1], 3)}


def percentiles(values: list[float]):
    """What latencies are judged by."""
    ordered = sorted(values)
    at = lambda share: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3)  # noqa: E731
    return {"count": len(ordered), "p50": at(0.50), "p95": at(0.95), "max": round(ordered[-1], 3)}


def machine():
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    wide = [flag for flag in flags if flag.startswith(("avx", "amx", "fma", "f16c"))]
    return {
        "cpu": ", ".join(sorted(names)) or platform.processor(),
        "cores": os.cpu_count(),
        "vector_instructions": " ".join(wide),
        "system": platform.platform(),
    }


def processor_times():
    """Busy, stolen and all time of all processors since the start of the machine, in ticks."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, idle, iowait, irq, softirq, steal = fields[:8]
    busy = user + nice + system + irq + softirq + steal
    return busy, steal, busy + idle + iowait


def busy_share(seconds: float = LOOK_SECONDS):
    """The share of all processors that is used while this process sleeps."""
    busy, _, whole = processor_times()
    time.sleep(seconds)
    busy_then, _, whole_then = processor_times()
    return (busy_then - busy) / max(1, whole_then - whole)


def await_idle():
    """Waits until nothing else runs; a figure that was measured beside other work is none."""
    if not Path("/proc/stat").exists() or os.environ.get("BENCH_BUSY"):
        return
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (share := busy_share()) > BUSY_SHARE:
        if time.monotonic() > deadline:
            sys.exit(f"{share:.0%} of the processors are busy with something else; BENCH_BUSY=1 measures nevertheless")
