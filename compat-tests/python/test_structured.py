"""Answers in a form that was asked for: JSON, a schema, an expression, a grammar."""

import json
import re

import openai
import pytest
from pydantic import BaseModel

from conftest import MODEL

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def schema(schema, name="person"):
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}


def content(completion):
    assert completion.choices[0].finish_reason == "stop", completion
    return completion.choices[0].message.content


def test_a_json_object(ask):
    answer = ask("Answer with a JSON object.", response_format={"type": "json_object"}, max_tokens=400, temperature=0.3)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    assert answer.choices[0].message.content.startswith("{")


@pytest.mark.parametrize("seed", range(5))
def test_a_schema_holds_at_any_temperature(ask, seed):
    answer = ask("Who are you?", response_format=schema(PERSON), temperature=1.5, seed=seed, max_tokens=200)
    person = json.loads(content(answer))
    assert person.keys() == {"name", "age"}
    assert isinstance(person["name"], str) and 0 <= person["age"] <= 120


def test_a_stream_holds_to_it_too(ask):
    options = {"response_format": schema(PERSON), "max_tokens": 200}
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask("Who are you?", stream=True, **options)]
    assert "".join(pieces) == content(ask("Who are you?", **options))


def test_parse_with_a_pydantic_model(client):
    class Person(BaseModel):
        name: str
        age: int
        likes_tea: bool

    completion = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Describe a person."}],
        response_format=Person,
        temperature=0,
        max_tokens=400,
    )
    assert isinstance(completion.choices[0].message.parsed, Person)


def test_an_expression(ask):
    answer = ask("When?", response_format={"type": "regex", "pattern": r"\d{4}-\d{2}-\d{2}"}, temperature=1.2, seed=1, max_tokens=40)
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", content(answer))


def test_a_grammar(ask):
    answer = ask("Yes or no?", response_format={"type": "lark", "grammar": 'start: "yes" | "no"'}, temperature=1, seed=1)
    assert content(answer) in ("yes", "no")


@pytest.mark.parametrize(
    ("format", "param"),
    [
        ({"type": "xml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        (schema({"type": "object"}, name="two words"), "response_format.json_schema.name"),
        ({"type": "regex", "pattern": "("}, "response_format.pattern"),
        ({"type": "lark", "grammar": "start: nothing"}, "response_format.grammar"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_by_name(ask, format, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(response_format=format)
    assert caught.value.param == param


def test_a_keyword_that_cannot_be_kept_to_is_pointed_at(ask):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(response_format=schema({"type": "object", "properties": {"x": {"not": {"type": "null"}}}}))
    assert caught.value.param == "response_format.json_schema.schema"
    assert caught.value.body["details"]["pointer"] == "/properties/x/not"
