"""What happens to an endpoint beside requests: each into the log and the journal; a full disk stops neither."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from registry.workspace import Workspace

log = logging.getLogger(__name__)


class Occurrences:
    """Tells the journal and the log. `counts` holds how often each kind occurred, `lost` what no journal took."""

    def __init__(self, ws: Workspace, endpoint: str) -> None:
        self._ws, self._endpoint = ws, endpoint
        self.counts: Counter[str] = Counter()
        self.lost = 0

    def tell(self, kind: str, **facts: Any) -> None:
        """Record one; never raises, since the endpoint has to go on closing or mending what went wrong."""
        self.counts[kind] += 1
        log.warning("%s of `%s`: %s", kind, self._endpoint, facts)
        try:
            self._ws.record(kind, self._endpoint, facts, actor=f"endpoint:{self._endpoint}")
        except Exception:
            self.lost += 1
            log.exception("cannot record `%s`", kind)
