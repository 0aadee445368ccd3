"""Embeddings by the official client: both encodings, every form of input, and what is refused."""

import asyncio
import math

import openai
import pytest

from conftest import EMBEDDING_MODEL, MODEL

WIDTH = 384


def dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


@pytest.fixture
def embed(client):
    def embed(content, **options):
        return client.embeddings.create(model=EMBEDDING_MODEL, input=content, **options)

    return embed


def test_the_clients_default_and_plain_numbers_agree(embed):
    # The client asks for base64 unless told otherwise, and decodes it.
    default = embed(["a first text", "a second one"])
    assert default.object == "list" and default.model == EMBEDDING_MODEL
    assert [one.index for one in default.data] == [0, 1]
    assert [one.object for one in default.data] == ["embedding", "embedding"]
    plain = embed(["a first text", "a second one"], encoding_format="float")
    for ours, theirs in zip(default.data, plain.data, strict=True):
        assert len(ours.embedding) == WIDTH
        assert max(abs(a - b) for a, b in zip(ours.embedding, theirs.embedding, strict=True)) < 1e-6
        assert abs(dot(ours.embedding, ours.embedding) - 1) < 1e-5
    assert default.usage.prompt_tokens == default.usage.total_tokens == 10


def test_meaning_decides_what_is_near(embed):
    texts = ["How do I cook rice?", "A recipe for boiling rice", "The train to Berlin is late"]
    rice, recipe, train = (one.embedding for one in embed(texts).data)
    assert dot(rice, recipe) > 0.6 > 0.3 > dot(rice, train)


def test_one_string_and_tokens(embed):
    alone = embed("hello world").data[0].embedding
    assert embed(["hello world"]).data[0].embedding == alone
    # [CLS] hello world [SEP], as the model's own tokenizer has them.
    assert embed([101, 7592, 2088, 102]).data[0].embedding == alone
    assert [one.embedding for one in embed([[101, 7592, 2088, 102], [101, 102]]).data][0] == alone


def test_dimensions_cut_and_keep_length_one(embed):
    whole = embed("a text").data[0].embedding
    cut = embed("a text", dimensions=64).data[0].embedding
    assert len(cut) == 64 and abs(dot(cut, cut) - 1) < 1e-5
    scale = math.sqrt(dot(whole[:64], whole[:64]))
    assert max(abs(a - b / scale) for a, b in zip(cut, whole[:64], strict=True)) < 1e-5


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"input": "word " * 300}, "input", ["302", "256"]),
        ({"input": ["a", "word " * 300]}, "input[1]", ["302", "256"]),
        ({"input": ""}, "input", ["empty"]),
        ({"input": []}, "input", ["empty"]),
        ({"input": ["a", ""]}, "input[1]", ["empty"]),
        ({"input": [30522]}, "input", ["30522", "30521"]),
        ({"input": "a", "dimensions": 385}, "dimensions", ["385", "384"]),
        ({"input": "a", "dimensions": 0}, "dimensions", ["0", "384"]),
        ({"input": ["a"] * 2049}, "input", ["2049", "2048"]),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", []),
    ],
)
def test_what_cannot_be_done_is_refused_by_name_and_number(embed, body, param, words):
    with pytest.raises(openai.BadRequestError) as caught:
        embed(body.pop("input"), **body)
    assert caught.value.param == param
    assert all(word in caught.value.message for word in words), caught.value.message


def test_what_is_too_long_is_cut_when_asked(embed):
    cut = embed("word " * 300, extra_body={"truncate": True})
    assert cut.usage.prompt_tokens == 256


def test_models_are_asked_for_what_they_do(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input="a")
    assert caught.value.code == "UNSUPPORTED_MODEL" and "generates text" in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=EMBEDDING_MODEL, messages=[{"role": "user", "content": "a"}])
    assert caught.value.code == "UNSUPPORTED_MODEL" and "/v1/embeddings" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="no-such-model", input="a")
    body = {"model": EMBEDDING_MODEL, "query": "a", "documents": ["b"]}
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/rerank", body=body, cast_to=object)
    assert caught.value.code == "UNSUPPORTED_MODEL"


async def test_many_at_once_get_what_each_gets_alone(async_client, embed):
    texts = [f"text number {number} " + "and more " * (number % 9) for number in range(40)]
    answers = await asyncio.gather(
        *(async_client.embeddings.create(model=EMBEDDING_MODEL, input=text) for text in texts)
    )
    alone = embed(texts)
    assert [answer.data[0].embedding for answer in answers] == [one.embedding for one in alone.data]
