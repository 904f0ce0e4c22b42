"""The card of a model: what somebody who did not make it must know before using it, as Markdown."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd

from tripletomics import files
from tripletomics.keys import DEFAULT_KEY, SPACES, split_key
from tripletomics.knn import NEIGHBOURS
from tripletomics.model.state import State
from tripletomics.model.summary import map_verdict, score_table, scores_in_words, values_in_words, verdict_in_words
from tripletomics.names import as_markdown, markdown_text
from tripletomics.seen import CALIBRATION, HELD_OUT, TRAINING

SUFFIX = ".md"
TITLE = "# Model card: "  # with which every card begins
NOT_SAID = (
    "- Source: The model does not know where its cells come from. Write here: species, tissue, platform, study, "
    "licence. What you write here stays when the card is written anew."
)
SAID = re.compile(r"^## Data\n(.*?)^- Measured: ", re.MULTILINE | re.DOTALL)  # what a person wrote into a card
SIZE = "labelled cells not held out"  # of a type
SMALLEST = 10  # types with few cells that are named
USE = """```python
import tripletomics as tt

model = tt.load({name!r})
{new_cells}tt.transform(new_cells, model)  # obsm["X_tt"] (map) and obsm["X_tt_metric"]
{predict}print(model.summary())
```

```bash
tripletomics {verb} new.h5ad --model {quoted} --out result.h5ad
```"""


def describe(model: State, name: str = "model.tt", source: str = NOT_SAID) -> str:
    """Return the card of a model: data, types, checks, limits, versions, settings and use.

    Parameters
    ----------
    model
        Any fitted model. No name of a cell is on the card.
    name
        File name of the model, for the title and the examples.
    source
        Markdown on where the cells come from.
    """
    scores = score_table(model)
    scores[[*SPACES.values()]] = scores[[*SPACES.values()]].map(lambda value: "" if np.isnan(value) else f"{value:.3f}")
    made = {**model.versions, "model": model.id}
    parts = [
        f"{TITLE}{markdown_text(name)}",
        *(f"**{markdown_text(line)}**" for line in verdict_in_words(model) + map_verdict(model)),
        _items(_purpose(model)),
        "## Data",
        f"{source}\n{_items(_data(model))}",
        "## Types",
        _types(model),
        "## Checks",
        as_markdown(scores.reset_index()),
        _items(scores_in_words(model)),
        "## Limits",
        _items(_limits(model)),
        "## Use",
        _use(model, name),
        "## Versions",
        as_markdown(pd.DataFrame({"what": list(made), "version": list(made.values())})),
        "## Settings",
        as_markdown(pd.DataFrame({"setting": list(model.settings), "value": list(model.settings.values())})),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def check_place(path: Path) -> Path:
    """Return where the card of a model file goes, before any work; raise if another text is there.

    Raises
    ------
    ValueError, FileNotFoundError, PermissionError
        If it cannot be written, or a file of this name is no card.
    """
    place = files.check_writable(path.with_suffix(SUFFIX), SUFFIX)
    _source(place)
    return place


def write(place: Path, model: State, name: str) -> None:
    """Write the card of a model whole or not at all. What a person wrote into an older one about the source stays."""
    text = describe(model, name, _source(place))
    with files.replacing(place) as draft:
        draft.write_text(text, encoding="utf-8", errors="surrogateescape")  # what was not UTF-8 stays as it was


def _source(place: Path) -> str:
    """Return what a card says of the source of the cells; raise if the file is no card, or one that was changed."""
    if not place.exists():
        return NOT_SAID
    text = place.read_bytes().decode(errors="surrogateescape").replace("\r\n", "\n")
    said = SAID.search(text)
    if said is None or not text.startswith(TITLE):
        raise ValueError(
            f"{str(place)!r} exists and is not a model card that can be written anew: give the model another name, or "
            "move it."
        )
    return said[1].strip() or NOT_SAID


def _items(lines: list[str]) -> str:
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


def _predicts(model: State) -> bool:
    """Return whether `predict` works with a model."""
    return model.calibration is not None or bool(model.targets and not model.classes)


def _use(model: State, name: str) -> str:
    """Return how to use a model, in Python and in a terminal."""
    what = "tt_label and more" if model.classes else "predicted values"
    a, b = model.modalities or ("", "")
    return USE.format(
        name=name,
        quoted=shlex.quote(name),
        verb="predict" if _predicts(model) else "transform",
        predict=f"tt.predict(new_cells, model)  # obs: {what}\n" if _predicts(model) else "",
        new_cells=f"# new_cells: an AnnData of {a!r} or {b!r}, or {{{a!r}: first, {b!r}: second}}\n" if a else "",
    )


def _purpose(model: State) -> list[str]:
    """Return lines on what the model does."""
    lines = [
        f"It embeds cells in a {model.settings['metric_dim']}-D metric space and on a {model.settings['dim']}-D map."
    ]
    if (adopted := model.settings.get("map", "None")) != "None":
        lines.append(f"The map was adopted from {adopted}: the model learned where cells lie on it.")
    if model.calibration is not None:
        lines.append("It names the type of new cells, with a confidence, a label set and a novelty.")
    if model.targets:
        lines.append(f"It predicts {', '.join(target.name for target in model.targets)}.")
    return lines


def _data(model: State) -> list[str]:
    """Return lines on the cells of the fit and their values."""
    sizes = zip(model.features.names, model.features.parts, strict=True)
    measured = (f"{name} ({len(part.genes):,} features)" if name else f"{len(part.genes):,} {part.noun}"
                for name, part in sizes)  # fmt: skip
    named = {"label": "Labels", "order": "Order", "batch": "Batches"}
    return [
        f"Measured: {' and '.join(measured)}.",
        *_cells(model),
        *(f"{title}: {name}." for key, title in named.items() if (name := model.settings.get(key, "None")) != "None"),
        *values_in_words(model),
    ]


def _cells(model: State) -> list[str]:
    """Return a line on how many cells were for what, as far as the model knows."""
    if model.modalities and model.reference is not None:  # a paired cell has three hashes, so they cannot be counted
        return [f"Cells: {model.reference.sizes.sum():,.0f} labelled ones that were not held out."]
    if model.seen is None or model.modalities:
        return []
    cells = np.bincount(model.seen.roles, minlength=3)
    held_out, trained, others = (f"{cells[role]:,}" for role in (HELD_OUT, TRAINING, CALIBRATION))
    line = f"Cells: {cells.sum():,} with different values"
    if "init" in model.settings:  # new training cells have the role of calibration cells
        return [
            f"{line}, old and new ones. Old: {trained} trained the first encoder. Old or new: {others} calibrated the "
            f"predictions or trained the encoder when it grew, and {held_out} were held out. The model does not know "
            "how many of these are new."
        ]
    if cells[CALIBRATION]:
        line += f". {trained} trained the encoder, {others} more calibrated the predictions"
        return [f"{line}, and {held_out} were held out."]
    line += f". {trained} trained the encoder, and {held_out} were held out."
    if model.calibration is not None:
        part = "parts of them" if model.settings.get("batch", "None") == "None" else "whole batches"
        line += (
            f" The training cells also calibrated the predictions: {part} were left out of further encoders in turn."
        )
    return [line]


def _types(model: State) -> str:
    """Return a table of the names that the model knows, with the cells behind each."""
    found, tree = model.findings, model.tree
    if model.reference is None:
        return "None: it was fitted without labels."
    sizes = pd.Series(model.reference.sizes, model.types).map("{:,.0f}".format)
    table = sizes.rename_axis("type").rename(SIZE).reset_index()
    if tree is None or "node_held" not in found:
        return as_markdown(table)
    scores = pd.Series(found["node_f1"]).map(lambda score: "" if np.isnan(score) else f"{score:.3f}")
    counts = {SIZE: found["node_cells"], "held-out cells": found["node_held"]}
    counted = {title: pd.Series(cells).map("{:,.0f}".format) for title, cells in counts.items()}
    nodes = pd.DataFrame({"type": tree.names, **counted, "F1 of held-out cells": scores})
    enrolled = table[table["type"].isin(model.enrolled)]
    return as_markdown(pd.concat([nodes, enrolled]).fillna(""))


def _limits(model: State) -> list[str]:
    """Return lines on what the model cannot do, and must not be used for."""
    lines = ["For research. Not for diagnosis or treatment."]
    held_out = model.settings["hold_out"]
    if "held-out" not in model.scores:
        lines.append("No cell was held out: nothing says how good it is on new cells.")
    elif held_out.replace(".", "", 1).isdigit():
        lines.append(
            "The held-out cells are a random share of the same samples. So the scores say nothing about a new donor, "
            "lab or platform."
        )
    else:
        split = split_key(model.settings.get("key_added", DEFAULT_KEY))
        lines.append(
            f"The held-out cells were chosen by hold_out: {held_out}. The column {split} of the fitted cells says "
            "which they are. The scores hold for cells like these."
        )
    if model.calibration is not None:
        lines += [
            "A cell of a type that is not in the table gets the name of a type that is, or is unassigned. Not every "
            "such cell is recognised.",
            "Predicted types are suggestions. Check them with marker genes.",
        ]
    if model.reference is not None:
        sizes = pd.Series(model.reference.sizes, model.types).sort_values(kind="stable")
        few = [f"{name} ({size:.0f})" for name, size in sizes[sizes < NEIGHBOURS].items()]
        if few:
            more = f", and {len(few) - SMALLEST:,} more" if len(few) > SMALLEST else ""
            lines.append(f"Types with fewer than {NEIGHBOURS} {SIZE}: {', '.join(few[:SMALLEST])}{more}.")
        lines.append("Labels took part in the training. So clear islands of training cells are no evidence for types.")
    return [
        *lines,
        "Distances, areas and gaps on the map are no measurements. Test differences on the genes.",
        "New cells must be measured and normalised as under Data. Other values are refused, or a warning says so.",
        "The file holds no values, and names of cells only if it was saved with its index. It holds a hash of each "
        "fitted cell: who has the values of a cell can find out whether it was in the fit. It also holds coordinates "
        "of training cells.",
    ]
