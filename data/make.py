"""Rebuild the two small datasets of this folder: ``python data/make.py SCIMAP_WHEEL``.

The wheel is scimap 2.3.6 (``pip download --no-deps scimap==2.3.6``); the other source comes with scanpy. Nothing is
downloaded here. See README.md beside this file for licences and for where the labels come from.
"""

import argparse
import io
import zipfile
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse

HERE = Path(__file__).parent
TISSUE_MEMBER = "scimap/tests/scimapExampleData/scimapExampleData.h5ad"


def pbmc() -> ad.AnnData:
    """700 blood cells: log-normalised values, cell types, and quality measures."""
    source = sc.datasets.pbmc68k_reduced()
    if not source.raw.var_names.is_unique:
        raise ValueError("pbmc68k_reduced has duplicate genes")
    labels = source.obs["bulk_labels"].astype(str)
    obs = pd.DataFrame({"cell_type": pd.Categorical(labels)}, index=source.obs_names.rename(None))
    for name in ("n_counts", "n_genes", "percent_mito"):
        obs[name] = source.obs[name].to_numpy()
    matrix = sparse.csr_matrix(source.raw.X, dtype=np.float32)
    matrix.sort_indices()
    adata = ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=source.raw.var_names.rename(None)))
    adata.uns["source"] = {
        "dataset": "PBMC 68k (Zheng et al. 2017, doi:10.1038/ncomms14049), a subset of 700 cells and 765 genes",
        "from": f"scanpy.datasets.pbmc68k_reduced() of scanpy {version('scanpy')}, .raw",
        "licence": "BSD-3-Clause, Copyright (c) 2025 scverse, (c) 2017 F. Alexander Wolf, P. Angerer, Theis Lab",
        "matrix": "log1p of counts scaled to 10,000 per cell over all genes",
        "labels": "cell_type = bulk_labels: nearest bulk-sorted population by expression; not independent of matrix",
    }
    return adata


def tissue_protein(wheel: Path) -> ad.AnnData:
    """11,201 cells of one tissue image: log marker intensities, gated phenotypes, and positions."""
    with zipfile.ZipFile(wheel) as archive:
        source = ad.read_h5ad(io.BytesIO(archive.read(TISSUE_MEMBER)))
    if not np.allclose(source.layers["log"], np.log1p(source.raw.X)):
        raise ValueError("layers['log'] is no longer log1p of the raw intensities")
    obs = pd.DataFrame({"phenotype": pd.Categorical(source.obs["phenotype"].astype(str))}, index=source.obs_names)
    for name in ("X_centroid", "Y_centroid", "Area"):
        obs[name] = source.obs[name].to_numpy().astype(np.float32)
    for name in ("ROI", "imageid"):
        obs[name] = pd.Categorical(source.obs[name].astype(str))
    matrix = np.asarray(source.layers["log"], dtype=np.float32)
    adata = ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=source.var_names))
    adata.uns["source"] = {
        "dataset": "MCMICRO exemplar-001 (lung adenocarcinoma tissue core, CyCIF), one image, 9 markers",
        "from": f"{TISSUE_MEMBER} in the scimap 2.3.6 wheel, layers['log']",
        "licence": "MIT, Copyright (c) 2023 Laboratory of Systems Pharmacology @ Harvard",
        "matrix": "log1p of mean marker intensity per cell",
        "labels": "phenotype = manual gates on these same markers; not independent of the matrix",
    }
    return adata


def main() -> None:
    """Write both files beside this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path, help="path of scimap-2.3.6-py3-none-any.whl")
    wheel = parser.parse_args().wheel
    for name, adata in {"pbmc": pbmc(), "tissue_protein": tissue_protein(wheel)}.items():
        path = HERE / f"{name}.h5ad"
        adata.write_h5ad(path, compression="gzip", compression_opts=9)
        print(f"{path.name}: {adata.n_obs} x {adata.n_vars}, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
