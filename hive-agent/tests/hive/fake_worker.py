#!/usr/bin/env python3
"""A worker that loads nothing. What it does is written in its model file, one word a line:

fail      the load fails: a message and exit code 1
crash     the process dies as soon as it is ready, the first time only
stubborn  it neither obeys the order to stop nor SIGTERM
busy      it never becomes idle
snatched  its port is taken by another process, the first time only
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if sys.argv[1:] == ["backends"]:
    print("cpu")
    sys.exit(0)

parser = argparse.ArgumentParser()
for name in ("model", "model-ref", "backend", "bind", "worker-id", "boot-id", "hive-url", "data-dir", "threads", "log-level", "config"):
    parser.add_argument("--" + name)
for name in ("port", "slots", "gpu"):
    parser.add_argument("--" + name, type=int)
parser.add_argument("--exit-with-parent", action="store_true")
args = parser.parse_args()

words = open(args.model).read().split()
started = time.monotonic()
ready = threading.Event()


def watch_parent():
    while os.read(0, 64):
        pass
    os._exit(0)


if args.exit_with_parent:
    threading.Thread(target=watch_parent, daemon=True).start()
if "stubborn" in words:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def progress(stage, share):
    return {"stage": stage, "progress": share, "bytes_loaded": int(share * 100), "bytes_total": 100}


def health():
    return {
        "status": "healthy",
        "worker_id": args.worker_id,
        "boot_id": args.boot_id,
        "model": args.model_ref,
        "backend": args.backend,
        "state": "idle" if ready.is_set() else "loading",
        "slots_total": args.slots,
        "slots_available": args.slots - (1 if "busy" in words else 0),
        "context_length": 2048,
        "idle_ms": int((time.monotonic() - started) * 1000),
        "uptime_seconds": int(time.monotonic() - started),
    }


class Door(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/v1/health":
            return self.answer(health())
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.event(progress("loading_weights", 0.5))
        if "fail" in words:
            self.event(progress("failed", 0.5))
            print("worker-rbee: UNSUPPORTED_MODEL: the family 'hologram' is not known here", file=sys.stderr, flush=True)
            os._exit(1)
        ready.set()
        self.event(progress("ready", 1.0))
        self.close_connection = True

    def event(self, data):
        self.wfile.write(f"event: progress\ndata: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.answer({"ready": False})
        if "stubborn" not in words:
            threading.Thread(target=lambda: os._exit(0)).start()


def crash_once():
    ready.wait()
    mark = args.model + ".crashed"
    if not os.path.exists(mark):
        open(mark, "w").close()
        os._exit(3)


if "snatched" in words and not os.path.exists(args.model + ".snatched"):
    open(args.model + ".snatched", "w").close()
    sys.exit("worker-rbee: INTERNAL_ERROR: cannot listen: Address already in use (os error 98)")
try:
    server = ThreadingHTTPServer((args.bind, args.port), Door)
except OSError as error:
    print(f"worker-rbee: INTERNAL_ERROR: cannot listen: Address already in use ({error})", file=sys.stderr)
    sys.exit(1)
print(f"fake worker on {args.port}", flush=True)
if "crash" in words:
    threading.Thread(target=crash_once, daemon=True).start()
report = {
    "worker_id": args.worker_id,
    "boot_id": args.boot_id,
    "port": args.port,
    "model": args.model_ref,
    "pid": os.getpid(),
    "state": "loading",
}
request = urllib.request.Request(
    args.hive_url + "/v1/workers/ready", json.dumps(report).encode(), {"content-type": "application/json"}
)
threading.Thread(target=lambda: urllib.request.urlopen(request).read(), daemon=True).start()
server.serve_forever()
