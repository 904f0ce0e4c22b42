import numpy as np
import pytest
import torch

from tripletomics import networks, parts
from tripletomics.networks import MLP, Encoder, MapHead, Networks, project
from tripletomics.sources import Memory


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = MapHead(n_genes=9, n_components=6, metric_dim=4, dim=2)
    scores, z = torch.randn(50, 6) * torch.tensor([5.0, 3, 2, 1, 1, 1]), torch.randn(50, 4)
    head.fit_inputs(torch.linalg.qr(torch.randn(9, 6))[0].T, scores, z, structure=0.5)
    return head, scores, z


def test_the_map_starts_as_the_first_principal_components(head):
    head, scores, z = head
    with torch.no_grad():
        m = head(head.inputs(scores, z))
    for axis in range(2):
        assert np.corrcoef(m[:, axis], scores[:, axis])[0, 1] > 0.95


def test_labels_do_not_reach_the_map_at_structure_1(head):
    head, scores, z = head
    head.fit_inputs(head.components, scores, z, structure=1)
    assert torch.equal(head(head.inputs(scores, z)), head(head.inputs(scores, torch.randn(50, 4))))


def test_a_cell_does_not_hang_on_the_cells_beside_it(head):
    head, _, _ = head
    both = Networks(Encoder(MLP(), 9, 4), head)
    x = torch.randn(20, 9)
    for together, alone in zip(both(x), zip(*(both(x[i : i + 1]) for i in range(20)), strict=True), strict=True):
        torch.testing.assert_close(together, torch.cat(alone))


def test_project_is_the_network_in_chunks():
    x = np.random.default_rng(0).normal(size=(9000, 3)).astype(np.float32)
    network = torch.nn.Linear(3, 2)
    found = project(network, Memory(x), torch.device("cpu"))
    torch.testing.assert_close(found, network(torch.from_numpy(x)).detach())
    assert project(network, Memory(x[:0]), torch.device("cpu")).shape == (0, 2)


@pytest.mark.parametrize("text", ["mlp", "mlp:hidden=64", "mlp:hidden=512-256-128"])
def test_text_round_trip(text):
    assert parts.spec(networks.make(text)) == text
    assert Encoder(networks.make(text), 7, 5)(torch.zeros(3, 7)).shape == (3, 5)


@pytest.mark.parametrize("text", ["mlp:hidden=0", "mlp:width=3", "mpl"])
def test_bad_encoders(text):
    with pytest.raises(ValueError, match=r"mlp|encoder"):
        networks.make(text)
