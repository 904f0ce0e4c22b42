"""`tripletomics demo`: noise, real cells and new cells, each scored on cells that no map was fitted on."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tripletomics import datasets, files, tl
from tripletomics.cli.answers import Answer, written
from tripletomics.cli.options import grouped
from tripletomics.cli.printing import say, say_written
from tripletomics.cli.reading import write
from tripletomics.labels import UNASSIGNED
from tripletomics.names import percent

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

LABEL, HOLD_OUT = "cell_type", 0.5
NOISE = (900, 50, 5)  # cells, random numbers for each, random labels
SURE = 0.9
NAMES = {"tt": "tripletomics", "umap": "UMAP", "umap_supervised": "supervised UMAP", "logistic": "logistic regression"}
Scores = dict[str, dict[str, Any]]  # of each method


@grouped
def run_demo(*, out: Path = Path("tripletomics-demo"), progress: bool = True) -> Answer:
    """Map noise, blood cells, and blood cells of another donor, and score all on cells that no map has seen.

    The cells come with the package. Takes about a minute and a half and downloads nothing.

    Parameters
    ----------
    out
        Folder to write `demo.png`, `blood.h5ad`, `new-donor.h5ad` and `blood.tt` to. It is created.
    progress
        Show a progress bar in a terminal.
    """
    files.make_folder(out)
    names = {"demo": ".png", "blood": ".h5ad", "new-donor": ".h5ad"}
    figure, table, query = (files.check_writable(out / f"{name}{end}", end) for name, end in names.items())
    kept = files.check_writable(out / "blood.tt", ".tt")
    os.environ.setdefault("MPLBACKEND", "agg")  # the figure goes to a file

    with _timed("reading", progress):
        noise, (blood, new) = make_noise(), read_donors()
    with _timed("blood, mapped", spinner=False):  # fit has its own bar
        model = tl.fit(blood, LABEL, hold_out=HOLD_OUT, progress=progress)
    with _timed("other methods", progress):
        scores = score(blood, tuple(NAMES), counts=True)
    with _timed("new donor", progress):
        tl.predict(new, model)
        found = score_new(new)
    with _timed("noise", progress):
        nothing = tl.fit(noise, LABEL, hold_out=HOLD_OUT, progress=False)
        noise_scores = score(noise, ("tt", "umap_supervised"), counts=False)
    with _timed("figure", progress):
        from tripletomics import pl
        from tripletomics.pl.demo_figure import draw_demo

        captions = [caption(noise_scores, name, learned=True) for name in ("umap_supervised", "tt")]
        captions += [caption(scores, name) for name in ("umap", "tt")]
        pl.save(draw_demo(noise, blood, new, LABEL, captions), figure)
    with _timed("writing", progress):
        write(blood, table)
        write(new, query)
        model.save(kept)

    permuted = {"noise": nothing.scores["permuted"]["map"], "blood": model.scores["permuted"]["map"]}
    record = {"noise": noise_scores, "blood": scores, "permuted": permuted, "new_donor": found}

    def show() -> None:
        print()
        _say_noise(noise_scores, nothing)
        _say_blood(blood, scores, permuted["blood"])
        _say_new(found)
        say_written(figure, table, query, kept)
        say("Here, half of the cells are held out, so that scores have short intervals. fit holds out a tenth.")
        say("Your cells:  tripletomics fit CELLS.h5ad --label COLUMN --out map.h5ad --model map.tt --figure map.png")

    return Answer(record | {"written": written(figure, table, query, kept)}, show)


def make_noise() -> AnnData:
    """Return cells of random numbers, with random labels."""
    import anndata
    import numpy as np

    random, (cells, numbers, labels) = np.random.default_rng(0), NOISE
    adata = anndata.AnnData(random.normal(size=(cells, numbers)).astype(np.float32))
    adata.obs[LABEL] = random.choice([f"label {i}" for i in range(1, labels + 1)], cells)
    return adata


def read_donors() -> tuple[AnnData, AnnData]:
    """Return the blood cells of the first donor, and those of the second as new cells."""
    adata = datasets.pbmc_two_donors()
    first = (adata.obs["donor"] == "pbmc3k").to_numpy()
    return adata[first].copy(), adata[~first].copy()


def score(adata: AnnData, methods: Sequence[str], counts: bool) -> Scores:
    """Add the maps of the other methods to `obsm`; return how well each names the held-out cells, with intervals."""
    import numpy as np

    from tripletomics import baselines, features, labels, metrics

    held_out = (adata.obs["tt_split"] == "held-out").to_numpy()
    codes, _ = labels.encode(adata.obs[LABEL], labels.UNLABELLED)
    y, truth = codes[~held_out], codes[held_out]
    x, others = adata.X[~held_out], adata.X[held_out]
    genes = features.fit(x, list(adata.var_names), counts=counts, seed=0)
    cells = baselines.prepare(genes, x, others, y)
    predicted, trained = [], dict.fromkeys(methods, np.nan)
    for method in methods:
        if method == "logistic":
            scaled = [genes.standardise(genes.normalise(rows).toarray()) for rows in (x, others)]
            predicted.append(_regress(scaled[0], y, scaled[1]))
            continue
        if method != "tt":
            adata.obsm[f"X_{method}"] = np.empty((adata.n_obs, 2), dtype=np.float32)
            train, query = baselines.METHODS[method].embed(cells, 0)["map"]
            adata.obsm[f"X_{method}"][~held_out], adata.obsm[f"X_{method}"][held_out] = train, query
        z = adata.obsm[f"X_{method}"]
        predicted.append(metrics.knn_votes(z[~held_out], y, z[held_out]).argmax(axis=1))
        trained[method] = metrics.knn_macro_f1(z[~held_out], y)
    f1 = np.array([metrics.macro_f1(truth, named) for named in predicted])
    draws = metrics.bootstrap_macro_f1(truth, np.array(predicted), seed=0)
    ahead = draws[:, :1] - draws  # on the same cells
    ends, ends_ahead = (np.quantile(values, (0.025, 0.975), axis=0).T for values in (draws, ahead))
    return {
        method: {
            "f1": f1[i], "interval": ends[i], "training_f1": trained[method],
            "ahead_by": f1[0] - f1[i], "ahead_interval": ends_ahead[i],
        }
        for i, method in enumerate(methods)
    }  # fmt: skip


def _regress(x: np.ndarray, y: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the types that a linear model on the genes predicts."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=0.01, max_iter=300).fit(x[y >= 0], y[y >= 0]).predict(query)


def score_new(new: AnnData) -> dict[str, Any]:
    """Return how many new cells got a type, how many of these are right, and what became of the unknown type."""
    truth, label = new.obs[LABEL].astype(str), new.obs["tt_label"].astype(str)
    known, named = truth != "Unknown", label != UNASSIGNED
    sure, strange = new.obs["tt_confidence"] >= SURE, new.obs["sorted_type"] == "CD34+"
    groups = {"checked": named & known, "sure": named & known & sure, "unsure": named & known & ~sure}
    return {
        "cells": len(label), "named": int(named.sum()), "unassigned": int((~named).sum()),
        "with_type": int(known.sum()),
        **{name: _share((label == truth)[rows].to_numpy()) for name, rows in groups.items()},
        "progenitors": int(strange.sum()), "progenitors_unassigned": int((strange & ~named).sum()),
    }  # fmt: skip


def _share(right: np.ndarray) -> dict[str, Any]:
    """Return how many cells there are, and the share of right ones with its interval."""
    import numpy as np

    from tripletomics.labels.relation import interval

    n, share = len(right), np.mean(right)
    return {"cells": n, "right": share, "interval": [float(end) for end in interval(share, np.array(n))]}


def _with_interval(value: float, ends: Sequence[float], sign: str = "") -> str:
    return f"{value:{sign}.2f} ({ends[0]:{sign}.2f} to {ends[1]:{sign}.2f})"


def caption(scores: Scores, method: str, learned: bool = False) -> str:
    """Return the title of a map: the method, and its score, and if asked for that of the learned cells."""
    found = scores[method]
    name = NAMES[method] + f", F1 of learned cells {found['training_f1']:.2f}" * learned
    return f"{name}\nheld-out F1 {_with_interval(found['f1'], found['interval'])}"


def compared(scores: Mapping[str, Any]) -> str:
    """Return in words how far tripletomics is ahead of a method; a tie if the interval of the difference holds 0."""
    low, high = scores["ahead_interval"]
    if low <= 0 <= high:
        return f"tie ({low:+.2f} to {high:+.2f})"
    return _with_interval(scores["ahead_by"], (low, high), "+")


def _say_noise(scores: Scores, model: Any) -> None:
    """Print what maps of noise show."""
    from tripletomics.labels import verdict

    ours, theirs = scores["tt"], scores["umap_supervised"]
    said = verdict(model.p_value["map"])
    cells, numbers, labels = NOISE
    _paragraph(
        f"1. Noise: {cells} cells of {numbers} random numbers, with {labels} random labels. Macro-F1 (F1 for short) "
        "says how well labels are named: 1 is perfect. Supervised UMAP makes islands, with F1 "
        f"{theirs['training_f1']:.2f} on the cells that it has seen. On held-out cells its F1 is "
        f"{_with_interval(theirs['f1'], theirs['interval'])}. That of tripletomics is "
        f"{_with_interval(ours['f1'], ours['interval'])}, and its map says: {said}."
    )
    print()


def _say_blood(blood: AnnData, scores: Scores, permuted: float) -> None:
    """Print a table of the scores of all methods."""
    held = int(((blood.obs["tt_split"] == "held-out") & (blood.obs[LABEL] != "Unknown")).sum())
    _paragraph(
        f"2. Blood: {blood.n_obs:,} cells of one donor. Marker genes tell the types of some, and are left out of the "
        f"data. Macro-F1 of {held} held-out cells of one random split, with 95 % intervals:"
    )
    print(f"   {'':<21}{'F1':<23}tripletomics is ahead by")
    for method, found in scores.items():
        ahead = "" if method == "tt" else compared(found)
        print(f"   {NAMES[method]:<21}{_with_interval(found['f1'], found['interval']):<23}{ahead}".rstrip())
    print(f"   {'labels permuted':<21}{permuted:.2f}\n")


def _say_new(found: Mapping[str, Any]) -> None:
    """Print how many new cells got a type, and how many of these are right."""
    checked, sure, unsure = (found[name] for name in ("checked", "sure", "unsure"))
    _paragraph(
        f"3. New donor: {found['cells']} cells. {found['named']} get a type, {found['unassigned']} are unassigned "
        f"({percent(found['unassigned'] / found['cells'])}). That is a lot: of cells like those of the fit, about 5 % "
        "would be. These cells are also of another run, and many lie far from all known types. "
        f"Marker genes tell the type of {found['with_type']} cells. {checked['cells']} of them are named, "
        f"{_right(checked)} of these rightly. With a confidence of {SURE} or more, {_right(sure)} of {sure['cells']} "
        f"are right; with less, {_right(unsure)} of {unsure['cells']}. The first donor has no progenitors (CD34+). Of "
        f"the {found['progenitors']} progenitors here, {found['progenitors_unassigned']} are unassigned. CD14 was not "
        "measured in this donor, so by markers its CD14 monocytes are CD16 monocytes, or of no known type."
    )
    print()


def _paragraph(text: str) -> None:
    print(textwrap.fill(text, 80, subsequent_indent="   ", break_on_hyphens=False))


def _right(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return f"{percent(found['right'])} ({percent(low)} to {percent(high)})"


@contextmanager
def _timed(part: str, spinner: bool = True) -> Iterator[None]:
    """Print how long a part took and, on a terminal, that it is running."""
    from rich.console import Console

    started = time.perf_counter()
    with Console(stderr=True).status(part) if spinner else nullcontext():
        yield
    print(f"{part:<16}{time.perf_counter() - started:>6.1f} s")
