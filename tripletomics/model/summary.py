"""The summary of a model in words, and what `uns` of a dataset keeps of the model."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import pandas as pd

from tripletomics.adoption import AVERAGED, EVERY, LEARNED, PERMUTED, SIGNIFICANT
from tripletomics.evaluation import NONE_WITHIN, embedding_sentence, no_freedom_sentence
from tripletomics.keys import SPACES
from tripletomics.knn import NEIGHBOURS
from tripletomics.labels import TOO_FEW, verdict
from tripletomics.labels.ordering import HARDLY, LEAST_BATCHES
from tripletomics.model.state import State
from tripletomics.names import as_html, percent

BLIND = "made from training cells"  # the setting "embedding" of a fit, if the embedding is known to be so

WITHIN = "correlation_within_types"
ENOUGH = 10  # held-out cells of a type, of which a share says something
OFTEN, NAMED = 0.2, 3  # share of unassigned cells from which on a type is named, and how many are at most
LABELLED = (
    ("held-out cells", "held-out", "cells the model never saw"),
    ("permuted labels", "permuted", "the same cells, after a fit on permuted labels"),
    ("training cells", "train", "no evidence: their labels were learned"),
)
UNLABELLED = (
    ("held-out cells", "held-out", "their neighbours by principal components"),
    ("permuted cells", "permuted", "at the coordinates of other cells"),
    ("training cells", "train", "cells the model was trained on"),
)


def summarise(model: State) -> str:
    """Return a table of scores and a few lines on how good the map of a model is on cells that it never saw."""
    table = score_table(model)
    first = max(16, *map(len, table.index))
    lines = [f"{table.index.name:<{first}}  {'map':>5}  metric space"]
    for title, on_map, in_space, remark in table.itertuples():
        scores = ("" if np.isnan(score) else f"{score:.3f}" for score in (on_map, in_space))
        lines.append("{:<{}}  {:>5}  {:>12}   {}".format(title, first, *scores, remark))
    return "\n".join(lines + remarks(model))


def as_page(model: State) -> str:
    """Return the summary as HTML for a notebook, with the types and settings."""
    table = score_table(model)
    table[[*SPACES.values()]] = table[[*SPACES.values()]].map(lambda score: "" if np.isnan(score) else f"{score:.3f}")
    table = table.rename_axis(index=None, columns=str(table.index.name))
    folded = {"Settings": model.settings}
    if model.reference is not None:
        sizes = [f"{size:,.0f} training cells" for size in model.reference.sizes]
        folded = {f"{len(sizes)} types": dict(zip(model.types, sizes, strict=True)), **folded}
    return as_html(repr(model).strip("<>"), table, remarks(model), folded)


def score_table(model: State) -> pd.DataFrame:
    """Return the scores of a model: a row for each group of cells, with map, metric space and what the row means."""
    measure, rows = ("15-NN macro-F1", LABELLED) if model.classes else ("15-NN recall", UNLABELLED)
    scores = {title: {**model.scores[key], "what it is": said} for title, key, said in rows if key in model.scores}
    if "held-out cells" in scores and "tested" in model.findings:  # an older file does not say how many
        cells = f"{model.findings['tested'][0]:,.0f} labelled cells"
        scores["held-out cells"]["what it is"] = f"{cells} the model never saw"
    table = pd.DataFrame.from_dict(scores, orient="index", columns=[*SPACES, "what it is"])
    return table.astype(dict.fromkeys(SPACES, float)).rename(columns=SPACES).rename_axis(measure)


def remarks(model: State) -> list[str]:
    """Return lines on what a reader must know next to the scores."""
    return scores_in_words(model) + values_in_words(model)


def scores_in_words(model: State) -> list[str]:
    """Return lines on what the scores mean, on predictions, and on what the fit found."""
    lines = _fewer_types(model)
    for name, checks in {"": model.checks, **{name: side.checks for name, side in model.alone.items()}}.items():
        if checks:
            lines.append(_predicted(f"held-out cells{f' by {name} alone' * bool(name)}", checks))
    if model.checks:
        lines += _often_unassigned(model) + _on_levels(model.checks)
    elif model.classes and model.calibration is None:
        lines.append("No predictions: they could not be calibrated, so predict refuses to make them.")
    if model.matches:
        a, b = model.modalities
        lines.append(
            f"Same cell: {model.matches['recall_10']:.3f} (by chance {model.matches['null_10']:.3f}). So often one of "
            f"{model.matches['cells']:.0f} held-out cells by {a} is found among the 10 nearest by {b}, and the reverse."
        )
    if model.reference is not None and np.median(model.reference.sizes[: len(model.classes)]) < NEIGHBOURS:
        lines.append(
            f"Types have fewer labelled training cells than the {NEIGHBOURS} neighbours that vote: the macro-F1 of "
            "the predictions says more."
        )
    lines += _ordered(model)
    lines += verdict_in_words(model)
    lines += _adopted(model)
    if "held-out" not in model.scores:
        lines.append("No cell was held out: nothing here says how good the map is on new cells.")
    return lines + _findings(model)


def values_in_words(model: State) -> list[str]:
    """Return lines on how values were taken, and what else is to know of the cells that were given."""
    lines = [f"Values: {'; '.join(_values(model))}."]
    if model.settings.get("missing") == "impute":
        lines.append('NaN counts as not measured. For new cells with NaN, pass missing="impute" again.')
    if "embedding" in model.settings and "held-out" in model.scores:
        lines.append(embedding_sentence(model.settings["use_rep"], model.settings["embedding"] == BLIND))
    if "cells" in model.settings:
        lines.append(f"Fitted to and scored on a sample: {model.settings['cells']} cells.")
    return lines


def _fewer_types(model: State) -> list[str]:
    """Return a line if held-out cells score better than training cells and have fewer types."""
    held, train = (model.scores.get(key, {}).get("map", np.nan) for key in ("held-out", "train"))
    types = model.findings.get("tested", (0, np.inf))[1]
    if not held > train or not types < len(model.classes):
        return []
    return [
        f"The held-out score is the higher one because it is a mean over {types:.0f} types, and that of the training "
        f"cells over {len(model.classes)}: some types have no held-out cell."
    ]


def _predicted(cells: str, checks: Mapping[str, float]) -> str:
    """Return a line on how good predictions of some cells are."""
    strict = checks.get("macro_f1_named")  # an older file has none
    return (
        f"Predictions of {cells}: macro-F1 {checks['macro_f1']:.3f} of the most probable types"
        + (f", {strict:.3f} if unassigned cells count as wrong" if strict is not None else "")
        + f"; {percent(checks['unassigned'], 1)} are unassigned. Calibration error {checks['ece']:.3f} (0 is perfect). "
        f"The 90 % label sets hold the type of {percent(checks['coverage'])} of the cells."
    )


def _often_unassigned(model: State) -> list[str]:
    """Return a line on the types of which many held-out cells are unassigned."""
    shares = model.findings.get("unassigned", np.empty(0))  # an older file has none
    often = [code for code in np.argsort(-np.nan_to_num(shares), kind="stable") if shares[code] > OFTEN]
    if not often:
        return []
    named = ", ".join(f"{model.classes[code]} ({percent(shares[code])})" for code in often[:NAMED])
    more = f", and {len(often) - NAMED} more" * (len(often) > NAMED)
    return [f"Types of which many held-out cells are unassigned: {named}{more}."]


def _on_levels(checks: Mapping[str, float]) -> list[str]:
    """Return lines on the names that are predicted on several levels."""
    if "hierarchical_f1" not in checks:
        return []
    levels = [name.removeprefix("f1_") for name in checks if name.startswith("f1_") and f"{name}_null" in checks]
    sizes = {level: f" of {checks[key]:.0f} names" if (key := f"names_{level}") in checks else "" for level in levels}
    scores = [("hierarchical", "hierarchical_f1"), *((level + sizes[level], f"f1_{level}") for level in levels)]
    said = ", ".join(f"{title} {checks[key]:.3f} ({checks[f'{key}_null']:.3f})" for title, key in scores)
    lines = [
        f"F1 of predicted names: {said}. In brackets: with the true names permuted among those of the same parent.",
        f"The 90 % label sets have {checks['set_names']:.2f} names on average, which stand for "
        f"{checks['set_size']:.2f} types.",
    ]
    if "coarse_coverage" in checks:
        lines.append(
            f"{checks['coarse_cells']:.0f} held-out cells are known only to a name above the types. The sets of "
            f"{percent(checks['coarse_agrees'])} of them agree with it: they have a type below this name. The sets of "
            f"{percent(checks['coarse_coverage'])} have all types below it; the others are finer than what is known."
        )
    return lines


def _findings(model: State) -> list[str]:
    """Return lines on what self-training and the loss found."""
    lines = []
    if "self_training" in model.findings:
        before, after = model.findings["self_training"]
        losses = f"log loss of labelled cells that were left out {before:.3f}, and {after:.3f} with them"
        lines.append(
            f"Self-training: {model.findings['self_training_cells'].sum()} cells took a label; "
            f"{'no cell to compare on' if np.isnan(before) else losses}. "
            f"The {'second' if after <= before else 'first'} encoder is kept."
        )
    if "moved" in model.findings:
        half, most = model.findings["moved"]
        lines.append(
            f"Grown from model {model.settings['init']}: scores are of new cells. Half of the old cells moved by less "
            f"than {half:.1f} % of the map's width, and 90 % by less than {most:.1f} % (measured on simulated cells)."
        )
    if "surviving_centers" in model.findings:
        centers = zip(model.classes, model.findings["surviving_centers"], strict=True)
        lines.append("Centers that survive: " + ", ".join(f"{name} {n}" for name, n in centers))
    return lines


def verdict_in_words(model: State) -> list[str]:
    """Return a line where the labels of held-out cells are not found, or cannot be tested."""
    if not model.p_value:
        return []
    cells, types, reachable = model.findings.get("tested", (np.nan, np.nan, 0.0))  # an older file has none
    said = {verdict(p, reachable) for p in model.p_value.values()}
    if "signal" in said:
        return []
    if "no signal" in said:
        return ["No signal: the held-out cells score no better than with permuted labels."]
    if "too few" in said:
        return [
            f"{TOO_FEW.capitalize()} ({cells:.0f}, of {types:.0f} types): even with four of five named right, p would "
            f"be {reachable:.2g}. Hold out more of each type."
        ]
    why = "no held-out cell has a label" if cells == 0 else "the held-out cells are of one type"
    return [f"Not tested: {why}. Hold out more, or label more cells."]


def map_verdict(model: State) -> list[str]:
    """Return a line where an adopted map cannot be learned."""
    table = model.map_errors
    if table.empty or (table[table["cell_type"] == EVERY].set_index("method")["p_value"][LEARNED] <= SIGNIFICANT):
        return []
    return ["This map cannot be learned from these genes: the error is no smaller than with permuted coordinates."]


def _ordered(model: State) -> list[str]:
    """Return lines on how well values of further columns are predicted on held-out cells."""
    lines = []
    for name, scores in model.ordered.items():
        if not scores:
            lines.append(f"{name}: no held-out cell has a value.")
            continue
        target = next(target for target in model.targets if target.name == name)
        hollow = scores.get("null_freedom", 1.0) < HARDLY  # an older file has none
        if target.classes is not None:
            lines += _further_types(name, scores)
            lines += [_no_freedom(model, name)] * hollow
            continue
        unit = "" if target.categories is None else " categories"
        measure = "Spearman" if target.period is None else "circular correlation"
        lines.append(
            f"{name}: {measure} {scores['correlation']:.3f} on {scores['cells']:.0f} held-out cells"
            + (f" (within types {scores[WITHIN]:.3f})" if WITHIN in scores else "")
            + f", mean error {scores['error']:.3g}{unit}; 90 % intervals, {scores['half_width']:.3g}{unit} to each "
            f"side, hold {percent(scores['coverage'])} of the values."
        )
        if WITHIN not in scores and model.classes:
            lines.append(f"{name}: {NONE_WITHIN}.")
        if "null_correlation" not in scores:
            lines.append(
                f"{name} cannot be permuted: each batch has one value, and there are fewer than "
                f"{LEAST_BATCHES} batches. So {name} and batch cannot be told apart."
            )
            continue
        null = scores["null_correlation"]
        lines.append(f"{name}, permuted order: {measure} {null:.3f}, mean error {scores['null_error']:.3g}{unit}.")
        if hollow:
            lines.append(_no_freedom(model, name))
        elif scores["correlation"] - null < 2 / scores["cells"] ** 0.5:
            lines.append(f"No signal in {name}: it is predicted no better than with a permuted order.")
    return lines


def _no_freedom(model: State, name: str) -> str:
    """Return a line where permuting values changes next to nothing."""
    batch = model.settings["batch"]
    groups = ["types"] * bool(model.classes) + [batch] * (batch != "None")
    return no_freedom_sentence(name, " and ".join(groups) or "the groups")


def _further_types(name: str, scores: Mapping[str, float]) -> list[str]:
    """Return a line on how a further column of types is predicted on held-out cells."""
    null = "no permuted score, because each batch has one name, and there are few batches"
    if "null_macro_f1" in scores:
        null = f"permuted: macro-F1 {scores['null_macro_f1']:.3f}, {percent(scores['null_accuracy'])} right"
    return [
        f"{name}: macro-F1 {scores['macro_f1']:.3f}, {percent(scores['accuracy'])} of {scores['cells']:.0f} held-out "
        f"cells right (mean confidence {percent(scores['confidence'])}); {null}.",
        *[f"No signal in {name}: it is predicted no better than with names permuted within types."]
        * (
            scores.get("null_freedom", 1.0) >= HARDLY
            and scores["macro_f1"] - scores.get("null_macro_f1", -1) < 2 / scores["cells"] ** 0.5
        ),
    ]


def _adopted(model: State) -> list[str]:
    """Return lines on how far held-out cells lie from their true coordinates on an adopted map."""
    table, name = model.map_errors, model.settings.get("map", "None")
    if table.empty:
        unknown = [f"Map adopted from {name}: nothing says how far learned coordinates are from the true ones."]
        return unknown * (name != "None")
    tt, mean, null = (table[table["cell_type"] == EVERY].set_index("method").loc[[LEARNED, AVERAGED, PERMUTED]]
                      .to_dict("records"))  # fmt: skip
    lines = [
        f"Map adopted from {name}: held-out cells lie {tt['median_percent']:.1f} % of its width from their true "
        f"coordinates (median; 90 % of them within {tt['p90_percent']:.1f} %). The mean of the 15 nearest training "
        f"cells: {mean['median_percent']:.1f} %; permuted coordinates: {null['median_percent']:.1f} %. If the map was "
        "made of all cells, it has seen the held-out ones.",
    ]
    if said := map_verdict(model):
        return lines + said
    if np.isfinite(tt["macro_f1"]):
        lines.append(
            f"15-NN macro-F1 of held-out cells on this map: {tt['macro_f1']:.3f}, at their true coordinates "
            f"{tt['macro_f1_true']:.3f}."
        )
    types = table[(table["method"] == LEARNED) & (table["cell_type"] != EVERY)]
    lost = types[(types["cells"] >= ENOUGH) & (types["right_type"] < types["right_type_true"] - 0.2)]
    if len(lost):
        shares = lost[["cell_type", "right_type", "right_type_true"]].itertuples(index=False)
        named = (f"{name} ({percent(right)}, true {percent(true)})" for name, right, true in shares)
        lines.append(f"Types whose new cells often land among other types: {', '.join(named)}.")
    return lines


def _values(model: State) -> list[str]:
    """Return how the values of each modality were taken."""
    said = []
    for name, part in zip(model.features.names, model.features.parts, strict=True):
        given = part.known_scale or "not counts"
        what = "counts, normalised and logged by the model" if part.counts else f"{given}, taken as they are"
        what = what if part.use_rep is None else f"{len(part.genes)} {part.noun}, taken as they are"
        said.append(f"{name} {what}" if name else what)
    return said


def record(model: State) -> dict[str, object]:
    """Return what `uns` keeps of a model."""
    names = ("settings", "versions", "history", "findings", "seconds", "scores", "p_value", "checks")
    kept: dict[str, object] = copy.deepcopy({name: getattr(model, name) for name in names})
    kept |= {"classes": np.array(model.classes, dtype=object)} | origin(model)
    if len(model.map_errors):
        kept["map_errors"] = {str(name): column.to_numpy() for name, column in model.map_errors.items()}
    if model.ordered:
        kept["ordered"] = copy.deepcopy(model.ordered)
    if model.catalog is not None:
        kept["n_train"] = len(model.catalog.names)
    if model.modalities:
        kept["alone"] = {name: dict(side.checks) for name, side in model.alone.items()}
        kept["matches"] = dict(model.matches)
    return kept


def origin(model: State) -> dict[str, object]:
    """Return what `uns` says of the model that wrote coordinates.

    That is its id, and if it has them the tree of its types, and which columns run around a circle.
    """
    said: dict[str, object] = {"seen": model.id}
    if model.tree is not None:
        said["tree"] = {"names": np.array(model.tree.names, dtype=object), "parents": model.tree.parents}
    if circles := {one.name: one.period for one in model.targets if one.period is not None}:
        names = np.array(list(circles), dtype=object)
        said["circular"] = {"columns": names, "periods": np.array(list(circles.values()))}
    return said
