"""Neural networks that are trained on labels."""

from __future__ import annotations

import numpy as np

from tripletomics.baselines.inputs import Cells, Coordinates, isolated, quiet
from tripletomics.extras import require

HIDDEN = (256, 32)  # units
EPOCHS = 50
WEIGHT_DECAY = 1.0  # scikit-learn's alpha, which it divides by the cells of a minibatch


def mlp(cells: Cells, seed: int) -> Coordinates:
    r"""Embed cells by the last hidden layer of a network that learns their types by cross-entropy.

    .. math:: z = \max(0, \max(0, x A + a) B + b), \qquad \min -\frac1n \sum_i \log \text{softmax}(z_i C + c)_{y_i}

    with the principal components x, 256 and then 32 hidden units, and L2 regularisation. Unlabelled cells are
    embedded and not trained on.

    Notes
    -----
    The settings did well on held-out cells of pbmc3k, paul15 and cite_cbmc_rna. The same network on all
    genes takes several times as long, and does worse on the first two and slightly better on the third.

    References
    ----------
    Rumelhart, Hinton & Williams 1986, Nature 323; Kingma & Ba 2015, arXiv:1412.6980 (Adam).
    """
    from sklearn.neural_network import MLPClassifier

    known = cells.y >= 0
    model = MLPClassifier(HIDDEN, alpha=WEIGHT_DECAY, max_iter=EPOCHS, n_iter_no_change=EPOCHS, random_state=seed)
    with quiet():
        model.fit(cells.train_pca[known], cells.y[known])

    def embed(x: np.ndarray) -> np.ndarray:
        for weights, bias in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
            x = np.maximum(x @ weights + bias, 0)
        return x.astype(np.float32)

    return {"metric": (embed(cells.train_pca), embed(cells.query_pca))}


def scanvi(cells: Cells, seed: int) -> Coordinates:
    """Embed cells in the latent space of scANVI: a variational autoencoder of counts that also classifies.

    Raises
    ------
    ImportError
        If scvi-tools is not installed.
    ValueError
        If the cells are not counts.

    References
    ----------
    Xu, Lopez, Mehlman, Regier, Jordan & Yosef 2021, Mol. Syst. Biol. 17, e9620.
    """
    require("scanvi", "scvi")
    import scvi
    from anndata import AnnData

    if cells.train_counts is None:
        raise ValueError("scanvi models counts, and these cells are not counts: leave it out of methods.")
    train, query = AnnData(cells.train_counts), AnnData(cells.query_counts)
    train.obs["type"], query.obs["type"] = cells.y.astype(str), "-1"
    before = scvi.settings.seed
    with quiet("scvi", "lightning.pytorch", "lightning.fabric"), isolated():
        scvi.settings.seed = seed
        try:
            scvi.model.SCVI.setup_anndata(train, labels_key="type")
            model = scvi.model.SCVI(train)
            model.train(enable_progress_bar=False, logger=False)
            model = scvi.model.SCANVI.from_scvi_model(model, unlabeled_category="-1", labels_key="type")
            model.train(enable_progress_bar=False, logger=False)
            train_z, query_z = (model.get_latent_representation(adata).astype(np.float32) for adata in (train, query))
        finally:
            scvi.settings.seed = before
    return {"metric": (train_z, query_z)}
