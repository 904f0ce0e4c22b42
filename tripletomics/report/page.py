"""One self-contained HTML page of a comparison: linked maps, scores with their nulls, confusion, settings.

The page loads nothing from anywhere: the plotting library, the cells and the genes are inside it, and its own content
policy forbids every request. Colours of types are those of :mod:`tripletomics.pl`.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from tripletomics.files import check_writable, replacing
from tripletomics.labels import NO_SIGNAL, TOO_FEW
from tripletomics.names import printable
from tripletomics.parts import did_you_mean
from tripletomics.pl import history
from tripletomics.pl.palette import GREY, PALETTE
from tripletomics.pl.text import INK
from tripletomics.report import cell_data
from tripletomics.report.score_tables import SHOWN, ScoreTables

if TYPE_CHECKING:
    from anndata import AnnData

FOLDER = Path(__file__).parent
PANEL_AS_MAP = (5, 8)  # so many maps and the panel fill rows of three


def write(
    path: str | Path,
    *,
    adata: AnnData,
    label: str,
    methods: Sequence[str],
    titles: Mapping[str, str],
    table: pd.DataFrame,
    confusions: Mapping[str, pd.DataFrame],
    histories: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, str],
    versions: Mapping[str, str],
    summary: str,
    title: str = "",
) -> None:
    """Write a comparison as one HTML page that opens from disk without a network.

    It holds linked interactive maps, score tables with their nulls, the confusion matrix of held-out types, recall per
    type, training histories, settings and versions. It is written whole or not at all.

    Parameters
    ----------
    path
        The file, ending in ``.html``.
    adata
        Cells with ``obs["tt_split"]`` ("train" / "held-out") and a map ``obsm["X_{method}"]`` of each method that has
        one. Up to 100,000 cells are shown, above that a sample in proportion to the types that keeps rare ones whole.
        Genes are stored in 255 steps, the most variable first, until about 40 MB are reached; text columns with more
        than 100 names are left out. The page says how many of each are there. It is not changed.
    label
        The obs column with the types.
    methods, titles
        The methods in order, and their names on the page.
    table
        One row per value: method, space, metric, type, split, value, sd, n_seeds, family, label_circular, null.
    confusions
        For each method, counts of held-out cells: true types x predicted types.
    histories
        Training histories of the methods that have one, as in ``tripletomics.Model.history``.
    settings, versions
        What was run, and with which versions. Of the settings "call" is what made the comparison, "seeds" its seeds and
        "split" how cells were held out, in words.
    summary
        What was found, in words. Its first paragraph is at the top.
    title
        Name of the data, on top of the page; by default the name of the file without its ending.

    Raises
    ------
    KeyError
        If `label` or the split is not a column of obs.
    ValueError, FileNotFoundError, PermissionError
        If `path` does not end in ``.html`` or cannot be written.
    """
    path = check_writable(path, ".html")
    held_out = _held_out(adata, label)
    types = cell_data.types_of(adata.obs[label], label, adata)
    rows = cell_data.shown_rows(types.codes, held_out, seed=0)
    scores = ScoreTables(table, titles, methods)
    maps = {method: cell_data.map_of(adata, method, rows) for method in methods if f"X_{method}" in adata.obsm}
    colours = cell_data.first_colours(types, rows, held_out)
    document, items = _linked_maps(maps, colours, held_out[rows], types.codes[rows] >= 0)
    store, data, left_out = cell_data.packed(adata, label, types, rows)
    features = "genes" if settings.get("use_rep", "None") == "None" else "dimensions"
    data |= {
        "confusions": [_confusion(*scores.of_map(m), confusions[m]) for m in methods if m in confusions],
        "items": items,
        "maps": list(maps),
        "title": title or path.stem,
        "features": features,
        "unit": "log-normalised" if features == "genes" and "log1p" in adata.uns else "as in the data",
        "libraries": [store.put(script.encode()) for script in _libraries()],
    }
    page = _template().render(
        **{ending: (FOLDER / f"page.{ending}").read_text(encoding="utf-8") for ending in ("css", "js")},
        document=document,
        data=cell_data.as_json(data),
        store=store,
        title=data["title"],
        label=label,
        features=features,
        left_out=left_out,
        columns=_columns(len(maps)),
        tiled=len(maps) in PANEL_AS_MAP,
        maps=_captions(maps, adata, titles, scores, list(items[0]["roots"].values())),
        colours=dict(zip(types.names, types.colours, strict=True)),
        histories={titles.get(m, m): _training_image(curves, scores.nulls(m)) for m, curves in histories.items()},
        versions=versions,
        summary=[part.strip() for part in summary.strip().split("\n\n") if part.strip()],
        n_cells=adata.n_obs,
        n_genes=adata.n_vars,
        n_stored=data["n_genes"],
        n_seeds=int(table["n_seeds"].max()) if len(table) else 0,
        **_counts(types.codes, held_out, rows),
        **_provenance(settings),
        **_score_sections(scores),
    )
    with replacing(path) as draft:
        draft.write_text(page, encoding="utf-8")


def _counts(codes: np.ndarray, held_out: np.ndarray, rows: np.ndarray) -> dict[str, int]:
    """Return how many cells are shown, held out and unlabelled, and of how many types."""
    return {
        "n_shown": len(rows),
        "n_held": int(held_out.sum()),
        "n_types": len(np.unique(codes[codes >= 0])),
        "n_unlabelled": int((codes < 0).sum()),
    }


def _provenance(settings: Mapping[str, str]) -> dict[str, Any]:
    """Return when the page is written, what made the comparison, and the other settings, readable."""
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return {"date": now, "call": settings.get("call"), "seeds": settings.get("seeds"), "settings": _readable(settings)}


def _columns(n: int) -> int:
    """Return the number of columns of n maps on a screen: rows of equal length if they can be, of at most three."""
    return 2 if n == 4 else min(3, max(1, n))


def _readable(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that were used, without those that the page has elsewhere, and at the end the unused ones."""
    own = {key: value for key, value in settings.items() if key not in ("call", "split")}
    unused = [key for key, value in own.items() if value in ("None", "False", "")]
    found = {key: value for key, value in own.items() if key not in unused}
    if "unlabelled" in found:  # the first of the names is the empty one
        found["unlabelled"] = ", ".join(name.strip() or "(empty)" for name in found["unlabelled"].split(","))
    return found | ({"not used": ", ".join(unused)} if unused else {})


