"""A journal and its projection without a workspace round them, and records to count in it."""

from registry.artifacts import Artifacts
from registry.journal import Journal
from registry.store import Store


def counted(store):
    """Return how many of the records that `fill` appends the projection has."""
    return store.query("SELECT count(*) AS n FROM event WHERE kind = 'count'")[0]["n"]


def bare(root):
    """Return a store without keys: the journal, the projection, nothing else."""
    for name in ("journal", "store"):
        (root / name).mkdir(exist_ok=True)
    return Store(root / "store", Journal(root / "journal", "w"), Artifacts(root / "objects"))


def fill(store, count, start=0, **more):
    """Append numbered records."""
    store.journal.append([("count", "s", {"n": n, **more}, "me") for n in range(start, start + count)])
