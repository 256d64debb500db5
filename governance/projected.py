"""The projection held against one made afresh from the journal, table by table: what it says is what was recorded."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from governance.audit import ORDER, Audit, Fault
from registry import merkle
from registry.errors import HallmarkError
from registry.ingest import Ingest
from registry.workspace import Workspace

BOOKKEEPING = frozenset({"seg_offset", "tree"})
"""Tables that tell how the projection was made, not what was recorded."""

CONFIG = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false", "threads": "2"}


def differences(
    ws: Workspace, found: Audit, hashes: dict[tuple[str, int], str], least: int, *, rows: bool
) -> list[Fault]:
    """Return where the projection differs from a journal without faults.

    Args:
        ws: the workspace.
        found: the journal, read after the projection.
        hashes: the projection's hash of each (segment, position), in its order.
        least: how many records it must have; those that came while it was read may be lacking.
        rows: whether every row of every table is compared too.
    """
    if not least <= len(hashes) <= len(found.order):
        return [Fault(f"the projection has {len(hashes)} records, `{ORDER}` names {len(found.order)}")]
    for seq, (place, (other, digest)) in enumerate(zip(found.order, hashes.items(), strict=False), 1):
        if place != other or digest != found.segments[place[0]].hashes[place[1]]:
            return [found.located(f"the projection has another record ({other[0]}, {other[1]}) here", seq)]
    leaves, (size, peaks) = found.leaves()[: len(hashes)], ws.store.frontier()
    if ws.store.leaves(0, len(leaves)) != leaves or not _grown(leaves, size, peaks):
        return [Fault("the projection has other leaves or another tree than the journal")]
    return _rows(ws, found, len(hashes)) if rows else []


def _grown(leaves: list[bytes], size: int, peaks: list[bytes]) -> bool:
    """Say whether a tree is that of the leaves; one that has grown meanwhile is not looked at."""
    return size > len(leaves) or merkle.Frontier(size, peaks).root() == merkle.root(leaves[:size])


def _rows(ws: Workspace, found: Audit, upto: int) -> list[Fault]:
    """Compare every row of every table that rests on the first `upto` records."""
    import duckdb

    connection = duckdb.connect(":memory:", config=CONFIG)
    try:
        connection.execute(files("registry").joinpath("schema.sql").read_text(encoding="utf-8"))
        Ingest(connection, ws.journal.root, ws.settings.workspace_id, ws.artifacts).run()
        names = [row[0] for row in connection.execute(
            "SELECT table_name FROM duckdb_tables() ORDER BY table_name").fetchall()]  # fmt: skip
        for name in names:
            if name not in BOOKKEEPING:
                faults = _table(ws, found, connection, name, upto)
                if faults:
                    return faults
    except HallmarkError as error:
        return [Fault(f"the projection cannot be made again: {error.message}")]
    finally:
        connection.close()
    return []


def _table(ws: Workspace, found: Audit, connection: Any, name: str, upto: int) -> list[Fault]:
    """Compare the rows of one table."""
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info('{name}')").fetchall()]
    numbered = "seq" in columns
    runs = "eval_run IN (SELECT id FROM asset WHERE seq <= {upto})"
    where = ("seq <= {upto}" if numbered else runs).format(upto=upto)
    rows = f"SELECT {', '.join(columns)} FROM {name} WHERE {where}"  # noqa: S608 (our own names)
    connection.register("present", ws.store.arrow(rows))
    differing = f"({rows} EXCEPT ALL FROM present) UNION ALL (FROM present EXCEPT ALL {rows})"
    sql = f"SELECT count(*), {'min(seq)' if numbered else 'NULL'} FROM ({differing})"  # noqa: S608
    row = connection.execute(sql).fetchall()[0]
    connection.unregister("present")
    if not row[0]:
        return []
    why = f"the projection's table `{name}` says something else than this record"
    if row[1] and row[1] <= upto:
        return [found.located(why, row[1])]
    return [Fault(f"the projection's table `{name}` differs from what the journal gives")]
