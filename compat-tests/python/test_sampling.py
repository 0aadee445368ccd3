"""How tokens are chosen and what is told of them, by the official SDK."""

import math

import pytest


def text(completion):
    return completion.choices[0].message.content


def test_several_choices(ask):
    three = ask(n=3, temperature=1.2, seed=4)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    answers = [choice.message.content for choice in three.choices]
    assert len(set(answers)) > 1
    assert [choice.message.content for choice in ask(n=3, temperature=1.2, seed=4).choices] == answers
    assert 3 <= three.usage.completion_tokens <= 72
    assert three.usage.prompt_tokens == ask(max_tokens=1).usage.prompt_tokens


def test_the_first_of_several_choices_is_the_only_one_of_one(ask):
    three = ask(n=3, temperature=1.2, seed=4)
    assert three.choices[0].message.content == text(ask(temperature=1.2, seed=4))


def test_a_stream_of_several_choices(ask):
    options = {"n": 3, "temperature": 1.2, "seed": 4}
    joined, reasons, roles = [""] * 3, [None] * 3, [None] * 3
    for chunk in ask(stream=True, **options):
        [choice] = chunk.choices
        joined[choice.index] += choice.delta.content or ""
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
        roles[choice.index] = choice.delta.role or roles[choice.index]
    whole = ask(**options)
    assert joined == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert roles == ["assistant"] * 3


def test_log_probabilities(ask):
    completion = ask(logprobs=True, top_logprobs=5)
    [choice] = completion.choices
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    assert len(tokens) <= completion.usage.completion_tokens
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 5
        assert bytes(token.bytes).decode(errors="replace") == token.token
        likeliest = [top.logprob for top in token.top_logprobs]
        assert likeliest == sorted(likeliest, reverse=True)
        assert math.isclose(token.logprob, likeliest[0], abs_tol=1e-5), "greedy takes the likeliest"
        assert sum(map(math.exp, likeliest)) <= 1.001


def test_log_probabilities_without_the_likeliest(ask):
    [choice] = ask(logprobs=True).choices
    assert choice.logprobs.content and all(token.top_logprobs == [] for token in choice.logprobs.content)


def test_log_probabilities_in_a_stream(ask):
    streamed = [
        token
        for chunk in ask(stream=True, logprobs=True, top_logprobs=2)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert streamed == ask(logprobs=True, top_logprobs=2).choices[0].logprobs.content


def test_the_stronger_bias_chooses_the_token(ask):
    def forced(bias):
        return text(ask(max_tokens=1, logit_bias=bias))

    # Ids are not told; each of these is forced, and so the text of each is known. Bans are tested at the worker's door.
    first, second = forced({"504": 100}), forced({"3070": 100})
    assert first != second
    assert forced({"504": 100, "3070": 60}) == first
    assert forced({"504": 60, "3070": 100}) == second


def test_a_penalty_keeps_an_answer_from_repeating_itself(ask):
    prompt = "Write the word tea again and again: tea tea tea tea"
    options = {"max_tokens": 48, "extra_body": {"ignore_eos": True}}

    def variety(**penalties):
        words = text(ask(prompt, **options, **penalties)).split()
        return len(set(words)) / len(words)

    plain = variety()
    assert variety(frequency_penalty=2) > plain
    assert variety(presence_penalty=2) != plain


@pytest.mark.parametrize("extra", [{"min_p": 1}, {"top_k": 1}])
def test_only_the_likeliest_token_is_greedy(ask, extra):
    assert text(ask(temperature=1, seed=1, extra_body=extra)) == text(ask())


def test_an_answer_goes_on_where_no_end_counts(ask):
    completion = ask("Say hi.", max_tokens=80, extra_body={"ignore_eos": True})
    assert completion.usage.completion_tokens == 80
    assert completion.choices[0].finish_reason == "length"
    longer = ask("Say hi.", max_tokens=80, extra_body={"min_tokens": 60})
    assert longer.usage.completion_tokens >= 60


def test_a_prompt_that_was_read_before_is_cached(ask):
    long = "Tell me about this: " + "tea and cake and " * 60
    ask(long, max_tokens=1)
    usage = ask(long, max_tokens=1).usage
    assert 0 < usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens
    assert usage.completion_tokens_details.reasoning_tokens == 0
