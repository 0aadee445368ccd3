"""GET /v1/models, by the official SDK."""

import openai
import pytest

from conftest import MODEL


def test_models_are_listed(client):
    listed = {model.id: model for model in client.models.list()}
    model = listed[MODEL]
    assert (model.object, model.owned_by) == ("model", "rbee")
    assert model.created >= 0
    assert model.model_extra["state"] == "running"
    assert model.model_extra["context_length"] >= 2048


def test_one_model(client):
    assert client.models.retrieve(MODEL).id == MODEL


def test_an_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"