def _held_out(adata: AnnData, label: str) -> np.ndarray:
    """Return which cells are held out (n,); raise an error if a column is missing or has missing values."""
    for column in (label, "tt_split"):
        if column not in adata.obs:
            near = did_you_mean(column, adata.obs.columns)
            names = ", ".join(map(str, adata.obs.columns))
            raise KeyError(f"{column!r} is not a column of adata.obs.{near} Columns: {names}.")
    if unknown := int(adata.obs["tt_split"].isna().sum()):
        raise ValueError(
            f"obs['tt_split'] says nothing about {unknown:,} of {adata.n_obs:,} cells: leave these cells out."
        )
    return (adata.obs["tt_split"].astype(str) == "held-out").to_numpy()


def _captions(
    maps: Mapping[str, np.ndarray], adata: AnnData, titles: Mapping[str, str], scores: ScoreTables, ids: list[str]
) -> list[dict[str, Any]]:
    """Return the text above and below each map."""
    return [
        {
            "title": titles.get(m, m) + " (2 of 3 axes)" * (adata.obsm[f"X_{m}"].shape[1] > 2),
            "id": place,
            "caption": scores.caption(m),
            "verdict": scores.verdict(m, "map"),
            "lost": int(np.isnan(points[:, 0]).sum()),
        }
        for place, (m, points) in zip(ids, maps.items(), strict=True)
    ]


def _score_sections(scores: ScoreTables) -> dict[str, Any]:
    """Return the tables of scores, and whether there is any signal."""
    found = {scores.verdict(*pair).partition(" (")[0] for pair in scores.pairs}
    recall_heads, recall = scores.recall()
    return {
        "main": scores.scores("Scores of held-out cells", SHOWN, "held-out"),
        "families": list(scores.families("held-out")),
        "training": list(scores.families("train")),
        "recall_heads": recall_heads,
        "recall": recall,
        "silent": bool(found) and found <= {"no signal"},
        "few": TOO_FEW.capitalize() if TOO_FEW in found and "" not in found else "",
        "signal": NO_SIGNAL,
    }


