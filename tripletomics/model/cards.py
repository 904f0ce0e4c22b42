"""The card of a model: what somebody who did not make it must know before using it, as Markdown."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pandas as pd

from tripletomics import files
from tripletomics.keys import SPACES
from tripletomics.knn import NEIGHBOURS
from tripletomics.model.state import State
from tripletomics.model.summary import score_table, scores_in_words, values_in_words, verdict_in_words
from tripletomics.names import as_markdown, markdown_text
from tripletomics.seen import CALIBRATION, HELD_OUT, TRAINING

SUFFIX = ".md"
TITLE = "# Model card"  # with which every card begins
NOT_SAID = "The model does not know where its cells come from. Write here: species, tissue, platform, study, licence."
USE = """```python
import tripletomics as tt

model = tt.load({name!r})
tt.transform(new_cells, model)  # obsm["X_tt"] (map) and obsm["X_tt_metric"]
{predict}print(model.summary())
```

```bash
tripletomics {verb} new.h5ad --model {quoted} --out result.h5ad
```"""


def describe(model: State, name: str = "model.tt") -> str:
    """Return the card of a model: data, types, checks, limits, versions, settings and use.

    Parameters
    ----------
    model
        Any fitted model. No name of a cell is on the card.
    name
        File name of the model, for the title and the examples.
    """
    scores = score_table(model)
    scores[[*SPACES.values()]] = scores[[*SPACES.values()]].map(lambda value: "" if np.isnan(value) else f"{value:.3f}")
    made = {**model.versions, "model": model.id}
    parts = [
        f"{TITLE}: {markdown_text(name)}",
        *(f"**{markdown_text(line)}**" for line in verdict_in_words(model)),
        _items(_purpose(model)),
        "## Data",
        _items(_data(model)),
        "## Types",
        _types(model),
        "## Checks",
        as_markdown(scores.reset_index()),
        _items(scores_in_words(model)),
        "## Limits",
        _items(_limits(model)),
        "## Use",
        USE.format(
            name=name,
            quoted=shlex.quote(name),
            verb="transform" if model.calibration is None else "predict",
            predict="" if model.calibration is None else "tt.predict(new_cells, model)  # obs: tt_label and more\n",
        ),
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
    if place.exists() and not place.read_bytes().startswith(TITLE.encode()):
        raise ValueError(f"{str(place)!r} exists and is not a model card: give the model another name, or move it.")
    return place


def write(place: Path, model: State, name: str) -> None:
    """Write the card of a model whole or not at all."""
    with files.replacing(place) as draft:
        draft.write_text(describe(model, name), encoding="utf-8")


def _items(lines: list[str]) -> str:
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


def _purpose(model: State) -> list[str]:
    """Return lines on what the model does."""
    lines = [
        f"It embeds cells in a {model.settings['metric_dim']}-D metric space and on a {model.settings['dim']}-D map."
    ]
    if model.calibration is not None:
        lines.append("It names the type of new cells, with a confidence, a label set and a novelty.")
    if model.targets:
        lines.append(f"It predicts {', '.join(target.name for target in model.targets)}.")
    return lines


def _data(model: State) -> list[str]:
    """Return lines on the cells of the fit and their values."""
    sizes = zip(model.features.names, model.features.parts, strict=True)
    measured = " and ".join(f"{len(part.genes):,} {name or part.noun}" for name, part in sizes)
    lines = [f"Source: {NOT_SAID}", f"Measured: {measured}."]
    if model.seen is not None and not model.modalities:  # a paired cell has three hashes
        cells = np.bincount(model.seen.roles, minlength=3)
        lines.append(
            f"Cells: {cells.sum():,} with different values. {cells[TRAINING]:,} trained the encoder, "
            f"{cells[CALIBRATION]:,} more calibrated the predictions, and {cells[HELD_OUT]:,} were held out."
        )
    named = {"label": "Labels", "order": "Order", "batch": "Batches"}
    lines += [
        f"{title}: {column}." for key, title in named.items() if (column := model.settings.get(key, "None")) != "None"
    ]
    return lines + values_in_words(model)


def _types(model: State) -> str:
    """Return a table of the names that the model knows, with the cells behind each."""
    found, tree = model.findings, model.tree
    if model.reference is None:
        return "None: it was fitted without labels."
    sizes = pd.Series(model.reference.sizes, model.types).map("{:,.0f}".format)
    table = sizes.rename_axis("type").rename("training cells").reset_index()
    if tree is None or "node_held" not in found:
        return as_markdown(table)
    scores = pd.Series(found["node_f1"]).map(lambda score: "" if np.isnan(score) else f"{score:.3f}")
    counts = {"training cells": found["node_cells"], "held-out cells": found["node_held"]}
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
        lines.append(f"The scores are of the cells that {held_out} holds out, and hold for cells like these.")
    if model.calibration is not None:
        lines += [
            "A cell of a type that is not in the table gets the name of a type that is, or is unassigned. Not every "
            "such cell is recognised.",
            "Predicted types are suggestions. Check them with marker genes.",
        ]
    if model.reference is not None:
        few = [
            f"{name} ({size:.0f})"
            for name, size in zip(model.types, model.reference.sizes, strict=True)
            if size < NEIGHBOURS
        ]
        if few:
            lines.append(f"Types with fewer than {NEIGHBOURS} training cells: {', '.join(few)}.")
        lines.append("Labels took part in the training. So clear islands of training cells are no evidence for types.")
    return [
        *lines,
        "Distances, areas and gaps on the map are no measurements. Test differences on the genes.",
        "New cells must be measured and normalised as under Data. Other values are refused, or a warning says so.",
        "The file holds no values, and names of cells only if it was saved with its index. It holds a hash of each "
        "fitted cell: who has the values of a cell can find out whether it was in the fit. It also holds coordinates "
        "of training cells.",
    ]
