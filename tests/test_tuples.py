"""Triplets and their relatives, against plain loops and pytorch-metric-learning."""

import math

import numpy as np
import pytest
import torch
from oracles import assert_same, batch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning import reducers

from tripletomics import geometry, losses
from tripletomics.losses import Angular, Contrastive, HierarchicalTriplet, Quadruplet, RankNet, Triplet

P = 3.0
METRICS = [name for name in geometry.DISTANCES if name != "mahalanobis"]  # tested with whitened cells


def distance(name, a, b):
    """Compute one distance by its definition."""
    gap = a - b
    cosine = (a @ b) / (a.norm() * b.norm())
    return {
        "euclidean": lambda: gap.norm(),
        "sqeuclidean": lambda: gap @ gap,
        "manhattan": lambda: gap.abs().sum(),
        "minkowski": lambda: (gap.abs() ** P).sum() ** (1 / P),
        "cosine": lambda: 1 - cosine,
        "angular": lambda: torch.arccos(cosine),
        "jaccard": lambda: jaccard(a.relu(), b.relu()),
    }[name]()


def jaccard(a, b):
    largest = torch.maximum(a, b).sum()
    return 1 - torch.minimum(a, b).sum() / largest if largest > 0 else largest


def triplet_loops(z, y, loss):
    """Compute the triplet loss with plain loops over anchors, positives and negatives."""
    cells = [i for i in range(len(y)) if y[i] >= 0]
    d = {(i, j): distance(loss.distance, z[i], z[j]) for i in cells for j in cells if i != j}
    pairs = []
    for a in cells:
        positives = [d[a, p] for p in cells if p != a and y[p] == y[a]]
        negatives = [d[a, m] for m in cells if y[m] != y[a]]
        if not positives or not negatives:
            continue
        if loss.mining in ("all", "band"):
            pairs += [(positive, negative) for positive in positives for negative in negatives]
        elif loss.mining == "hard":
            pairs.append((max(positives), min(negatives)))
        elif loss.mining == "easy_positive":
            pairs.append((min(positives), min(negatives)))
        else:
            for positive in positives:
                farther = [negative for negative in negatives if negative > positive]
                pairs.append((positive, min(farther) if farther else max(negatives)))
    if loss.mining == "band":
        pairs = [(positive, negative) for positive, negative in pairs if loss.lo < positive - negative <= loss.hi]
    if loss.soft:
        terms = [torch.log(1 + torch.exp(positive - negative)) for positive, negative in pairs]
    else:
        terms = [torch.relu(positive - negative + loss.margin) for positive, negative in pairs]
    total = sum(terms)
    if loss.mining in ("all", "band") and loss.reduction == "sum":
        return total
    if loss.mining in ("all", "band") and loss.reduction == "nonzero":
        return total / sum(term > 0 for term in terms)
    return total / len(terms)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("mining", "reduction"),
    [
        ("all", "nonzero"),
        ("all", "all"),
        ("all", "sum"),
        ("band", "nonzero"),
        ("band", "all"),
        ("band", "sum"),
        ("hard", "sum"),
        ("semihard", "sum"),
        ("easy_positive", "sum"),
    ],
)
def test_triplet_against_loops(mining, reduction, name, soft):
    z, y = batch(14)
    loss = Triplet(margin=0.3, distance=name, p=P, mining=mining, soft=soft, reduction=reduction, lo=-0.5, hi=0.1)
    assert_same(loss(z, y), triplet_loops(z, y, loss), z)


@pytest.mark.parametrize("margin", [0.0, 0.2, 5.0])
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("euclidean", pml_distances.LpDistance(normalize_embeddings=False)),
        ("sqeuclidean", pml_distances.LpDistance(normalize_embeddings=False, power=2)),
        ("manhattan", pml_distances.LpDistance(normalize_embeddings=False, p=1)),
    ],
)
def test_triplet_against_pytorch_metric_learning(name, theirs, margin):
    z, y = batch(40, classes=5)
    known = y >= 0
    for reduction, reducer in (("nonzero", reducers.AvgNonZeroReducer()), ("all", reducers.MeanReducer())):
        expected = pml.TripletMarginLoss(margin=margin, distance=theirs, reducer=reducer)(z[known], y[known])
        assert_same(Triplet(margin=margin, distance=name, reduction=reduction)(z, y), expected, z)


