"""Chat completions and responses that are kept, by the official SDK."""

import json
import stat
import urllib.request

import openai
import pytest
from openai.types.chat import ChatCompletion

from conftest import MODEL, TOKEN, make_client, running

ANSWERED = {"model", "choices", "usage", "created", "system_fingerprint"}


@pytest.fixture
def keep(ask):
    """Asks the model and has the answer kept; short."""

    def keep(content="Name three colours.", **options):
        return ask(content, **({"store": True, "max_tokens": 4} | options))

    return keep


def listed(client, **options):
    return [completion.id for completion in client.chat.completions.list(**options)]


def test_a_kept_completion_is_found_as_it_was_answered(client, keep):
    made = keep(metadata={"topic": "colours"}, n=2, logprobs=True)
    kept = client.chat.completions.retrieve(made.id)
    assert kept == made
    assert kept.metadata == {"topic": "colours"}


def test_a_streamed_one_is_found_as_soon_as_it_has_ended(client, keep):
    chunks = list(keep(stream=True))
    kept = client.chat.completions.retrieve(chunks[0].id)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert kept.choices[0].message.content == text
    assert (kept.created, kept.model) == (chunks[0].created, chunks[0].model)
    assert kept.choices[0].finish_reason == chunks[-1].choices[0].finish_reason
    whole = keep()
    assert kept.usage.completion_tokens == whole.usage.completion_tokens


def test_nothing_is_kept_that_was_not_asked_for(client, ask):
    for options in ({}, {"store": False}, {"store": None}):
        made = ask(max_tokens=1, **options)
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.retrieve(made.id)
        assert caught.value.param == "completion_id"


def test_lists_are_paged_and_filtered(client, keep):
    mark = {"list": "paged"}
    made = [keep(metadata=mark | {"number": str(number)}, max_tokens=1).id for number in range(3)]
    keep(max_tokens=1)
    assert listed(client, metadata=mark) == made
    assert listed(client, metadata=mark, order="desc") == made[::-1]
    assert listed(client, metadata=mark, limit=1) == made, "the SDK goes through all pages"
    page = client.chat.completions.list(metadata=mark, limit=2)
    assert ([completion.id for completion in page.data], page.has_more) == (made[:2], True)
    assert listed(client, metadata=mark, after=made[1]) == made[2:]
    assert listed(client, metadata=mark | {"number": "1"}) == made[1:2]
    assert listed(client, metadata={"list": "other"}) == []
    assert listed(client, metadata=mark, model=MODEL) == made
    assert listed(client, metadata=mark, model="other") == []
    for options, param in [({"limit": 101}, "limit"), ({"order": "up"}, "order"), ({"after": "chatcmpl-x"}, "after")]:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.list(**options)
        assert caught.value.param == param


def test_metadata_is_replaced(client, keep):
    made = keep(metadata={"a": "1", "b": "2"})
    updated = client.chat.completions.update(made.id, metadata={"b": "3"})
    assert updated.metadata == client.chat.completions.retrieve(made.id).metadata == {"b": "3"}
    assert {name: getattr(updated, name) for name in ANSWERED} == {name: getattr(made, name) for name in ANSWERED}
    assert client.chat.completions.update(made.id, metadata=None).metadata == {}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.update(made.id, metadata={"k" * 65: "x"})
    assert caught.value.param == "metadata"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.update("chatcmpl-x", metadata={})


@pytest.mark.parametrize(
    ("metadata", "param"),
    [
        ({str(number): "x" for number in range(17)}, "metadata"),
        ({"k" * 65: "x"}, "metadata"),
        ({"k": "x" * 513}, "metadata.k"),
        ({"k": 1}, "metadata.k"),
    ],
)
@pytest.mark.parametrize("store", [True, False])
def test_metadata_has_limits_whether_or_not_it_is_kept(ask, metadata, param, store):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(store=store, metadata=metadata)
    assert caught.value.param == param


def test_messages_are_listed(client, keep):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Name "}, {"type": "text", "text": "colours."}]},
    ]
    made = keep(messages=messages)
    kept = client.chat.completions.messages.list(made.id).data
    assert [(message.role, message.content) for message in kept] == [("system", "Be brief."), ("user", "Name colours.")]
    assert kept[0].content_parts is None
    assert [part.text for part in kept[1].content_parts] == ["Name ", "colours."]
    ids = [message.id for message in kept]
    list_messages = client.chat.completions.messages.list
    assert [message.id for message in list_messages(made.id, limit=1)] == ids
    assert [message.id for message in list_messages(made.id, order="desc").data] == ids[::-1]
    assert [message.id for message in list_messages(made.id, after=ids[0]).data] == ids[1:]
    with pytest.raises(openai.NotFoundError):
        list_messages("chatcmpl-x")


def test_what_is_deleted_is_gone(client, keep):
    made = keep()
    deleted = client.chat.completions.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "chat.completion.deleted")
    for gone in (client.chat.completions.retrieve, client.chat.completions.delete):
        with pytest.raises(openai.NotFoundError):
            gone(made.id)


def test_on_the_wire_it_is_what_the_sdks_types_say(url, keep):
    made = keep()
    with urllib.request.urlopen(f"{url}/v1/chat/completions/{made.id}", timeout=10) as response:
        assert response.headers["content-type"] == "application/json"
        ChatCompletion.model_validate(json.load(response))
    with urllib.request.urlopen(f"{url}/v1/chat/completions?limit=1", timeout=10) as response:
        page = json.load(response)
    assert page["object"] == "list"
    assert page["first_id"] == page["last_id"] == page["data"][0]["id"]


def test_what_is_kept_outlives_the_queen_for_its_owner_alone(tmp_path):
    with running(data_dir=tmp_path, TOKEN=TOKEN) as system, make_client(system.url, api_key=TOKEN) as client:
        completion = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=4, store=True, timeout=120
        )
        first = client.responses.create(model=MODEL, input="My name is Ada.", max_output_tokens=8)
    for file in tmp_path.glob("queen.db*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    with running(data_dir=tmp_path, TOKEN=TOKEN) as system, make_client(system.url, api_key=TOKEN) as client:
        assert client.chat.completions.retrieve(completion.id) == completion
        assert client.responses.retrieve(first.id) == first
        second = client.responses.create(
            model=MODEL, input="What is my name?", previous_response_id=first.id, max_output_tokens=8, timeout=120
        )
        assert second.usage.input_tokens > first.usage.input_tokens + 8
    other = "a-token-of-another"
    with running(data_dir=tmp_path, TOKEN=other) as system, make_client(system.url, api_key=other) as client:
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.retrieve(completion.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.delete(first.id)
        assert client.chat.completions.list().data == []
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model=MODEL, input="Hi", previous_response_id=first.id)
