"""The vectors as an artifact for other implementations: their schema, their index, their version."""

import json
import re
from typing import Any

import jsonschema
import pytest

from tests.support import vector_index

FILES = ["tokens", "jwk", "signatures"]
SCHEMA = json.loads((vector_index.FOLDER / "schema.json").read_text("utf-8"))


def problems(vectors: dict[str, Any], name: str) -> list[str]:
    """What the schema of a file finds wrong."""
    schema = {"$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]}
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(vectors)]


def test_the_schema_is_a_json_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", FILES)
def test_a_file_conforms_to_its_schema(name):
    vectors = vector_index.load(name)
    assert problems(vectors, name) == []
    assert jsonschema.Draft202012Validator(SCHEMA).is_valid(vectors)


@pytest.mark.parametrize("name", FILES)
def test_the_schema_rejects_a_member_that_it_does_not_know(name):
    vectors = vector_index.load(name)
    vectors["cases"][0]["unknown"] = True
    assert problems(vectors, name) == ["Additional properties are not allowed ('unknown' was unexpected)"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("member", ["name", "because"])
def test_the_schema_rejects_a_case_without_a_name_or_a_rule(name, member):
    vectors = vector_index.load(name)
    del vectors["cases"][-1][member]
    assert problems(vectors, name) == [f"'{member}' is a required property"]


def test_the_names_of_keys_exist():
    tokens, keys, signatures = (vector_index.load(name) for name in FILES)
    for case in tokens["cases"]:
        key = case.get("key", "ES256")
        assert set(key if isinstance(key, list) else [key]) <= tokens["keys"].keys()
    assert {case["key"] for case in keys["cases"]} <= keys["keys"].keys()
    assert {case["jwk"] for case in signatures["cases"]} <= keys["keys"].keys()


def test_the_files_have_one_version():
    assert len({vector_index.load(name)["version"] for name in FILES}) == 1


def test_the_index_has_one_sentence_for_every_vector():
    text = vector_index.INDEX.read_text("utf-8")
    assert text == vector_index.render(), "python -m tests.support.vector_index"
    sentences = re.findall(r"(?m)^- (?:Accept|Reject) `.+` \(.+\)\.$", text)
    assert len(sentences) == sum(len(vector_index.load(name)["cases"]) for name in FILES)
