"""`fit` and `transform`: from a dataset to the metric space and the map."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tripletomics.arguments import checking_names
from tripletomics.labels import UNLABELLED
from tripletomics.tl import stored
from tripletomics.tl.opening import needs_opening, run_opened
from tripletomics.tl.progress import begin, report_scores, stage, training_bar
from tripletomics.tl.results import write_coordinates, write_fit

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from pandas import DataFrame, Series
    from torch.nn import Module

    from tripletomics.augment import Augmentation
    from tripletomics.checkpoint import Checkpoint
    from tripletomics.model import Model
    from tripletomics.networks import MLP

    Start: TypeAlias = Model
    Labels: TypeAlias = str | Sequence[str] | Mapping[str, str] | Series
    Parents: TypeAlias = str | Mapping[str, str]
    Cells: TypeAlias = AnnData | Sequence[AnnData] | Mapping[str, AnnData] | MuData | DataFrame
else:  # the command line reads these annotations; there, a part is its text
    AnnData = Model = Cells = object
    Module = Augmentation = MLP = Checkpoint = DataFrame = Start = Parents = str
    Labels = Sequence[str]


@checking_names
def fit(
    adata: Cells | str | os.PathLike[str],
    label: Labels | None = None,
    *,
    parents: Parents | None = None,
    order: str | None = None,
    loss: str | Module | None = None,
    structure: float = 0.5,
    spread: float = 0.5,
    map: str | DataFrame | None = None,
    dim: int = 2,
    metric_dim: int = 32,
    batch: str | None = None,
    layer: str | None = None,
    use_rep: str | None = None,
    counts: bool | Literal["auto"] = "auto",
    missing: Literal["error", "impute"] = "error",
    unlabelled: Sequence[str] = UNLABELLED,
    hold_out: float | str = 0.1,
    init: str | Path | Start | None = None,
    encoder: str | MLP = "mlp",
    augment: str | Augmentation | None = "mask",
    self_training: bool = False,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    checkpoint: str | Path | Checkpoint | None = None,
    key_added: str = "X_tt",
    progress: bool = True,
) -> Model:
    """Train a model with or without cell-type labels, map every cell, and score the cells that it never saw.

    Cells without a label take part. The map always sees all training cells. The metric space does so too, if more than
    a tenth of the training cells have no label.

    Parameters
    ----------
    adata
        Annotated cells in memory; `.X` (or `layer`) may be CSR, CSC or dense, counts or not. Or two modalities of the
        same cells: a tuple (RNA, proteins), a dict from name to AnnData, or a MuData of two. Cells are matched by name,
        and a cell may be missing in one of the two. Or a path to an .h5ad file or a .zarr store: a matrix of more than
        2 GB or 300,000 cells stays on disk, and a sample of it is fitted, unless it is stored by genes (CSC). Or a
        DataFrame of cells by features. Its columns that `label`, `order`, `batch` or `hold_out` name are not features.
        No coordinates are written to it: `Model.map` and `Model.embed` return them.
    label
        Column of `obs` with the cell types; for a DataFrame, one of its columns or a Series. Missing values and the
        names in `unlabelled` mean unlabelled. In two modalities, the first that has a value counts (columns of a MuData
        come before both), and a warning says how often they disagree. Without a column the model learns from the cells
        alone, and the map is that of ``structure=1``. A column of numbers that are not whole, or of more than 12
        different numbers, is refused.
        Several columns in a list are levels, from coarse to fine, such as ``["class", "subclass", "type"]``. A cell
        without a fine name is of some type below its coarser name. Training cells say which name lies below which. A
        dict gives each column its loss, such as
        ``{"cell_type": "softmax", "day": "0.5*rnc:period=24", "sex": None}``. The first column of types has the cell
        types. A column with the loss "rnc" or "coral" is learned as with `order`. Any other further column of types is
        learned by a loss of one view (by default "softmax") and predicted as ``obs["tt_<column>"]``. On the command
        line, write "cell_type=softmax day=rnc".
    parents
        The parent of each name in `label` that has one: a dict such as ``{"CD4 naive": "CD4 T", "CD4 T": "T cell"}``;
        a .csv, .tsv or .txt file of two columns, a name and its parent; or an ontology (.obo). Of its terms, only
        those are used that group the names. The column may hold names of any level.
    order
        Column of `obs` with values that have an order, such as a day, a dose or a stage: numbers or ordered categories,
        NaN where missing. "phase:period=24" is for numbers that run around a circle. The metric space follows the
        order by the loss "rnc", next to that of the cell types if there are any, and `predict` gives new cells
        a value. Without
        `label` no types are learned, and the map is the one without labels.
    loss
        Training loss of the metric space for the cell types: a name, a name with settings ("triplet:margin=0.3"), a sum
        ("softmax + 0.003*center"), or (in Python) an object. The default is "softmax". If more than a tenth of the
        training cells are unlabelled, it is "softmax + simclr:temperature=0.2,neighbours=5", and without labels only
        the second part.
        For two modalities it is "softmax + clip", and without labels "clip". `tripletomics losses` explains them all.
    structure
        What the map follows, in [0, 1]: the labels (0), the data (1), or both. At 1 it uses no label. Without cell
        types (no `label`, or `order` alone) it is 1, whatever is given here.
    spread
        How evenly the cells fill the map, in [0, 1]. At 0 groups are dense and far apart. The higher it is, the more
        room cells have inside their groups, and the less the gaps between groups mean.
    map
        Published map to adopt, in place of a new one: a key of `obsm` (with two modalities, of either or of the
        MuData), the path of a .csv or .tsv file, or (in Python) a DataFrame. Tables have the names of the cells first,
        and then 2 or 3 columns of coordinates. Training cells keep these coordinates. All other cells (held-out cells,
        cells without coordinates, and new cells) get learned coordinates. `Model.map_errors` says how far these are
        from the true ones. `structure` and `spread` are refused.
    dim
        Dimensions of the map, 2 or 3. With `map`, they are those of the given map.
    metric_dim
        Dimensions of the metric space, 2 to 512.
    batch
        Column of `obs` with the batches, such as donors or runs. Minibatches have cells of all batches, so that cells
        of one type come together across batches. Predictions are calibrated on whole batches, so that they hold for a
        new batch: each batch (up to four) is left out by an encoder of its own. To test this, hold one out with
        `hold_out`.
    layer
        Layer to use in place of `.X`. In two modalities, it is used in those that have it.
    use_rep
        Key of `obsm` with an embedding to use in place of the genes, such as "X_pca", "X_scVI" or spectra. It is dense,
        sparse or a DataFrame, cells by two or more dimensions. In two modalities, it is used in those that have it. All
        dimensions are divided by one number; otherwise the values are taken as they are. New cells need an embedding by
        the same model, on the same scale. If the embedding has seen the held-out cells, their scores are better than
        those of new cells.
    counts
        Whether the values are counts, which are normalised and log-transformed inside the model. "auto" decides, for
        each of two modalities separately, and the model's summary says how. Counts are not negative. With 100 features
        or more they are whole, or larger than a logarithm can be (above 30, and above four times the median). With
        fewer they are whole, and many are small. Where they may be either, a warning says what was decided. New cells
        must then be on the same scale.
    missing
        What to do about NaN: "error" refuses it, and "impute" takes such a value as not measured, as in mass
        spectrometry. The encoder then treats it like a gene that is hidden in training. For the principal components,
        the other values of the cell predict it. Genes are chosen and scaled by measured values.
    unlabelled
        One or several names that mean unlabelled, in place of the default ones; on the command line, repeat the option
        for each. Upper or lower case and spaces around a name make no difference. Missing and blank values always mean
        unlabelled.
    hold_out
        Cells that are never trained on: a fraction, drawn within every type; a column of `obs` whose groups are held
        out whole (about 10 %); "column=group"; a boolean column (or yes and no, True and False as text); a column of
        "train" and "test", "val" or "held-out" (all but "train" are held out); or 0 to hold out none.
    init
        Model to start from, or the path of its file (.tt). Its map grows. `adata` then holds only new cells: of new
        types, of known types (such as those of another platform), or of both. It needs the model's genes and labels.
        Old cells stay where they are. Genes, scaling, components, `counts`, `structure`, `spread`, `dim`, `metric_dim`
        and `encoder` come from the model, which has one modality and one level of types. `map`, `batch`,
        `self_training` and `checkpoint` are refused. `loss` is by default "softmax". The result knows old and new
        cells, and can grow again. Its scores are those of held-out new cells, and `findings` says how far old cells
        ``moved``.
    encoder
        Network from genes to the metric space: "mlp" or "mlp:hidden=512-128".
    augment
        Augmentation of training cells: "mask", "mask:p=0.2", several such as "thin + mask", or none. There are "mask",
        "thin" (counts only), "noise", "mixup" (within a type) and "censor" (for proteins). For an embedding or two
        modalities, "mask" and "mixup": their encoders see components.
    self_training
        Train the encoder twice. Before the second training, unlabelled cells take the type that the first encoder
        is sure of. The first encoder is kept, with a warning, if the second does worse on labelled cells that both did
        not see. Scores, predictions and calibration never use these labels.
    steps
        Training steps of the encoder; by default they follow the number of cells and the loss. The map head takes four
        times as many, but at most 320 to 480 (by the number of cells), or as many as the encoder if that takes more.
    batch_size
        Cells in a training step; by default 512, or all if there are fewer.
    lr
        Learning rate.
    seed
        Seed of everything random. The same seed gives the same map for the same cells and genes in the same order, with
        the same versions, device and number of threads (OMP_NUM_THREADS). Another number of threads or another order
        changes the coordinates.
    device
        "auto", "cpu", "cuda" or "mps".
    precision
        "auto" (float32), or a precision of Lightning Fabric such as "bf16-mixed".
    checkpoint
        File in which the fit saves its progress: after each training (encoder, map, each encoder of the calibration,
        permuted labels), and every minute during one. If the fit is stopped, the same call continues from there. With
        the same device and as many threads, the result is exactly that of a fit that was not stopped (except for
        `seconds`). The file is deleted at the end. A file that was started with other cells, settings or versions is
        refused.
    key_added
        Key of the map in `obsm`; prefix of the others.
    progress
        Show a progress bar in a terminal or notebook.

    Returns
    -------
    The model. Written to `adata`, or to both modalities (and the MuData), where a cell has the same coordinates; into a
    .zarr store, or to a copy of an .h5ad file that replaces it:

    ``obsm["X_tt"]``
        The map, float32 (cells, dim). With `map` it holds the coordinates given for the training cells.
    ``obsm["X_tt_metric"]``
        The metric space, float32 (cells, metric_dim).
    ``obsm["X_tt_pca"]``
        Principal components, fitted to training cells, whose neighbourhoods the map keeps: float32 (cells, 50) or
        fewer. Of two modalities those of both; where one was not measured, they are imputed from the other. With
        `use_rep`, those of the embedding, without unit variance. An embedding of up to 50 dimensions is only centred
        and rotated, so that distances stay as they are.
    ``obs["tt_split"]``
        Categorical, "train" or "held-out" (``obs["<key_added>_split"]`` with another `key_added`).
    ``uns["X_tt"]``
        Settings as text, versions, history, seconds and scores. Scores are the 15-NN macro-F1 of the map and the metric
        space on held-out cells, compared with training cells and with a short fit on permuted labels. Without labels
        they are the recall of the neighbours by principal components, compared with permuted cells. For two
        modalities also how good predictions from each alone are (``alone``), and how often a held-out cell is found by
        the other modality (``matches``). ``seen`` is the id of the model that wrote the coordinates, `Model.id`, and
        ``n_train`` the number of its training cells. ``map_errors`` is `Model.map_errors`, and ``ordered`` is
        `Model.ordered`: how well values of ordered columns are predicted on held-out cells.

    Raises
    ------
    KeyError
        If there is no such column, layer, embedding or map.
    TypeError
        If `adata` is not an AnnData in memory (or two) or a path, or holds no numbers.
    ValueError
        If a value cannot be used, two modalities have no cell in common, rows on disk cannot be read, or the checkpoint
        is damaged or belongs to another fit. Nothing is written to `adata` then.
    FileNotFoundError, PermissionError, OSError
        If there is no such path, it is read-only, or the disk is too small. Nothing is written then.

    Examples
    --------
    >>> model = tt.fit(adata, label="cell_type")
    >>> model
    <tripletomics.Model: 765 genes, 10 types, loss=softmax>
    >>> adata.obsm["X_tt"].shape == (adata.n_obs, 2)  # the map
    True
    >>> adata.obs["tt_split"].cat.categories.tolist()
    ['train', 'held-out']
    """
    from tripletomics import crossfit, nulls, pp, training
    from tripletomics.model import build, scoring
    from tripletomics.problem import Settings

    started = time.perf_counter()
    given = {name: value for name, value in locals().items() if name in inspect.signature(fit).parameters}
    if needs_opening(given):
        return run_opened(given, fit)

    with stage("preparing", progress):
        table, settings, problem = pp.prepare(adata, Settings.of(given), given["checkpoint"])
    with training_bar(progress) as report:
        told: dict[str, Any] = {"report": report, "checkpoint": checkpoint}
        encoder_fit = training.train_encoder(problem, settings, **told)
        if settings.self_training:
            encoder_fit = crossfit.self_train(problem, settings, encoder_fit, **told)
        networks, history = training.train_map(problem, settings, encoder_fit, **told)
        embeddings = crossfit.embed_all(problem, networks)
        calibrated = crossfit.calibrate(problem, settings, encoder_fit, embeddings, **told)

        begin(report, "permuted labels and scores")
        missed = nulls.fit_nulls(problem, settings, encoder_fit, given["checkpoint"])
        fits, names = (encoder_fit, networks, history), table.obs.obs_names.to_numpy()
        model = build.build_model(problem, settings, *fits, names=names, embeddings=embeddings, calibrated=calibrated)
        model.seconds = {"fit": time.perf_counter() - started - sum(missed.seconds.values())} | missed.seconds
        model.colors = pp.kept_colours(table, settings, problem.classes)
        scoring.score_fit(model, problem, settings, embeddings[""].coordinates, missed)
        report_scores(report, model.history, again=encoder_fit.rounds > 1)
    write_fit(table, settings.key_added, model, problem, embeddings[""].coordinates)
    return model


@checking_names
def transform(
    adata: Cells | str | os.PathLike[str],
    model: Model,
    *,
    layer: str | None = None,
    use_rep: str | None = None,
    missing: Literal["error", "zero", "impute"] = "error",
    alias: str | None = None,
    min_matched: float = 0.3,
    key_added: str = "X_tt",
    progress: bool = True,
) -> None:
    """Embed new cells in the metric space and on the map of a model.

    Parameters
    ----------
    adata
        New cells with the model's genes, by name and in any order, on the scale that the model was trained on. Upper
        and lower case and the version of an Ensembl id make no difference. For a model of two modalities, cells with
        one of them (the features show which one) or both, as for `fit`. Or a path to an .h5ad file or a .zarr store of
        one modality: only one block of its rows at a time is in memory.
    model
        From `fit` or `load`.
    layer
        Layer to use in place of `.X`.
    use_rep
        Key of `obsm` with the embedding, for a model that was fitted on one; by default the key in the fit.
    missing
        What to do about missing genes, and about NaN in the others: "error"; "zero" to fill them with zeros; or
        "impute" to treat them as unknown, like the genes that are hidden in training.
    alias
        Column of `var` with other names of the genes, such as "gene_ids", for those that do not match by name.
    min_matched
        Share of the encoder's weight that the present genes must have if others are missing, in [0, 1].
    key_added
        Key of the map in `obsm`.
    progress
        Show a progress bar in a terminal or notebook.

    Returns
    -------
    None. Written to `adata`, to each modality that was given, and to a MuData; into a .zarr store, or to a copy of an
    .h5ad file that replaces it:

    ``obsm["X_tt"]``
        The map, float32 (cells, dim).
    ``obsm["X_tt_metric"]``
        The metric space, float32 (cells, metric_dim).
    ``obsm["X_tt_pca"]``
        Only if it is there: their principal components, in place of those of an earlier fit.
    ``uns["X_tt"]``
        ``{"seen": model.id}``, with the ``tree`` of types on several levels, in place of what another model wrote
        there. What this model wrote stays.
    ``obs["tt_split"]``
        Categorical (``obs["<key_added>_split"]`` with another `key_added`): "train" for cells that this model was
        trained or calibrated on, "held-out" for all others. It is not written if all cells are new, or if the model
        comes from an older file, which does not know its cells.

    A warning says how many cells the model was trained on. They are found by their values over all genes of the model.
    A cell with a changed value or a missing gene counts as new, unless the split that the fit wrote says otherwise.

    Raises
    ------
    KeyError
        If there is no such layer, embedding or column.
    ValueError
        If genes are missing, the values are on another scale than those of training, or rows on disk cannot be read.
        Nothing is written then.
    FileNotFoundError, PermissionError, OSError
        If there is no such path, it is read-only, or the disk is too small. Nothing is written then.

    Examples
    --------
    >>> tt.transform(query, model)
    >>> query.obsm["X_tt"].shape
    (100, 2)
    """
    from tripletomics import pp
    from tripletomics.tl.origins import trained_on

    pp.check_key(key_added, adata)
    pp.check_model(model)
    if isinstance(adata, (str, os.PathLike)):
        stored.transform(
            Path(adata), model, layer=layer, use_rep=use_rep, missing=missing, alias=alias, min_matched=min_matched,
            key_added=key_added, progress=progress,
        )  # fmt: skip
        return
    options = pp.QueryOptions(layer, missing, alias, min_matched, use_rep)
    cells = pp.take_new(adata, model, options, key_added)
    with stage(f"embedding {cells.x.shape[0]:,} cells", progress):
        coordinates = model.place(cells.x, cells.present)
    write_coordinates(cells, key_added, model, *coordinates, trained_on(model, cells.x))