def test_triplet_in_float32_against_float64():
    z, y = batch(300, 32, 6)
    for text in ("triplet", "triplet:reduction=sum", "triplet:soft=true", "triplet:mining=hard"):
        loss = losses.make(text)
        assert loss(z.float(), y).item() == pytest.approx(loss(z, y).item(), rel=1e-5)


def test_squared_distances_collapse_where_plain_ones_do_not():
    z, y = batch(30, 2)
    strength = {}
    for name in ("euclidean", "sqeuclidean"):
        leaf = (z.detach() * 1e-3).requires_grad_()
        Triplet(mining="hard", distance=name)(leaf, y).backward()
        strength[name] = leaf.grad.norm().item()
    assert strength["euclidean"] > 100 * strength["sqeuclidean"]


def test_hard_counts_satisfied_anchors():
    z = torch.tensor([[0.0], [1.0], [1.1], [100.0], [101.0]])
    y = torch.tensor([0, 0, 1, 1, 2])
    # anchors: 0 -> 1 - 1.1, 1 -> 1 - .1, 2 -> 98.9 - .1, 3 -> 98.9 - 1; the last has no positive
    assert Triplet(margin=0.0, mining="hard")(z, y).item() == pytest.approx((0 + 0.9 + 98.8 + 97.9) / 4)


@pytest.mark.parametrize("name", METRICS)
def test_contrastive_against_loops(name):
    z, y = batch(15)
    margin = 1.7
    cells = [i for i in range(len(y)) if y[i] >= 0]
    terms = []
    for i in cells:
        for j in cells:
            if i < j:
                d = distance(name.replace("minkowski", "euclidean"), z[i], z[j])
                terms.append(d**2 / 2 if y[i] == y[j] else torch.relu(margin - d) ** 2 / 2)
    assert_same(Contrastive(margin=margin, distance=name)(z, y), sum(terms) / len(terms), z)


def test_contrastive_against_pytorch_metric_learning():
    """Theirs averages the two kinds of pairs on their own: put our mean back together."""
    z, y = batch(30)
    z = z.detach()[y >= 0].requires_grad_()
    y = y[y >= 0]
    same = (y[:, None] == y)[tuple(torch.triu_indices(len(y), len(y), 1))]
    squared = pml_distances.LpDistance(normalize_embeddings=False, power=2)
    plain = pml_distances.LpDistance(normalize_embeddings=False)
    far = (torch.cdist(z, z)[tuple(torch.triu_indices(len(y), len(y), 1))][~same].detach() < 1).sum()
    mean = {"pos_loss": reducers.MeanReducer(), "neg_loss": reducers.MeanReducer()}
    pull = pml.ContrastiveLoss(0, 0, distance=squared, reducer=reducers.MultipleReducers(mean))(z, y) * same.sum()
    assert far > 0
    value = Contrastive(margin=1e-9)(z, y)  # no pair of different types is that near
    assert_same(value * len(same), pull / 2, z)
    linear = pml.ContrastiveLoss(0, 1.0, distance=plain, reducer=reducers.AvgNonZeroReducer())
    one, two = z[:2], torch.tensor([0, 1])
    one = (one.detach() / 10).requires_grad_()
    assert Contrastive()(one, two).item() == pytest.approx(linear(one, two).item() ** 2 / 2)


def test_mahalanobis_is_euclidean_on_whitened_cells():
    z, y = batch()
    known = y >= 0
    white = geometry.whiten(z[known], y[known])
    for text in ("triplet", "triplet:mining=hard", "contrastive", "ranknet"):
        colon = "," if ":" in text else ":"
        found = losses.make(f"{text}{colon}distance=mahalanobis")(z, y)
        assert_same(found, losses.make(text)(white, y[known]), z)


