"""Structured output: whatever the model would like to say, what it says fits the schema. The worker is asked directly."""

import json
import os
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from jsonschema import Draft202012Validator

from conftest import MODEL
from schemas import SCHEMAS

# At this temperature a model of this size writes nothing of sense by itself.
TEMPERATURE = 1.5
# Far more than the longest text that fits one of the schemas.
MAX_TOKENS = 1000
SEEDS = int(os.environ.get("RBEE_TEST_SEEDS", "20"))


@pytest.fixture(scope="module")
def worker_url(url):
    with urllib.request.urlopen(f"{url}/v2/workers/list", timeout=30) as answer:
        workers = json.load(answer)["workers"]
    [worker] = [worker for worker in workers if worker["model_ref"] == MODEL]
    return worker["url"]


def generate(worker_url: str, name: str, seed: int):
    body = {
        "messages": [{"role": "user", "content": f"Give me an example of: {name}."}],
        "constraint": {"type": "json_schema", "schema": SCHEMAS[name]},
        "temperature": TEMPERATURE,
        "seed": seed,
        "max_tokens": MAX_TOKENS,
        "stream": False,
    }
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{worker_url}/v1/execute", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        [choice] = json.load(answer)["choices"]
    return choice


def test_there_are_enough_of_them():
    assert len(SCHEMAS) >= 25


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_output_fits(worker_url, name):
    Draft202012Validator.check_schema(SCHEMAS[name])
    validator = Draft202012Validator(SCHEMAS[name], format_checker=Draft202012Validator.FORMAT_CHECKER)
    with ThreadPoolExecutor(4) as pool:
        choices = list(pool.map(lambda seed: generate(worker_url, name, seed), range(SEEDS)))
    for seed, choice in enumerate(choices):
        assert choice["finish_reason"] == "stop", f"seed {seed}: {choice}"
        validator.validate(json.loads(choice["text"]))


def test_the_seed_writes_and_not_the_schema_alone(worker_url):
    texts = [generate(worker_url, "an order", seed)["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
