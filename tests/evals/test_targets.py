"""Targets: verified weights, and endpoints of this machine only."""

from types import SimpleNamespace

import pytest

from evals.targets import open_endpoint, open_weights, weights_identity
from registry.errors import EngineFailure, Tampered
from registry.records import Candidate


def test_weights_are_a_private_copy_that_is_removed(ws, candidate, tiny_model):
    record = ws.get(candidate.id, Candidate)
    with open_weights(ws, record) as target:
        folder = target.folder
        assert (folder / "config.json").read_bytes() == (tiny_model / "config.json").read_bytes()
        assert target.identity == weights_identity(record)
    assert not folder.exists()


def test_a_flipped_byte_is_found_before_anything_runs(ws, candidate):
    record = ws.get(candidate.id, Candidate)
    entry = ws.artifacts.manifest(record.weights).entry("model.safetensors")
    path = ws.artifacts.path(entry.blake3)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(Tampered, match=r"model\.safetensors"), open_weights(ws, record):
        pass


def test_random_weights_are_another_model(ws, candidate):
    record = ws.get(candidate.id, Candidate)
    assert weights_identity(record) != weights_identity(record, random_seed=1)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "http://localhost:1/v1", "http://[::1]:8000/v1"])
def test_loopback_endpoints_are_accepted(url):
    endpoint = SimpleNamespace(base_url=url, api_key="k", permit="", headers={"x": "y"})
    target = open_endpoint(endpoint, {"candidate": "c"})
    assert target.plain() == {"base_url": url, "api_key": "k", "headers": {"x": "y"}}


@pytest.mark.parametrize(
    "url", ["https://api.example.com/v1", "http://10.0.0.1/v1", "http://127.0.0.1.example.com/", "x"]
)
def test_other_machines_are_refused(url):
    with pytest.raises(EngineFailure, match="not on this machine"):
        open_endpoint(SimpleNamespace(base_url=url, api_key="k", permit="", headers={}), {})
