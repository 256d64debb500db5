"""Lineage in formats of others: OpenLineage events and W3C PROV. A format is a file and a line here."""

from __future__ import annotations

from registry.plugins import Plugins

EXPORTS = Plugins(
    "export",
    "hallmark.export",
    {"openlineage": "reports.exports.openlineage:render", "prov": "reports.exports.prov:render"},
)
"""Name to a function (workspace, id of an asset or empty for all) that returns text."""
