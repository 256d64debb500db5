"""Trusted time: no record is younger than the truth, so a clock set back revives nothing and signs nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from registry.errors import Refused

if TYPE_CHECKING:
    from registry.workspace import Workspace

TOLERANCE = timedelta(minutes=5)
"""How far the clock may lie behind the newest record: clocks of machines that share a workspace differ a little."""


def trusted_now(ws: Workspace) -> datetime:
    """Return the later of the clock and the newest record, checkpoints among them: what expiry is judged by.

    Whoever can append to the journal can append a record from the future, and so expire everything: that closes, it
    does not open.

    Raises:
        Refused: the clock is more than five minutes behind the newest record, so it was set back or never set.
    """
    with ws.store.lock():
        return check_clock(ws.store.state().newest)


def check_clock(newest_record: str) -> datetime:
    """Return the later of the clock and the time of the newest record (ISO 8601, empty for none). Raises Refused."""
    now = datetime.now(UTC)
    newest = datetime.fromisoformat(newest_record) if newest_record else now
    if newest <= now:
        return now
    if newest - now > TOLERANCE:
        raise Refused(
            f"the clock says {_seconds(now)}, but the newest record is of {_seconds(newest)}",
            hint="set the clock right: nothing is signed, and no expiry judged, by a clock that runs behind",
        )
    return newest


def _seconds(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
