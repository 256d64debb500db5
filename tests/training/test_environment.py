from __future__ import annotations

from training.environment import code_digest, cpu, describe, has_amx, threads_for


def test_names_what_a_reproduction_needs():
    found = describe(threads=2, device="cpu", precision="fp32", seed=4)
    assert {"torch", "transformers", "tokenizers"} <= set(found["packages"])
    assert found["code"] == code_digest()
    assert found["seeds"]["recipe"] == 4
    assert found["torch_build"]


def test_processor_and_threads():
    assert cpu()["cores"] >= 1
    assert has_amx() == ({"amx_bf16", "amx_tile"} <= set(cpu()["units"]))
    assert threads_for(1_000_000) <= 2 <= threads_for(1_000_000) + 1
