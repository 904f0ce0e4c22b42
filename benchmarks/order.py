"""Ordered columns: predicted values of held-out cells, next to regressions on principal components.

    python benchmarks/order.py [set ...] [--seeds 3] [--figure docs/ordered-labels.png]

Sets are paul15 (ranks of its clusters along the erythroid and the myeloid arm) and simulated time courses, of which the
truth is known: `linear` (six days, three types that all change), `branching` (a trunk and two branches), `circular` (24
hours, three types), and `nested` (four days, eight donors of one day each; of each day a donor is held out whole). Of
all others 25 % of each type are held out.

Methods: `tt` is `tt.fit(label=, order=)`, `tt, order alone` has no label, `tt, coral` has the ordinal cross-entropy in
place of `rnc`, and `tt, permuted order` has values that are permuted within types (of `nested`, days among donors).
`ridge` is ridge regression on 50 components of the training cells (on a circle on cosine and sine), `SIR` sliced
inverse regression on them (Li 1991; the mean of 15 neighbours in its first three directions), and `kNN` the mean of 15
neighbours in the components.

The first table has the correlation (Spearman; on a circle that of Jammalamadaka & SenGupta), the
same within types, the mean absolute error, the share of true values inside the intervals (90 % are asked for) with
their mean half-width, and the null: the correlation of the fit on permuted values. The second has the recall of 30
neighbours within types on the map, minus chance, with and without the order. With --figure, no table is printed: it
draws held-out cells of the branching course on the map, and their predicted against their true day.
"""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.sparse as sp
from common import note, options, read, start, usual, write_table
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor

import tripletomics as tt
from tripletomics import metrics
from tripletomics.metrics import order

ARMS = {
    "erythroid": ["7MEP", "6Ery", "5Ery", "4Ery", "3Ery", "2Ery", "1Ery"],
    "myeloid": ["9GMP", "10GMP", "15Mo", "14Mo"],
}
SETS = {"paul15": None, "linear": None, "branching": None, "circular": 24.0, "nested": None}  # and the period
CELLS, GENES, DEPTH = 1200, 600, 1000
DONOR_DAYS = np.repeat(np.arange(4), 2)


def paul15() -> ad.AnnData:
    """Return the cells of two arms, with the rank of their cluster along the arm."""
    adata = read("paul15")
    known = {name: (arm, rank) for arm, names in ARMS.items() for rank, name in enumerate(names)}
    adata = adata[adata.obs["cell_type"].isin(list(known))].copy()
    adata.obs["kind"] = [known[name][0] for name in adata.obs["cell_type"]]
    adata.obs["time"] = [float(known[name][1]) for name in adata.obs["cell_type"]]
    return adata


def course(kind: str, seed: int) -> ad.AnnData:
    """Simulate cells along a time: counts whose rates rise and fall along it, shared by all types and in each alone."""
    shape, random = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])

    def some(share: float, sd: float, *rows: int) -> np.ndarray:
        return np.where(shape.random((*rows, GENES)) < share, shape.normal(0, sd, (*rows, GENES)), 0)

    def bump(share: float) -> np.ndarray:
        centre, width = shape.uniform(-0.2, 1.2, GENES), shape.uniform(0.1, 0.4, GENES)
        return some(share, 1.2) * np.exp(-(((t[:, None] - centre) / width) ** 2))

    n_days = 4 if kind == "nested" else 6
    code, donor = random.integers(3, size=CELLS), random.integers(len(DONOR_DAYS), size=CELLS)
    day = DONOR_DAYS[donor] if kind == "nested" else random.integers(n_days, size=CELLS)
    t = np.clip((day + random.normal(0, 0.35, CELLS)) / (n_days - 1), -0.1, 1.1)
    base, of_types = shape.normal(0, 1.2, GENES), some(0.1, 1.0, 3)
    if kind == "circular":
        t = random.uniform(size=CELLS)
        waves = shape.choice([1, 1, 2], GENES)
        log = of_types[code] + some(0.08, 0.8) * np.cos(2 * np.pi * waves * (t[:, None] - shape.uniform(size=GENES)))
    elif kind == "branching":
        branch = random.random(CELLS) < np.clip((t - 0.3) / 0.3, 0, 1)
        code = np.where(branch, 1 + code % 2, 0)
        log = bump(0.12) + (0.2 + 1.6 * np.clip((t - 0.4) / 0.6, 0, None))[:, None] * of_types[code]
    else:
        log = of_types[code] + bump(0.12) + np.choose(code[:, None], [bump(0.06) for _ in range(3)])
    log = log + base + random.normal(size=(CELLS, 4)) @ some(0.15, 0.35, 4)
    if kind == "nested":
        log += shape.normal(0, 0.25, (len(DONOR_DAYS), GENES))[donor]
    rate = np.exp(log)
    rate *= (DEPTH * random.lognormal(0, 0.35, CELLS) / rate.sum(axis=1))[:, None]
    obs = pd.DataFrame({"kind": np.array(["a", "b", "c"])[code], "time": 24 * t if kind == "circular" else day * 1.0})
    obs["donor"] = [f"donor {i}" for i in donor]
    obs["outside"] = np.isin(donor, np.arange(0, len(DONOR_DAYS), 2))  # of each day one donor
    obs.index = [f"cell {i}" for i in range(CELLS)]
    return ad.AnnData(sp.csr_matrix(random.poisson(rate).astype(np.float32)), obs=obs)


