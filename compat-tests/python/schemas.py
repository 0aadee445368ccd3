"""Schemas that structured output is tried with. Every text that fits one of them is bounded."""


def an_object(properties: dict, required: list[str] | None = None, **keywords):
    """An object with these properties and no others, all of them required unless told otherwise."""
    required = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False} | keywords


def an_array(items: dict, at_least: int, at_most: int):
    return {"type": "array", "items": items, "minItems": at_least, "maxItems": at_most}


def an_integer(minimum: int, maximum: int):
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


def a_string(at_most: int, at_least: int = 0):
    return {"type": "string", "minLength": at_least, "maxLength": at_most}


def one_of(*values):
    return {"enum": list(values)}


def matching(pattern: str):
    return {"type": "string", "pattern": pattern}


POINT = an_object({"x": an_integer(-100, 100), "y": an_integer(-100, 100)})
LATITUDE = {"type": "number", "minimum": -90, "maximum": 90}

SCHEMAS = {
    "flat": an_object({"name": a_string(20), "age": an_integer(0, 120)}),
    "strings to choose from": an_object({"colour": one_of("red", "green", "blue"), "size": one_of("S", "M", "L", "XL")}),
    "values of all types to choose from": an_object({"value": one_of("auto", 0, 1.5, True, None)}),
    "constants": an_object({"version": {"const": 2}, "kind": {"const": "report"}, "nothing": {"const": None}}),
    "nested": an_object(
        {"user": an_object({"address": an_object({"street": a_string(24), "number": an_integer(1, 999)})})}
    ),
    "nested five deep": an_object(
        {"a": an_object({"b": an_object({"c": an_object({"d": an_object({"e": {"type": "boolean"}})})})})}
    ),
    "array of strings": an_object({"tags": an_array(a_string(10, at_least=1), 1, 4)}),
    "array that may be empty": an_object({"numbers": an_array(an_integer(0, 9), 0, 3)}),
    "array of exact length": an_object({"corners": an_array(an_integer(-9, 9), 4, 4)}),
    "array of arrays": an_object({"matrix": an_array(an_array(an_integer(0, 99), 2, 3), 2, 3)}),
    "array of objects": an_object(
        {"people": an_array(an_object({"name": a_string(12), "admin": {"type": "boolean"}}), 1, 3)}
    ),
    "tuple": an_object(
        {
            "pair": {
                "type": "array",
                "prefixItems": [a_string(8), an_integer(0, 10), {"type": "boolean"}],
                "items": False,
                "minItems": 3,
            }
        }
    ),
    "pattern": an_object({"code": matching("^[A-Z]{3}-[0-9]{4}$"), "checksum": matching("^[0-9a-f]{8}$")}),
    "pattern with choices": an_object({"animals": matching("^(cat|dog|bird)(, (cat|dog|bird)){0,2}$")}),
    "string lengths": an_object({"short": a_string(3), "exact": a_string(6, at_least=6), "name": a_string(12, at_least=5)}),
    "formats": an_object(
        {"day": {"type": "string", "format": "date"}, "id": {"type": "string", "format": "uuid"}}
    ),
    "integer ranges": an_object(
        {
            "celsius": an_integer(-50, 50),
            "above": {"type": "integer", "exclusiveMinimum": 7, "maximum": 1000},
            "below": {"type": "integer", "minimum": -3, "exclusiveMaximum": 3},
        }
    ),
    "number ranges": an_object(
        {"share": {"type": "number", "minimum": 0, "maximum": 1}, "latitude": LATITUDE}
    ),
    "several types": an_object({"value": {"type": ["string", "null", "boolean"], "maxLength": 8}}),
    "references": an_object(
        {"from": {"$ref": "#/$defs/point"}, "to": {"$ref": "#/$defs/point"}}, **{"$defs": {"point": POINT}}
    ),
    "references through references": an_object(
        {"line": {"$ref": "#/$defs/line"}},
        **{"$defs": {"line": an_array({"$ref": "#/$defs/point"}, 2, 2), "point": POINT}},
    ),
    "one of several shapes": an_object(
        {
            "shape": {
                "anyOf": [
                    an_object({"kind": {"const": "circle"}, "radius": an_integer(1, 100)}),
                    an_object({"kind": {"const": "square"}, "side": an_integer(1, 100)}),
                    {"type": "null"},
                ]
            }
        }
    ),
    "optional properties": an_object(
        {"title": a_string(16), "subtitle": a_string(16), "year": an_integer(1900, 2100)}, required=["title"]
    ),
    "nothing required": an_object({"a": {"type": "boolean"}, "b": an_integer(0, 5), "c": {"type": "null"}}, required=[]),
    "odd names and texts": an_object(
        {
            'a "quoted" name': one_of('say "yes"', "back\\slash", "line\nbreak"),
            "größe": one_of("klein", "größer", "日本"),
            "with space": {"const": "\t"},
        }
    ),
    "an order": an_object(
        {
            "number": matching("^ORD-[0-9]{6}$"),
            "status": one_of("open", "paid", "sent"),
            "customer": {"$ref": "#/$defs/customer"},
            "lines": an_array({"$ref": "#/$defs/line"}, 1, 2),
            "note": {"anyOf": [a_string(20), {"type": "null"}]},
        },
        required=["number", "status", "customer", "lines"],
        **{
            "$defs": {
                "customer": an_object({"name": a_string(16, at_least=1), "vip": {"type": "boolean"}}, required=["name"]),
                "line": an_object({"article": matching("^[a-z]{2,6}$"), "count": an_integer(1, 50)}),
            }
        },
    ),
}
