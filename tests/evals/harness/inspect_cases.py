"""What the inspect and judge tests share: KPIs, a task file, and a bench whose endpoints say what a test wants."""

import hashlib
from contextlib import contextmanager

from evals.harness.protocol import Bench, Task
from evals.instrument import Instrument
from evals.kpi import Kpi
from evals.samples import make_sample
from evals.targets import EndpointTarget
from registry.protocols import silent
from tests.stubs.openai_server import FakeEndpoint, said

TASKS = '''
from inspect_ai import Task, task
from inspect_ai.agent import react
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, accuracy, includes, match, mean, model_graded_qa, scorer
from inspect_ai.solver import basic_agent, generate, solver, use_tools
from inspect_ai.tool import bash, tool


def asked(count=4, **more):
    return [
        Sample(f"question {n}", target=f"right {n}", metadata={"ticket": f"t{n // 2}", "lang": "deen"[n % 2 * 2 :][:2]},
               **more)
        for n in range(count)
    ]


@tool
def lookup():
    async def execute(key: str):
        """Look a key up.

        Args:
            key: The key.
        """
        return {"capital": "Paris"}[key]

    return execute


@scorer(metrics={"*": [mean()]})
def both():
    async def score(state, target):
        said = state.output.completion
        return Score(value={"long": len(said), "right": said == target.text})

    return score


@scorer(metrics=[accuracy()])
def vague():
    async def score(state, target):
        return Score(value="perhaps")

    return score


@solver
def twice():
    async def solve(state, generate):
        state = await generate(state)
        state.messages.append(state.user_prompt)
        return await generate(state)

    return solve


@solver
def breaks():
    async def solve(state, generate):
        if state.input_text == "question 1":
            raise RuntimeError("this sample cannot be run")
        return await generate(state)

    return solve


@task
def plain():
    return Task(dataset=asked(), solver=generate(max_tokens=7, stop_seqs=["!"], seed=3), scorer=includes())


@task
def agent():
    return Task(dataset=[Sample("capital?", target="Paris")], solver=react(tools=[lookup()]), scorer=includes())


@task
def basic():
    return Task(
        dataset=[Sample("capital?", target="Paris")], solver=basic_agent(tools=[lookup()], max_attempts=1),
        scorer=includes(), message_limit=10,
    )


@task
def endless():
    return Task(
        dataset=[Sample("go on", target="x")], solver=[use_tools(lookup()), generate()], scorer=includes(),
        message_limit=6,
    )


@task
def shell():
    return Task(dataset=[Sample("list", target="x")], solver=[use_tools(bash()), generate()], scorer=includes())


@task
def several():
    return Task(dataset=asked(), solver=generate(), scorer=[both(), includes(), match()])


@task
def unclear():
    return Task(dataset=asked(), solver=generate(), scorer=vague())


@task
def graded():
    return Task(dataset=asked(), solver=generate(), scorer=model_graded_qa())


@task
def broken():
    return Task(dataset=asked(), solver=breaks(), scorer=includes())


@task
def turns():
    return Task(dataset=asked(), solver=twice(), scorer=includes())


@task
def boxed():
    return Task(dataset=asked(), solver=generate(), scorer=includes(), sandbox="docker")


@task
def sample_boxed():
    return Task(dataset=asked(sandbox="local"), solver=generate(), scorer=includes())


@task
def doubled():
    return Task(dataset=asked(2) + asked(4), solver=generate(), scorer=includes())


@task
def unscored():
    return Task(dataset=asked(), solver=generate())


@task
def fails():
    raise ValueError("no such table")
'''


JUDGES = ("j", "lab", "pairs", "slow", "bare", "graded")
"""The judges that a stage serves, all at one endpoint."""


def kpi(task="tasks/cases.py@plain", **fields):
    """A KPI that only reports."""
    given = {"id": "k", "harness": "inspect", "task": task, "samples": 4, "direction": "higher", "endpoint": "url",
             "rule": {"type": "advisory"}}  # fmt: skip
    return Kpi.model_validate({**given, **fields})


def questions(count=4):
    """The samples of most tasks in the file, in the order in which it makes them."""
    return tuple(make_sample(f"question {n}", target=f"right {n}", cluster=f"t{n // 2}") for n in range(count))


def instrument(one, samples=None, files=None, *, digest="", sealed=False):
    """An instrument of a KPI whose samples are known."""
    name = digest or "sha256:" + hashlib.sha256(repr((one, samples)).encode()).hexdigest()
    return Instrument(
        kpi=one, samples=questions() if samples is None else samples, files=files or {}, dataset="", digest=name,
        sealed=sealed,
    )  # fmt: skip


def due(of, first=None):
    """All samples of an instrument, or the first so many, as a task."""
    return Task(of, tuple(sample.id for sample in of.samples)[:first])


class Stage:
    """A bench with an endpoint and a judge. `says` and `judges` are what they answer; set them before measuring.

    `told` collects (tokens, judge calls) as they are spent; `spend` may be replaced.
    """

    def __init__(self, harness, folder, suite):
        self.reset()
        self.endpoint = FakeEndpoint(lambda body, count: self.says(body, count))
        self.judge = FakeEndpoint(lambda body, count: self.judges(body, count))
        self.folder, self.suite = folder, suite
        (folder / "scratch").mkdir(parents=True)
        self.harness = harness
        self.session = harness.open(self.bench())

    def reset(self):
        """Forget what a test set; tests run in any order."""
        self.says = self.judges = lambda body, count: said("fine")
        self.told = []
        self.spend = lambda tokens, calls: self.told.append((tokens, calls))

    def bench(self, **changed):
        """A bench on the endpoint."""
        given = {
            "target": target(self.endpoint, {"candidate": "c"}), "suite": self.suite,
            "answers": self.folder / "answers" / "one", "scratch": self.folder / "scratch", "progress": silent,
            "judges": {name: target(self.judge, {}) for name in JUDGES},
            "spend": lambda tokens, calls: self.spend(tokens, calls),
        }  # fmt: skip
        return Bench(**{**given, **changed})

    def rows(self, of, first=None):
        """The rows of one instrument, in the order of its samples."""
        self.endpoint.asked.clear()
        self.judge.asked.clear()
        self.told.clear()
        (_, found), *_ = self.session.measure([due(of, first)])
        places = {sample.id: place for place, sample in enumerate(of.samples)}
        return sorted(found, key=lambda row: (places[row.sample_id], row.epoch))

    def close(self):
        """End everything."""
        self.session.close()
        self.endpoint.close()
        self.judge.close()


def target(endpoint, identity):
    """The target of a stand-in endpoint."""
    return EndpointTarget(endpoint.base_url, endpoint.api_key, endpoint.headers, identity)


@contextmanager
def staged(harness, folder, suite):
    """A stage, ended afterwards."""
    stage = Stage(harness, folder, suite)
    try:
        yield stage
    finally:
        stage.close()


def asked_of(body):
    """The text of a request's last message."""
    return body["messages"][-1]["content"]
