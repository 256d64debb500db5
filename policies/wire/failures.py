"""How an exchange with an engine fails."""


class UpstreamDown(Exception):
    """The engine cannot be reached, or dropped the connection."""


class UpstreamBroken(Exception):
    """The engine answered something that cannot be read."""


class CallClosed(Exception):
    """The exchange was closed on our side while somebody waited for it."""
