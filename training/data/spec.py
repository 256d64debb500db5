"""The data spec: which sources become a dataset, and what is held out, dropped and refused on the way."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from registry.specs import Spec

RowKind = Literal["domain", "general"]
KINDS: tuple[RowKind, ...] = ("domain", "general")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Part(BaseModel):
    """A closed, frozen part of a spec."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Corruption(Part):
    """A damaged extraction, on purpose: what a reader that loses the layout of its pages hands over.

    `interleave` reads groups of `lines` neighbouring lines column by column, so their characters alternate, as from a
    page whose rotation was not detected; `columns` reads straight across two columns of a page of `lines` lines.
    """

    mode: Literal["interleave", "columns"]
    lines: int = Field(default=2, ge=2, le=200)


class Source(Part):
    """One place rows come from.

    `python_stdlib` is the standard library of the running interpreter; `folder` walks a folder (relative to the spec
    file) for `.py`, `.txt` and `.md`. `include` and `exclude` are glob patterns on paths inside the source.
    """

    kind: Literal["python_stdlib", "folder"]
    name: Name
    path: str | None = None
    licence: str | None = None
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    rows: tuple[RowKind, ...] = Field(default=KINDS, min_length=1)
    corrupt: Corruption | None = None

    @model_validator(mode="after")
    def _path_fits_kind(self) -> Source:
        if self.kind == "folder" and not self.path:
            raise ValueError("a `folder` source needs `path`")
        if self.kind == "folder" and not self.licence:
            raise ValueError("a `folder` source needs `licence`, an SPDX id or `Proprietary`")
        if self.kind == "python_stdlib" and self.path:
            raise ValueError("a `python_stdlib` source takes no `path`: it is the running interpreter's own")
        return self


class Decontaminate(Part):
    """Drop training rows that share a run of `ngram` normalised words with the hold-out or a registered suite."""

    ngram: int = Field(default=13, ge=3, le=50)
    suites: bool = True


class DataSpec(Spec):
    """What `hallmark data build` reads. Splits are `<kind>_train` and `<kind>_holdout` of every kind found.

    `holdout` is the share of files held out, chosen by file hash with `seed`; `near_duplicates` the Jaccard similarity
    of 5-word shingles from which a row is dropped (1 keeps all but exact copies); a row is at most about `row_bytes`
    long and at least `min_bytes`; a text with one of the `canaries` refuses the whole build.
    """

    name: Name
    sources: tuple[Source, ...] = Field(min_length=1)
    holdout: float = Field(default=0.1, gt=0, lt=1)
    near_duplicates: float = Field(default=0.8, gt=0.3, le=1)
    decontaminate: Decontaminate | None = Decontaminate()
    canaries: tuple[Annotated[str, Field(min_length=8)], ...] = ()
    row_bytes: int = Field(default=2048, ge=128, le=1_000_000)
    min_bytes: int = Field(default=48, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _source_names_differ(self) -> DataSpec:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError("two sources have the same `name`")
        return self
