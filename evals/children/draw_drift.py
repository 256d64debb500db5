"""Child process: evidently draws one HTML page. Nothing that needs a download (sentiment, vocabularies) is used."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.descriptors import NonLetterCharacterPercentage, SentenceCount, TextLength, WordCount
from evidently.presets import DataDriftPreset, DataSummaryPreset

from evals.children.link import Link, serve

CATEGORIES = ["action", "finish_reason", "status"]
SIZES = ["input_chars", "output_chars", "prompt_tokens", "completion_tokens"]
DESCRIPTORS = ("characters", "words", "sentences", "non_letters")
FEWEST = 2


def work(request: dict[str, Any], link: Link) -> None:
    """Draw the report of a request: {reference, current, out}, and `canaries`, lists of answers by window."""
    pages: dict[str, str] = {}
    windows = {name: pd.DataFrame(request[name]) for name in ("reference", "current")}
    if min(map(len, windows.values())) >= FEWEST:
        definition = DataDefinition(categorical_columns=CATEGORIES, numerical_columns=SIZES)
        data = {name: Dataset.from_pandas(frame, data_definition=definition) for name, frame in windows.items()}
        pages["Decision log"] = _drawn(data)
    if "canaries" in request:
        described = {name: _described(texts) for name, texts in request["canaries"].items()}
        pages["Answers to canaries"] = _drawn(described)
    out = Path(request["out"])
    part = out.with_name(out.name + ".part")
    part.write_text(_bound(pages), encoding="utf-8")
    part.replace(out)
    link.send("drawn")


def _bound(pages: dict[str, str]) -> str:
    """Return one page: the only one as it is, several in frames below one another."""
    if len(pages) == 1:
        return next(iter(pages.values()))
    frame = '<h2>{}</h2><iframe title="{}" srcdoc="{}" style="width:100%;height:90vh;border:0"></iframe>'
    frames = "".join(frame.format(name, name, html.escape(page)) for name, page in pages.items())
    head = '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Drift</title></head>'
    return f"{head}<body>{frames or 'too little data to draw'}</body></html>"


def _described(texts: list[str]) -> Dataset:
    """Return a table of descriptors of answers, one row an answer: the texts themselves are not drawn."""
    named = dict(zip(DESCRIPTORS, (TextLength, WordCount, SentenceCount, NonLetterCharacterPercentage), strict=True))
    described = Dataset.from_pandas(
        pd.DataFrame({"answer": texts}),
        data_definition=DataDefinition(text_columns=["answer"]),
        descriptors=[kind("answer", alias=alias) for alias, kind in named.items()],
    )
    numbers = described.as_dataframe()[list(DESCRIPTORS)].fillna(0.0).add_prefix("canary_")
    return Dataset.from_pandas(numbers, data_definition=DataDefinition(numerical_columns=list(numbers.columns)))


def _drawn(data: dict[str, Dataset]) -> str:
    report = Report([DataDriftPreset(), DataSummaryPreset()])
    snapshot = report.run(current_data=data["current"], reference_data=data["reference"])
    return str(snapshot.get_html_str(as_iframe=False))


if __name__ == "__main__":
    serve(work)
