"""POST /v1/completions, by the official SDK."""

import math

import openai
import pytest

from conftest import MODEL

PROMPT = "Once upon a time there was"


@pytest.fixture
def go_on(client):
    """Continues a text; greedy and short unless told otherwise."""

    def go_on(prompt=PROMPT, **options):
        return client.completions.create(**({"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 8} | options))

    return go_on


def texts(completion):
    return [choice.text for choice in completion.choices]


def test_a_text_is_continued(go_on):
    completion = go_on()
    assert completion.id.startswith("cmpl-")
    assert completion.object == "text_completion"
    [choice] = completion.choices
    assert choice.text.strip() and choice.index == 0 and choice.finish_reason == "length" and choice.logprobs is None
    assert completion.usage.completion_tokens == 8
    assert texts(go_on()) == [choice.text]


def test_sixteen_tokens_unless_told_otherwise(client):
    completion = client.completions.create(model=MODEL, prompt=PROMPT, temperature=0, extra_body={"ignore_eos": True})
    assert completion.usage.completion_tokens == 16


def test_several_prompts_and_choices_are_numbered_through(go_on):
    prompts = [PROMPT, "The capital of France is"]
    together = go_on(prompts, n=2, seed=3, temperature=1)
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    alone = [text for prompt in prompts for text in texts(go_on(prompt, n=2, seed=3, temperature=1))]
    assert texts(together) == alone
    assert together.usage.completion_tokens <= 32


def test_tokens_are_a_prompt_too(go_on):
    echoed = go_on(echo=True, logprobs=0, max_tokens=1)
    assert len(echoed.choices[0].logprobs.tokens) == echoed.usage.prompt_tokens + 1
    # Ids are not told; any will do.
    completion = go_on([504, 3070, 260, 655])
    assert completion.usage.prompt_tokens == 4
    assert texts(go_on([[504, 3070, 260, 655], [504]]))[0] == texts(completion)[0]
    with pytest.raises(openai.BadRequestError) as caught:
        go_on([10_000_000])
    assert caught.value.param.startswith("prompt")


def test_echo_begins_with_the_prompt(go_on):
    [plain], [echoed] = texts(go_on()), texts(go_on(echo=True))
    assert echoed == PROMPT + plain
    scored = go_on(echo=True, logprobs=3, max_tokens=0).choices[0]
    assert scored.text == PROMPT
    assert "".join(scored.logprobs.tokens) == PROMPT
    assert scored.logprobs.token_logprobs[0] is None
    assert all(logprob <= 0 for logprob in scored.logprobs.token_logprobs[1:])
    assert all(len(top) == 3 for top in scored.logprobs.top_logprobs[1:])


def test_log_probabilities_have_the_older_shape(go_on):
    choice = go_on(logprobs=2).choices[0]
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.text_offset)
    for token, offset in zip(logprobs.tokens, logprobs.text_offset):
        assert choice.text[offset:].startswith(token)
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
        assert math.isclose(top[token], logprob, abs_tol=1e-5)
        assert logprob == max(top.values()), "greedy takes the likeliest"


def test_a_stream_joins_to_the_whole(go_on):
    options = {"n": 2, "seed": 5, "temperature": 1, "echo": True}
    whole = go_on([PROMPT, "And then"], **options)
    joined, reasons = ["", "", "", ""], [None] * 4
    *chunks, last = go_on([PROMPT, "And then"], stream=True, stream_options={"include_usage": True}, **options)
    for chunk in chunks:
        [choice] = chunk.choices
        joined[choice.index] += choice.text
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert joined == texts(whole)
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert last.choices == [] and last.usage.completion_tokens == whole.usage.completion_tokens


def test_the_best_of_several(go_on):
    options = {"temperature": 1.2, "seed": 11}
    every = go_on(n=4, logprobs=0, **options).choices
    mean = [sum(choice.logprobs.token_logprobs) / max(1, len(choice.logprobs.token_logprobs)) for choice in every]
    best = go_on(best_of=4, **options)
    assert texts(best) == [every[mean.index(max(mean))].text]
    assert best.choices[0].logprobs is None


def test_stop(go_on):
    [whole] = texts(go_on(max_tokens=24))
    stop = whole.split()[2]
    [choice] = go_on(max_tokens=24, stop=[stop]).choices
    assert (choice.text, choice.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_a_model_without_infill_tokens_says_so(go_on):
    with pytest.raises(openai.BadRequestError) as caught:
        go_on("def f(x):\n    ", suffix="\n    return y")
    assert (caught.value.code, caught.value.param) == ("UNSUPPORTED_PARAMETER", "suffix")
    assert "no infill tokens" in caught.value.message
    # An empty one is none.
    assert texts(go_on(suffix="")) == texts(go_on())


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"suffix": "the end"}, "suffix"),
        ({"suffix": "the end", "echo": True}, "echo"),
        ({"suffix": "", "prompt": ""}, "prompt"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"n": 0}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"temperature": 3}, "temperature"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(go_on, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        go_on(**options)
    assert caught.value.param == param