def _linked_maps(
    points: Mapping[str, np.ndarray], colour: np.ndarray, held: np.ndarray, known: np.ndarray
) -> tuple[str, list[dict[str, Any]]]:
    """Return a Bokeh document of maps that share one source, so that a selection in one is one in all."""
    from bokeh.core.json_encoder import serialize_json
    from bokeh.document import Document
    from bokeh.embed.util import standalone_docs_json_and_render_items
    from bokeh.models import BooleanFilter, CDSView, ColumnDataSource, Range1d
    from bokeh.models.tools import HoverTool, LassoSelectTool, PanTool, WheelZoomTool
    from bokeh.plotting import figure

    width = 1000 / max(2, _columns(len(points)))  # of a map in pixels, about
    area = float(np.clip(0.35 * width**2 / len(held), 2.2, width / 20))
    large = float(np.clip(0.16 * width**2 / max(1, held.sum()), 1.6 * area, 2.3 * area))
    size = np.sqrt(np.where(held & known, large, area)).astype(np.float32)
    data = {"colour": colour, "held": held.astype(np.uint8), "size": size, "edge": (held & known).astype(np.float32)}
    for i, xy in enumerate(points.values()):
        data |= {f"x{i}": xy[:, 0], f"y{i}": xy[:, 1]}
    source = ColumnDataSource(data, name="cells")
    visible = BooleanFilter(name="visible")
    document = Document()
    for i, xy in enumerate(points.values()):
        finite = xy[~np.isnan(xy[:, 0])].astype(float)
        low, high = (finite.min(axis=0), finite.max(axis=0)) if len(finite) else (np.zeros(2), np.ones(2))
        half, (x, y) = 0.53 * (float((high - low).max()) or 1.0), (low + high) / 2
        plot = figure(
            x_range=Range1d(x - half, x + half), y_range=Range1d(y - half, y + half), output_backend="webgl",
            sizing_mode="stretch_both", toolbar_location=None, tools="", min_border=0, outline_line_color=None,
            lod_threshold=20_000, name=f"map{i}",
        )  # fmt: skip
        plot.axis.visible = plot.grid.visible = False
        plot.scatter(
            f"x{i}", f"y{i}", source=source, view=CDSView(filter=visible), size="size", fill_color="colour",
            line_color=INK, line_alpha="edge", line_width=min(1.0, 0.17 * math.sqrt(large)),
            nonselection_fill_color=GREY, nonselection_fill_alpha=0.35, nonselection_line_alpha=0.0,
        )  # fmt: skip
        lasso, pan = LassoSelectTool(continuous=False), PanTool()
        lasso.overlay.update(fill_color=PALETTE[0], fill_alpha=0.08, line_color=PALETTE[0], line_width=1.5)
        plot.add_tools(lasso, pan, WheelZoomTool(), HoverTool(tooltips=None))
        plot.toolbar.active_drag, plot.toolbar.active_scroll = lasso, None
        document.add_root(plot)
    docs, items = standalone_docs_json_and_render_items(document)
    return cell_data.safe(serialize_json(docs)), [item.to_json() for item in items]


def _confusion(title: str, verdict: str, counts: pd.DataFrame) -> dict[str, Any]:
    """Return the counts of true types (rows) by predicted type (columns), for the page."""
    return {
        "title": title,
        "true": [str(name) for name in counts.index],
        "predicted": [str(name) for name in counts.columns],
        "counts": counts.to_numpy().tolist(),
        "warning": verdict,
    }


def _training_image(curves: Mapping[str, Any], nulls: Mapping[str, float]) -> str:
    """Return the curves of a training with the null of its held-out F1, as SVG in base64."""
    axes = history(SimpleNamespace(history=curves, scores={"permuted": nulls}), show=False)
    figure: Any = axes.figure
    svg = io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    plt.close(figure)
    return base64.b64encode(svg.getvalue()).decode()


def _libraries() -> list[str]:
    """Return the scripts of the plotting library: only the core and WebGL."""
    from bokeh.resources import Resources

    return Resources(mode="inline", components=["bokeh", "bokeh-gl"], log_level="warn").js_raw


def _template() -> Any:
    """Return the template of the page; it escapes every value unless it says otherwise."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    def plain(value: Any) -> Any:
        """Return what is put in the page: text of others without characters that control a terminal."""
        return printable(value) if type(value) is str else value

    loader = FileSystemLoader(FOLDER)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, finalize=plain)
    environment.trim_blocks = environment.lstrip_blocks = True
    return environment.get_template("page.html.j2")
