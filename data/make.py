"""Rebuild the three small datasets: ``python data/make.py SCIMAP_WHEEL DESC_WHEEL``.

The wheels are scimap 2.3.6 and desc 2.1.1 (``pip download --no-deps scimap==2.3.6 desc==2.1.1``); the other sources
come with scanpy. Nothing is downloaded here. See README.md beside this file for licences and for where the labels come
from.
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
INSTALLED = HERE.parent / "tripletomics" / "data"
TISSUE_MEMBER = "scimap/tests/scimapExampleData/scimapExampleData.h5ad"
DONOR_MEMBER = "desc/datasets/pbmc.h5ad"
MARKERS = {  # of blood cells; the labels are made from them, and the matrix lacks them
    "T": ("CD3D", "CD3E", "CD3G"), "CD4": ("CD4",), "CD8": ("CD8A", "CD8B"), "B": ("CD79A", "MS4A1"),
    "B, in no rule": ("CD79B",), "NK": ("GNLY", "NKG7"), "myeloid": ("LYZ", "CST3"), "CD14": ("CD14",),
    "CD16": ("FCGR3A",), "dendritic": ("FCER1A", "CLEC10A"), "platelet": ("PPBP", "PF4"),
}  # fmt: skip


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


def marker_types(counts: pd.DataFrame) -> np.ndarray:
    """Return the type of each cell by its counts of marker genes; "Unknown" where they say nothing or disagree."""
    n = {name: counts.reindex(columns=genes, fill_value=0).sum(axis=1) for name, genes in MARKERS.items()}
    lymphoid, no_b = n["myeloid"] < 5, n["B"] == 0
    no_t = n["T"] == 0
    monocyte = ~lymphoid & no_t & no_b & (n["dendritic"] == 0)
    rules = {
        "CD4 T cell": (n["T"] > 0) & (n["CD4"] > 0) & (n["CD8"] == 0) & no_b & lymphoid,
        "CD8 T cell": (n["T"] > 0) & (n["CD8"] > 0) & (n["CD4"] == 0) & no_b & lymphoid,
        "B cell": (n["B"] > 1) & no_t & lymphoid,
        "NK cell": (n["NK"] > 3) & no_t & (n["CD8"] == 0) & no_b & lymphoid,
        "CD14 monocyte": (n["CD14"] > 0) & (n["CD16"] == 0) & monocyte,
        "CD16 monocyte": (n["CD16"] > 0) & (n["CD14"] == 0) & monocyte,
        "dendritic cell": (n["dendritic"] > 0) & (n["CD14"] == 0) & (n["CD16"] == 0) & ~lymphoid & no_t & no_b,
    }
    return np.select([rule.to_numpy() for rule in rules.values()], list(rules), "Unknown")


def pbmc_two_donors(wheel: Path) -> ad.AnnData:
    """3,400 blood cells of two donors: counts of the genes both have, without those that make the labels."""
    with zipfile.ZipFile(wheel) as archive:
        first = ad.read_h5ad(io.BytesIO(archive.read(DONOR_MEMBER)))
    first.var_names_make_unique()
    reduced = sc.datasets.pbmc68k_reduced()
    second = reduced.raw.to_adata()
    counts = np.expm1(second.X.toarray()) * reduced.obs["n_counts"].to_numpy()[:, None] / 1e4
    if np.abs(counts - counts.round()).max() > 0.1:
        raise ValueError("pbmc68k_reduced: the counts cannot be found again")
    second.X = sparse.csr_matrix(counts.round(), dtype=np.float32)
    markers = {gene for genes in MARKERS.values() for gene in genes}
    genes = [gene for gene in second.var_names if gene in set(first.var_names) - markers]
    parts = []
    for donor, cells in {"pbmc3k": first, "pbmc68k": second}.items():
        own = [gene for gene in cells.var_names if gene in markers]
        obs = pd.DataFrame({"cell_type": marker_types(cells[:, own].to_df())}, index=cells.obs_names)
        sorted_type = reduced.obs["bulk_labels"].astype(str) if donor == "pbmc68k" else ""
        parts.append(ad.AnnData(sparse.csr_matrix(cells[:, genes].X, dtype=np.float32), obs.assign(
            donor=donor, sorted_type=sorted_type), pd.DataFrame(index=genes)))  # fmt: skip
    adata = ad.concat(parts)
    for name in adata.obs:
        adata.obs[name] = pd.Categorical(adata.obs[name])
    adata.X.sort_indices()
    if not adata.obs_names.is_unique:
        raise ValueError("two cells have one name")
    adata.uns["source"] = {
        "dataset": "PBMC 3k of 10x Genomics, and a subset of the PBMC 68k (Zheng et al. 2017, doi:10.1038/ncomms14049)",
        "from": f"{DONOR_MEMBER} in the desc 2.1.1 wheel; scanpy.datasets.pbmc68k_reduced() of {version('scanpy')}",
        "licence": "desc: MIT; scanpy: BSD-3-Clause; the cells are public data of 10x Genomics",
        "matrix": "counts (UMI)",
        "labels": "cell_type: by counts of marker genes that the matrix lacks; Unknown where they do not say",
    }
    return adata


def main() -> None:
    """Write two files beside this script, and one into the package, which installs it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scimap", type=Path, help="path of scimap-2.3.6-py3-none-any.whl")
    parser.add_argument("desc", type=Path, help="path of desc-2.1.1-py3-none-any.whl")
    wheels = parser.parse_args()
    made = {
        HERE / "pbmc.h5ad": pbmc(),
        HERE / "tissue_protein.h5ad": tissue_protein(wheels.scimap),
        INSTALLED / "pbmc_two_donors.h5ad": pbmc_two_donors(wheels.desc),
    }
    for path, adata in made.items():
        adata.write_h5ad(path, compression="gzip", compression_opts=9)
        print(f"{path.name}: {adata.n_obs} x {adata.n_vars}, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
