"""Checks of a model file before anything is computed with it. A message says in one line what is wrong."""

from __future__ import annotations

import itertools
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch

from tripletomics.features import Features, PairFeatures
from tripletomics.index import CellIndex
from tripletomics.labels import UNASSIGNED
from tripletomics.labels.calibration import Calibration
from tripletomics.labels.reference import LEADING, Reference
from tripletomics.labels.roles import ENDINGS, WRITTEN
from tripletomics.labels.tree import read_tree
from tripletomics.labels.values import ValuePredictor
from tripletomics.model.state import State
from tripletomics.seen import CALIBRATION, SeenCells

SHOWN = 200  # characters of a value that a message shows

# attributes of a model that its header holds as they are, and the types of all that a header must hold
PLAIN = ("settings", "versions", "classes", "enrolled", "seconds", "scores", "p_value", "checks", "matches")
HEADER: dict[str, Any] = {name: get_type_hints(State)[name] for name in PLAIN} | {
    "history": dict[str, dict[str, list[float]]],
    "findings": dict[str, list[Any]],
    "checks_alone": list[dict[str, float]],
}
OPTIONAL: dict[str, Any] = {  # of an adopted map, and of ordered columns
    "map_errors": dict[str, list[str | float]], "colors": dict[str, str], "ordered": dict[str, dict[str, float]],
}  # fmt: skip
SETTINGS = ("loss", "encoder", "metric_dim", "dim")  # without which no model can be built
CHECKS = {"macro_f1", "ece", "coverage", "unassigned"}  # that the summary shows
ORDERED = {"cells", "correlation", "error", "coverage", "half_width"}
OF_TYPES = {"cells", "macro_f1", "accuracy", "confidence"}
MATCHES = {"cells", "recall_10", "null_10"}
MAP_ERRORS = {"method", "cell_type", "median_percent", "p90_percent", "right_type", "right_type_true", "macro_f1",
              "macro_f1_true", "p_value"}  # fmt: skip
CODES, FLOAT, DOUBLE = "int64", "float32", "float64"
ARRAYS: dict[type, dict[str, tuple[str, ...]]] = {  # dtype and axes of each array; equal names, equal lengths
    Features: {
        "mean": (FLOAT, "seen"), "scale": (FLOAT, "seen"), "shares": (FLOAT, "genes"), "cap": (FLOAT, "genes"),
        "axes": (FLOAT, "components", "genes"), "offset": (FLOAT, "components"), "center": (FLOAT, "genes"),
        "unit": (FLOAT, "genes"), "variance": (FLOAT, "components"), "shrink": (FLOAT, "coefficients", "components"),
        "plain": (FLOAT, "plain components", "genes"), "plain_offset": (FLOAT, "plain components"),
    },
    PairFeatures: {
        "units": (FLOAT, "modalities"), "to_first": (FLOAT, "second and 1", "first"),
        "to_second": (FLOAT, "first and 1", "second"),
    },
    Reference: {
        "z": (FLOAT, "landmarks", "metric_dim"), "map": (FLOAT, "landmarks", "dim"), "codes": (CODES, "landmarks"),
        "sizes": (CODES, "types"), "prior": (DOUBLE, "types"), "prototypes": (DOUBLE, "types", "metric_dim"),
        "whiten": (DOUBLE, "components", "components"), "means": (DOUBLE, "types", "components"),
        "near_trained": (DOUBLE, "moments"),
    },
    Calibration: {
        "weights": (DOUBLE, "kinds"), "center": (DOUBLE, "distances"), "scale": (DOUBLE, "distances"),
        "novelties": (DOUBLE, "cells"), "oddities": (DOUBLE, "levels"), "pair": (DOUBLE, "distances"),
        "pcs": (FLOAT, "cells", "leading"), "costs": (DOUBLE, "levels"),
    },
    ValuePredictor: {
        "z": (FLOAT, "landmarks", "metric_dim"), "values": (DOUBLE, "landmarks"),
        "from_pcs": (DOUBLE, "components and 1", "directions"), "from_z": (DOUBLE, "metric_dim and 1", "directions"),
        "middle": (DOUBLE, "directions"), "weights": (DOUBLE, "regressions"), "errors": (DOUBLE, "cells"),
    },
    SeenCells: {"hashes": ("uint64", "cells"), "roles": ("uint8", "cells"), "fitted": ("bool", "cells")},
    CellIndex: {"z": (FLOAT, "cells", "metric_dim"), "codes": (CODES, "cells")},
}  # fmt: skip
FIXED = {"coefficients": 3, "modalities": 2, "moments": 2, "kinds": 4, "distances": 3, "regressions": 3}
UNBOUNDED = {"oddities"}  # infinite for a cell that lies beyond all types


