"""`suffix` of /v1/completions, by the official SDK and a model that has infill tokens."""

import openai
import pytest

from conftest import MODEL, make_client, required, running

FILLER = "a-model-that-fills-gaps"
# Marks as long as tokens of the test's model that nothing here uses: written over them in a copy of its file.
MARKS = {"<issue_closed>": "<|fim_prefix|>", "<jupyter_text>": "<|fim_suffix|>", "<jupyter_code>": "<|fim_middle|>"}
BEFORE, AFTER = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n"


@pytest.fixture(scope="module")
def filler(tmp_path_factory):
    """A client of a system that serves the copy."""
    model = required("RBEE_TEST_MODELS").joinpath(f"{MODEL}.gguf").read_bytes()
    for token, mark in MARKS.items():
        assert model.count(token.encode()) == 1 and len(token) == len(mark)
        model = model.replace(token.encode(), mark.encode())
    path = tmp_path_factory.mktemp("filler") / "model.gguf"
    path.write_bytes(model)
    with running(further=((FILLER, "text-gen", path),)) as system, make_client(system.url) as client:
        yield client


@pytest.fixture
def fill(filler):
    def fill(before=BEFORE, after=AFTER, **options):
        return filler.completions.create(
            **({"model": FILLER, "prompt": before, "suffix": after, "temperature": 0, "max_tokens": 8} | options)
        )

    return fill


def tokens(filler, text):
    return filler.post("/tokenize", body={"model": FILLER, "prompt": text}, cast_to=object)["tokens"]


def test_the_answer_is_that_to_a_prompt_with_marks(filler, fill):
    prefix, suffix, middle = MARKS.values()
    by_hand = prefix + BEFORE + suffix + AFTER + middle
    filled, continued = fill(), fill(by_hand, None)
    assert filled.choices[0].text == continued.choices[0].text
    assert filled.usage.prompt_tokens == continued.usage.prompt_tokens == len(tokens(filler, by_hand))
    assert fill(tokens(filler, BEFORE)).choices[0].text == filled.choices[0].text


def test_a_stream_fills_the_same(fill):
    streamed = "".join(chunk.choices[0].text for chunk in fill(stream=True))
    assert streamed == fill().choices[0].text


def test_a_gap_may_be_at_either_end(filler, fill):
    assert fill("").usage.prompt_tokens == len(tokens(filler, AFTER)) + len(MARKS)
    # Nothing after it is no gap.
    assert fill(after="").usage.prompt_tokens == len(tokens(filler, BEFORE))


def test_marks_in_a_text_are_text(filler, fill):
    assert fill("<|fim_middle|>").usage.prompt_tokens > fill("a").usage.prompt_tokens + 2


def test_an_answer_ends_at_a_mark(filler, fill):
    [mark] = tokens(filler, "<|fim_prefix|>")
    [choice] = fill(logit_bias={str(mark): 100}).choices
    assert (choice.text, choice.finish_reason) == ("", "stop")


@pytest.mark.parametrize(("options", "param"), [({"echo": True}, "echo"), ({"model": MODEL}, "suffix")])
def test_what_cannot_be_filled_is_refused_by_name(fill, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        fill(**options)
    assert (caught.value.code, caught.value.param) == ("UNSUPPORTED_PARAMETER", param)
