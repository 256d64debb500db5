"""What an endpoint is told before it starts: what to serve, where, and how its engines are looked after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from policies.endpoint.audit import Mode
from policies.endpoint.desk import Bounds
from policies.endpoint.listener import is_loopback
from policies.serving.proof import Target
from registry.errors import Refused, SpecError

if TYPE_CHECKING:
    from registry.settings import Settings

UNVERIFIED = "unsafe_unverified"
READY_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Upkeep:
    """How engines are looked after, and how releases follow one another.

    `replicas` engines answer side by side. One that ends, or does not answer a probe within `probe_deadline_s`, is
    started again: after `restart_wait_s`, doubled each time up to `restart_longest_s`, less up to half of it by chance,
    and at most `restart_limit` times in a row (`engine_down` says what then: `stay` refused, or `stop`). With `switch`
    `side_by_side` the next release is ready before the last one goes; with `stop_first` memory for one is enough, and
    requests are refused meanwhile. `drain_s` is what running requests get to end.
    """

    replicas: int = 1
    restart_limit: int = 8
    restart_wait_s: float = 0.5
    restart_longest_s: float = 60.0
    probe_s: float = 2.0
    probe_deadline_s: float = 20.0
    ready_s: float = READY_SECONDS
    engine_down: Literal["stay", "stop"] = "stay"
    switch: Literal["side_by_side", "stop_first"] = "side_by_side"
    drain_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Remote:
    """An engine that somebody else runs: nothing tells what answers there. `model` is its name for the model."""

    url: str
    api_key_env: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to serve and where. Exactly one of `alias` and `permit`; `also` are further aliases, each with its own desk.

    `extra_callers` are caller records of this run. `operations` says that the workspace's settings for identity, TLS,
    the admin port and telemetry hold: not so for an evaluation. `bounds` are the limits of requests and connections.
    """

    alias: str | None = None
    permit: str | None = None
    engine: str = "auto"
    host: str = "127.0.0.1"
    port: int = 0
    log_mode: Mode = "group"
    extra_callers: Sequence[Mapping[str, Any]] = ()
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    upkeep: Upkeep = field(default_factory=Upkeep)
    remote: Remote | None = None
    operations: bool = False
    bounds: Bounds = field(default_factory=Bounds)

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is served, the first one first."""
        return (Target(self.alias, self.permit), *(Target(alias) for alias in self.also))

    @property
    def name(self) -> str:
        """The endpoint's name and the first model's: the alias, or `permit/<id>`."""
        return self.targets[0].name


def check_plan(plan: Plan) -> None:
    """Refuse what can never be served; raises SpecError or Refused."""
    if (plan.alias is None) == (plan.permit is None):
        raise SpecError("name an alias or a permit to serve, not both", hint="`hallmark serve ALIAS`")
    if plan.permit is not None and not is_loopback(plan.host):
        raise Refused(
            f"a candidate under a permit is served on loopback only, not on `{plan.host}`", hint="leave `--host` out"
        )
    if plan.permit is not None and (plan.also or plan.remote is not None):
        raise SpecError("a permit is served alone, by its own engine", hint="leave `--also` and `--engine` out")
    names = [target.name for target in plan.targets]
    if len(set(names)) < len(names):
        raise SpecError("an alias is named twice", field="also", hint="name each alias once")
    if (plan.engine == UNVERIFIED) != (plan.remote is not None):
        raise SpecError(
            f"the engine `{UNVERIFIED}` and the setting `unsafe_unverified_engine` go together",
            field="unsafe_unverified_engine",
            hint="set it to the URL of an OpenAI-compatible server, and say `--engine unsafe_unverified`",
        )


def upkeep_of(settings: Settings) -> Upkeep:
    """Return the upkeep that a workspace's settings ask for; raises SpecError naming the setting."""
    numbers = {name: settings.number(name) for name in ("restart_wait_s", "probe_deadline_s", "drain_s")}
    for name, value in numbers.items():
        if value <= 0:
            raise SpecError(
                f"must be above 0, not {value:g}", field=name, hint=f"it comes from {settings.sources[name]}"
            )
    return Upkeep(
        replicas=_whole(settings, "replicas", 1),
        restart_limit=_whole(settings, "restart_limit", 0),
        engine_down="stop" if _one_of(settings, "engine_down", ("stay", "stop")) == "stop" else "stay",
        switch="stop_first" if _one_of(settings, "switch", ("side_by_side", "stop_first")) == "stop_first"
        else "side_by_side",
        **numbers,
    )  # fmt: skip


def _whole(settings: Settings, name: str, least: int) -> int:
    value = settings.number(name)
    if value != int(value) or value < least:
        raise SpecError(
            f"expected a whole number from {least}, found `{settings[name]}`", field=name,
            hint=f"it comes from {settings.sources[name]}",
        )  # fmt: skip
    return int(value)


def _one_of(settings: Settings, name: str, allowed: tuple[str, ...]) -> str:
    if settings[name] not in allowed:
        choices = " or ".join(f"`{value}`" for value in allowed)
        raise SpecError(
            f"expected {choices}, found `{settings[name]}`", field=name, hint=f"it comes from {settings.sources[name]}"
        )
    return settings[name]
