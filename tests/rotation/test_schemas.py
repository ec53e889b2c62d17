"""The JSON of the report and the audit conforms to the schema in the package."""

import json
from importlib import resources
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.conftest import NOW
from tests.rotation.test_report import SCENES, hostile
from tests.rotation.test_report import past as past  # a fixture
from verifier.rotation import report
from verifier.rotation.history import Confirmation, SecretEvent, append


def validator(name: str) -> Draft202012Validator:
    schema = json.loads(resources.files("verifier.rotation").joinpath(f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema_version"] == {"const": report.SCHEMA_VERSION}
    return Draft202012Validator(schema)


def errors(name: str, document: Any) -> list[str]:
    return [error.message for error in validator(name).iter_errors(json.loads(json.dumps(document)))]


@pytest.mark.parametrize("scene", SCENES)
def test_every_report_conforms_to_its_schema(past, scene):
    assert errors("report", scene(past)) == []


def test_lines_of_secrets_and_replicas_conform(past, tmp_path):
    past.generate("ES256", NOW)
    path = tmp_path / "keys" / "history.jsonl"
    lines = [
        SecretEvent(at=NOW, by="ann", command="add", application="a", slot=1, sha256="ab", old="none", new="active"),
        Confirmation(at=NOW, by="ann", command="confirm", replica="http://a", key_set_digest="", confirmed=False),
    ]
    path.write_bytes(append(path.read_bytes(), lines))
    document = report.build_report(past.state())
    assert [line["kind"] for line in document["history"]] == ["key", "secret", "confirmation"]
    assert errors("report", document) == []


def test_an_audit_conforms_to_its_schema(past):
    found = hostile(past)["findings"]
    assert found
    assert errors("audit", report.evidence(past.state()) | {"findings": found}) == []


def test_a_member_that_the_schema_does_not_name_is_an_error(past):
    document = hostile(past)
    assert errors("report", document | {"new": 1}) != []
    assert errors("report", {name: value for name, value in document.items() if name != "anchor"}) != []
