"""What access rules say of rules and of tools: exemptions on both sides and every surface, tools by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from policies.guards import GuardOutcome
from tests.policies.asking import ASK, chat, client, post, streamed
from tests.policies.running import ACCESS, CARD, SECRET, Running, gateway_running, until
from tests.stubs.engine import Script

RULES = """\
name: exempting
rules:
  - {id: keys-stay-inside, kind: regex, side: output, type: api_key, pattern: 'sk-[a-z0-9]{8,24}'}
  - {id: cards-stay-inside, kind: regex, side: both, type: card, pattern: '[0-9]{16}', check: luhn}
  - {id: yes-or-no, kind: choice, choices: ["yes", "no"]}
"""
MAY = (
    ACCESS
    + """
@id("operators-see-cards")
permit (principal in Group::"operators", action == Action::"exempt", resource in Model::"stdlib")
when { ["card", "choice"].contains(resource.type) };
@id("only-listed-tools")
forbid (principal, action == Action::"chat", resource)
unless { ["look", "find"].containsAll(context.tool_names) };
@id("no-responses-for-research")
forbid (principal, action == Action::"chat", resource)
when { context.surface == "responses" && context.purpose == "research" };
"""
)
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "look"}}


class Validator:
    """A validator outside of our rules: objects to whatever holds a card, unless it is left out."""

    def __init__(self) -> None:
        self.left_out: list[frozenset[str]] = []

    async def validate(self, text: str, deadline_s: float, *, exempt: frozenset[str] = frozenset()) -> GuardOutcome:
        self.left_out.append(exempt)
        return GuardOutcome(True, "", "", text, "")


@pytest.fixture(scope="module")
def exempting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("exempting")
    with gateway_running(folder, rules=RULES, access=MAY, guards={"input": Validator()}) as run:
        yield run


@pytest.fixture
def gate(exempting: Running) -> Running:
    """The module's gateway with a clean slate."""
    exempting.engine.script = Script(["card ", CARD[:5], CARD[5:], f" and {SECRET}"])
    until(lambda: exempting.gateway.front.decisions.waiting == 0)
    exempting.engine.requests.clear()
    exempting.log.records.clear()
    return exempting


def whole(run: Running) -> str:
    return client(run, "otto").chat.completions.create(model="stdlib", messages=ASK).choices[0].message.content or ""


def stream(run: Running) -> str:
    chunks = client(run, "otto").chat.completions.create(model="stdlib", messages=ASK, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def responses(run: Running) -> str:
    return client(run, "otto").responses.create(model="stdlib", input="a").output_text


def response_stream(run: Running) -> str:
    events = client(run, "otto").responses.create(model="stdlib", input="a", stream=True)
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def completion(run: Running) -> str:
    return client(run, "otto").completions.create(model="stdlib", prompt="a").choices[0].text


@pytest.mark.parametrize("ask", [whole, stream, responses, response_stream, completion])
def test_an_exempt_caller_reads_what_the_rule_hides_and_no_more(gate: Running, ask: Callable[[Running], str]) -> None:
    assert ask(gate) == f"card {CARD} and [REDACTED:api_key]"
    assert gate.decisions(1)[0]["rules"][-1] == "keys-stay-inside"
    assert "structured_outputs" not in gate.engine.requests[0]


def test_others_are_not_exempt(gate: Running) -> None:
    assert post(gate, chat()).json()["error"]["rules"] == ["yes-or-no"]
    assert gate.engine.requests[0]["structured_outputs"] == {"choice": ["yes", "no"]}
    gate.engine.script = Script(["y", "es"])
    assert streamed(gate) == "yes"


def test_the_input_side_is_exempt_too(gate: Running) -> None:
    for name, sent in (("otto", CARD), ("mia", "[REDACTED:card]")):
        gate.engine.script = Script(["yes"])
        gate.engine.requests.clear()
        assert post(gate, chat(messages=[{"role": "user", "content": CARD}]), name).status_code == 200
        assert gate.engine.requests[0]["messages"][0]["content"] == sent


def test_arguments_are_exempt_too(gate: Running) -> None:
    arguments = f'{{"card": "{CARD}", "key": "{SECRET}"}}'
    gate.engine.script = Script([arguments[:20], arguments[20:]], "tool", finish="tool_calls")
    reply = post(gate, chat(tools=[TOOL]), "otto").json()["choices"][0]["message"]["tool_calls"][0]
    assert orjson.loads(reply["function"]["arguments"]) == {"card": CARD, "key": "[REDACTED:api_key]"}


def test_validators_are_told_whom_to_leave_out(gate: Running) -> None:
    guard: Any = gate.desk.guards["input"]
    gate.engine.script = Script(["yes"])
    guard.left_out.clear()
    for name in ("otto", "mia"):
        post(gate, chat(), name)
    assert guard.left_out == [frozenset({"cards-stay-inside", "yes-or-no"}), frozenset()]


@pytest.mark.parametrize(
    ("names", "status"), [(["look"], 200), (["look", "find"], 200), (["look", "rm"], 403), ([], 200)]
)
def test_tools_are_allowed_by_name(gate: Running, names: list[str], status: int) -> None:
    gate.engine.script = Script(["yes"])
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    reply = post(gate, chat(tools=tools) if tools else chat())
    assert reply.status_code == status
    if status == 403:
        assert reply.json()["error"]["rules"] == ["only-listed-tools"]
        flat = [{"type": "function", "name": name} for name in names]
        answer = post(gate, {"model": "stdlib", "input": "a", "tools": flat}, path="/v1/responses")
        assert answer.json()["error"]["rules"] == ["only-listed-tools"]


def test_purpose_and_surface_are_facts_of_a_request(gate: Running) -> None:
    gate.engine.script = Script(["yes"])
    body = {"model": "stdlib", "input": "a"}
    for purpose, status in (("research", 403), ("billing", 200)):
        headers = {"x-hallmark-purpose": purpose}
        assert post(gate, body, path="/v1/responses", headers=headers).status_code == status
        assert post(gate, chat(), headers=headers).status_code == 200