def test_curriculum_goes_from_easy_to_hard():
    z, y = batch(40)
    gap = [p - n for p, n in gaps(z, y)]
    bands = []
    loss = Triplet(mining="curriculum", margin=0.5)
    for step in range(11):
        loss.set_progress(step, 11)
        lo, hi = loss._band(geometry.distances(z.detach()), y)
        bands.append((lo, hi))
        inside = [g + 0.5 for g in gap if lo < g <= hi]
        assert loss(z[y >= 0], y[y >= 0]).item() == pytest.approx(sum(inside) / len(inside))
    assert bands[0][0] == -0.5
    assert bands[-1][1] == pytest.approx(max(gap))
    assert np.all(np.diff(np.array(bands), axis=0) > 0)


def gaps(z, y):
    z, y = z.detach()[y >= 0], y[y >= 0]
    d = torch.cdist(z, z)
    n = range(len(y))
    return [(d[a, p].item(), d[a, m].item()) for a in n for p in n for m in n if a != p and y[a] == y[p] != y[m]]


@pytest.mark.parametrize(
    ("pacing", "expected"),
    [
        ("linear", [0, 0.25, 0.5, 0.75, 1]),
        ("root", [0, 0.5, math.sqrt(0.5), math.sqrt(0.75), 1]),
        ("exponential", [math.expm1(10 * t) / math.expm1(10) for t in (0, 0.25, 0.5, 0.75, 1)]),
        ("step", [0, 1 / 3, 2 / 3, 1, 1]),
    ],
)
def test_pacing(pacing, expected):
    def hardness(**settings):
        loss = Triplet(mining="curriculum", pacing=pacing, **settings)
        found = []
        for step in range(5):
            loss.set_progress(step, 5)
            found.append(loss.hardness.item())
        return found

    assert hardness() == pytest.approx(expected)
    assert hardness(start=1.0, end=0.0) == pytest.approx([1 - share for share in expected])
    assert sorted(hardness(shuffled=True)) == pytest.approx(expected)  # the control: other order, same values
    assert hardness(shuffled=True) != pytest.approx(expected)
    assert hardness(shuffled=True) == hardness(shuffled=True)


def test_a_curriculum_is_resumed_from_its_buffer():
    loss, other = Triplet(mining="curriculum"), Triplet(mining="curriculum")
    loss.set_progress(3, 7)
    other.load_state_dict(loss.state_dict())
    z, y = batch(40)
    assert other(z, y) == loss(z, y)


