import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes

from tripletomics import networks
from tripletomics.embedding import coordinates, embed_rows
from tripletomics.networks import MLP, Encoder, MapHead, Networks
from tripletomics.sources import Memory


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = MapHead(n_components=6, metric_dim=4, dim=2)
    scores, z = torch.randn(50, 6) * torch.tensor([5.0, 3, 2, 1, 1, 1]), torch.randn(50, 4)
    head.fit_inputs(scores, z, structure=0.5, radius=1.0)
    return head, scores, z


def test_the_map_starts_as_the_first_principal_components(head):
    head, scores, z = head
    with torch.no_grad():
        m = head(head.inputs(scores, z))
    for axis in range(2):
        assert np.corrcoef(m[:, axis], scores[:, axis])[0, 1] > 0.95


@pytest.mark.parametrize(("components", "dim"), [(6, 2), (6, 3), (1, 2), (1, 3), (2, 3)])
def test_the_map_is_turned_to_lie_as_the_first_principal_components(components, dim):
    torch.manual_seed(0)
    head, scores, z = MapHead(components, 4, dim), torch.randn(50, components), torch.randn(50, 4)
    inputs = head.inputs(scores, z)
    with torch.no_grad():
        head.linear.weight.normal_()
        before = head(inputs)
        head.orient(before, scores)
        after = head(inputs)
    wanted = (scores - scores.mean(dim=0))[:, :dim].numpy()
    if components >= dim:
        turn, _ = orthogonal_procrustes((before - before.mean(dim=0)).numpy(), wanted)
        np.testing.assert_allclose(after, (before - before.mean(dim=0)).numpy() @ turn, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(torch.pdist(after), torch.pdist(before))
    assert (wanted * after[:, : wanted.shape[1]].numpy()).sum() > 0


def test_labels_do_not_reach_the_map_at_structure_1(head):
    head, scores, z = head
    head.fit_inputs(scores, z, structure=1, radius=1.0)
    assert torch.equal(head(head.inputs(scores, z)), head(head.inputs(scores, torch.randn(50, 4))))


def test_the_blur_is_a_share_of_the_way_to_a_neighbour(head):
    head, scores, z = head
    inputs = head.inputs(scores, z).repeat(200, 1)
    moved = head.jitter(inputs, torch.Generator().manual_seed(0)) - inputs
    # in units of the components: 0.4 of the radius (1), which holds all six of them together
    assert (moved[:, :6] * head.spread / 10).square().sum(dim=1).mean().sqrt() == pytest.approx(0.4, rel=0.02)
    assert moved[:, 6:].std() == pytest.approx(0.5 * 3, rel=0.02)  # half the spread of z, at its weight


def test_a_cell_does_not_hang_on_the_cells_beside_it(head):
    head, scores, _ = head
    both = Networks(Encoder(MLP(), 9, 4), head)
    x = np.random.default_rng(0).normal(size=(20, 9)).astype(np.float32)
    pcs = scores.numpy()
    together = coordinates(both, Memory(x), pcs[:20])
    alone = [coordinates(both, Memory(x[i : i + 1]), pcs[i : i + 1]) for i in range(20)]
    for space, expected in together.items():
        np.testing.assert_allclose(np.concatenate([one[space] for one in alone]), expected, rtol=1.3e-6, atol=1e-5)


@pytest.mark.parametrize("n", [16, 21])
def test_hidden_genes_are_left_out_of_the_first_product(n):
    torch.manual_seed(0)
    encoder, x = Encoder(MLP((6,)), 9, 4).double(), torch.randn(n, 9, dtype=torch.float64)
    columns = torch.stack([torch.randperm(9)[:4] for _ in range(8)])
    shown = columns[torch.arange(n) % 8]
    masked = torch.zeros_like(x).scatter(1, shown, x.gather(1, shown))
    found, wanted = encoder(x.gather(1, shown), columns), encoder(masked)
    torch.testing.assert_close(found, wanted)
    weights = list(encoder.parameters())
    gradients = (torch.autograd.grad(z.square().sum(), weights) for z in (found, wanted))
    torch.testing.assert_close(*gradients)


def test_rows_go_through_the_network_in_blocks():
    x = np.random.default_rng(0).normal(size=(9000, 3)).astype(np.float32)
    network = torch.nn.Linear(3, 2)
    found = embed_rows(network, Memory(x), torch.device("cpu"))
    torch.testing.assert_close(found, network(torch.from_numpy(x)).detach())
    assert embed_rows(network, Memory(x[:0]), torch.device("cpu")).shape == (0, 2)


@pytest.mark.parametrize("text", ["mlp", "mlp:hidden=64", "mlp:hidden=512-256-128"])
def test_hidden_layers_of_any_number(text):
    assert Encoder(networks.make(text), 7, 5)(torch.zeros(3, 7)).shape == (3, 5)
