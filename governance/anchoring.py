"""After a change that others must be able to prove: a signed checkpoint of the journal, kept elsewhere where wanted."""

from __future__ import annotations

import logging

from registry import checkpoints
from registry.errors import HallmarkError
from registry.workspace import Workspace

log = logging.getLogger(__name__)


def anchor(ws: Workspace, actor: str) -> None:
    """Sign a checkpoint as `actor` and publish it to the setting `checkpoint_publish`.

    What was done before stands whatever happens here: a failure is a warning. A key that is no Ed25519 key signs no
    checkpoint, since C2SP notes are signed with Ed25519.
    """
    target = ws.settings["checkpoint_publish"]
    try:
        with ws.store.reading():
            if ws.principal(actor).algorithm != "ed25519":
                return
            checkpoint = checkpoints.sign(ws, actor)
        if target:
            checkpoints.publish(ws, checkpoint, target)
    except (HallmarkError, OSError) as error:
        log.warning("the change is made, but its checkpoint was not signed and published: %s", error)
