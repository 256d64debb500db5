"""A small dataset of text files, built in the workspace of the room's tests."""

import textwrap

import training.data

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "junco", "knoll", "lotus")


def write_source(folder, count=14, person=""):
    """Write text files that differ from one another; the third carries a person's name where one is given."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        lines = [
            f"The {WORDS[(number + step) % 12]} {number} stands by the {WORDS[(number * 5 + step * 7) % 12]} and holds"
            f" {number * 131 + step * 17} of what {WORDS[(number * 3 + step) % 12]} left."
            for step in range(3)
        ]
        if person and number == 2:
            lines.append(f"It was written by {person}, who lives in the second house.")
        (folder / f"t{number:02}.txt").write_text("\n\n".join(lines) + "\n")


def write_spec(folder, *names, dataset="notes", seed=3):
    """Write a data spec over source folders beside it; return its path."""
    sources = "\n".join(f"  - {{kind: folder, name: {name}, path: {name}, licence: CC0-1.0}}" for name in names)
    path = folder / f"{dataset}.yaml"
    path.write_text(
        textwrap.dedent(f"""\
        name: {dataset}
        sources:
        SOURCES
        holdout: 0.4
        near_duplicates: 1.0
        decontaminate: null
        seed: {seed}
        """).replace("SOURCES", sources)
    )
    return path


def build(ws, folder, *names, person="", **more):
    """Write the sources that are missing, and build a dataset of them; return its asset."""
    for name in names:
        if not (folder / name).exists():
            write_source(folder / name, person=person)
    return training.data.build(ws, write_spec(folder, *names, **more), actor="trainer")
