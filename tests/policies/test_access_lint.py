"""Dead permits: what is called dead is denied whatever is asked, by Cedar itself, and the plain cases are named."""

from __future__ import annotations

import shutil
from itertools import permutations, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.authoring.access_lint import Cedar
from policies.authoring.lint import lint
from policies.bundle import Bundle, BundleSpec
from registry.access import CedarPolicies

DEFAULT = Path(__file__).resolve().parents[2] / "policies" / "bundles" / "default"
USERS, GROUPS, MODELS = [("User", "ada"), ("User", "bob")], [("Group", "g"), ("Group", "h")], [("Model", "m")]
RULES, ACTIONS = [("Rule", "r"), ("Rule", "s")], [("Action", "chat"), ("Action", "read"), ("Action", "any")]
BOTH = 'action in [Action::"b", Action::"a"]'


def cedar_of(access: str) -> Cedar:
    return Cedar(Bundle(Path(), BundleSpec(name="small"), access, "", ""))


def spelled(entity: tuple[str, str]) -> str:
    return f'{entity[0]}::"{entity[1]}"'


def scopes(variable: str, kinds: list[str], entities: list[tuple[str, str]]) -> list[str]:
    """Return every constraint of a scope over these entities."""
    names = [spelled(each) for each in entities]
    found = [variable, *(f"{variable} {way} {name}" for way in ("==", "in") for name in names)]
    if variable == "action":
        lists = ([], *([name] for name in names), *permutations(names, 2), names)
        return [*found, *(f"action in [{', '.join(chosen)}]" for chosen in lists)]
    return [*found, *(f"{variable} is {kind}{more}" for kind in kinds for more in ("", *(f" in {n}" for n in names)))]


SCOPES = {
    "principal": scopes("principal", ["User", "Group"], USERS + GROUPS),
    "action": scopes("action", [], ACTIONS),
    "resource": scopes("resource", ["Model", "Rule"], MODELS + RULES),
}
CONDITIONS = st.sampled_from(["", "", "", " when { context.late }", " unless { principal == resource }"])