@pytest.mark.parametrize("name", ["euclidean", "cosine"])
def test_offline_chooses_the_middle_positive_and_the_nearest_negative(name):
    z, y = batch(40)
    loss = Triplet(mining="offline", distance=name, margin=0.4)
    chosen, terms = loss.refresh(z.detach(), y).mined_rows, []
    assert loss.epochs == 5
    for a in range(len(y)):
        by_distance = sorted(range(len(y)), key=lambda i: distance(name, z[a], z[i]).item())
        positives = [i for i in by_distance if y[i] == y[a] and i != a]
        negatives = [i for i in by_distance if y[i] != y[a] and y[i] >= 0]
        if y[a] >= 0:
            assert chosen[a].tolist() == [positives[(len(positives) - 1) // 2], negatives[0]]
            p, n = chosen[a]
            terms.append(torch.relu(distance(name, z[a], z[p]) - distance(name, z[a], z[n]) + 0.4))
    expected = sum(terms) / len(terms)
    assert_same(loss(z, y), expected, z)  # on a batch as if it were all cells
    assert_same(loss(z, z[chosen[:, 0]], z[chosen[:, 1]], y), expected, z)


def test_offline_in_a_sum_and_in_blocks(monkeypatch):
    z, y = batch(30)
    both = losses.make("softmax + 0.5*triplet:mining=offline,every=2")
    both.build(3, 4)
    both = both.double()
    assert both.epochs == 2
    whole = both.refresh(z.detach(), y).mined_rows
    views = [z, *(z[whole[:, k]] for k in (0, 1))]
    softmax, triplet = both.members
    assert_same(both(*views, y), softmax(z, y) + 0.5 * triplet(*views, y), z)
    monkeypatch.setattr("tripletomics.losses.tuples.triplet._ELEMENTS", 50)
    np.testing.assert_array_equal(both.refresh(z.detach(), y).mined_rows, whole)
    other = z.detach().flip(0)
    np.testing.assert_array_equal(both.refresh(other, y).mined_rows, triplet.refresh(other, y).mined_rows)
    assert not np.array_equal(both.refresh(other, y).mined_rows, whole)
    assert both.refresh(z.detach()[:20], y[:20]).mined_rows.shape == (20, 2)


@pytest.mark.parametrize("mining", ["all", "hard", "semihard", "easy_positive", "band", "curriculum", "offline"])
def test_an_infinite_p_is_the_largest_difference(mining):
    """As a large p is, but for rounding; as text, too."""
    z, y = batch(12)
    chebyshev = losses.make(f"triplet:distance=minkowski,p=inf,mining={mining}")
    assert losses.spec(chebyshev) == losses.spec(losses.make(losses.spec(chebyshev)))
    found, near = chebyshev(z, y), Triplet(distance="minkowski", p=200.0, mining=mining)(z, y)
    assert float(found) == pytest.approx(float(near), rel=0.02)
    expected = (z[:, None] - z[None]).abs().amax(-1)
    torch.testing.assert_close(geometry.distances(z, distance="minkowski", p=math.inf), expected)


def test_p_says_where_it_changes_nothing():
    with pytest.warns(UserWarning, match="p=inf is the power of distance=minkowski, and changes nothing here"):
        losses.make("triplet:p=inf")


def test_p_below_one_warns():
    for text in (
        "triplet:distance=minkowski,p=0.5",
        "contrastive:distance=minkowski + triplet:distance=minkowski,p=0.9",
    ):
        with pytest.warns(UserWarning, match="below 1, minkowski is not a metric"):
            losses.make(text)


@pytest.mark.parametrize("name", METRICS)
def test_ranknet_is_the_soft_triplet_loss(name):
    z, y = batch(14)
    expected = triplet_loops(z, y, Triplet(distance=name.replace("minkowski", "euclidean"), soft=True))
    assert_same(RankNet(distance=name)(z, y), expected, z)


@pytest.mark.parametrize("reduction", ["nonzero", "all", "sum"])
def test_quadruplet_against_loops(reduction):
    z, y = batch(12, classes=4, seed=3)
    cells = [i for i in range(len(y)) if y[i] >= 0]
    d = {(i, j): ((z[i] - z[j]) ** 2).sum() for i in cells for j in cells}
    first, second = [], []
    for i in cells:
        for j in cells:
            if i != j and y[i] == y[j]:
                first += [torch.relu(d[i, j] - d[i, k] + 1.5) for k in cells if y[k] != y[i]]
                for k in cells:
                    for q in cells:
                        if len({int(y[i]), int(y[q]), int(y[k])}) == 3:
                            second.append(torch.relu(d[i, j] - d[q, k] + 0.7))
    loss = Quadruplet(margin1=1.5, margin2=0.7, reduction=reduction)
    share = {"sum": lambda t: 1, "all": len, "nonzero": lambda t: sum(term > 0 for term in t)}[reduction]
    assert second
    assert_same(loss(z, y), sum(first) / share(first) + sum(second) / share(second), z)


@pytest.mark.parametrize("alpha", [5.0, 40.0, 80.0])
def test_angular_against_loops(alpha):
    z, y = batch(13)
    cells = [i for i in range(len(y)) if y[i] >= 0]
    unit = z / z.norm(dim=1, keepdim=True)
    square = math.tan(math.radians(alpha)) ** 2
    terms = []
    for a in cells:
        for p in cells:
            others = [n for n in cells if y[n] != y[a]]
            if a != p and y[a] == y[p] and others:
                exponents = [
                    4 * square * (unit[a] + unit[p]) @ unit[n] - 2 * (1 + square) * unit[a] @ unit[p] for n in others
                ]
                terms.append(torch.stack([torch.zeros_like(exponents[0]), *exponents]).logsumexp(0))
    assert_same(Angular(alpha=alpha)(z, y), sum(terms) / len(terms), z)


def tree_loops(unit, y, levels):
    """Level at which two classes meet, by joining all that are nearer than a threshold that rises."""
    kinds = sorted(set(y.tolist()))
    d = {
        (a, b): torch.stack([((u - v) ** 2).sum() for u in unit[y == a] for v in unit[y == b]]).mean().item()
        for a in kinds for b in kinds
    }  # fmt: skip
    size = {a: int((y == a).sum()) for a in kinds}
    within = {a: d[a, a] * size[a] / max(size[a] - 1, 1) for a in kinds}
    ground = sum(within.values()) / len(kinds)
    met, group = {}, {a: {a} for a in kinds}
    for level in range(1, levels + 1):
        threshold = ground + level * (4 - ground) / levels
        for a in kinds:
            for b in kinds:
                if d[a, b] < threshold and b not in group[a]:
                    merged = group[a] | group[b]
                    for c in merged:
                        group[c] = merged
        for a in kinds:
            for b in group[a]:
                met.setdefault((a, b), threshold)
    return met, within


@pytest.mark.parametrize(("levels", "beta", "seed"), [(16, 0.1, 0), (4, 0.0, 1), (50, 0.5, 2)])
def test_hierarchical_triplet_against_loops(levels, beta, seed):
    z, y = batch(24, 3, 6, seed)
    z, y = z.detach()[y >= 0], y[y >= 0]
    z = (z + 2 * torch.randn(6, 3, generator=torch.Generator().manual_seed(seed)).double()[y]).requires_grad_()
    unit = z / z.norm(dim=1, keepdim=True)
    met, within = tree_loops(unit.detach(), y, levels)
    terms = []
    for a in range(len(y)):
        for p in range(len(y)):
            for n in range(len(y)):
                if a != p and y[a] == y[p] != y[n]:
                    own, other = int(y[a]), int(y[n])
                    gap = ((unit[a] - unit[p]) ** 2).sum() - ((unit[a] - unit[n]) ** 2).sum()
                    terms.append(torch.relu(gap + beta + met[own, other] - within[own]))
    assert len(set(met.values())) > 1
    loss = HierarchicalTriplet(beta=beta, levels=levels)
    assert_same(loss(z, y), sum(terms) / len(terms) / 2, z)  # without a tree: one from the batch
    loss.build(3, 6)
    assert_same(loss(z, y), sum(terms) / len(terms) / 2, z)  # room for a tree, but none yet
    loss = loss.double()
    loss.refresh(z.detach(), y)
    assert_same(loss(z, y), sum(terms) / len(terms) / 2, z)


def test_the_tree_is_kept_until_it_is_refreshed():
    z, y = batch(60, 8, 5)
    loss = HierarchicalTriplet()
    loss.build(8, 5)
    assert np.isnan(loss.summary_arrays()["tree"]).all()
    distances = loss.refresh(z.detach(), y).class_distances
    tree, margins = loss.summary_arrays()["tree"], loss.margins.clone()
    assert tree.shape == (4, 4)
    assert (np.diff(tree[:, 2]) >= 0).all()
    assert distances.shape == (5, 5)
    loss(5 * z.flip(0), y)
    assert torch.equal(loss.margins, margins)
    with pytest.raises(ValueError, match="hierarchical_triplet has a tree of 5 classes, but y holds 7"):
        loss(z, torch.where(y == 0, 7, y))


def test_a_class_without_training_cells_is_far_from_all():
    z, y = batch(60, 8, 4)
    loss = HierarchicalTriplet()
    loss.build(8, 5)  # class 4 has held-out cells alone
    loss.refresh(z.detach(), y)
    assert loss.summary_arrays()["tree"][-1, 2] == 4
    assert loss(z, y).isfinite()


@pytest.mark.parametrize("name", [n for n in losses.names(views=1, ordered=False) if n not in ("center", "softmax")])
def test_who_needs_what_in_a_batch(name):
    """`fit` asks before it starts: a batch that a loss says it can use has a gradient, and one it cannot has none."""
    torch.manual_seed(0)
    loss = losses.make(name)
    loss.build(3, 4)
    z = torch.randn(4, 3, requires_grad=True)
    for codes in ([0, 0, 1, 2], [0, 1, 2, 3], [0, 0, 0, 0], [-1, -1, -1, -1], [0, 0, -1, 1]):
        y = torch.tensor(codes)
        (gradient,) = torch.autograd.grad(loss(z, y), z)
        if not loss.has_terms(np.array(codes)):
            assert gradient.abs().max() < 1e-6
