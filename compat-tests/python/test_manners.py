"""Manners that clients count on: other names of models, keys that make retries safe, answers that are found again, packed
bodies, deadlines, browsers, and clear words about what is not there."""

import gzip
import json
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from urllib.error import HTTPError

import openai
import pytest

from conftest import EMBEDDING_MODEL, MODEL, make_client, running

ORIGIN = "https://app.example"
MESSAGES = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture(scope="module")
def url():
    """A system with all of that set up."""
    with running(
        ALIASES=f"gpt-4o-mini={MODEL},claude-*={MODEL},text-embedding-3-small={EMBEDDING_MODEL},gone=no-such-model",
        DEFAULT_MODEL="gpt-4o-mini",
        CORS_ORIGINS=ORIGIN,
        CACHE_MB="16",
    ) as system:
        yield system.url


def post(url, path, body, **headers):
    """Status, headers and body of a POST; the body may be bytes already."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.headers, answer.read()
    except HTTPError as error:
        return error.code, error.headers, error.read()


def chat(**options):
    return {"model": MODEL, "messages": MESSAGES, "max_tokens": 8, "temperature": 0} | options


def code(body):
    return json.loads(body)["error"]["code"]


class TestNames:
    def test_an_alias_answers_by_its_own_name(self, client):
        for name in ("gpt-4o-mini", "claude-sonnet-4-5"):
            completion = client.chat.completions.create(**chat(model=name))
            assert completion.model == name
            assert completion.choices[0].message.content

    def test_aliases_are_listed_with_what_they_stand_for(self, client):
        models = {model.id: model.model_extra for model in client.models.list()}
        assert models["gpt-4o-mini"]["root"] == models[MODEL]["root"] == MODEL
        assert models["text-embedding-3-small"]["kind"] == "embedding"
        assert "gone" not in models and "claude-*" not in models
        assert client.models.retrieve("claude-anything").model_extra["root"] == MODEL

    def test_an_alias_of_nothing_says_so(self, client):
        with pytest.raises(openai.NotFoundError, match="no-such-model.*gone"):
            client.chat.completions.create(**chat(model="gone"))

    def test_who_names_no_model_gets_the_default(self, url):
        status, _, body = post(url, "/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 2})
        assert (status, json.loads(body)["model"]) == (200, MODEL)

    def test_embeddings_by_an_alias(self, client):
        answer = client.embeddings.create(model="text-embedding-3-small", input="Hello")
        assert answer.model == "text-embedding-3-small" and len(answer.data[0].embedding) == 384


class TestAnswersFoundAgain:
    def test_a_certain_answer_is_found_again(self, url):
        body = chat(messages=[{"role": "user", "content": "Name a colour."}])
        first, second = (post(url, "/v1/chat/completions", body) for _ in range(2))
        assert (first[1]["x-rbee-cache"], second[1]["x-rbee-cache"]) == ("miss", "hit")
        one, two = json.loads(first[2]), json.loads(second[2])
        assert one.pop("id") != two.pop("id")
        one.pop("created"), two.pop("created")
        assert one == two

    @pytest.mark.parametrize("headers", [{"x_rbee_cache": "off"}, {"cache_control": "no-cache"}])
    def test_a_header_turns_it_off(self, url, headers):
        for _ in range(2):
            status, answer, _ = post(url, "/v1/chat/completions", chat(), **headers)
            assert (status, answer["x-rbee-cache"]) == (200, None)

    def test_chance_is_never_kept(self, url):
        for _ in range(2):
            assert post(url, "/v1/chat/completions", chat(temperature=1))[1]["x-rbee-cache"] is None

    def test_a_stream_is_kept_and_found_again(self, url):
        body = chat(messages=[{"role": "user", "content": "Name a tree."}], stream=True, logprobs=True)
        answers = [post(url, "/v1/chat/completions", body) for _ in range(2)]
        assert [answer[1]["x-rbee-cache"] for answer in answers] == ["miss", "hit"]
        texts, tokens = [], []
        for _, _, frames in answers:
            chunks = [json.loads(line[6:]) for line in frames.decode().split("\n\n") if line.startswith("data: {")]
            texts.append("".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks))
            logprobs = [chunk["choices"][0]["logprobs"] for chunk in chunks]
            tokens.append([token for told in logprobs if told for token in told["content"]])
            assert frames.endswith(b"data: [DONE]\n\n")
        assert texts[0] == texts[1] and texts[0]
        assert tokens[0] == tokens[1] and tokens[0]

    def test_those_who_ask_at_once_share_one_answer(self, url):
        body = chat(messages=[{"role": "user", "content": "Tell me a story."}], max_tokens=60)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: post(url, "/v1/chat/completions", body), range(8)))
        assert [answer[1]["x-rbee-cache"] for answer in answers].count("miss") == 1
        assert len({json.loads(answer[2])["choices"][0]["message"]["content"] for answer in answers}) == 1
        assert len({json.loads(answer[2])["id"] for answer in answers}) == 8

    def test_vectors_are_found_again(self, url):
        body = {"model": EMBEDDING_MODEL, "input": ["one", "two"]}
        answers = [post(url, "/v1/embeddings", body) for _ in range(2)]
        assert [answer[1]["x-rbee-cache"] for answer in answers] == ["miss", "hit"]
        assert answers[0][2] == answers[1][2]
        assert post(url, "/v1/embeddings", body | {"dimensions": 8})[1]["x-rbee-cache"] == "miss"


class TestIdempotencyKeys:
    def test_the_same_request_is_answered_once(self, url):
        body = chat(temperature=1)
        first, second = (post(url, "/v1/chat/completions", body, idempotency_key="one") for _ in range(2))
        assert first[2] == second[2]
        assert (first[1]["idempotent-replayed"], second[1]["idempotent-replayed"]) == (None, "true")
        assert post(url, "/v1/chat/completions", body, idempotency_key="two")[2] != first[2]

    def test_a_stream_is_replayed_to_its_end(self, url):
        body = chat(stream=True, temperature=1)
        first, second = (post(url, "/v1/chat/completions", body, idempotency_key="stream") for _ in range(2))
        assert first[2] == second[2] and first[2].endswith(b"data: [DONE]\n\n")
        assert second[1]["content-type"].startswith("text/event-stream")

    def test_two_at_once_are_one(self, url):
        body = chat(temperature=1, max_tokens=40)
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                pool.map(lambda _: post(url, "/v1/chat/completions", body, idempotency_key="at once"), range(4))
            )
        assert len({answer[2] for answer in answers}) == 1

    def test_another_body_under_the_same_key_is_refused(self, client):
        headers = {"Idempotency-Key": "used"}
        client.chat.completions.create(**chat(), extra_headers=headers)
        with pytest.raises(openai.ConflictError) as caught:
            client.chat.completions.create(**chat(max_tokens=9), extra_headers=headers)
        assert caught.value.code == "IDEMPOTENCY_CONFLICT"

    def test_what_failed_may_be_tried_again(self, url):
        assert post(url, "/v1/chat/completions", chat(temperature=9), idempotency_key="failed")[0] == 400
        assert post(url, "/v1/chat/completions", chat(), idempotency_key="failed")[0] == 200

    def test_a_task_is_submitted_once(self, url):
        body = {"prompt": "Hi", "model": MODEL, "max_tokens": 2}
        jobs = [json.loads(post(url, "/v2/tasks", body, idempotency_key="task")[2])["job_id"] for _ in range(2)]
        assert jobs[0] == jobs[1]

    def test_a_key_has_a_limit(self, url):
        status, _, body = post(url, "/v1/chat/completions", chat(), idempotency_key="k" * 256)
        assert (status, json.loads(body)["error"]["param"]) == (400, "Idempotency-Key")


def zstd_stored(data: bytes):
    """A Zstandard frame that holds up to 255 bytes as they are: magic, a header with the length, one last raw block."""
    assert len(data) < 256
    return b"\x28\xb5\x2f\xfd\x20" + bytes([len(data)]) + (len(data) << 3 | 1).to_bytes(3, "little") + data


class TestPackedBodies:
    @pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("zstd", zstd_stored)])
    def test_packed_bodies_are_read(self, url, encoding, pack):
        body = pack(json.dumps(chat()).encode())
        status, _, answer = post(url, "/v1/chat/completions", body, content_encoding=encoding)
        assert status == 200, answer

    def test_a_bomb_is_a_413(self, url):
        bomb = gzip.compress(b" " * (40 << 20))
        assert len(bomb) < 100_000
        status, _, body = post(url, "/v1/chat/completions", bomb, content_encoding="gzip")
        assert (status, code(body)) == (413, "PAYLOAD_TOO_LARGE")

    @pytest.mark.parametrize(("encoding", "status"), [("gzip", 400), ("zstd", 400), ("br", 415)])
    def test_what_cannot_be_unpacked_is_refused(self, url, encoding, status):
        assert post(url, "/v1/chat/completions", b"not packed", content_encoding=encoding)[0] == status


class TestDeadlines:
    def test_an_answer_that_comes_too_late_is_a_504(self, url):
        long = chat(max_tokens=2000, messages=[{"role": "user", "content": "Tell a long story."}])
        soon = (datetime.now(timezone.utc) + timedelta(milliseconds=300)).isoformat()
        for headers in ({"x_request_timeout_ms": "100"}, {"x_deadline": soon}, {"x_stainless_read_timeout": "0.1"}):
            started = time.monotonic()
            status, _, body = post(url, "/v1/chat/completions", long, **headers)
            assert (status, code(body)) == (504, "TIMEOUT"), headers
            assert time.monotonic() - started < 5

    @pytest.mark.parametrize("header", ["x_request_timeout_ms", "x_deadline"])
    def test_a_deadline_that_is_none_is_refused_by_name(self, url, header):
        status, _, body = post(url, "/v1/chat/completions", chat(), **{header: "soon"})
        assert status == 400
        assert json.loads(body)["error"]["param"].lower() == header.replace("_", "-")


class TestHeaders:
    @pytest.mark.parametrize("header", ["x_request_id", "x_client_request_id", "x_correlation_id"])
    def test_the_callers_id_comes_back(self, url, header):
        assert post(url, "/v1/chat/completions", chat(), **{header: "my-id.1"})[1]["x-request-id"] == "my-id.1"
        assert post(url, "/v1/chat/completions", chat(), **{header: "no good"})[1]["x-request-id"] != "no good"

    @pytest.mark.parametrize("stream", [False, True])
    def test_where_the_time_went(self, url, stream):
        _, headers, _ = post(url, "/v1/chat/completions", chat(stream=stream), x_rbee_cache="off")
        spans = dict(span.strip().split(";dur=") for span in headers["server-timing"].split(","))
        assert list(spans) == ["route", "queue", "worker", "overhead"]
        assert 0 < float(spans["worker"]) <= int(headers["openai-processing-ms"]) + 1

    def test_pages_of_the_origin_may_ask_and_others_may_not(self, url):
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}
        for origin, allowed in ((ORIGIN, ORIGIN), ("https://evil.example", None)):
            request = urllib.request.Request(
                f"{url}/v1/chat/completions", headers={"origin": origin} | asked, method="OPTIONS"
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert answer.headers["access-control-allow-origin"] == allowed
            assert post(url, "/v1/chat/completions", chat(), origin=origin)[1]["access-control-allow-origin"] == allowed

    @pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
    def test_both_versions_of_http(self, url, version):
        command = ["curl", "--silent", "--show-error", version, "--write-out", "\n%{http_version}"]
        command += ["--max-time", "60", "--json", json.dumps(chat(stream=True)), f"{url}/v1/chat/completions"]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=90).stdout
        assert "data: [DONE]" in output
        assert output.splitlines()[-1] == {"--http1.1": "1.1"}.get(version, "2")


class TestWhatIsNotThere:
    @pytest.mark.parametrize(
        "ask",
        [
            lambda client: client.moderations.create(input="Hello"),
            lambda client: client.images.generate(prompt="A cat", model="dall-e-3"),
            lambda client: client.audio.speech.create(input="Hello", model="tts-1", voice="alloy"),
            lambda client: client.audio.transcriptions.create(file=("a.wav", b"RIFF"), model="whisper-1"),
        ],
    )
    def test_it_says_so_and_what_works_instead(self, url, ask):
        # The SDK may retry; the answer tells it not to.
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=5, timeout=30) as client:
            started = time.monotonic()
            with pytest.raises(openai.InternalServerError) as caught:
                ask(client)
        assert time.monotonic() - started < 2
        error = caught.value
        assert (error.status_code, error.code) == (501, "NOT_AVAILABLE")
        assert error.body["details"]["suggested_action"]


@pytest.fixture
def client(url):
    with make_client(url) as client:
        yield client
