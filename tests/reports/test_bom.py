"""The bill of materials: valid CycloneDX, the same twice, with files, data, licences, figures and libraries."""

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from registry.errors import HallmarkError
from reports import bom


@pytest.fixture(scope="module")
def document(world):
    return bom.build(world.ws, world.good.id)


def test_the_strict_validator_takes_it_and_it_is_the_same_twice(world, document, tmp_path):
    text = bom.render(document)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert bom.render(bom.build(world.ws, world.good.id)) == text
    assert bom.write(world.ws, world.good.id, tmp_path / "bom.json").read_text() == text


def test_the_model_has_a_card_with_architecture_data_and_figures(world, document):
    model = document["metadata"]["component"]
    card = model["modelCard"]
    assert model["type"] == "machine-learning-model"
    assert card["modelParameters"]["modelArchitecture"] == "LlamaForCausalLM"
    assert [item["ref"] for item in card["modelParameters"]["datasets"]] == world.good.body["datasets"]
    metrics = {item["type"]: item for item in card["quantitativeAnalysis"]["performanceMetrics"]}
    figure = metrics["next_line (noninferior): PASS"]
    assert (figure["value"], figure["confidenceInterval"]) == ("0.085", {"lowerBound": "0.041", "upperBound": "0.129"})


def test_every_file_has_both_hashes(world, document):
    files = document["metadata"]["component"]["components"]
    manifest = world.ws.artifacts.manifest(world.good.body["manifest"])
    listed = {item["name"]: {entry["alg"]: entry["content"] for entry in item["hashes"]} for item in files}
    assert listed == {
        entry.path: {"SHA-256": entry.sha256[7:], "BLAKE3": entry.blake3[7:]} for entry in manifest.entries
    }


def test_data_engine_and_base_are_components_that_the_model_depends_on(document):
    kinds = {part["type"] for part in document["components"]}
    assert kinds >= {"data", "library", "machine-learning-model"}
    assert all(part["licenses"] for part in document["components"] if part["type"] == "data")
    (model, *_) = document["dependencies"]
    assert set(model["dependsOn"]) == {part["bom-ref"] for part in document["components"]}


def test_hostile_text_stays_valid_json(hostile):
    text = bom.render(bom.build(hostile.ws, hostile.good.id))
    assert json.loads(text)["bomFormat"] == "CycloneDX"


def test_what_is_no_cyclonedx_is_refused(document):
    with pytest.raises(HallmarkError, match="no CycloneDX"):
        bom.render({**document, "components": [{"type": "nonsense", "name": "x"}]})
