"""Starting, watching and stopping an engine process; what a folder and options must be."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from policies.engines import ENGINES, start, vllm_server
from policies.engines import folder as model_folder
from policies.engines.child import bind
from policies.engines.launch import choose
from policies.engines.vllm_server import (
    ENVIRONMENT,
    ONE_PROCESS,
    arguments,
    check_heads,
    check_patterns,
    environment,
    flags,
    in_one_process,
    lora_flags,
    quantisation,
    tool_parser,
)
from registry import adapters
from registry.errors import EngineFailure, Locked, NotFound, Refused, SpecError, UnknownName

QUICK = {"threads": 1}


def _start(folder: Path, place: Path, **options: Any) -> Any:
    return start(
        "transformers", folder, place / "s", served_name="tiny", log=place / "log", options={**QUICK, **options}
    )


def test_a_started_engine_answers_and_a_stopped_one_is_gone(
    folder: Path, tmp_path: Path, listening: Callable[[int], list[str]]
) -> None:
    told: list[str] = []
    handle = _start(folder, tmp_path)
    try:
        handle.wait_ready(120, lambda stage, done, total=None, note="": told.append(f"{stage} {note}"))
        assert handle.alive()
        assert handle.version.startswith("transformers ")
        assert told[-1] == "starting engine transformers is ready"
        assert listening(handle.pid) == []
        with pytest.raises(Locked, match="another process listens"):
            _start(folder, tmp_path)
    finally:
        handle.stop()
    assert not handle.alive()
    assert not handle.uds.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(handle.pid, 0)
    handle.stop()


@pytest.mark.slow
def test_a_dying_engine_is_told_with_the_end_of_its_log(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    broken = make_folder("Mistral", sliding_window=None)
    (broken / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(EngineFailure, match="ended before it answered") as caught:
        _start(broken, tmp_path).wait_ready(120)
    assert str(tmp_path / "log") in str(caught.value.hint)


def test_an_engine_that_takes_too_long_is_stopped(folder: Path, tmp_path: Path) -> None:
    handle = _start(folder, tmp_path)
    with pytest.raises(EngineFailure, match=r"within 0\.2 seconds"):
        handle.wait_ready(0.2)
    assert not handle.alive()


@pytest.mark.slow
def test_an_engine_ends_with_its_parent(folder: Path, tmp_path: Path) -> None:
    program = f"""
        import time
        from pathlib import Path
        from policies.engines import start
        place = Path({str(tmp_path)!r})
        handle = start("transformers", Path({str(folder)!r}), place / "s", served_name="t", log=place / "log",
                       options={{"threads": 1}})
        handle.wait_ready(120)
        print(handle.pid, flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    engine = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{engine}").exists() and time.monotonic() < deadline:
        state = Path(f"/proc/{engine}/stat")
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            break  # nobody reaps orphans in some containers
        time.sleep(0.1)
    else:
        assert not Path(f"/proc/{engine}").exists()
    assert not (tmp_path / "s").exists()


def test_a_hung_engine_is_killed_with_its_group(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = _start(folder, tmp_path)
    monkeypatch.setattr("policies.engines.launch.STOP_SECONDS", 0.3)
    os.kill(handle.pid, signal.SIGSTOP)
    handle.stop()
    assert not handle.alive()


@pytest.mark.slow
def test_options_reach_the_engine(folder: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "system.txt"
    prompt.write_text('be "brief" 😀\n', encoding="utf-8")
    handle = _start(
        folder, tmp_path, max_model_len=64, system_prompt_file=prompt, generation_config={"temperature": 0},
        max_batch=2, kv_cache_gib=0.01,
    )  # fmt: skip
    try:
        handle.wait_ready(120)
        transport = httpx.HTTPTransport(uds=str(handle.uds))
        with httpx.Client(transport=transport, base_url="http://engine", timeout=60) as client:
            assert client.get("/v1/models").json()["data"][0]["max_model_len"] == 64
            body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
            plain = client.post("/v1/chat/completions", json=body).json()
            again = client.post("/v1/chat/completions", json=body).json()
            assert plain["choices"] == again["choices"]  # temperature 0 by default now
            sneaky = {**body, "messages": [{"role": "system", "content": "be long"}, *body["messages"]]}
            replaced = client.post("/v1/chat/completions", json=sneaky).json()
            assert replaced["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]
            assert replaced["choices"] == plain["choices"]
    finally:
        handle.stop()


def test_system_prompt_replaces_every_system_message(tokenizer: Any, folder: Path) -> None:
    prompt = "{{ 7*7 }} 'x' \"y\" \\ \n 😀 {% raw %}"
    template = model_folder.chat_template(folder, system_prompt=prompt)
    messages = [
        {"role": "system", "content": "a"}, {"role": "user", "content": "b"}, {"role": "developer", "content": "c"},
    ]  # fmt: skip
    text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
    assert text == f"<s><|system|>{prompt}<|user|>b<|assistant|>"


@pytest.mark.parametrize(
    ("options", "error"),
    [({"thread": 1}, UnknownName), ({"gpu_memory_utilization": 0.5}, UnknownName)],
)  # fmt: skip
def test_unknown_options_are_refused_before_anything_starts(
    folder: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        start("transformers", folder, tmp_path / "s", served_name="t", log=tmp_path / "log", options=options)
    assert not (tmp_path / "log").exists()


def test_unknown_engine_long_socket_and_missing_files_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="vlm"):
        start("vlm", folder, tmp_path / "s", served_name="t", log=tmp_path / "log")
    with pytest.raises(SpecError, match="too long"):
        start("transformers", folder, tmp_path / ("s" * 120), served_name="t", log=tmp_path / "log")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        partial = tmp_path / f"without-{name}"
        partial.mkdir()
        for file in folder.iterdir():
            if file.name != name:
                (partial / file.name).write_bytes(file.read_bytes())
        with pytest.raises(NotFound):
            start("transformers", partial, tmp_path / "s", served_name="t", log=tmp_path / "log")


def test_auto_is_transformers_without_a_gpu() -> None:
    assert set(ENGINES) >= {"transformers", "vllm"}
    if not Path("/dev/nvidiactl").exists() and not Path("/dev/kfd").exists():
        assert choose("auto") == "transformers"
    assert choose("vllm") == "vllm"


def test_context_length_comes_from_the_config(folder: Path, tmp_path: Path) -> None:
    assert model_folder.context_length(folder) == 256
    assert model_folder.context_length(folder, 100) == 100
    with pytest.raises(SpecError):
        model_folder.context_length(folder, 1000)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(SpecError, match="not a JSON object"):
        model_folder.context_length(tmp_path)


def test_ends_of_text_are_gathered_from_all_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 4}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert model_folder.end_tokens(tmp_path, 7) == {4, 5, 6, 7}
    assert model_folder.end_tokens(tmp_path, None) == {4, 5, 6}


def test_vllm_is_told_to_be_safe(folder: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "system.txt"
    prompt.write_text("be brief")
    wanted = arguments(
        [f"--model={folder}", f"--uds={tmp_path / 's'}", "--served-name=m", "--dtype=float32",
         f"--system-prompt-file={prompt}"]
    )  # fmt: skip
    line = flags(wanted, on_cpu=True)
    given = dict(zip(line[::2], line[1::2], strict=False))
    assert given["--uds"] == str(tmp_path / "s")
    assert given["--max-model-len"] == "256"
    assert given["--load-format"] == "safetensors"
    assert "be brief" in Path(given["--chat-template"]).read_text()
    assert "--enforce-eager" in line
    assert given["--max-logprobs"] == "0"
    assert given["--tool-call-parser"] == "hermes"
    assert "--no-enable-log-requests" in line
    assert given["--distributed-executor-backend"] == ONE_PROCESS
    assert not {"--host", "--port", "--trust-remote-code", "--enable-lora", "--quantization"} & set(line)
    assert (ENVIRONMENT["VLLM_PLUGINS"], ENVIRONMENT["VLLM_ALLOW_RUNTIME_LORA_UPDATING"]) == ("", "0")


def test_the_sockets_of_vllms_processes_lie_beside_ours_where_their_paths_are_short_enough() -> None:
    for folder, there in (("/run/hallmark", True), ("/" + "f" * 100, False)):
        wanted = arguments(["--model=m", f"--uds={folder}/engine.sock", "--served-name=m"])
        for on_cpu in (True, False):
            assert (environment(wanted, on_cpu=on_cpu).get("VLLM_RPC_BASE_PATH") == folder) is there


def test_only_a_model_on_one_rank_and_one_memory_node_runs_in_the_engines_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wanted(*more: str) -> argparse.Namespace:
        return arguments(["--model=m", "--uds=s", "--served-name=m", *more])

    nodes = tmp_path / "online"
    monkeypatch.setattr(vllm_server, "MEMORY_NODES", nodes)
    assert in_one_process(wanted())  # nothing is told about nodes
    for text, alone in (("0\n", True), ("0-1\n", False), ("0,2\n", False)):
        nodes.write_text(text)
        assert in_one_process(wanted()) is alone
    assert in_one_process(wanted("--threads=2"))
    assert not in_one_process(wanted("--threads=2", "--tensor-parallel-size=2"))


def test_vllm_loads_adapters_with_the_rank_they_need(
    folder: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    wanted = {"one": str(make_adapter(folder, seed=1)), "b=2": str(make_adapter(folder, seed=2, rank=20))}
    with pytest.raises(SpecError, match="b=2"):
        lora_flags(wanted, folder)
    wanted["two"] = wanted.pop("b=2")
    line = lora_flags(wanted, folder)
    assert line[:5] == ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "32"]
    assert [json.loads(one) for one in line[6:]] == [{"name": name, "path": path} for name, path in wanted.items()]
    assert lora_flags({}, folder) == []


def test_ranks_and_scales_of_single_modules_need_a_vllm_that_knows_them(
    folder: Path, make_adapter: Callable[..., Path]
) -> None:
    plain, patterned = (
        adapters.read(make_adapter(folder, seed=1, **more)) for more in ({}, {"alpha_pattern": {"q_proj": 1}})
    )
    check_patterns([plain], ["r", "lora_alpha"])
    check_patterns([patterned], ["r", "lora_alpha", "rank_pattern", "alpha_pattern"])
    with pytest.raises(Refused, match="alpha_pattern"):
        check_patterns([plain, patterned], ["r", "lora_alpha"])


def test_quantisations_are_made_or_found_never_mixed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert quantisation(None, tmp_path) is None
    assert quantisation("fp8", tmp_path) == "fp8_per_tensor"
    with pytest.raises(Refused, match="unquantised"):
        quantisation("gptq", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    assert quantisation("gptq", tmp_path) is None
    assert quantisation(None, tmp_path) is None
    with pytest.raises(Refused, match="stored as gptq"):
        quantisation("fp8", tmp_path)


@pytest.mark.parametrize(
    ("template", "parser"),
    [("", "hermes"), ("<tool_call>{", "hermes"), ("[TOOL_CALLS]", "mistral"), ("<tool_call><function=", "qwen3_coder"),
     ("<|python_tag|>", "llama3_json")],
)  # fmt: skip
def test_the_parser_of_calls_follows_the_template(template: str, parser: str) -> None:
    assert tool_parser(template) == parser


def test_heads_that_vllm_cannot_serve_are_refused_before_it_starts(folder: Path, tmp_path: Path) -> None:
    check_heads(folder, [32, 64])
    with pytest.raises(EngineFailure, match="size 32"):
        check_heads(folder, [64])
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 96, "num_attention_heads": 4}))
    assert model_folder.head_size(tmp_path) == 24


def test_a_live_socket_is_not_taken_over(tmp_path: Path) -> None:
    first = bind(tmp_path / "s")
    first.listen()
    with pytest.raises(Locked):
        bind(tmp_path / "s")
    first.close()
    bind(tmp_path / "s").close()
