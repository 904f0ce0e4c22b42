"""Write the rows of the README's two tables anew, from docs/tables/*.csv.

python benchmarks/readme_tables.py
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
SCORES = ["F1", "recall", "distances"]
PEER = "UMAP, cross-fitted PCs"
MAPS = ["UMAP", "t-SNE", PEER, "t-SNE, cross-fitted PCs", "supervised UMAP", "supervised UMAP, cross-fitted PCs",
        "PaCMAP", "LDA", "PCA", "logistic regression (no map)"]  # fmt: skip


def main() -> None:
    by_map, differences = (
        pd.read_csv(ROOT / "docs" / "tables" / f"{name}.csv", keep_default_na=False)
        for name in ("quality_by_map", "quality_differences")
    )
    to_umap = differences[differences["other"] == PEER]
    by_map = by_map.set_index("next to").loc[MAPS].reset_index()
    page = ROOT / "README.md"
    text = page.read_text()
    for table, first in ((by_map, ["next to"]), (to_umap, ["data", "seeds"])):
        columns = [*first, *SCORES]
        lines = [columns, ["---"] * len(columns), *table[columns].astype(str).to_numpy()]
        block = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        text = re.sub(rf"^\| {first[0]} \|.*\n(?:\|.*\n)+", block.replace("\\", r"\\"), text, flags=re.MULTILINE)
    page.write_text(text)


if __name__ == "__main__":
    main()
