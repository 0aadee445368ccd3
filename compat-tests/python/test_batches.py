"""Files and batches, by the official SDK: from the upload of requests to the download of answers."""

import io
import json
import time

import openai
import pytest

from conftest import EMBEDDING_MODEL, MODEL


def lines(*requests):
    return ("\n".join(json.dumps(request) for request in requests) + "\n").encode()


def chat(number, **options):
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"Say {number}."}], "max_tokens": 4, "temperature": 0}
    return {"custom_id": f"chat-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body | options}


@pytest.fixture
def upload(client):
    def upload(content, purpose="batch"):
        return client.files.create(file=("requests.jsonl", io.BytesIO(content)), purpose=purpose)

    return upload


def ended(client, batch):
    deadline = time.monotonic() + 120
    while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return batch


def answers(client, file_id):
    content = client.files.content(file_id).text
    return {answer["custom_id"]: answer for answer in map(json.loads, content.splitlines())}


def test_a_file_is_kept_until_it_is_deleted(client, upload):
    content = lines(chat(1)) * 3000
    file = upload(content)
    assert (file.object, file.filename, file.purpose, file.bytes) == ("file", "requests.jsonl", "batch", len(content))
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == content
    other = upload(b"notes", "user_data")
    assert [listed.id for listed in client.files.list(limit=1)][:2] == [other.id, file.id]
    assert file.id not in [listed.id for listed in client.files.list(purpose="user_data")]
    assert client.files.delete(file.id).deleted
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            gone(file.id)
    with pytest.raises(openai.BadRequestError) as caught:
        upload(b"x", "vision")
    assert caught.value.param == "purpose"


def test_a_batch_from_upload_to_results(client, upload):
    requests = [chat(number) for number in range(12)] + [chat("too long", messages=[{"role": "user", "content": "a " * 9000}])]
    batch = client.batches.create(
        input_file_id=upload(lines(*requests)).id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"for": "a test"},
    )
    assert (batch.object, batch.status, batch.metadata) == ("batch", "validating", {"for": "a test"})
    batch = ended(client, batch)
    assert (batch.status, batch.errors) == ("completed", None)
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (13, 12, 1)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    good = answers(client, batch.output_file_id)
    assert set(good) == {f"chat-{number}" for number in range(12)}
    for number in (0, 11):
        answer = good[f"chat-{number}"]
        assert (answer["error"], answer["response"]["status_code"]) == (None, 200)
        alone = client.chat.completions.create(**requests[number]["body"])
        assert answer["response"]["body"]["choices"][0]["message"]["content"] == alone.choices[0].message.content
    [(name, bad)] = answers(client, batch.error_file_id).items()
    assert (name, bad["response"]["status_code"]) == ("chat-too long", 400)
    assert bad["response"]["body"]["error"]["code"] == "context_length_exceeded"
    assert batch.id in [listed.id for listed in client.batches.list(limit=5)]
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(batch.id)


def test_batches_of_embeddings_and_of_texts(client, upload):
    vectors = {"custom_id": "v", "method": "POST", "url": "/v1/embeddings", "body": {"model": EMBEDDING_MODEL, "input": ["a", "b"]}}
    texts = {"custom_id": "t", "method": "POST", "url": "/v1/completions", "body": {"model": MODEL, "prompt": ["One", "Two"], "max_tokens": 2}}
    for request, count, name in [(vectors, 2, "data"), (texts, 2, "choices")]:
        batch = client.batches.create(
            input_file_id=upload(lines(request)).id, endpoint=request["url"], completion_window="24h"
        )
        batch = ended(client, batch)
        [answer] = answers(client, batch.output_file_id).values()
        assert len(answer["response"]["body"][name]) == count