def permuted(adata: ad.AnnData, kind: str, seed: int) -> ad.AnnData:
    """Return cells whose values are permuted within types, or whose donors have each other's day."""
    adata, random = adata.copy(), np.random.default_rng([seed, 2])
    if kind == "nested":  # among the training donors, and among those that are held out
        days = adata.obs.groupby("donor")[["outside", "time"]].first()
        days["time"] = days.groupby("outside")["time"].transform(random.permutation)
        adata.obs["time"] = adata.obs["donor"].map(days["time"]).astype(float)
        return adata
    adata.obs["time"] = adata.obs.groupby("kind")["time"].transform(random.permutation)
    return adata


def fitted(
    adata: ad.AnnData, kind: str, seed: int, period: float | None, **given: object
) -> tuple[ad.AnnData, tt.Model]:
    """Return the cells with what a fit predicts of them, and the model."""
    cells = adata.copy()
    turned = "" if period is None else f":period={period:g}"
    held = {"hold_out": "outside" if kind == "nested" else 0.25, "batch": "donor" if kind == "nested" else None}
    asked = {"label": "kind", "order": f"time{turned}"} | given
    model = tt.fit(cells, **asked, **held, seed=seed, progress=False)
    if model.targets:
        tt.predict(cells, model)
    return cells, model


def regressions(adata: ad.AnnData, held: np.ndarray, period: float | None) -> dict[str, np.ndarray]:
    """Return what regressions on principal components of the training cells predict of the held-out cells."""
    _, pcs, _ = usual(adata, ~held, counts=True)
    values = adata.obs["time"].to_numpy(dtype=float)
    angle = 2 * np.pi * values / (period or 1)
    y = values[:, None] if period is None else np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def read_off(guess: np.ndarray) -> np.ndarray:
        guess = guess.reshape(len(guess), -1)
        if period is None:
            return guess[:, 0]
        return np.arctan2(guess[:, 1], guess[:, 0]) / (2 * np.pi) * period % period

    directions = inverse_regression(pcs[~held], values[~held])
    fits = {
        "ridge": (RidgeCV(np.logspace(-2, 6, 17)), pcs),
        "SIR": (KNeighborsRegressor(15), pcs @ directions),
        "kNN": (KNeighborsRegressor(15), pcs),
    }
    return {name: read_off(model.fit(x[~held], y[~held]).predict(x[held])) for name, (model, x) in fits.items()}


def inverse_regression(x: np.ndarray, values: np.ndarray, slices: int = 10, directions: int = 3) -> np.ndarray:
    """Return directions of sliced inverse regression (components, directions)."""
    covariance = np.cov(x.T)
    whiten = np.linalg.cholesky(
        np.linalg.inv(covariance + 1e-6 * np.trace(covariance) / len(covariance) * np.eye(len(covariance)))
    )
    white = (x - x.mean(axis=0)) @ whiten
    cuts = np.unique(np.quantile(values, np.arange(1, slices) / slices))
    sliced = np.searchsorted(cuts, values, side="right")
    means = [(sliced == s).mean() ** 0.5 * white[sliced == s].mean(axis=0) for s in np.unique(sliced)]
    return whiten @ np.linalg.svd(np.array(means))[2][:directions].T


def scores(guess: np.ndarray, adata: ad.AnnData, held: np.ndarray, period: float | None) -> dict[str, float]:
    """Return how predicted values of held-out cells do."""
    truth, types = (
        adata.obs["time"].to_numpy(dtype=float)[held],
        adata.obs["kind"].astype("category").cat.codes.to_numpy(),
    )
    return {
        "correlation": order.correlation(guess, truth, period),
        "within types": order.correlation_within(guess, truth, types[held], period),
        "error": float(order.distance(guess, truth, period).mean()),
    }


def of_fit(cells: ad.AnnData, model: tt.Model, held: np.ndarray, period: float | None) -> dict[str, float]:
    """Return how a fit does: its predictions, its intervals, and its null."""
    obs = cells.obs[held]
    truth, guess = obs["time"].to_numpy(dtype=float), obs["tt_time"].to_numpy(dtype=float)
    half = obs["tt_time_half_width"] if period else (obs["tt_time_high"] - obs["tt_time_low"]) / 2
    centre = guess if period else (obs["tt_time_high"] + obs["tt_time_low"]) / 2
    inside = order.distance(np.asarray(centre), truth, period) <= np.asarray(half) + 1e-4
    null = model.ordered["time"].get("null_correlation", np.nan)
    return scores(guess, cells, held, period) | {"coverage": inside.mean(), "half-width": half.mean(), "null": null}


