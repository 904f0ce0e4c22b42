"""Names of arguments in other packages, and what to type in their place."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from tripletomics.parts import did_you_mean

P = ParamSpec("P")
R = TypeVar("R")

# what others call an argument: the first of our names that a verb has
SYNONYMS = {
    "adata": "data anndata query",
    "label": "labels labels_key label_key groupby y cell_type celltype",
    "groups": "group labels labels_key label_key groupby",
    "cmap": "color_map colormap colourmap",
    "size": "s point_size dot_size",
    "color": "colors colour labels labels_key label_key label hue",
    "batch": "batch_key batches batch_col batch_column",
    "seed": "random_state random_seed rng",
    "hold_out": "test_size holdout validation_size test_fraction train_size",
    "metric_dim": "n_latent latent_dim embedding_dim n_hidden",
    "dim": "n_components n_dims n_dim ndim",
    "steps": "max_epochs n_epochs epochs n_steps max_steps n_iter max_iter",
    "lr": "learning_rate",
    "device": "accelerator use_gpu",
    "progress": "verbose progress_bar show_progress",
    "unlabelled": "unlabeled unlabeled_category unlabelled_category unknown",
    "structure": "supervision label_weight target_weight",
    "use_rep": "obsm obsm_key rep use_reps embedding",
    "basis": "obsm obsm_key rep use_rep embedding",
    "key_added": "key key_add add_key obsm_added",
    "layer": "layers",
    "missing": "missing_genes fill impute",
    "path": "filename fname save",
}
OF_THREADS = ("n_jobs", "n_threads", "num_threads", "num_workers", "n_workers")  # what others call --threads
# what no argument does, and how it is done
CURES = {
    "how many threads are used follows the environment: set OMP_NUM_THREADS before Python starts (on the command line: "
    "--threads)": " ".join(("threads", *OF_THREADS)),
    "to keep the cells as they are, pass adata.copy()": "copy inplace",
    "pass adata.raw.to_adata() in place of adata": "use_raw raw",
    "it has no such setting; change the figure with matplotlib": "legend_fontsize legend_fontweight legend_fontoutline "
    "wspace hspace na_color na_in_legend marker add_outline",
    "mark the genes in adata.var['highly_variable']": "n_top_genes use_highly_variable hvg mask_var",
}


def checking_names(verb: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public verb: an unknown argument is then a TypeError that says what to type."""
    known = list(inspect.signature(verb).parameters)

    @functools.wraps(verb)
    def call(*args: P.args, **given: P.kwargs) -> R:
        for name in given:
            if name not in known:
                raise TypeError(f"{verb.__name__}() has no argument {name!r}{_hint(name, known)}")
        return verb(*args, **given)

    return call


def meant(name: str, known: Sequence[str]) -> str | None:
    """Return our name for an argument that other packages have under this name, or None."""
    return next((ours for ours, theirs in SYNONYMS.items() if ours in known and name.lower() in theirs.split()), None)


def _hint(name: str, known: Sequence[str]) -> str:
    """Return what to type in place of an unknown name."""
    if (ours := meant(name, known)) is not None:
        return f". Did you mean {ours!r}?"
    for cure, names in CURES.items():
        if name.lower() in names.split():
            return f": {cure}."
    near = did_you_mean(name, known)
    return f".{near}" if near else f". Arguments: {', '.join(known)}."
