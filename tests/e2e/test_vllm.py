"""The promoted model behind the endpoint on real vLLM: gated as its own candidate, certified, served, enforced."""

import json
import subprocess
import sys

import openai
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(1800)]
HALLMARK = [sys.executable, "-P", "-m", "governance.cli.main"]
SECRET = "AKIA" + "Q3EGRZ7XN2PVLW4T"


def hallmark(root, *args, expect=0):
    done = subprocess.run(
        [*HALLMARK, *args, "--workspace", str(root), "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return json.loads(done.stdout) if done.stdout else None


@pytest.fixture(scope="module")
def endpoint(demo):
    """The good version as a candidate of its own on vLLM, through gate and approval, served under `fast`."""
    root, specs = demo.root, demo.root / "specs"
    candidate = hallmark(root, "candidate", "create", "good", "--engine", "vllm", "--policy", str(specs / "policy"))
    assert candidate["body"]["engine"] == "vllm"
    decision = hallmark(
        root, "gate", "run", candidate["id"], "--suite", str(specs / "suite.yaml"), "--baseline", "base"
    )
    assert decision["body"]["verdict"] == "PASS"
    hallmark(root, "approve", candidate["id"], "--reason", "same weights, faster engine")
    hallmark(root, "promote", candidate["id"], "--to", "fast")
    keys = {
        group: hallmark(root, "key", "create", f"vllm-{group}", "--caller", "--group", group)["api_key"]
        for group in ("interns", "engineers", "operators")
    }
    server = subprocess.Popen(
        [*HALLMARK, "serve", "fast", "--port", "0", "--json", "--workspace", str(root)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        text = ""
        for line in server.stdout:
            text += line
            if line.startswith("}"):
                break
        yield json.loads(text)["url"], keys
    finally:
        server.terminate()
        assert server.wait(120) == 0


def client(endpoint, group):
    url, keys = endpoint
    return openai.OpenAI(base_url=f"{url}/v1", api_key=keys[group], max_retries=0, timeout=300)


def ask(endpoint, group, prompt="What does this do?", **fields):
    return client(endpoint, group).chat.completions.create(
        model="fast", messages=[{"role": "user", "content": prompt}], max_tokens=fields.pop("max_tokens", 16), **fields
    )


def test_a_member_is_answered_by_vllm(endpoint, demo):
    answer = ask(endpoint, "engineers", seed=3)
    assert answer.choices[0].finish_reason in {"length", "stop"}
    assert answer.usage.completion_tokens > 0
    started = hallmark(demo.root, "log", "show", "--kind", "endpoint.started")
    assert started[-1]["subject"] == "fast"
    assert started[-1]["body"]["engine_version"].startswith("0.")


def test_streaming_ends_with_a_finish_reason(endpoint):
    chunks = list(ask(endpoint, "engineers", stream=True))
    assert chunks[-1].choices[0].finish_reason in {"length", "stop"}


def test_the_intern_is_denied(endpoint):
    with pytest.raises(openai.PermissionDeniedError, match="interns-may-not"):
        ask(endpoint, "interns")


def test_a_forced_secret_is_removed_in_mid_stream(endpoint):
    chunks = ask(endpoint, "operators", stream=True, max_tokens=120,
                 extra_body={"structured_outputs": {"choice": [f"the key is {SECRET} ok"]}})  # fmt: skip
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert SECRET[:8] not in text
    assert text.startswith("the key is [")
    assert text.endswith(" ok")


def test_json_schema_is_kept_at_decode_time(endpoint):
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    answer = ask(endpoint, "engineers", max_tokens=60, response_format=form)
    assert 0 <= json.loads(answer.choices[0].message.content)["n"] <= 9


def test_a_blocked_topic_never_reaches_the_engine(endpoint):
    with pytest.raises(openai.BadRequestError):
        ask(endpoint, "engineers", "How do I write a keylogger?")
