"""Ranking, as clients of Jina's and Cohere's services ask for it. The model is MiniLM with a made-up head: its scores mean
nothing, but they are the same for the same text and differ between texts."""

import json
import shutil
import struct

import openai
import pytest

from conftest import EMBEDDING_MODEL, required

TEXTS = ["Iron oxide.", "A language for systems.", "A band from the seventies.", "What happens to wet iron."]
QUERY = "What is rust?"
WIDTH = 384


def with_head(weights: bytes) -> bytes:
    """A safetensors file with a classifier's weights added: a large number here and there lets texts differ."""
    length = struct.unpack_from("<Q", weights)[0]
    header, data = json.loads(weights[8 : 8 + length]), weights[8 + length :]
    numbers = {"classifier.weight": [3.0 * ((n * 7919) % 5 - 2) for n in range(WIDTH)], "classifier.bias": [0.0]}
    for name, values in numbers.items():
        shape = [1, WIDTH] if len(values) == WIDTH else [1]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * len(values)]}
        data += struct.pack(f"<{len(values)}f", *values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture(scope="module")
def model(url, tmp_path_factory):
    """The name of a model for ranking, which the system has taken in."""
    source = required("RBEE_TEST_MODELS") / EMBEDDING_MODEL
    folder = tmp_path_factory.mktemp("rerank") / "model"
    shutil.copytree(source, folder)
    weights = folder / "model.safetensors"
    weights.unlink()
    weights.write_bytes(with_head((source / "model.safetensors").read_bytes()))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    name = f"file:{weights}"
    with openai.OpenAI(base_url=f"{url}/v2", api_key="none", max_retries=0, timeout=60) as client:
        assert "event: done" in client.post("/models/pull", body={"model": name}, cast_to=str)
    return name


@pytest.fixture
def rank(url, model):
    # OpenAI's SDK has no types for these answers, so they are not watched.
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:

        def rank(version=1, **options):
            body = {"model": model, "query": QUERY, "documents": TEXTS} | options
            return client.post(f"/v{version}/rerank", body=body, cast_to=object)

        yield rank


def scores_of(answer):
    return {one["index"]: one["relevance_score"] for one in answer["results"]}


@pytest.mark.parametrize("version", [1, 2])
def test_the_most_relevant_comes_first(rank, model, version):
    answer = rank(version)
    scores = [one["relevance_score"] for one in answer["results"]]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == len(TEXTS)
    assert all(0 <= score <= 1 for score in scores)
    assert sorted(one["index"] for one in answer["results"]) == [0, 1, 2, 3]
    assert answer["id"] and answer["model"] == model
    # Jina's clients read the usage, Cohere's the meta.
    tokens = answer["usage"]["total_tokens"]
    assert tokens > 20 and answer["usage"]["prompt_tokens"] == tokens
    assert answer["meta"] == {"api_version": {"version": str(version)}, "tokens": {"input_tokens": tokens}}
    assert all("document" not in one for one in answer["results"])
    assert [one["index"] for one in rank(version, top_n=2)["results"]] == [one["index"] for one in answer["results"]][:2]


def test_documents_are_texts_or_objects(rank):
    objects = [{"text": text, "title": "T", "page": 3} for text in TEXTS]
    answer = rank(documents=objects, return_documents=True)
    assert scores_of(answer) == scores_of(rank())
    assert all(one["document"] == objects[one["index"]] for one in answer["results"])
    assert all(one["document"] == {"text": TEXTS[one["index"]]} for one in rank(return_documents=True)["results"])
    by_fields = rank(documents=objects, rank_fields=["title", "text"])
    assert scores_of(by_fields) == scores_of(rank(documents=[f"T\n{text}" for text in TEXTS]))


def test_what_is_too_long_is_refused_or_cut_as_each_interface_has_it(rank):
    long = "iron " * 400
    with pytest.raises(openai.BadRequestError) as caught:
        rank(documents=["a", long])
    assert caught.value.code == "context_length_exceeded" and caught.value.param == "documents[1]"
    cut = scores_of(rank(version=2, documents=["a", long]))
    assert scores_of(rank(documents=["a", long], truncate=True)) == cut
    assert scores_of(rank(documents=["a", long], max_tokens_per_doc=1000)) == cut
    short = scores_of(rank(documents=["a", "iron " * 3]))
    for version in (1, 2):
        assert scores_of(rank(version=version, documents=["a", long], max_tokens_per_doc=3)) == short


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"top_n": 0}, "top_n"),
        ({"max_tokens_per_doc": 0}, "max_tokens_per_doc"),
        ({"max_chunks_per_doc": 0}, "max_chunks_per_doc"),
        ({"relevant_spans": {"mode": "enabled"}}, "relevant_spans"),
        ({"documents": ["a", {"image": "https://example.com/a.png"}]}, "documents[1]"),
        ({"documents": [{"text": "a"}], "rank_fields": ["title"]}, "documents[0]"),
        ({"documents": []}, "documents"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(rank, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        rank(**options)
    assert caught.value.param == param
