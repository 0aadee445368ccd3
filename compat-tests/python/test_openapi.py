"""The server is what its own OpenAPI document says: schemathesis makes requests of the document and checks the answers.

`make fuzz-api SECONDS=600` takes more time for it.
"""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from conftest import MODEL, running

SECONDS = int(os.environ.get("RBEE_FUZZ_API_SECONDS", "30"))
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]
# What is not there yet says so with a 501, and an answer that takes longer than its request allows is a 504: the model of these
# tests likes to talk to the end of its context. Any other 5xx is a fault.
SETTINGS = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 501, 504]
"""


@pytest.fixture(scope="module")
def url():
    """A system on which every name is a model's, so that requests come as far as the worker."""
    with running(ALIASES=f"*={MODEL}", QUEUE_LIMIT="10000") as system:
        yield system.url


def test_every_answer_is_as_described(url, tmp_path):
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{url}/openapi.json", "--url", url]
    command += ["--checks", ",".join(CHECKS), "--max-time", str(SECONDS)]
    command += ["--request-timeout", "120", "--continue-on-failure", "--suppress-health-check", "all"]
    command += ["--generation-database", "none", "--no-color", "--header", "x-request-timeout-ms:20000"]
    tmp_path.joinpath("schemathesis.toml").write_text(SETTINGS)
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * 3 + 300, cwd=tmp_path)
    assert outcome.returncode == 0, outcome.stdout[-20_000:] + outcome.stderr[-2000:]
    with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
        assert answer.status == 200
