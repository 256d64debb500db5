"""After a change that others must be able to prove: a signed checkpoint of the journal, kept elsewhere where wanted."""

from __future__ import annotations

from registry.workspace import Workspace


def anchor(ws: Workspace, actor: str) -> None:
    """Anchor the journal as `actor`. What was done before stands whatever happens here."""
    ws.principal(actor)