@st.composite
def policies(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Return a permit, and forbids that share parts of its scope."""
    parts = [draw(st.sampled_from(scope)) for scope in SCOPES.values()]
    forbids = []
    for _ in range(draw(st.integers(1, 2))):
        near = [draw(st.sampled_from([part] * 20 + scope)) for part, scope in zip(parts, SCOPES.values(), strict=True)]
        forbids.append(f"forbid ({', '.join(near)}){draw(CONDITIONS)};")
    return f"permit ({', '.join(parts)});", forbids


def row(entity: tuple[str, str], parents: list[tuple[str, str]]) -> dict[str, Any]:
    named = [{"type": kind, "id": name} for kind, name in (entity, *parents)]
    return {"uid": named[0], "attrs": {}, "parents": named[1:]}


def world_of(above: Any, joined: Any, within: Any) -> list[dict[str, Any]]:
    """Return every entity: what the first group is in, what the users and what the rules are, and actions in `any`."""
    rows = [row(ACTIONS[2], []), *(row(action, ACTIONS[2:] if joined else []) for action in ACTIONS[:2])]
    rows += [row(MODELS[0], []), row(GROUPS[1], []), row(GROUPS[0], list(above))]
    return rows + [row(user, list(joined)) for user in USERS] + [row(rule, list(within)) for rule in RULES]


@st.composite
def worlds(draw: st.DrawFn) -> list[dict[str, Any]]:
    joined = draw(st.lists(st.sampled_from(GROUPS), unique=True))
    return world_of(draw(st.sampled_from([[], GROUPS[1:]])), joined, draw(st.sampled_from([[], MODELS])))


def check_dead(named: list[str], world: list[dict[str, Any]], lates: tuple[bool, ...] = (True,)) -> None:
    """Check with Cedar that the first policy, a permit, decides nothing."""
    whole, alone = CedarPolicies("\n".join(named)), CedarPolicies(named[0])
    entities = whole.entities(world)
    for principal, action, resource in product(USERS + GROUPS, ACTIONS, MODELS + RULES):
        for late in lates:
            asked = principal, action, resource, {"late": late}, entities
            found = whole.decide(*asked)
            assert not found.allowed
            assert "0" not in found.reasons
            if alone.decide(*asked).allowed:
                assert found.reasons


@settings(max_examples=150, deadline=None)
@given(policies(), worlds())
def test_what_is_called_dead_never_decides(texts: tuple[str, list[str]], world: list[dict[str, Any]]) -> None:
    named = [f'@id("{number}") {text}' for number, text in enumerate([texts[0], *texts[1]])]
    dead = [name for name, _, _ in cedar_of("\n".join(named)).shadowed()]
    assert dead in ([], ["0"])
    if dead:
        check_dead(named, world, (True, False))


@pytest.mark.parametrize("variable", SCOPES)
def test_every_pair_of_constraints_agrees_with_cedar(variable: str) -> None:
    worlds = [world_of((), (), ()), world_of(GROUPS[1:], GROUPS[:1], MODELS), world_of((), GROUPS, MODELS)]
    dead = 0
    for narrow, wide in product(SCOPES[variable], repeat=2):
        texts = [", ".join(each if name == variable else name for name in SCOPES) for each in (narrow, wide)]
        named = [f'@id("0") permit ({texts[0]});', f'@id("1") forbid ({texts[1]});']
        if list(cedar_of("\n".join(named)).shadowed()):
            dead += 1
            for world in worlds:
                check_dead(named, world)
    assert dead > len(SCOPES[variable])


@pytest.mark.parametrize(
    ("permit", "forbid", "dead"),
    [
        ("principal, action, resource", "principal, action, resource", True),
        ('principal == User::"ada", action, resource', "principal, action, resource", True),
        ('principal == User::"ada", action, resource', 'principal == User::"bob", action, resource', False),
        ('principal == User::"ada", action, resource', "principal is User, action, resource", True),
        ('principal == User::"ada", action, resource', "principal is Group, action, resource", False),
        ('principal == Group::"g", action, resource', 'principal in Group::"g", action, resource', True),
        ('principal in Group::"g", action, resource', 'principal == Group::"g", action, resource', False),
        ('principal in Group::"g", action, resource', 'principal is User in Group::"g", action, resource', False),
        ('principal is User in Group::"g", action, resource', 'principal in Group::"g", action, resource', True),
        ('principal is User in Group::"g", action, resource', 'principal in Group::"h", action, resource', False),
        (f"principal, {BOTH}, resource", 'principal, action == Action::"a", resource', False),
        ('principal, action == Action::"a", resource', f"principal, {BOTH}, resource", True),
        ('principal, action in [Action::"a"], resource', f"principal, {BOTH}, resource", True),
        ('principal, action in [Action::"a"], resource', 'principal, action == Action::"a", resource', False),
        ("principal, action, resource is Model", 'principal, action == Action::"a", resource', False),
        ("principal, action, resource is Model", "principal, action, resource is Model", True),
    ],
)  # fmt: skip
def test_only_what_is_covered_wholly_is_dead(permit: str, forbid: str, dead: bool) -> None:
    text = f'@id("p") permit ({permit}) when {{ context.late }};\n@id("f") forbid ({forbid});'
    assert list(cedar_of(text).shadowed()) == ([("p", ("f",), 1)] if dead else [])
    assert list(cedar_of(text[:-1] + " unless { context.late };").shadowed()) == []


def test_two_forbids_may_cover_a_permit_together() -> None:
    text = """\
permit (principal, action in [Action::"a", Action::"b"], resource);
@id("not-a") forbid (principal, action in Action::"a", resource);
@id("not-b") forbid (principal is User, action in Action::"b", resource);
"""
    assert list(cedar_of(text).shadowed()) == []
    assert list(cedar_of(text.replace("principal is User", "principal")).shadowed()) == [
        ("line 1", ("not-a", "not-b"), 1)
    ]


def test_the_check_names_a_dead_permit_and_what_kills_it(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(DEFAULT, bundle)
    (bundle / "bundle.yaml").write_text("name: small\n")
    (bundle / "tests.yaml").write_text("texts: []\n")
    assert lint(bundle) == []
    access = bundle / "access.cedar"
    line = access.read_text().count("\n") + 1
    more = [
        '@id("interns-chat") permit (principal in Group::"interns", action == Action::"chat", resource is Model);',
        '@id("no-interns") forbid (principal in Group::"interns", action, resource is Model);',
    ]
    access.write_text(access.read_text() + "\n".join(more) + "\n")
    (found,) = lint(bundle)
    assert (found.severity, found.rules, found.place) == (
        "problem", ("interns-chat", "no-interns"), f"access.cedar:{line}",
    )  # fmt: skip
    assert found.message == "permit `interns-chat` never decides: `no-interns` forbids all that it permits"
