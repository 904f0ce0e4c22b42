"""Latent spaces of scVI and scANVI, for `embeddings.py`, which runs this with the Python of another environment.

    PYTHON benchmarks/scvi_latent.py cells.h5ad latent.npz seed

Both are trained on the cells that are not held out, on their 2,000 most dispersed genes, with 30 dimensions and two
hidden layers. Held-out cells are encoded. scVI takes 900 steps of 128 cells, and scANVI 300 more from there.
"""

import logging
import sys
import warnings

import anndata as ad
import numpy as np
import scanpy as sc
import scvi

STEPS, MORE, CELLS = 900, 300, 128


def main(path: str, out: str, seed: int) -> None:
    """Train both, and write what they make of all cells."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    scvi.settings.seed = seed
    cells = ad.read_h5ad(path)
    train = ~cells.obs["held_out"].to_numpy(bool)
    logged = cells[train].copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    chosen = sc.pp.highly_variable_genes(logged, n_top_genes=2000, inplace=False)["highly_variable"].to_numpy()
    cells = cells[:, chosen].copy()
    reference = cells[train].copy()
    scvi.model.SCVI.setup_anndata(reference)
    model = scvi.model.SCVI(reference, n_latent=30, n_layers=2)
    batches = -(-reference.n_obs // CELLS)
    quiet = {"enable_progress_bar": False, "accelerator": "cpu", "batch_size": CELLS}
    model.train(max_epochs=STEPS // batches, **quiet)
    found = {"X_scVI": model.get_latent_representation(cells)}
    scanvi = scvi.model.SCANVI.from_scvi_model(model, "nobody knows", labels_key="cell_type")
    scanvi.train(max_epochs=MORE // batches, **quiet)
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).where(train, "nobody knows")
    found["scANVI"] = scanvi.get_latent_representation(cells)
    named = np.asarray(scanvi.predict(cells)).astype(str)
    np.savez(out, predicted=named, **{name: z.astype(np.float32) for name, z in found.items()})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
