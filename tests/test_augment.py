import numpy as np
import pytest
import torch

from tripletomics import augment


def test_mask_hides_the_share_and_leaves_the_rest():
    x = torch.randn(200, 300)
    hidden = augment.Mask(p=0.3)(x, torch.Generator().manual_seed(0))
    assert (hidden == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(hidden[hidden != 0], x[hidden != 0])


@pytest.mark.parametrize(("n_features", "share"), [(1000, 0.7), (20, 0.1)])
def test_a_panel_is_hidden_less(n_features, share):
    hidden = augment.make("mask")(torch.ones(500, n_features), torch.Generator().manual_seed(0))
    assert (hidden == 0).float().mean() == pytest.approx(share, abs=0.02)


def test_mask_shows_a_group_of_cells_the_same_genes():
    columns = augment.Mask().columns(300, seeded(1))
    assert columns.shape == (8, 90)  # 0.3 of the genes
    assert all(len(set(shown.tolist())) == 90 for shown in columns)
    assert torch.equal(columns, augment.Mask().columns(300, seeded(1)))
    drawn = torch.cat([augment.Mask(p=0.5).columns(300, seeded(seed)) for seed in range(60)]).flatten().bincount()
    assert drawn.float().div(8 * 60).sub(0.5).abs().max() < 0.12  # every gene equally often
    for own in (augment.Mask(p=0.4), augment.make("thin + mask"), augment.make(None)):
        assert own.columns(300, seeded()) is None
    assert augment.Mask().columns(20, seeded()) is None  # a panel


def test_mask_follows_its_generator_alone():
    x = torch.randn(5, 7)
    state = torch.get_rng_state()
    first, second = (augment.Mask()(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())


def test_none_hides_nothing():
    x = torch.randn(5, 7)
    assert torch.equal(augment.make(None)(x, torch.Generator()), x)


TEXTS = ["mask", "thin", "noise", "mixup", "censor", "thin + mask:p=0.3", "mixup + noise:expressed=false + censor"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def cells(n=150, genes=400):
    """Counts, what a molecule of each cell is worth, and how the logged values are scaled to float32 rows."""
    random = np.random.default_rng(0)
    counts = random.poisson(random.gamma(0.5, 3, size=genes), size=(n, genes))
    worth = 1e3 / counts.sum(axis=1, keepdims=True)
    logged = np.log1p(counts * worth).astype(np.float32)
    mean, scale = logged.mean(axis=0), logged.std() * np.linspace(0.5, 2, genes, dtype=np.float32)
    return torch.from_numpy(counts), torch.from_numpy(worth), mean, scale, torch.from_numpy((logged - mean) / scale)


def molecules(rows, mean, scale):
    """Depths of all genes, and what the rarest molecule of each cell is worth."""
    depths = (rows.double() * torch.from_numpy(scale) + torch.from_numpy(mean)).expm1()
    depths[depths < 1e-3] = 0
    return depths, depths.masked_fill(depths == 0, torch.inf).amin(dim=1, keepdim=True)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_thin_takes_whole_molecules_away(p):
    counts, worth, mean, scale, rows = cells()
    thin = augment.Thin(p).fit(mean, scale)
    depths, one = molecules(thin(rows, seeded()), mean, scale)
    left = depths / one
    torch.testing.assert_close(left, left.round(), rtol=0, atol=0.02)
    left = left.round()
    assert (left <= counts).all()
    assert (left[counts == 0] == 0).all()
    kept = worth / one  # what is left is scaled up
    assert kept.min() > p - 0.01
    assert kept.max() < 1.001
    assert kept.mean().item() == pytest.approx((1 + p) / 2, abs=0.05)
    assert kept.std().item() == pytest.approx((1 - p) / 12**0.5, rel=0.2)
    share = left.sum(dim=1) / counts.sum(dim=1)
    assert (share - kept[:, 0]).abs().max() < 0.08
    assert left.sum() / (kept * counts).sum() == pytest.approx(1, abs=0.01)
    assert depths.sum(dim=1).mean().item() == pytest.approx(1e3, rel=0.01)


def test_thin_thins_each_gene_by_chance():
    rows = torch.full((4000, 1), 20.0).log1p()
    rows = torch.cat([rows, torch.ones(4000, 1).log1p(), torch.zeros(4000, 1)], dim=1)
    depths = augment.Thin(0.5)(rows, seeded()).expm1()
    torch.testing.assert_close(depths.mean(dim=0), torch.tensor([20.0, 1, 0]), rtol=0.03, atol=0)
    # E[(1 - kept) / kept] molecules of variance for each that there were, kept being even between 0.5 and 1
    assert depths[:, 0].var().item() == pytest.approx(20 * (2 * np.log(2) - 1), rel=0.1)


def test_thin_by_nothing_changes_nothing():
    _, _, mean, scale, rows = cells()
    torch.testing.assert_close(augment.Thin(1).fit(mean, scale)(rows, seeded()), rows, rtol=0, atol=1e-5)


def test_a_cell_without_molecules_stays():
    _, _, mean, scale, rows = cells(3)
    rows[1] = torch.from_numpy(-mean / scale)
    thinned = augment.Thin().fit(mean, scale)(rows, seeded())
    torch.testing.assert_close(thinned[1], rows[1], rtol=0, atol=1e-6)
    assert not torch.equal(thinned[0], rows[0])


def test_noise_in_units_of_logged_values():
    counts, _, mean, scale, rows = cells()
    moved = (augment.Noise(sd=0.2).fit(mean, scale)(rows, seeded()) - rows) * torch.from_numpy(scale)
    assert (moved[counts == 0] == 0).all()
    there = moved[counts > 0]
    assert there.mean().item() == pytest.approx(0, abs=0.005)
    assert there.std().item() == pytest.approx(0.2, rel=0.02)
    everywhere = augment.Noise(sd=0.2, expressed=False).fit(mean, scale)(rows, seeded()) - rows
    torch.testing.assert_close(everywhere.std(dim=0), 0.2 / torch.from_numpy(scale), rtol=0.3, atol=0)


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_mixup_moves_towards_another_cell_of_the_type(share):
    x = torch.randn(60, 30, generator=seeded(1))
    y = torch.cat([torch.full((8,), -1), torch.tensor([7]), torch.arange(51) % 4])[
        torch.randperm(60, generator=seeded(2))
    ]
    mixed = augment.Mixup(share)(x, seeded(), y)
    amounts = []
    for i in range(60):
        others = [j for j in range(60) if j != i and y[j] == y[i] >= 0]
        if not others:
            assert torch.equal(mixed[i], x[i])
            continue
        assert not torch.equal(mixed[i], x[i])
        towards = x[others] - x[i]
        amount = (towards @ (mixed[i] - x[i])) / (towards * towards).sum(dim=1)
        away = (x[i] + amount[:, None] * towards - mixed[i]).abs().amax(dim=1)
        assert away.min() < 1e-4
        amounts.append(amount[away.argmin()].item())
    assert len(amounts) == 51
    assert min(amounts) >= -1e-6
    assert max(amounts) <= share + 1e-6
    assert np.mean(amounts) == pytest.approx(share / 2, rel=0.25)


def test_mixup_of_two_cells_and_without_labels():
    x = torch.randn(2, 5)
    mixed = augment.Mixup()(x, seeded(), torch.tensor([3, 3]))
    assert (mixed != x).all()
    for y in (None, torch.tensor([-1, -1]), torch.tensor([0, 1])):
        assert torch.equal(augment.Mixup()(x, seeded(), y), x)


def test_mixup_takes_other_cells_every_time():
    x, y, generator = torch.eye(10), torch.zeros(10, dtype=torch.long), seeded()
    partners = {int(augment.Mixup()(x, generator, y)[0, 1:].argmax()) for _ in range(60)}
    assert partners == set(range(9))


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5])
def test_censor_hides_low_values_first(p):
    x = torch.rand(4000, 21, generator=seeded(1)) + 1
    hidden = augment.Censor(p)(x, seeded())
    assert torch.equal(hidden[hidden != 0], x[hidden != 0])
    assert (hidden == 0).float().mean().item() == pytest.approx(p, abs=0.01)
    by_rank = (hidden == 0).gather(1, x.argsort(dim=1)).float().mean(dim=0)
    torch.testing.assert_close(by_rank, torch.linspace(2 * p, 0, 21), rtol=0, atol=0.04)
    assert by_rank[-1] == 0


def test_one_feature_alone():
    for text in TEXTS:
        assert augment.make(text)(torch.rand(5, 1), seeded(), torch.zeros(5).long()).isfinite().all()


@pytest.mark.parametrize("text", TEXTS)
def test_every_part_follows_its_generator_alone_and_leaves_its_input(text):
    _, _, mean, scale, rows = cells(30)
    part, y = augment.make(text).fit(mean, scale), torch.arange(30) % 4 - 1
    before, state = rows.clone(), torch.get_rng_state()
    first, second, other = (part(rows, seeded(seed), y) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(rows, before)
    assert first.shape == rows.shape
    assert first.dtype == rows.dtype
    assert first.isfinite().all()


def test_a_chain_is_one_part_after_another():
    _, _, mean, scale, rows = cells(30)
    y, generator = torch.arange(30) % 3, seeded()
    chain = augment.make(" thin:p=0.7+mixup + mask:p=0.3 ")
    expected = rows
    for text in ("thin:p=0.7", "mixup", "mask:p=0.3"):
        expected = augment.make(text).fit(mean, scale)(expected, generator, y)
    assert torch.equal(chain.fit(mean, scale)(rows, seeded(), y), expected)
    assert augment.spec(chain) == "thin:p=0.7 + mixup + mask:p=0.3"
    assert chain.of_molecules
    assert augment.make("thin").of_molecules
    assert not augment.make("mixup + mask").of_molecules
    assert not augment.make("noise").of_molecules


@pytest.mark.parametrize("text", TEXTS)
def test_fit_gives_a_copy(text):
    _, _, mean, scale, rows = cells(5)
    part = augment.make(text)
    fitted = part.fit(mean, scale)
    assert fitted is not part
    assert fitted == part
    assert repr(fitted) == repr(part)
    assert augment.spec(fitted) == augment.spec(part)
    before = part(rows, seeded(), torch.zeros(5).long())
    fitted.fit(mean + 1, scale * 2)
    torch.testing.assert_close(part(rows, seeded(), torch.zeros(5).long()), before, rtol=0, atol=0, equal_nan=True)


def test_thinning_comes_first():
    with pytest.raises(ValueError, match=r"'mask \+ thin' removes molecules .* put thin first"):
        augment.make("mask + thin")


def test_censor_ranks_values_as_they_are_and_not_as_they_are_scaled():
    fitted = augment.make("censor:p=0.5").fit(np.float32([0, 5]), np.float32([1, 1]))
    x = torch.tensor([[1.0, 4.0 - 5.0]]).repeat(2000, 1)  # of the values 1 and 4
    hidden = (fitted(x, torch.Generator().manual_seed(0)) == 0).float().mean(0)
    assert hidden.tolist() == [1, 0]
