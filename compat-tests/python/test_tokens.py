"""POST /v1/tokenize and /v1/detokenize, in the form that vLLM's clients send: counts are those of real answers."""

import json
import urllib.request
from contextlib import ExitStack

import openai
import pytest

from conftest import EMBEDDING_MODEL, MODEL, make_client

TEXT = "Hello, world! Déjà vu: 漢字 🦀\n\n    def f(x):\n        return x ** 2\n"
MESSAGES = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": [{"type": "text", "text": "Name three "}, {"type": "text", "text": "colours."}]},
    {"role": "assistant", "content": "Red, green, blue."},
    {"role": "user", "content": TEXT},
]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def post(client):
    def post(path, **body):
        return client.post(f"/{path}", body={"model": MODEL} | body, cast_to=object)

    return post


@pytest.fixture
def tokenize(post):
    def tokenize(**body):
        told = post("tokenize", **body)
        assert told["count"] == len(told["tokens"])
        return told

    return tokenize


def test_tokens_make_their_text_again(tokenize, post):
    told = tokenize(prompt=TEXT)
    assert told["max_model_len"] > told["count"] > 10 and told["token_strs"] is None
    assert post("detokenize", tokens=told["tokens"]) == {"prompt": TEXT}


def test_tokens_are_spelt_as_the_vocabulary_does(tokenize):
    told = tokenize(prompt="<|im_start|>user\nHello there", return_token_strs=True)
    assert told["token_strs"] == ["<|im_start|>", "user", "Ċ", "Hello", "Ġthere"]


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"tools": [WEATHER]},
        {"tools": [WEATHER], "tool_choice": "none"},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"reasoning_effort": "low"},
    ],
    ids=json.dumps,
)
def test_a_conversation_counts_what_its_answer_tells(tokenize, client, extra):
    sent = {name: value for name, value in extra.items() if name != "chat_template_kwargs"}
    own = {name: value for name, value in extra.items() if name == "chat_template_kwargs"}
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=1, extra_body=own, **sent)
    assert tokenize(messages=MESSAGES, **extra)["count"] == answer.usage.prompt_tokens


def test_a_prompt_counts_what_its_answer_tells(tokenize, client):
    answer = client.completions.create(model=MODEL, prompt=TEXT, max_tokens=1)
    told = tokenize(prompt=TEXT)
    assert told["count"] == answer.usage.prompt_tokens
    # The tokens are a prompt in their own right.
    again = client.completions.create(model=MODEL, prompt=told["tokens"], max_tokens=1, echo=True)
    assert again.usage.prompt_tokens == told["count"] and again.choices[0].text.startswith(TEXT)


def test_more_than_the_context_is_counted(tokenize):
    told = tokenize(messages=[{"role": "user", "content": "word " * 20_000}])
    assert told["count"] > 20_000 > told["max_model_len"]


def test_no_slot_is_needed(url, client):
    with urllib.request.urlopen(f"{url}/v2/workers/list", timeout=10) as answer:
        slots = sum(worker["slots_total"] for worker in json.load(answer)["workers"] if worker["model_ref"] == MODEL)
    story = {"model": MODEL, "prompt": "Once", "extra_body": {"ignore_eos": True}}
    with ExitStack() as running:
        for _ in range(slots):
            stream = running.enter_context(client.completions.create(max_tokens=4000, stream=True, **story))
            next(iter(stream))
        hasty = client.with_options(default_headers={"X-Request-Timeout-Ms": "1000"})
        with pytest.raises(openai.APIStatusError) as caught:
            hasty.completions.create(max_tokens=1, **story)
        assert caught.value.status_code == 504
        told = hasty.post("/tokenize", body={"model": MODEL, "prompt": TEXT}, cast_to=object)
        assert hasty.post("/detokenize", body={"model": MODEL, "tokens": told["tokens"]}, cast_to=object) == {"prompt": TEXT}


def test_a_model_that_is_not_loaded_is_loaded_for_it(tokenize, post, client):
    # Nobody in this file has asked for it yet.
    told = tokenize(model=EMBEDDING_MODEL, prompt="a first text", return_token_strs=True)
    assert told["token_strs"] == ["[CLS]", "a", "first", "text", "[SEP]"]
    answer = client.embeddings.create(model=EMBEDDING_MODEL, input="a first text")
    assert told["count"] == answer.usage.prompt_tokens
    bare = tokenize(model=EMBEDDING_MODEL, prompt="a first text", add_special_tokens=False)
    assert bare["tokens"] == told["tokens"][1:-1]
    assert post("detokenize", model=EMBEDDING_MODEL, tokens=bare["tokens"]) == {"prompt": "a first text"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": ""}, "prompt"),
        ("tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt"),
        ("tokenize", {"prompt": ["a"]}, "prompt"),
        ("tokenize", {"messages": []}, "messages"),
        ("tokenize", {"messages": [{"role": "nobody", "content": "a"}]}, "messages[0].role"),
        ("tokenize", {"prompt": "a", "tools": [WEATHER]}, "tools"),
        ("tokenize", {"messages": MESSAGES, "tools": [{"type": "function", "function": {"name": "?"}}]}, "tools[0].function.name"),
        ("tokenize", {"messages": MESSAGES, "chat_template": "{{ messages }}"}, "chat_template"),
        ("tokenize", {"messages": MESSAGES, "add_generation_prompt": False}, "add_generation_prompt"),
        ("tokenize", {"messages": MESSAGES, "continue_final_message": True}, "continue_final_message"),
        ("tokenize", {"prompt": "a", "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        ("tokenize", {"model": EMBEDDING_MODEL, "messages": MESSAGES}, "messages"),
        ("tokenize", {"prompt": "x" * (4 * 1024 * 1024 + 1)}, "prompt"),
        ("detokenize", {}, "tokens"),
        ("detokenize", {"tokens": [1, 10_000_000]}, "tokens[1]"),
        ("detokenize", {"tokens": [1, -1]}, "tokens[1]"),
        ("detokenize", {"tokens": "a"}, "tokens"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(post, path, body, param):
    with pytest.raises(openai.BadRequestError) as caught:
        post(path, **body)
    assert caught.value.param == param


@pytest.mark.parametrize("body", [("tokenize", {"prompt": "a"}), ("detokenize", {"tokens": [1]})], ids=lambda body: body[0])
def test_an_unknown_model(post, body):
    path, fields = body
    with pytest.raises(openai.NotFoundError) as caught:
        post(path, model="no-such-model", **fields)
    assert caught.value.code == "model_not_found"


def test_the_server_wants_its_token(guarded_url):
    with make_client(guarded_url) as client:
        for path in ("/tokenize", "/detokenize"):
            with pytest.raises(openai.AuthenticationError):
                client.post(path, body={}, cast_to=object)
