"""Child process: evidently draws one HTML page. Nothing that needs a download (sentiment, vocabularies) is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset, DataSummaryPreset

from evals.children.link import Link, serve

CATEGORIES = ["action", "finish_reason", "status"]
SIZES = ["input_chars", "output_chars"]


def work(request: dict[str, Any], link: Link) -> None:
    """Draw the report of a request: {reference, current, out}."""
    definition = DataDefinition(categorical_columns=CATEGORIES, numerical_columns=SIZES)
    windows = {
        name: Dataset.from_pandas(pd.DataFrame(request[name]), data_definition=definition)
        for name in ("current", "reference")
    }
    report = Report([DataDriftPreset(), DataSummaryPreset()])
    snapshot = report.run(current_data=windows["current"], reference_data=windows["reference"])
    part = Path(request["out"] + ".part")
    snapshot.save_html(str(part))
    part.replace(request["out"])
    link.send("drawn")


if __name__ == "__main__":
    serve(work)