def recall(cells: ad.AnnData, held: np.ndarray) -> float:
    """Return the recall of neighbours within types on the map, minus chance."""
    m, pcs, y = cells.obsm["X_tt"], cells.obsm["X_tt_pca"], cells.obs["kind"].astype("category").cat.codes.to_numpy()
    return metrics.knn_recall_within_types(m[~held], pcs[~held], y[~held], m[held], pcs[held], y[held])


def measure(kind: str, seed: int) -> tuple[list[dict[str, object]], dict[str, object]]:
    """Return the rows of one set and seed, and the recall of its maps."""
    period, adata = SETS[kind], paul15() if kind == "paul15" else course(kind, seed)
    fits = {
        "tt": fitted(adata, kind, seed, period),
        "tt, order alone": fitted(adata, kind, seed, period, label=None),
        "tt, permuted order": fitted(permuted(adata, kind, seed), kind, seed, period),
    }
    if period is None:
        fits["tt, coral"] = fitted(adata, kind, seed, period, label={"kind": "softmax", "time": "coral"}, order=None)
    plain, _ = fitted(adata, kind, seed, period, order=None)
    held = (plain.obs["tt_split"] == "held-out").to_numpy()
    rows = [{"set": kind, "method": name} | of_fit(*found, (found[0].obs["tt_split"] == "held-out").to_numpy(), period)
            for name, found in fits.items()]  # fmt: skip
    rows += [{"set": kind, "method": name} | scores(guess, adata, held, period)
             for name, guess in regressions(adata, held, period).items()]  # fmt: skip
    kept = {"set": kind, "with order": recall(fits["tt"][0], held), "without order": recall(plain, held)}
    return [note(row) for row in rows], note(kept)


def draw(path: str) -> None:
    """Draw the branching course: the map by true and by predicted day, and predicted days with their intervals."""
    cells, _ = fitted(course("branching", 0), "branching", 0, None)
    held = cells[cells.obs["tt_split"] == "held-out"]
    true, guess, m = (np.asarray(x, dtype=float) for x in (held.obs["time"], held.obs["tt_time"], held.obsm["X_tt"]))
    low, high = (np.asarray(held.obs[f"tt_time_{end}"], dtype=float) for end in ("low", "high"))
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 8.5})
    figure, axes = plt.subplots(1, 3, figsize=(6.88, 2.4), layout="constrained")
    for axis, values, title in zip(axes, (true, guess), ("true day", "predicted day"), strict=False):
        axis.scatter(*cells.obsm["X_tt"].T, s=1.5, color="0.9", linewidths=0)
        shown = axis.scatter(*m.T, c=values, s=6, cmap="viridis", vmin=0, vmax=5, linewidths=0)
        axis.set(title=f"held-out cells by {title}", xticks=[], yticks=[], aspect="equal")
    figure.colorbar(shown, ax=axes[:2], label="day", shrink=0.8)
    kinds, random = sorted(held.obs["kind"].unique()), np.random.default_rng(0)
    x = true + random.uniform(-0.3, 0.3, len(true))
    for kind in kinds:
        own = (held.obs["kind"] == kind).to_numpy()
        name = {"a": "trunk", "b": "branch 1", "c": "branch 2"}[kind]
        reach = [(guess - low)[own], (high - guess)[own]]
        axes[2].errorbar(x[own], guess[own], reach, fmt="o", ms=2, lw=0.4, alpha=0.7, label=name)
    axes[2].plot([0, 5], [0, 5], color="0.3", lw=1, zorder=0)
    axes[2].set(title="90 % intervals", xlabel="true day (spread sideways)", ylabel="predicted day")
    axes[2].legend(frameon=False)
    figure.savefig(path, dpi=200)


def main() -> None:
    """Write the tables of docs/ordered-labels.md, or draw its figure."""
    parser = options(SETS)
    parser.add_argument("--figure")
    asked = parser.parse_args()
    start()
    if asked.figure:
        draw(asked.figure)
        return
    found = [measure(kind, seed) for kind in asked.datasets for seed in range(asked.seeds)]
    table = pd.DataFrame([row for rows, _ in found for row in rows])
    groups = table.groupby(["set", "method"], sort=False)
    means = groups.mean().reset_index()
    write_table(means, "ordered_labels")
    write_table(
        pd.DataFrame([kept for _, kept in found]).groupby("set", sort=False).mean().reset_index(), "ordered_maps"
    )


if __name__ == "__main__":
    main()
