"""Every name in every table loads."""

import importlib
import pkgutil

import pytest

import evals
import governance
import policies
import reports
import training
from registry.plugins import Plugins

ROOMS = (evals, governance, policies, reports, training)


def tables():
    for room in ROOMS:
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            if any(part in module.name for part in (".children", ".bundles", "_worker", "_server", ".engines.vllm")):
                continue
            loaded = importlib.import_module(module.name)
            for name, value in vars(loaded).items():
                if isinstance(value, Plugins):
                    yield f"{module.name}.{name}", value


TABLES = dict(tables())


@pytest.mark.parametrize(("table", "name"), [(table, name) for table, plugins in TABLES.items() for name in plugins])
def test_every_entry_loads(table, name):
    assert TABLES[table].load(name) is not None
