"""POST /v1/chat/completions without streaming, by the official SDK."""

import pytest

from conftest import MODEL, make_client


def text(completion):
    return completion.choices[0].message.content


def test_an_answer_has_all_that_the_sdk_knows(ask):
    completion = ask()
    assert completion.id.startswith("chatcmpl-")
    assert completion.object == "chat.completion"
    assert completion.created > 1_700_000_000
    assert completion.model == MODEL
    assert completion.system_fingerprint
    [choice] = completion.choices
    assert choice.index == 0
    assert choice.message.role == "assistant"
    assert choice.message.content.strip()
    assert choice.message.refusal is None
    assert choice.logprobs is None
    assert choice.finish_reason in ("stop", "length")


def test_usage_adds_up(ask):
    usage = ask().usage
    assert usage.prompt_tokens > 5
    assert 1 <= usage.completion_tokens <= 24
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_longer_prompt_uses_more_tokens(ask):
    short, long = ask("Hi.", max_tokens=1), ask("Hi. " * 50, max_tokens=1)
    assert long.usage.prompt_tokens > short.usage.prompt_tokens + 50


def test_greedy_answers_are_the_same(ask):
    assert text(ask()) == text(ask())


def test_a_seed_repeats_an_answer_and_another_seed_does_not(ask):
    answers = {seed: text(ask(temperature=1.2, seed=seed)) for seed in range(4)}
    assert text(ask(temperature=1.2, seed=2)) == answers[2]
    assert len(set(answers.values())) > 1


def test_top_p_zero_is_greedy(ask):
    assert text(ask(temperature=1, top_p=0)) == text(ask())


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63), 2**64 - 1])
def test_every_integer_is_a_seed(ask, seed):
    assert ask(seed=seed, max_tokens=1).usage.completion_tokens == 1


def test_stop_ends_before_the_string(ask):
    whole = text(ask(max_tokens=48))
    words = whole.split()
    assert len(words) > 4, whole
    stop = words[3]
    stopped = ask(max_tokens=48, stop=stop)
    assert text(stopped) == whole[: whole.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    assert text(ask(max_tokens=48, stop=["never to be seen", stop])) == text(stopped)


def test_max_tokens_one(ask):
    completion = ask(max_tokens=1)
    assert completion.usage.completion_tokens == 1
    assert completion.choices[0].finish_reason == "length"


def test_max_tokens_zero_is_an_empty_answer(ask):
    completion = ask(max_tokens=0)
    assert text(completion) == ""
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 0


def test_the_newer_name_of_max_tokens(client):
    completion = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Count."}], max_completion_tokens=2, temperature=0
    )
    assert completion.usage.completion_tokens <= 2


def test_content_may_come_in_parts(ask):
    parts = [{"type": "text", "text": "Name three "}, {"type": "text", "text": "colours."}]
    assert text(ask(messages=[{"role": "user", "content": parts}])) == text(ask())


def test_a_conversation_with_every_plain_role(ask):
    messages = [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And twice that?"},
    ]
    assert text(ask(messages=messages)).strip()
    # The newer name of the system role.
    developer = [{"role": "developer", "content": "You are brief."}, *messages[1:]]
    assert text(ask(messages=developer)) == text(ask(messages=messages))


def test_fields_without_meaning_here_are_accepted(ask):
    completion = ask(
        max_tokens=2,
        user="somebody",
        metadata={"purpose": "test"},
        store=False,
        service_tier="auto",
        stream_options=None,
        frequency_penalty=0,
        presence_penalty=0,
        logit_bias={},
        n=1,
        logprobs=False,
        response_format={"type": "text"},
        extra_body={"unknown_field": {"nested": [1]}},
    )
    assert completion.choices[0].message.content is not None


def test_a_request_id_comes_back(client):
    answer = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=1,
        extra_headers={"X-Request-Id": "my-own.id_1"},
    )
    assert answer.headers["x-request-id"] == "my-own.id_1"
    other = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=1,
        extra_headers={"X-Request-Id": "not an id!"},
    )
    assert other.headers["x-request-id"] not in ("", "not an id!")
    assert other.request_id == other.parse()._request_id == other.headers["x-request-id"]


@pytest.mark.parametrize("prefix", ["/openai/v1", "/openai"])
def test_other_prefixes_serve_the_same(url, ask, prefix):
    with make_client(url, base_url=f"{url}{prefix}") as client:
        completion = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Name three colours."}],
            temperature=0,
            max_tokens=24,
        )
    assert text(completion) == text(ask())


def test_answers_do_not_depend_on_who_else_asks(url, ask):
    from concurrent.futures import ThreadPoolExecutor

    alone = text(ask())

    def together(_):
        with make_client(url) as client:
            return text(
                client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": "Name three colours."}],
                    temperature=0,
                    max_tokens=24,
                )
            )

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(together, range(6))) == {alone}


def test_what_asks_for_nothing_is_accepted(ask):
    """As the SDK's own suite sends it."""
    completion = ask(
        logit_bias={"foo": 0}, audio={"format": "wav", "voice": "alloy"}, modalities=["text"], prediction={"type": "content", "content": "x"}
    )
    assert completion.choices[0].message.content
