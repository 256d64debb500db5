"""Child process: the candidate answers, the judge compares in both orders. Alive over all looks of a run."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.children.link import Link, serve_session
from evals.children.measured import Measured
from evals.harness.provider import Answer, Client
from evals.judge import PATIENCE, prompt, settings, worth
from evals.samples import Row, detail, encode
from registry.errors import EngineFailure

ANSWER_TOKENS = 1024
"""How much a candidate may say to a question that is judged."""
CONNECTIONS = 8
OUTPUT_CHARACTERS = 2000
"""How much of an answer its row keeps."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What both orders were worth, the judge's words, and why there is no value; `value` is NaN then."""

    orders: tuple[float, ...]
    said: str
    error: str = ""

    @property
    def value(self) -> float:
        """The mean over both orders."""
        return math.nan if self.error else sum(self.orders) / len(self.orders)


class Judging:
    """One judge at work for one KPI."""

    def __init__(self, request: dict[str, Any], link: Link) -> None:
        judge = request["judge"]
        self.client = Client.resuming(
            judge["target"], request["answers"] + ".judge", {"judge": judge["digest"]}, timeout=judge["timeout_s"],
            patience=PATIENCE,
        )  # fmt: skip
        self.client.spent = lambda tokens: link.send("spent", tokens=tokens, judge_calls=1)
        self._template, self._mode, self._task = judge["template"], request["mode"], request["kpi"]["task"]

    async def compare(self, question: str, texts: tuple[str, str], scope: str) -> Verdict:
        """Ask in both orders; of a pair the value belongs to the first text. A failing judge makes an error."""
        orders: list[float] = []
        said = ""
        for swap in (False, True):
            asked = prompt(self._template, mode=self._mode, task=self._task, question=question, texts=texts, swap=swap)
            try:
                answer = await self.client.chat([{"role": "user", "content": asked}], settings(), scope=scope)
            except EngineFailure as error:
                return Verdict((), said, f"the judge failed: {error.message}")
            said = answer.content
            value = worth(said, self._mode, swap=swap)
            if value is None:
                return Verdict((), said, "the judge gave no verdict")
            orders.append(value)
        return Verdict(tuple(orders), said)


class Session:
    """One candidate and its judges. `opening` is {target, identity}."""

    def __init__(self, opening: dict[str, Any], link: Link) -> None:
        self._link = link
        self._measured = Measured(opening, link)

    def answer(self, request: dict[str, Any]) -> None:
        """Do a request's work: `measure` or `calibrate`."""
        asyncio.run({"measure": self._measure, "calibrate": self._calibrate}[request["work"]](request))

    async def _measure(self, request: dict[str, Any]) -> None:
        """Measure {kpi, samples, mode, judge, answers, scorer, sealed, out} and send its rows."""
        kpi = request["kpi"]
        jobs = [(sample, epoch) for sample in request["samples"] for epoch in range(kpi["epochs"])]
        candidate, judging = self._measured.client(request["answers"]), Judging(request, self._link)

        async def one(sample: dict[str, Any], epoch: int) -> Row:
            scope = f"{sample['id']}/{epoch}"
            asked = [{"role": "user", "content": sample["input"]}]
            answer = await candidate.chat(asked, {"max_tokens": ANSWER_TOKENS}, scope=scope)
            said = answer.content or "(no answer)"
            # Of a pair, the candidate's answer is the first text; a rubric stands before the answer.
            texts = (said, sample["target"]) if request["mode"] == "pair" else (sample["target"], said)
            verdict = await judging.compare(sample["input"], texts, scope)
            return _row(request, sample, epoch, answer, verdict)

        try:
            rows = await self._all(kpi["id"], jobs, one)
        finally:
            await candidate.aclose()
            await judging.client.aclose()
        if judging.client.failure is not None:  # it is gone: the run can go on where it stopped
            raise judging.client.failure
        Path(request["out"]).write_bytes(encode(rows))
        self._link.send("rows", file=request["out"])

    async def _calibrate(self, request: dict[str, Any]) -> None:
        """Judge the labelled {cases} and send what the verdicts were worth.

        Raises EngineFailure where the judge fails: that says nothing about its judgement.
        """
        judging, mode = Judging(request, self._link), request["mode"]

        async def one(case: dict[str, Any], number: int) -> Verdict:
            reference, answer = case["texts"]
            # A pair is labelled by what its first text won; a graded answer stands first against its reference.
            swap = mode == "pair" and case["kind"] == "grade"
            texts = (answer, reference) if swap else (reference, answer)
            return await judging.compare(case["question"], texts, f"case/{number}")

        try:
            stage = f"{request['kpi']['id']}: labelled cases"
            verdicts = await self._all(stage, [(case, at) for at, case in enumerate(request["cases"])], one)
        finally:
            await judging.client.aclose()
        failed = next((each.error for each in verdicts if each.error.startswith("the judge failed")), None)
        if failed:
            raise EngineFailure(failed, hint="is the judge's endpoint running?")
        values = [None if each.error else each.value for each in verdicts]
        swaps = [len(set(each.orders)) == 1 for each in verdicts if not each.error]
        self._link.send("calibrated", values=values, swaps=swaps)

    async def _all(
        self, stage: str, jobs: Sequence[tuple[dict[str, Any], int]],
        work: Callable[[dict[str, Any], int], Awaitable[Any]],
    ) -> list[Any]:  # fmt: skip
        """Return what the work gives for each job, a few at a time; the first error ends it."""
        places = asyncio.Semaphore(CONNECTIONS)
        done = 0
        self._link.progress(stage, 0, len(jobs))

        async def placed(job: tuple[dict[str, Any], int]) -> Any:
            nonlocal done
            async with places:
                found = await work(*job)
            done += 1
            self._link.progress(stage, done, len(jobs))
            return found

        started = [asyncio.create_task(placed(job)) for job in jobs]
        try:
            return list(await asyncio.gather(*started))
        finally:
            for each in started:
                each.cancel()


def _row(request: dict[str, Any], sample: dict[str, Any], epoch: int, answer: Answer, verdict: Verdict) -> Row:
    said, error = "\n".join(answer.texts) or answer.content, _clean(verdict.error)
    shown: dict[str, Any] = {"length": len(answer.content)}
    if verdict.orders and not error:
        shown["orders"] = list(verdict.orders)
    if not request["sealed"]:
        shown |= {"input": sample["input"], "said": said, "right": sample["target"], "note": verdict.said}
    return Row(
        sample["id"], request["kpi"]["id"], epoch, verdict.value, 1.0, sample["cluster"], error, detail(**shown),
        json.dumps(dict(sample["slices"])) if sample["slices"] else "",
        "" if request["sealed"] else _clean(said[:OUTPUT_CHARACTERS]), answer.latency_ms,
        answer.usage.get("prompt_tokens", 0), answer.usage.get("completion_tokens", 0), request["scorer"],
    )  # fmt: skip


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


if __name__ == "__main__":
    serve_session(lambda opening, link: Session(opening, link).answer)
