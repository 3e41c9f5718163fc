"""The ML-BOM beside a statement: valid by its own schema, with the statement's numbers, noticed when it changes."""

from __future__ import annotations

import json
import sys

import pytest

from command_line import rapidun
from rapidun.statement.content import read_statement
from rapidun.statement.dsse import read_envelope
from rapidun.statement.verify import DIFFERS, MATCHES, UNCHECKED, verify
from statement.conftest import HAS_BOM

needs_library = pytest.mark.skipif(not HAS_BOM, reason="cyclonedx-python-lib is missing: pip install 'rapidun[bom]'")


def document(house):
    return json.loads((house.run / "statement" / "bom.cdx.json").read_text())


def said(house):
    return read_statement(read_envelope(house.statement)[0], house.statement)


def found(house):
    return {check.name: check.result for check in verify(house.statement, key=house.public)}


def properties(component):
    return {each["name"]: each["value"] for each in component["properties"]}


@needs_library
def test_the_document_is_valid_by_the_schema_of_cyclonedx(attested):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (attested.run / "statement" / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    wrong = text.replace('"machine-learning-model"', '"robot"')
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(wrong) is not None


@needs_library
def test_it_names_model_base_and_rows_by_the_hashes_of_the_statement(attested):
    made, predicate = document(attested), said(attested).predicate
    model = made["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    hashes = {each["name"]: each["hashes"][0]["content"] for each in model["components"]}
    assert hashes == dict(predicate.models.after)
    components = {each["bom-ref"]: each for each in made["components"]}
    base = {each["name"]: each["hashes"][0]["content"] for each in components["base"]["components"]}
    assert base == dict(predicate.models.base.files)
    assert properties(components["base"])["rapidun:tensors-sha256"] == predicate.models.base.fingerprint
    rows = {name: properties(components[f"rows/{name}"])["rapidun:hmac-sha256"] for name in predicate.rows.datasets}
    assert rows == dict(predicate.rows.datasets)
    assert all(components[f"rows/{name}"]["type"] == "data" for name in rows)
    (of_model,) = (each for each in made["dependencies"] if each["ref"] == "model")
    assert set(of_model["dependsOn"]) == {"base", *(f"rows/{name}" for name in rows)}


@needs_library
def test_its_model_card_has_every_number_with_its_interval_and_what_was_not_tested(attested):
    made, predicate = document(attested), said(attested).predicate
    model = made["metadata"]["component"]
    card = model["modelCard"]
    metrics = {(each["type"], each["slice"].split(",")[0]): each for each in
               card["quantitativeAnalysis"]["performanceMetrics"]}  # fmt: skip
    ratio = metrics["perplexity_ratio", "after over before unlearning"]
    assert float(ratio["value"]) == predicate.measured.perplexity_ratio.value
    assert float(ratio["confidenceInterval"]["upperBound"]) == predicate.measured.perplexity_ratio.high
    after = metrics["clean_perplexity", "after unlearning"]
    assert float(after["confidenceInterval"]["lowerBound"]) == predicate.measured.after.clean_perplexity.low
    rates = predicate.measured.after.rates
    assert sum(each["type"] == "asr_seen" for each in card["quantitativeAnalysis"]["performanceMetrics"]) == 2 * len(
        rates
    )
    assert card["considerations"]["technicalLimitations"] == [
        *predicate.residual_risk, *(f"Not tested: {text}" for text in predicate.not_tested),
    ]  # fmt: skip
    of_model = properties(model)
    assert of_model["rapidun:method"] == predicate.how.method
    assert of_model["rapidun:verdict"] == predicate.measured.verdict
    assert of_model["rapidun:attacks"] == "none were run"


@needs_library
def test_verify_notices_a_changed_or_another_document_and_says_when_it_is_not_there(house):
    path = house.run / "statement" / "bom.cdx.json"
    assert found(house)["bom.cdx.json"] == MATCHES
    own = path.read_text()
    path.write_text(own.replace('"rapidun:verdict"', '"rapidun:verdicT"'))
    assert found(house)["bom.cdx.json"] == DIFFERS
    path.unlink()
    assert found(house)["bom.cdx.json"] == UNCHECKED


def test_without_the_library_the_statement_is_of_the_first_form_and_a_document_beside_it_is_not_its_own(
    house, monkeypatch
):
    monkeypatch.setitem(sys.modules, "cyclonedx", None)
    done = rapidun(
        "attest", house.run, "--request", "R-17", "--basis", "a fault", "--approved-by", "A. Jones", "--key", house.key,
        "--overwrite",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ML-BOM:    not written: it needs cyclonedx-python-lib (pip install 'rapidun[bom]')" in done.stdout
    statement = said(house)
    assert statement.predicate_type.endswith("/v1")
    assert "bom" not in json.loads(statement.payload())["predicate"]["beside"]
    assert "bom.cdx.json" not in found(house)
    (house.run / "statement" / "bom.cdx.json").write_text("{}")
    assert found(house)["bom.cdx.json"] == DIFFERS


@needs_library
def test_the_type_of_a_statement_says_whether_it_has_a_document(attested):
    raw = json.loads(read_envelope(attested.statement)[0].payload)
    kind = type(said(attested))
    raw["predicateType"] = raw["predicateType"].replace("/v2", "/v1")
    with pytest.raises(ValueError, match="with a BOM"):
        kind.model_validate(raw)
