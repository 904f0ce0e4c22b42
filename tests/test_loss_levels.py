"""Losses of cells whose type is known on different levels, next to plain loops over the definitions."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from tripletomics import losses
from tripletomics.labels.tree import Tree
from tripletomics.losses.levels import Levels

TREE = Tree.of({"a1": "a", "a2": "a", "a": "top", "b1": "b", "b2": "b", "b": "top", "top": None, "c": None})
BELOW = TREE.leaves_below()
N, DIM = 40, 6


def cells(seed=0):
    random = np.random.default_rng(seed)
    z = torch.from_numpy(random.normal(size=(N, DIM))).requires_grad_()
    return z, torch.from_numpy(random.integers(-1, len(TREE.names), size=N))


def made(text, below=BELOW):
    loss = losses.make(text)
    torch.manual_seed(0)
    loss.set_levels(Levels(below))
    loss.build(DIM, below.shape[1])
    return loss.double()


def value(loss, z, y):
    found = loss(z, loss.known_codes(y))
    (gradient,) = torch.autograd.grad(found, z, allow_unused=True)
    assert torch.isfinite(gradient).all()
    return float(found.detach())


def of_classes(codes):
    return [set(np.flatnonzero(BELOW[code])) for code in codes]


def triplets(y):
    """Anchor, positive and negative by the definition."""
    sets = of_classes(y)
    for a, p, n in permutations(range(len(y)), 3):
        if y[a] == y[p] and not sets[a] & sets[n]:
            yield a, p, n


SINGLE = [name for name in losses.names(1, ordered=False) if name not in ("sum", "foreign")]


@pytest.mark.parametrize("name", SINGLE)
def test_a_tree_without_inner_names_changes_nothing(name):
    z, y = cells()
    y = torch.where(y < TREE.n_leaves, y, -1)
    plain = losses.make(name)
    torch.manual_seed(0)
    plain.build(DIM, TREE.n_leaves)
    assert value(made(name, np.eye(TREE.n_leaves, dtype=bool)), z, y) == pytest.approx(float(plain.double()(z, y)))


@pytest.mark.parametrize("name", [name for name in SINGLE if not losses.make(name).coarse])
def test_other_losses_see_coarse_cells_as_unlabelled(name):
    z, y = cells()
    loss, fine = made(name), torch.where(y < TREE.n_leaves, y, -1)
    assert value(loss, z, y) == value(made(name), z, fine)
    assert name in ("center", "hierarchical_triplet")


PROXIES = ["softmax", "normsoftmax", "arcface", "cosface", "adacos", "proxynca", "proxynca:plus=true", "softtriple",
           "hardtriple"]  # fmt: skip


@pytest.mark.parametrize("text", PROXIES)
def test_a_name_above_one_class_is_that_class(text):
    z, y = cells()
    below = np.concatenate([BELOW, BELOW[:2]])  # two more names, each above one class
    n = len(BELOW)
    other = y.clone()
    other[y == 0], other[y == 1] = n, n + 1
    assert value(made(text, below), z, y) == pytest.approx(value(made(text, below), z, other))


@pytest.mark.parametrize("text", PROXIES)
def test_a_name_above_all_classes_says_nothing(text):
    z, _ = cells()
    below = np.concatenate([BELOW, np.ones((1, TREE.n_leaves), dtype=bool)])
    loss = made(text, below)
    loss.eval()
    regular = loss.tau * value_of_centers(loss) if text == "softtriple" else 0.0
    assert float(loss(z.detach(), torch.full((N,), len(BELOW)))) == pytest.approx(regular, abs=1e-9)


def value_of_centers(loss):
    w = torch.nn.functional.normalize(loss.proxies.detach(), dim=2)
    k = loss.centers
    pairs = [(c, i, j) for c in range(len(w)) for i in range(k) for j in range(i)]
    apart = sum(math.sqrt(float((w[c, i] - w[c, j]).square().sum()) + 1e-5) for c, i, j in pairs)
    return apart / (len(w) * k * (k - 1))


@pytest.mark.parametrize(
    ("text", "scale", "margin"), [("softmax", 1, 0), ("normsoftmax", 20, 0), ("cosface", 64, 0.35)]
)
def test_cross_entropy_by_its_definition(text, scale, margin):
    z, y = cells()
    loss = made(text)
    x, w = z.detach(), loss.proxies.detach()
    if text != "softmax":
        x, w = (torch.nn.functional.normalize(rows, dim=1) for rows in (x, w))
    terms = []
    for cell, code in zip(x, y.tolist(), strict=True):
        if code >= 0:
            own = set(np.flatnonzero(BELOW[code]))
            scores = [scale * (float(cell @ w[k]) - margin * (k in own)) for k in range(len(w))]
            terms.append(math.log(sum(map(math.exp, scores)) / sum(math.exp(scores[k]) for k in own)))
    assert value(loss, z, y) == pytest.approx(np.mean(terms))


def test_arcface_takes_its_margin_from_every_class_that_a_cell_may_be():
    z, y = cells()
    loss = made("arcface:scale=8,margin=0.3")
    x, w = (torch.nn.functional.normalize(rows.detach(), dim=1) for rows in (z, loss.proxies))
    terms = []
    for cell, code in zip(x, y.tolist(), strict=True):
        if code >= 0:
            own = set(np.flatnonzero(BELOW[code]))
            angles = [math.acos(float(cell @ w[k])) for k in range(len(w))]
            far = [math.cos(t) - 0.3 * math.sin(0.3) if t > math.pi - 0.3 else math.cos(t + 0.3) for t in angles]
            scores = [math.exp(8 * (far[k] if k in own else math.cos(angles[k]))) for k in range(len(w))]
            terms.append(math.log(sum(scores) / sum(scores[k] for k in own)))
    assert value(loss, z, y) == pytest.approx(np.mean(terms))


def test_proxynca_compares_with_the_classes_that_a_cell_cannot_be():
    z, y = cells()
    loss = made("proxynca")
    x, w = (torch.nn.functional.normalize(rows.detach(), dim=1) for rows in (z, loss.proxies))
    terms = []
    for cell, code in zip(x, y.tolist(), strict=True):
        if code >= 0:
            near = [math.exp(-float((cell - proxy).square().sum())) for proxy in w]
            own = set(np.flatnonzero(BELOW[code]))
            terms.append(-math.log(sum(near[k] for k in own) / sum(near[k] for k in range(len(w)) if k not in own)))
    assert value(loss, z, y) == pytest.approx(np.mean(terms))


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_triplets_by_their_definition(distance):
    z, y = cells()
    known = y >= 0
    d = losses.base.labelled(z, y)[0].detach()
    d = (
        torch.cdist(d, d)
        if distance == "euclidean"
        else 1 - torch.nn.functional.cosine_similarity(d[:, None], d, dim=2)
    )
    gaps = np.array([float(d[a, p] - d[a, n]) for a, p, n in triplets(y[known].tolist())])
    hinge = np.maximum(gaps + 0.2, 0)
    assert value(made(f"triplet:distance={distance}"), z, y) == pytest.approx(hinge[hinge > 0].mean())
    assert value(made(f"triplet:distance={distance},reduction=all"), z, y) == pytest.approx(hinge.mean())
    soft = np.log1p(np.exp(gaps)).mean()
    assert value(made(f"triplet:distance={distance},soft=true"), z, y) == pytest.approx(soft)
    assert value(made(f"ranknet:distance={distance}"), z, y) == pytest.approx(soft)


@pytest.mark.parametrize("mining", ["hard", "semihard", "easy_positive", "offline"])
def test_mined_triplets_by_their_definition(mining):
    z, y = cells()
    known = y >= 0
    codes = y[known].tolist()
    x = z.detach()[known]
    d = torch.cdist(x, x).numpy()
    by_anchor = {}
    for a, p, n in triplets(codes):
        positives, negatives = by_anchor.setdefault(a, (set(), set()))
        positives.add(float(d[a, p]))
        negatives.add(float(d[a, n]))
    terms = []
    for positives, negatives in by_anchor.values():
        if mining == "semihard":
            chosen = [(p, min([n for n in negatives if n > p], default=max(negatives))) for p in positives]
        else:
            ordered = sorted(positives)
            p = {"hard": ordered[-1], "easy_positive": ordered[0], "offline": ordered[(len(ordered) - 1) // 2]}[mining]
            chosen = [(p, min(negatives))]
        terms += [max(0, p - n + 0.2) for p, n in chosen]
    assert value(made(f"triplet:mining={mining}"), z, y) == pytest.approx(np.mean(terms))


def test_pairs_by_their_definition():
    z, y = cells()
    known = y >= 0
    codes, x = y[known].tolist(), z.detach()[known]
    d, sets = torch.cdist(x, x).numpy(), of_classes(codes)
    terms, supcon, nca = [], [], []
    units = torch.nn.functional.normalize(x, dim=1)
    cos = (units @ units.T).numpy()
    for a in range(len(codes)):
        same = [k for k in range(len(codes)) if k != a and codes[k] == codes[a]]
        apart = [k for k in range(len(codes)) if not sets[k] & sets[a]]
        terms += [d[a, k] ** 2 / 2 for k in same] + [max(0, 1 - d[a, k]) ** 2 / 2 for k in apart]
        if same:
            total = sum(math.exp(cos[a, k] / 0.1) for k in same + apart)
            supcon.append(-np.mean([math.log(math.exp(cos[a, k] / 0.1) / total) for k in same]))
        if same and apart:
            near = {k: math.exp(-(d[a, k] ** 2)) for k in same + apart}
            nca.append(-math.log(sum(near[k] for k in same) / sum(near.values())))
    assert value(made("contrastive"), z, y) == pytest.approx(np.mean(terms))
    assert value(made("supcon"), z, y) == pytest.approx(np.mean(supcon))
    assert value(made("nca"), z, y) == pytest.approx(np.mean(nca))


def test_angular_by_its_definition():
    z, y = cells()
    known = y >= 0
    codes = y[known].tolist()
    units, sets = torch.nn.functional.normalize(z.detach()[known], dim=1).numpy(), of_classes(codes)
    slope, terms = math.tan(math.radians(40)) ** 2, []
    for a in range(len(codes)):
        apart = [k for k in range(len(codes)) if not sets[k] & sets[a]]
        for p in (k for k in range(len(codes)) if k != a and codes[k] == codes[a] and apart):
            total = sum(
                math.exp(4 * slope * (units[a] + units[p]) @ units[n] - 2 * (1 + slope) * units[a] @ units[p])
                for n in apart
            )
            terms.append(math.log1p(total))
    assert value(made("angular"), z, y) == pytest.approx(np.mean(terms))


def test_quadruplets_compare_pairs_of_whole_classes_only():
    z, y = cells()
    known = y >= 0
    codes, x = y[known].tolist(), z.detach()[known]
    d = torch.cdist(x, x).square().numpy()
    near = np.array([d[a, p] - d[a, n] + 1 for a, p, n in triplets(codes)])
    fine = [i for i, code in enumerate(codes) if code < TREE.n_leaves]
    far = np.array([
        d[i, j] - d[k, m] + 0.5
        for i, j, k, m in permutations(fine, 4)
        if codes[i] == codes[j] and codes[k] != codes[m] and codes[i] not in (codes[k], codes[m])
    ])  # fmt: skip
    expected = near[near > 0].mean() + far[far > 0].mean()
    assert value(made("quadruplet"), z, y) == pytest.approx(expected)


def test_the_given_tree_sets_the_margins_of_hierarchical_triplets():
    z, y = cells()
    loss = made("hierarchical_triplet:given=true,levels=3")
    guide = loss.refresh(z.detach(), loss.known_codes(y))
    assert guide.class_distances.shape == (len(TREE.names),) * 2
    margins = loss.get_buffer("margins").numpy()
    a1, a2, b1, c = (TREE.names.index(name) for name in ("a1", "a2", "b1", "c"))
    steps = np.diff([margins[a1, other] for other in (a2, b1, c)])
    assert (steps > 0).all()  # sisters are nearest, then those below the same top, then others
    assert steps[0] == pytest.approx(steps[1], rel=1e-5)
    flat = losses.make("hierarchical_triplet:given=true")
    flat.build(DIM, TREE.n_leaves)
    with pytest.raises(ValueError, match=r"label=\['class', 'type'\]"):
        flat.refresh(z.detach(), loss.known_codes(y))


def test_a_sum_gives_each_member_the_codes_that_it_can_learn_from():
    z, y = cells()
    whole = made("softmax + 0.5*center")
    torch.manual_seed(0)
    one, other = (losses.make(text) for text in ("softmax", "center"))
    for loss in (one, other):
        loss.set_levels(Levels(BELOW))
    for loss in (one, other):
        loss.build(DIM, TREE.n_leaves)
    expected = float(one.double()(z, y)) + 0.5 * float(other.double()(z, torch.where(y < TREE.n_leaves, y, -1)))
    assert value(whole, z, y) == pytest.approx(expected)


@pytest.mark.parametrize("name", SINGLE)
def test_coarse_cells_alone_are_nothing_to_compare_for_fine_losses(name):
    loss = made(name)
    inner = np.array([TREE.names.index("a")] * 3)
    whole = loss.has_terms(loss.known_codes(torch.from_numpy(inner)).numpy())
    proxies = losses.make(name).coarse and hasattr(loss, "proxies")
    assert whole == (proxies or name in ("contrastive", "supcon"))