def check_header(header: Any) -> None:
    """Raise a ValueError unless the header of a file has the fields of a model, each of its type."""
    for name, hint in HEADER.items():
        _check_type(name, _field(header, name), hint)
    for name in SETTINGS:
        _field(header["settings"], name)
    for name, hint in OPTIONAL.items():
        _check_type(name, header.get(name, {}), hint)
    errors = header.get("map_errors", {})
    whole = not errors or ({*errors} >= MAP_ERRORS and len({*map(len, errors.values())}) == 1)
    _require(whole, "map_errors lacks some of its columns, or some of their rows")
    for stage, columns in header["history"].items():
        _require("step" in columns and len({*map(len, columns.values())}) == 1, f"history[{stage!r}] has gaps")
    _require(all({"map", "metric"} <= {*score} for score in header["scores"].values()), "scores lacks a space")
    _require(len(header["findings"].get("tested", "all")) == 3, "findings['tested'] does not have three numbers")
    _require(len(header["findings"].get("moved", "2 ")) == 2, "findings['moved'] does not have two numbers")
    names = read_tree(header["tree"]).names if "tree" in header else []
    _require(UNASSIGNED not in names, f"a name of the tree is {UNASSIGNED!r}, which predict calls cells like no type")
    for name in {"node_cells", "node_held", "node_f1"} & {*header["findings"]}:
        _check_type(f"findings[{name!r}]", header["findings"][name], list[float])
        _require(
            len(header["findings"][name]) == len(names), "findings does not have one number for each name of the tree"
        )
    shares = header["findings"].get("unassigned", [0.0] * len(header["classes"]))
    _check_type("findings['unassigned']", shares, list[float])
    _require(len(shares) == len(header["classes"]), "findings['unassigned'] does not have one number for each type")
    _require("moved" not in header["findings"] or "init" in header["settings"], "settings lacks 'init'")
    said = [header["checks"], *header["checks_alone"]]
    _require(all(not checks or {*checks} >= CHECKS for checks in said), "checks lacks some of its fields")
    _require(not header["matches"] or {*header["matches"]} >= MATCHES, "matches lacks some of its fields")


def check_fields(kind: type, part: str, known: Any, arrays: Iterable[str]) -> None:
    """Raise a ValueError unless a part of the header and its arrays are the fields of a dataclass."""
    hints, given = get_type_hints(kind), {*arrays}
    _require(isinstance(known, dict), f"{part} is {type(known).__name__}, not a record")
    unknown = sorted(({*known} | given) - {*hints})
    _require(not unknown, f"{part} has {unknown[0] if unknown else ''!r}, which is not known")
    for field in fields(kind):
        if field.name in given:
            _require(field.name not in known, f"{part}.{field.name} is there twice")
            continue
        if field.name in known:
            _check_type(f"{part}.{field.name}", known[field.name], hints[field.name])
            numbers = known[field.name]
            _require(not isinstance(numbers, float) or np.isfinite(numbers), f"{part}.{field.name} is {numbers}")
        else:
            _require(field.default is not MISSING or field.default_factory is not MISSING, f"{part} lacks {field.name}")


