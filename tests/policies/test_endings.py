"""Answers through a gateway that end or change by a validator, an abort, a form asked for, or a fixed format."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from policies.guarding.guards import GuardOutcome
from policies.wire.control_tokens import ControlTokens
from tests.policies.asking import ASK, chat, client, post, streamed
from tests.policies.running import SECRET, Running, gateway_running
from tests.stubs.engine import Script
from tests.waiting import until

SAFE = "the [REDACTED:api_key] is what you need"
SPOKEN = f"the {SECRET} is what you need"


class Validator:
    """A validator outside of our rules: blocks `forbidden`, replaces `soft`."""

    async def validate(self, text: str, deadline_s: float) -> GuardOutcome:
        if "forbidden" in text:
            return GuardOutcome(False, "guard-a", "block", "", "no")
        if "soft" in text:
            return GuardOutcome(False, "guard-b", "redact", text.replace("soft", "[REDACTED:guard]"), "softened")
        return GuardOutcome(True, "", "", text, "")


def test_validators_see_the_whole_text_before_any_of_it_leaves(tmp_path: Path) -> None:
    with gateway_running(tmp_path, guards={"chat": Validator()}) as run:
        run.engine.script = Script([SPOKEN, " so", "ft"])
        assert streamed(run) == SAFE + " [REDACTED:guard]"
        answer = client(run).chat.completions.create(model="stdlib", messages=ASK)
        assert answer.choices[0].message.content == SAFE + " [REDACTED:guard]"
        run.engine.script = Script(["first ", "for", "bidden"])
        for stream in (False, True):
            reply = post(run, chat(stream=stream))
            assert (reply.status_code, reply.json()["error"]["rules"]) == (400, ["guard-a"])
        assert [row["action"] for row in run.decisions(4)] == ["redact", "redact", "block", "block"]
        said = post(run, {"model": "stdlib", "prompt": "x"}, path="/v1/completions").json()["choices"][0]["text"]
        assert said == "first forbidden"  # this validator is for chat only


def test_validators_of_the_input_side_see_every_text(tmp_path: Path) -> None:
    with gateway_running(tmp_path, guards={"input": Validator()}) as run:
        tool = {"type": "function", "function": {"name": "f", "description": "soft"}}
        ask = [{"role": "user", "content": [{"type": "text", "text": "a soft word"}, {"type": "text", "text": "fine"}]}]
        assert post(run, chat(messages=ask, tools=[tool])).status_code == 200
        sent = run.engine.requests[0]
        assert [part["text"] for part in sent["messages"][0]["content"]] == ["a [REDACTED:guard] word", "fine"]
        assert sent["tools"][0]["function"]["description"] == "[REDACTED:guard]"
        reply = post(run, {"model": "stdlib", "input": "forbidden"}, path="/v1/responses")
        assert (reply.status_code, reply.json()["error"]["rules"]) == (400, ["guard-a"])
        assert len(run.engine.requests) == 1
        assert [row["action"] for row in run.decisions(2)] == ["redact", "block"]


JSON_RULES = """\
name: structured
rules:
  - {id: keys-stay-inside, kind: regex, side: output, type: api_key, pattern: 'sk-[a-z0-9]{8,24}'}
  - {id: an-object, kind: json_schema, schema: {type: object}}
"""
HIDDEN = '{"key": "sk-\\u0061bcdef123456", "note": "caf\\u00e9"}'


@pytest.mark.parametrize("fixed", [False, True], ids=["asked for", "fixed by a rule"])
def test_an_answer_in_json_hides_nothing_by_escapes(tmp_path: Path, run: Running, fixed: bool) -> None:
    wanted: dict[str, Any] = {} if fixed else {"response_format": {"type": "json_object"}}
    with gateway_running(tmp_path, rules=JSON_RULES) if fixed else nullcontext(run) as here:
        here.engine.script = Script(list(HIDDEN))
        for stream in (False, True):
            asked: Any = {"model": "stdlib", "messages": ASK, "stream": stream, **wanted}
            answer: Any = client(here, "otto").chat.completions.create(**asked)
            if stream:
                said = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
            else:
                said = answer.choices[0].message.content
            assert json.loads(said) == {"key": "[REDACTED:api_key]", "note": "caf\u00e9"}


class Cutter:
    """A validator that takes a word out and leaves nothing in its place."""

    async def validate(self, text: str, deadline_s: float) -> GuardOutcome:
        return GuardOutcome("CUT" not in text, "guard-c", "redact", text.replace("CUT", ""), "cut")


def test_what_a_validator_leaves_cannot_join_to_a_control_token(tmp_path: Path) -> None:
    with gateway_running(tmp_path, guards={"input": Cutter()}) as run:
        run.desk.control = ControlTokens(["<|im_end|>"])
        ask = [{"role": "user", "content": "a <|im_CUTend|> b"}]
        assert post(run, chat(messages=ask)).json()["error"]["code"] == "control_token"
        assert post(run, chat(messages=[{"role": "user", "content": "a CUT"}])).status_code == 200


ABORTING = """\
name: aborting
rules:
  - {id: no-orion, kind: terms, side: output, type: deal, terms: [project orion], action: abort}
"""


def test_an_abort_ends_the_answer_as_if_it_were_finished(tmp_path: Path) -> None:
    with gateway_running(tmp_path, rules=ABORTING) as run:
        run.engine.script = Script(["well, ", "project ", "orion ", *["more "] * 400], delay=0.005)
        aborted = run.engine.aborted
        chunks = list(client(run).chat.completions.create(model="stdlib", messages=ASK, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "well, "
        assert chunks[-1].choices[0].finish_reason == "content_filter"
        until(lambda: run.engine.aborted == aborted + 1)  # generation stops
        events = list(client(run).responses.create(model="stdlib", input="a", stream=True))
        assert events[-1].type == "response.incomplete"
        assert events[-1].response.incomplete_details.reason == "content_filter"
        run.engine.script = Script(["well, project orion it is"])
        choice = client(run).chat.completions.create(model="stdlib", messages=ASK).choices[0]
        assert (choice.message.content, choice.finish_reason) == ("well, ", "content_filter")
        answer = client(run).responses.create(model="stdlib", input="a")
        assert (answer.status, answer.output_text) == ("incomplete", "well, ")
        row = {"status": 200, "action": "abort", "finish_reason": "content_filter"}
        assert [{name: decided[name] for name in row} for decided in run.decisions(4)] == [row] * 4
        assert {decided["rules"][-1] for decided in run.decisions(4)} == {"no-orion"}
