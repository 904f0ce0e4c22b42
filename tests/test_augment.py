import pytest
import torch

from tripletomics import augment, parts


def test_mask_hides_the_share_and_leaves_the_rest():
    x = torch.randn(200, 300)
    hidden = augment.Mask(p=0.3)(x, torch.Generator().manual_seed(0))
    assert (hidden == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(hidden[hidden != 0], x[hidden != 0])


@pytest.mark.parametrize(("n_features", "share"), [(1000, 0.7), (20, 0.1)])
def test_a_panel_is_hidden_less(n_features, share):
    hidden = augment.make("mask")(torch.ones(500, n_features), torch.Generator().manual_seed(0))
    assert (hidden == 0).float().mean() == pytest.approx(share, abs=0.02)


def test_mask_follows_its_generator_alone():
    x = torch.randn(5, 7)
    state = torch.get_rng_state()
    first, second = (augment.Mask()(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("text", ["mask", "mask:p=0.2", "mask:p=0.0"])
def test_text_round_trip(text):
    assert augment.make(parts.spec(augment.make(text))) == augment.make(text)


def test_none_hides_nothing():
    x = torch.randn(5, 7)
    assert torch.equal(augment.make(None)(x, torch.Generator()), x)


@pytest.mark.parametrize("text", ["mask:p=1", "mask:p=-0.1", "mask:q=1", "musk"])
def test_bad_settings(text):
    with pytest.raises(ValueError, match=r"mask|augment"):
        augment.make(text)