def check_weights(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    """Raise a ValueError unless the weights are those that networks of these settings have, and all are finite."""
    for name, tensor in expected.items():
        other = _field(found, name)
        _require(
            other.dtype == tensor.dtype and other.shape == tensor.shape,
            f"{name} is {other.dtype} of shape {tuple(other.shape)}, not {tensor.dtype} of {tuple(tensor.shape)}",
        )
        _require(bool(torch.isfinite(other).all()), f"{name} has values that are NaN or infinite")
    rest = sorted({*found} - {*expected})
    _require(not rest, f"{rest[0] if rest else ''!r} is not a weight of these networks")


def check_features(features: Features) -> None:
    """Raise a ValueError unless the genes of a model and the arrays about them agree."""
    genes, n_seen = len(features.genes), features.n_seen
    _require(0 < n_seen <= genes, f"{genes} genes, of which the encoder would see {n_seen}")
    _require(len({*features.genes}) == genes, "a gene is there twice")
    if features.axes.ndim == 2 and features.axes.shape[1] != genes:
        raise ValueError(f"{genes} genes, but values for {features.axes.shape[1]}")
    _check_arrays("features", features, {"genes": genes, "seen": n_seen})
    _require(bool((features.scale > 0).all()), "features.scale is not above 0")
    _require(min(features.norm, features.norm_spread) >= 0, "features.norm is below 0")


def check_pair(features: PairFeatures) -> None:
    """Raise a ValueError unless the features of two modalities and the arrays about them agree."""
    for pair in filter(None, (features, features.seen)):
        for part in pair.parts:
            check_features(part)
        first, second = (part.width for part in pair.parts)
        lengths = {"first": first, "second": second, "first and 1": first + 1, "second and 1": second + 1}
        _check_arrays("features", pair, lengths)
        _require(bool((pair.units > 0).all()), "features.units are not above 0")
        genes = [part.genes for part in pair.parts]
        _require(genes == [part.genes for part in features.parts], "the two sets of features have different genes")


def check_model(model: State) -> None:
    """Raise a ValueError unless the parts of a model agree with each other, and their values can be used."""
    types = model.types
    _require(model.classes == sorted({*model.classes}), "classes are not sorted, or one is there twice")
    _require(len({*types}) == len(types), "an enrolled type is there twice")
    _require((model.reference is None) == (not model.classes), "there are classes or a reference, but not both")
    if model.tree is not None:
        tree = model.tree
        _require(tree.names[: tree.n_leaves] == model.classes, "the types of the tree are not the classes")
        _require(len({*model.names}) == len(model.names), "an enrolled type is a name of the tree")
    lengths = {"metric_dim": int(model.settings["metric_dim"]), "dim": int(model.settings["dim"]), "types": len(types),
               "components": model.features.width}  # fmt: skip
    if model.reference is not None:
        reference = model.reference
        _check_arrays("reference", reference, lengths)
        _check_codes("reference.codes", reference.codes, 0, len(types))
        _require(bool(reference.spread > 0 and (reference.sizes >= 0).all()), "reference.sizes are negative")
        _require(reference.n_enrolled == len(model.enrolled), "reference.n_enrolled is not that of the names")
    for calibration in (model.calibration, *(side.calibration for side in model.alone.values())):
        if calibration is not None:
            cells, leading = calibration.n_cells, min(LEADING, lengths["components"])
            known = {} if calibration.pcs is None else {"cells": cells, "leading": leading}
            _check_arrays("calibration", calibration, known)
            _require(1 < len(calibration.novelties) <= cells, "calibration.novelties are not those of its cells")
            _require(calibration.n_types == len(model.classes), "calibration.n_types is not the number of classes")
            _require((calibration.costs is None) == (model.tree is None), "calibration.costs do not belong to the tree")
            _require(0 <= calibration.trust <= 1, "calibration has numbers out of range")
            _require(bool((calibration.scale > 0).all()), "calibration.scale is not above 0")
    _check_targets(model.targets, model.ordered, lengths)
    if model.seen is not None:
        _check_arrays("cells", model.seen, {})
        _require(bool((model.seen.hashes[1:] > model.seen.hashes[:-1]).all()), "cells.hashes do not ascend")
        _check_codes("cells.roles", model.seen.roles, 0, CALIBRATION + 1)
    if model.catalog is not None:
        _check_arrays("index", model.catalog, lengths | {"cells": len(model.catalog.names)})
        _check_codes("index.codes", model.catalog.codes, -1, len(types))


def target_parts(header: Mapping[str, Any]) -> list[str]:
    """Return the names of the parts of a header that predict values of ordered columns."""
    return list(itertools.takewhile(header.__contains__, (f"target_{i}" for i in itertools.count())))


def _check_targets(
    targets: Sequence[ValuePredictor], ordered: Mapping[str, Mapping[str, float]], lengths: Mapping[str, int]
) -> None:
    names = [target.name for target in targets]
    written = [f"{target.name}{ending}" for target in targets for ending in ENDINGS[target.classes is None]]
    taken = sorted({*written} & {*WRITTEN} | {name for name in written if written.count(name) > 1})
    _require(not taken, f"obs['tt_{(taken or [''])[0]}'] would be written twice: a column has a name that is taken")
    _require({*ordered} <= {*names}, "an ordered column is lacking")
    for i, target in enumerate(targets):
        end = np.inf if target.period is None else target.period
        _require(end > 0, f"target_{i} has a period that is not above 0")
        extra = {f"{axis} and 1": lengths[axis] + 1 for axis in ("components", "metric_dim")}
        one_way = {"directions": target.n_classes or (1 if target.period is None else 2)}
        scores, wanted = ordered.get(target.name), ORDERED if target.classes is None else OF_TYPES
        _require(not scores or {*scores} >= wanted, f"the scores of target_{i} lack some fields")
        _check_arrays(f"target_{i}", target, dict(lengths) | extra | one_way)
        _require(len(target.values) > 0, f"target_{i} has no landmark")
        _require(bool((np.diff(target.errors) >= 0).all()), f"target_{i}.errors do not ascend")
        if target.classes is not None:
            _require(target.period is None and target.categories is None, f"target_{i} has types and an order")
            _check_codes(f"target_{i}.values", target.values, 0, target.n_classes)
        if target.categories is not None:
            _require(target.period is None, f"target_{i} has categories and a period")
            _check_codes(f"target_{i}.values", target.values, 0, len(target.categories))


def _check_arrays(name: str, part: Any, lengths: Mapping[str, int]) -> None:
    """Check all arrays of a part; a length that is not given is that of the first array that has it."""
    known = FIXED | dict(lengths)
    for field in fields(part):
        array, said = getattr(part, field.name), ARRAYS[type(part)].get(field.name)
        if not isinstance(array, np.ndarray):
            continue
        if said is not None:
            dtype, *axes = said
            same = array.dtype == dtype and array.ndim == len(axes)
            same = same and all(known.setdefault(axis, n) == n for axis, n in zip(axes, array.shape, strict=True))
            wanted = ", ".join(f"{known[axis]} {axis}" if axis in known else axis for axis in axes)
            _require(same, f"{name}.{field.name} is {array.dtype} of shape {array.shape}, not {dtype} of ({wanted})")
        if array.dtype.kind == "f":
            sound = ~np.isnan(array) if field.name in UNBOUNDED else np.isfinite(array)
            _require(bool(sound.all()), f"{name}.{field.name} has values that are NaN or infinite")


def _check_codes(name: str, codes: np.ndarray, low: int, end: int) -> None:
    _require(not len(codes) or (codes.min() >= low and codes.max() < end), f"{name} has values out of range")


def _check_type(name: str, value: object, hint: Any) -> None:
    _require(_fits(value, hint), f"{name}={repr(value)[:SHOWN]} is not {getattr(hint, '__name__', hint)}")


def _fits(value: object, hint: Any) -> bool:
    """Return whether a JSON value is of a type; True and False are not numbers."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if origin is Literal:
        return value in inner
    if hint is Any or origin is not None:
        return True
    if hint is float and type(value) is float:
        return True
    if hint in (int, float):
        return type(value) is int and abs(value) < 2**63
    return type(value) is (types.NoneType if hint is None else hint)


def _field(record: Any, name: str) -> Any:
    _require(isinstance(record, Mapping) and name in record, f"it lacks {name!r}")
    return record[name]


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
