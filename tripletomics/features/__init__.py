"""What a model reads from cells: the genes in their order, and how values become the numbers that a network sees.

`Features` (one modality) and `PairFeatures` (two) have the same methods, so that a caller need not know which it has:

- ``names`` and ``parts``: each modality's name and `Features`. A single modality has the name "".
- ``modalities``: the names to choose from; none where there is one modality.
- ``source(x, present, trained)``: rows as the encoder sees them. ``pcs(x, present, fitted)``: principal components.
- ``map_pcs(x, pcs, present)``, ``map_width``: what the map head sees besides z: the components, or two kinds of them.
- ``width``: principal components. ``widths``: columns that each encoder sees, as `networks.build` takes them.
- ``unsure``: how far off the principal components of new cells may be.
- ``augmentation(augment, views)``: what is done to these rows in training.
- ``check_cells``, ``check_present``, ``join``: what a user gave, checked.
- ``gene_weights``, ``records``: what the encoder makes of each gene; what a model file holds.

Of the matrices, `matrices`, `measured`, `fully_measured` and `only` answer for one modality as for a `Pair`.
"""

from collections.abc import Mapping

import numpy as np

from tripletomics.features.pair import Pair, PairFeatures, fit_pair, fully_measured, matrices, measured, only
from tripletomics.features.plain import add_plain
from tripletomics.features.rows import median_depth, normalise, norms, spread_of, take
from tripletomics.features.single import DEPTH, Choice, Features, fit

AnyFeatures = Features | PairFeatures
Present = np.ndarray | Mapping[str, np.ndarray | None] | None  # genes that were measured, of each modality; None: all
