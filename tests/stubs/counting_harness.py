"""A third-party harness as a plugin: it answers at once, counts what it is asked, and fails where it is told to."""

from evals.harness.protocol import Planned
from evals.loaders import kept_files, load_documents
from evals.results import Judgement
from evals.samples import Row, detail, make_sample
from registry.errors import EngineFailure


class Book:
    """What happened: `asked` sample ids in order, `opened` and `closed` sessions; `before` runs before each sample."""

    def __init__(self):
        self.asked, self.opened, self.closed, self.benches = [], 0, 0, []
        self.before = lambda kpi, sample, bench: None
        self.change = lambda rows: rows
        self.value = lambda sample, bench: float(int(sample.id, 16) % 2)
        self.tokens = 0


BOOK = Book()


class Counting:
    def plan(self, ws, kpi, suite):
        documents, dataset, sealed = load_documents(ws, kpi, suite)
        samples = [
            document.sample(document.text, kpi.cluster, kpi.slices, target=document.fields.get("target", ""))
            for document in documents
        ][: kpi.samples]
        return Planned(tuple(samples), kept_files(ws, kpi, samples, suite), dataset, sealed)

    def scorer(self, kpi):
        return {"harness": "counting==1"}

    def open(self, bench):
        BOOK.opened += 1
        BOOK.benches.append(bench)
        return CountingSession(bench)


class Short(Counting):
    """Plans what it is given, doubled or too few."""

    def plan(self, ws, kpi, suite):
        return Planned(tuple(make_sample(text) for text in kpi.task.split(",")))


class CountingSession:
    def __init__(self, bench):
        self.bench = bench

    def measure(self, tasks):
        for task in tasks:
            kpi = task.instrument.kpi
            samples = {sample.id: sample for sample in task.instrument.samples}
            rows = []
            for number, name in enumerate(task.ids):
                BOOK.before(kpi.id, samples[name], self.bench)
                BOOK.asked.append((kpi.id, name))
                self.bench.progress(kpi.id, number + 1, len(task.ids))
                self.bench.spend(BOOK.tokens, 0)
                for epoch in range(kpi.epochs):
                    rows.append(self._row(kpi, samples[name], epoch))
            yield kpi.id, BOOK.change(rows)

    def _row(self, kpi, sample, epoch):
        return Row(
            sample.id, kpi.id, epoch, BOOK.value(sample, self.bench), 1.0, sample.cluster,
            detail=detail(input=sample.input), output=sample.input, prompt_tokens=BOOK.tokens, scorer="sha256:s",
        )  # fmt: skip

    def judgement(self, kpi):
        return Judgement("sha256:judge", 0.8, 0.6, 0.4, 50) if kpi.startswith("judged") else None

    def close(self):
        BOOK.closed += 1


def dies(after):
    """Return a `before` that fails once so many samples were asked in all."""

    def before(kpi, sample, bench):
        if len(BOOK.asked) >= after:
            raise EngineFailure("the harness died", hint="run it again")

    return before
