"""Lists of novel cells, `tripletomics.predict(fdr=0.1)`: how many of the novel cells they hold, and how many others.

    python benchmarks/novel_cells.py [datasets] [--seeds 1]

Each type in turn is left out of the fit. The query is 30 % of the cells of each other type and all cells of this one;
where there are platforms, each platform in turn, and the type is left out on the others (with `batch=`). Datasets are
found through the environment variable TRIPLETOMICS_DATA. Encoder, calibration and list are those of `fit` and
`predict`; the map plays no part. The peers are fitted on the same training cells. The same procedure makes lists of
their scores, with the same calibration cells.
"""

from __future__ import annotations

from collections.abc import Iterator

import anndata as ad
import common
import numpy as np
import pandas as pd
from common import SETS, mlp, note, write_table

from tripletomics import crossfit, labels, metrics, pp
from tripletomics.folds import subsample_for_features
from tripletomics.labels import prediction
from tripletomics.labels.discoveries import conformal, discover, score
from tripletomics.problem import FitProblem, Settings
from tripletomics.training import train_encoder

DATA = ("pbmc3k", "human_kidney", "cite_cbmc_rna", "worm_neuron", "panc8_small", "scmixology_3platform")
FDR = 0.1
Scores = tuple[np.ndarray, np.ndarray]  # of the calibration cells and of the query; higher is more novel


def queries(name: str, seed: int) -> Iterator[tuple[str, ad.AnnData, np.ndarray]]:
    """Yield what is left out, the cells, and which of them are the query, boolean (cells,)."""
    adata, column = common.read(name), SETS[name]
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    for kind in sorted({*truth}):
        if column is None:
            codes, _ = labels.encode(adata.obs["cell_type"], ())
            yield kind, adata.copy(), pp.split(adata, 0.3, codes, seed) | (truth == kind)
            continue
        for platform in sorted({*adata.obs[column]}):
            out = (adata.obs[column] == platform).to_numpy()
            kept = out | (truth != kind)
            if (out & (truth == kind)).any():
                yield f"{kind}, {platform}", adata[kept].copy(), out[kept]


def ours(problem: FitProblem, settings: Settings) -> tuple[prediction.Prediction, np.ndarray, Scores]:
    """Return predictions with the list, the scores of its cells, and the novelty of each cell alone."""
    encoder, out = train_encoder(problem, settings), np.flatnonzero(problem.held_out)
    z = crossfit.embed(encoder.encoder, problem.rows)
    whole = crossfit.Embedding({"metric": z}, problem.pcs, problem.fully_measured)
    calibrations = crossfit.calibrate(problem, settings, encoder, {"": whole}).types
    known = crossfit.reference_of(problem, settings, z, z[:, :0], ~problem.held_out)
    found = prediction.predict(known.evidence(z[out], problem.pcs[out]), calibrations[""])
    new, measured = np.ones(len(out), dtype=bool), np.full(len(out), "")
    found = prediction.list_novel(found, calibrations, measured, problem.pcs[out], new, FDR)
    calibration, novelty = calibrations[""], found.deviation
    places = np.concatenate([calibration.pcs, problem.pcs[out, : calibration.pcs.shape[1]]])
    scores = score(np.concatenate([calibration.novelties, novelty]), places)
    return found, scores[-len(novelty) :], (calibration.novelties, novelty)


def peers(problem: FitProblem, settings: Settings) -> dict[str, Scores]:
    """Return the scores of two peers, which are fitted anew where whole batches are the calibration cells."""
    folds, parts = [problem], [problem.calibration]
    if problem.batch_codes is not None:
        parts = crossfit._folds(problem, settings)
        folds = [
            problem.without(part, subsample_for_features(~problem.held_out & ~part, settings.seed), settings.seed)
            for part in parts
        ]
    found: dict[str, list[list[np.ndarray]]] = {"15-NN in PCA-50": [[], []], "softmax of the MLP": [[], []]}
    for one, asked, side in [*zip(folds, parts, [0] * len(parts), strict=True), (problem, problem.held_out, 1)]:
        train = one.train & (one.codes >= 0)
        asked = asked if side else asked & np.isin(one.codes, one.codes[train])
        p = mlp(settings.seed).fit(one.pcs[train], one.codes[train]).predict_proba(one.pcs[asked])
        found["15-NN in PCA-50"][side].append(metrics.novelty(one.pcs[train], one.pcs[asked]))
        found["softmax of the MLP"][side].append(1 - p.max(axis=1))
    return {name: (np.concatenate(known), np.concatenate(new)) for name, (known, new) in found.items()}


def rate(listed: np.ndarray, scores: np.ndarray, novel: np.ndarray) -> dict[str, float]:
    """Score a list: power, proportion of false discoveries, and the power of the longest list with at most a tenth."""
    order = np.argsort(-scores, kind="stable")
    false = np.cumsum(~novel[order]) / np.arange(1, len(order) + 1)
    last = np.flatnonzero(false <= FDR)
    return {
        "power": listed[novel].mean(),
        "false": (listed & ~novel).sum() / max(listed.sum(), 1),
        "empty": float(not listed.any()),
        "power at 0.1 false": novel[order][: last[-1] + 1].sum() / novel.sum() if len(last) else 0.0,
        "AUROC": metrics.auroc(scores, novel),
    }


def write_tables(rows: pd.DataFrame) -> None:
    """Write means over lists, and over datasets."""
    table = rows.drop(columns=["left out", "seed"])
    means = table.groupby(["data", "method"], sort=False).mean()
    lists = table.groupby("data", sort=False).size() // table["method"].nunique()
    over = means.groupby("method", sort=False).mean()
    each = pd.concat([means, pd.concat({"mean of the datasets": over}, names=["data"])])[["power", "false"]]
    each = each.unstack("method")[[(score, method) for method in over.index for score in ("power", "false")]]
    each.columns = [f"{method}: {score}" for score, method in each.columns]
    each = each.reindex([*lists.index, "mean of the datasets"])
    each.insert(0, "lists", lists.reindex(each.index).map("{:.0f}".format).replace("nan", ""))
    write_table(each.reset_index(), "novel_lists")
    of = {
        "empty": "share of empty lists",
        "power at 0.1 false": f"power of the longest list with {FDR:.0%} known cells",
    }
    over = over[[*of, "AUROC"]].rename(columns=of).T.reset_index(names="mean of the datasets")
    write_table(over, "novel_lists_mean")


def main() -> None:
    parser = common.options(DATA, seeds=1)
    given = parser.parse_args()
    common.start()
    rows = []
    for seed in range(given.seeds):
        for name in given.datasets:
            for what, adata, out in queries(name, seed):
                adata.obs["out"] = out
                asked = Settings(label="cell_type", hold_out="out", batch=SETS[name], seed=seed)
                _, settings, problem = pp.prepare(adata, asked)
                truth = adata.obs["cell_type"].astype(str).to_numpy()[out]
                novel = ~np.isin(truth, problem.classes)
                found, scores, alone = ours(problem, settings)
                scored = {"predict(fdr=0.1)": rate(found.novel, scores, novel)}
                for method, (known, new) in ({"its novelty, cells alone": alone} | peers(problem, settings)).items():
                    scored[method] = rate(discover(conformal(known, new, len(known)), FDR), new, novel)
                for method, values in scored.items():
                    rows.append(note({"data": name, "left out": what, "seed": seed, "method": method, **values}))
    write_tables(pd.DataFrame(rows))


if __name__ == "__main__":
    main()
