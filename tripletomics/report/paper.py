"""What a paper needs from a comparison besides its figure: tables, settings, and a paragraph on the methods."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripletomics import baselines, files, pl
from tripletomics.evaluation import METRICS, named, overview
from tripletomics.names import as_markdown, harmless

CAPTION = "Scores of held-out cells, mean ± sd over seeds; in brackets those of permuted labels or coordinates."
PCS = "50 principal components"  # as the methods' sentences call what they are given
SOURCES = {
    "map_at_r": "Musgrave, Belongie & Lim 2020, A metric learning reality check (MAP@R)",
    "trustworthiness": "Venna & Kaski 2001, Neighborhood preservation in nonlinear projection methods "
    "(trustworthiness)",
    "centroid_spearman": "Heiser & Lau 2020, A quantitative framework for evaluating single-cell data structure "
    "preservation by dimensionality reduction techniques (distances between types)",
}


def write(
    folder: Path,
    *,
    figures: dict[str, Figure],
    table: pd.DataFrame,
    methods: Sequence[str],
    titles: dict[str, str],
    settings: dict[str, str],
    versions: dict[str, str],
) -> None:
    """Write the figures, the tables, the settings and the methods text to a folder, and close the figures."""
    for name, figure in figures.items():
        for ending in ("pdf", "png"):
            pl.save(figure, folder / f"{name}.{ending}")
        plt.close(figure)
    shown = overview(named(table), ["method", "space"]).reset_index()
    shown = shown.rename(columns={name: metric.title for name, metric in METRICS.items()})
    texts = {
        "table.csv": harmless(table).to_csv(index=False),
        "table.md": f"{as_markdown(shown)}\n{CAPTION}\n",
        "table.tex": shown.to_latex(index=False, escape=True, caption=CAPTION).replace("±", r"$\pm$"),
        "settings.json": json.dumps({"settings": settings, "versions": versions}, indent=2) + "\n",
        "methods.md": methods_text(methods, titles, settings, versions, list(table["metric"].unique())),
    }
    for name, text in texts.items():
        with files.replacing(folder / name) as draft:
            draft.write_text(text, encoding="utf-8")


def methods_text(
    methods: Sequence[str],
    titles: dict[str, str],
    settings: dict[str, str],
    versions: dict[str, str],
    metrics: Sequence[str],
) -> str:
    """Return a paragraph on what was done, with versions, and the list of references."""
    own = [method for method in methods if method not in baselines.METHODS]
    others = [baselines.METHODS[method] for method in methods if method in baselines.METHODS]
    sentences = [f"{other.title} ({other.sentence}; {other.package} {versions[other.package]})" for other in others]
    if own:
        names = ", ".join(titles[method] for method in own)
        sentences.insert(
            0,
            f"{names} (an encoder trained on the labels with a metric-learning loss, and a map head trained on "
            f"neighbours; settings that are not named are the defaults of version {versions['tripletomics']}; PyTorch "
            f"{versions['torch']})",
        )
    chosen, data = "The choice of genes, normalisation, scaling, principal components and every method were", PCS
    if settings.get("use_rep", "None") != "None":
        chosen, data = "Every method was", f"up to {PCS} of the embedding {settings['use_rep']}"
    seeds = settings["seeds"].split(", ")
    repeats = f"{len(seeds)} times, with the seeds {settings['seeds']}" if len(seeds) > 1 else "once, with the seed 0"
    text = [
        f"Maps were compared by how well they keep the labels in `{settings['label']}` on cells that no method saw.",
        f"Splits and fits were made {repeats}. {settings['split']}",
        f"{chosen} fitted on the training cells only, and the held-out cells were embedded with these.",
        f"Methods: {'; '.join(sentences).replace(PCS, data)}.",
        "Held-out cells were scored with the training cells as reference: labels by the macro-averaged F1 of the 15 "
        "nearest neighbours and by MAP@R; structure by neighbour recall (within types minus chance), trustworthiness "
        f"and the Spearman correlation of distances between type centroids, against {data} found without labels.",
        "Each label score is compared with its null: the same fit on permuted labels"
        + (" (for tripletomics with a fifth of the steps and at most 4,000 cells)" if own else "")
        + " or, for methods that use no labels, the same coordinates scored by permuted labels, those of the reference "
        "included. The null of structure shuffles the coordinates of the scored cells.",
        f"Values are means ± standard deviations over {len(seeds)} seeds." if len(seeds) > 1 else "",
        f"Python {versions['python']}, {versions['cores']} CPU cores.",
    ]
    cited = [other.citation for other in others] + [source for name, source in SOURCES.items() if name in metrics]
    references = dict.fromkeys(part.strip() for entry in cited for part in entry.split(";"))
    lines = [re.sub(r"\s+", " ", " ".join(filter(None, text))), "", "References", ""]
    return "\n".join([*lines, *(f"- {reference}" for reference in sorted(references))]) + "\n"
