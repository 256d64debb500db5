"""What follows a change that others must be able to check: signed weights, and a checkpoint, kept elsewhere if wanted.

The change stands whatever happens here: a failure is a warning.
"""

from __future__ import annotations

import logging

from registry import checkpoints
from registry.errors import HallmarkError
from registry.workspace import Workspace

log = logging.getLogger(__name__)


def anchor(ws: Workspace, actor: str) -> None:
    """Sign a checkpoint as `actor` and publish it to the setting `checkpoint_publish`.

    A key that is no Ed25519 key signs no checkpoint, since C2SP notes are signed with Ed25519.
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


def sign_weights(ws: Workspace, certificate: str, actor: str, passphrase: bytes | None = None) -> None:
    """Sign a certificate's weights with OpenSSF model signing, for those who verify without Hallmark."""
    from governance import weights_signing

    try:
        weights_signing.sign(ws, certificate, actor, passphrase=passphrase)
    except (HallmarkError, OSError) as error:
        log.warning("the alias has moved, but the weights have no OpenSSF signature: %s", error)