def test_a_batch_of_responses_goes_on_from_others_and_is_gone_on_from(client, upload):
    first = client.responses.create(model=MODEL, input="My name is Ada.", max_output_tokens=8, temperature=0)

    def response(name, **options):
        body = {"model": MODEL, "input": "Who am I?", "max_output_tokens": 8, "temperature": 0} | options
        return {"custom_id": name, "method": "POST", "url": "/v1/responses", "body": body}

    requests = [response("alone", store=False), response("on", previous_response_id=first.id)]
    batch = client.batches.create(
        input_file_id=upload(lines(*requests)).id, endpoint="/v1/responses", completion_window="24h"
    )
    batch = ended(client, batch)
    assert (batch.status, batch.request_counts.completed) == ("completed", 2), batch
    told = {name: answer["response"]["body"] for name, answer in answers(client, batch.output_file_id).items()}
    assert all(body["status"] in ("completed", "incomplete") and body["output"] for body in told.values())
    kept = client.responses.retrieve(told["on"]["id"])
    assert (kept.previous_response_id, kept.output_text) == (first.id, told["on"]["output"][0]["content"][0]["text"])
    assert kept.usage.input_tokens > told["alone"]["usage"]["input_tokens"]
    client.responses.create(model=MODEL, input="Again.", previous_response_id=kept.id, max_output_tokens=4)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(told["alone"]["id"])

    wrong = [response("s", stream=True), response("b", background=True), response("p", previous_response_id="resp_none")]
    batch = client.batches.create(
        input_file_id=upload(lines(*wrong)).id, endpoint="/v1/responses", completion_window="24h"
    )
    batch = ended(client, batch)
    assert [(error.line, error.param) for error in batch.errors.data] == [
        (1, "body.stream"),
        (2, "body.background"),
        (3, "body.previous_response_id"),
    ]


def test_what_a_batch_leaves_goes_when_it_was_said_to(client, upload):
    order = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    file = upload(lines(chat(1)))
    batch = client.batches.create(
        input_file_id=file.id, output_expires_after={"anchor": "created_at", "seconds": 7200}, **order
    )
    output = client.files.retrieve(ended(client, batch).output_file_id)
    assert output.expires_at == output.created_at + 7200
    for expiry, param in [
        ({"anchor": "created_at", "seconds": 60}, "output_expires_after.seconds"),
        ({"anchor": "last_active_at", "seconds": 7200}, "output_expires_after.anchor"),
    ]:
        with pytest.raises(openai.BadRequestError) as caught:
            client.batches.create(input_file_id=file.id, output_expires_after=expiry, **order)
        assert caught.value.param == param


def test_a_file_that_goes_while_its_lines_are_read_fails_its_batch(client, upload):
    # It takes so long to read that the deletion comes in the middle; what was queued by then is not answered.
    file = upload(lines(*(chat(number, max_tokens=1, metadata={"pad": "x" * 500}) for number in range(20_000))))
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    client.files.delete(file.id)
    batch = ended(client, batch)
    assert (batch.status, batch.errors.data[0].code) == ("failed", "input_file_deleted"), batch


def test_what_is_wrong_with_a_file_is_told_by_its_lines(client, upload):
    content = lines(chat(1), chat(1), chat(2) | {"method": "GET"}, chat(3) | {"url": "/v1/embeddings"}, chat(4, temperature=9))
    batch = client.batches.create(
        input_file_id=upload(content + b"{\n" + lines(chat(5, model="no-such-model"))).id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
    )
    batch = ended(client, batch)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert [(error.line, error.code, error.param) for error in batch.errors.data] == [
        (2, "duplicate_custom_id", "custom_id"),
        (3, "invalid_method", "method"),
        (4, "mismatched_url", "url"),
        (5, "invalid_request", "body.temperature"),
        (6, "invalid_json_line", None),
        (7, "model_not_found", "body.model"),
    ]
    assert batch.request_counts.completed == 0


def test_what_is_no_batch_is_refused(client, upload):
    file = upload(lines(chat(1)))
    good = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    for name, value in [("endpoint", "/v1/images/generations"), ("completion_window", "1h"), ("input_file_id", upload(b"x", "user_data").id)]:
        with pytest.raises(openai.BadRequestError) as caught:
            client.batches.create(**good | {name: value})
        assert caught.value.param == name
    with pytest.raises(openai.NotFoundError):
        client.batches.create(**good | {"input_file_id": "file-none"})
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")


def test_a_cancelled_batch_keeps_what_was_answered(client, upload):
    requests = [chat(number, max_tokens=200) for number in range(60)]
    batch = client.batches.create(
        input_file_id=upload(lines(*requests)).id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    deadline = time.monotonic() + 60
    while not client.batches.retrieve(batch.id).request_counts.completed:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = ended(client, batch)
    assert batch.status == "cancelled" and batch.cancelling_at <= batch.cancelled_at
    good, bad = answers(client, batch.output_file_id), answers(client, batch.error_file_id)
    assert len(good) + len(bad) == 60 and not set(good) & set(bad)
    assert {answer["error"]["code"] for answer in bad.values()} == {"batch_cancelled"}
