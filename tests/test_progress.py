import re

import numpy as np
import pytest

import tripletomics as tt
from tripletomics.tl import notebook
from tripletomics.tl.progress import steps_bar, training_bar


class Output:
    """One output of a notebook cell."""

    def __init__(self, first):
        self.texts = [first["text/plain"]]

    def update(self, bundle, raw):
        assert raw
        self.texts.append(bundle["text/plain"])


@pytest.fixture
def outputs(monkeypatch):
    """The outputs of a cell, as if there was a notebook."""
    shown = []
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(notebook, "PAUSE", 0)
    monkeypatch.setattr(notebook, "display", lambda first, **how: shown.append(Output(first)) or shown[-1])
    return shown


def test_bar_history_uns_and_summary_have_one_held_out_score(outputs, counts):
    model = tt.fit(counts, "kind", steps=8)
    (output,) = (one for one in outputs if "held-out F1" in one.texts[-1])
    *during, last = output.texts
    assert not any("nan" in text for text in output.texts)
    assert any("metric space" in text and "held-out F1 about" in text for text in during)
    assert "\n" not in last
    for space, title in (("metric", "metric space"), ("map", "map")):
        score = model.scores["held-out"][space]
        assert f"{title} loss" in last
        assert f"held-out F1 {score:.3f}" in last
        assert f"{score:.3f}" in model.summary().splitlines()[1]
        for history in (model.history, counts.uns["X_tt"]["history"]):
            assert history[space]["held_out_f1"][-1] == score
        assert counts.uns["X_tt"]["scores"]["held-out"][space] == score


@pytest.mark.parametrize("again", [False, True])
def test_a_fit_without_labels_and_a_calibration_show_no_f1(outputs, again):
    with training_bar(True) as report:
        report("metric again" if again else "metric", 10, 10, 0.5, np.nan)
        report("calibration", 10, 10, 0.5, 0.9)
    assert "F1" not in outputs[0].texts[-1]
    assert outputs[0].texts[-1].startswith("metric space again loss 0.500" if again else "metric space loss 0.500")


def test_steps_end_as_one_line(outputs):
    with steps_bar(2, True) as step:
        step("umap, seed 0")
        step("umap, seed 1")
    assert re.search("1/2 0:00:00 .*umap, seed 1", outputs[0].texts[-3])
    assert outputs[0].texts[-1].startswith("2/2")


@pytest.mark.parametrize("wanted", [False, True])
def test_nothing_is_shown_in_a_pipe_or_when_it_is_not_wanted(wanted, capsys):
    with training_bar(wanted) as report:
        report("metric", 1, 10, 0.5, 0.9)
    assert capsys.readouterr() == ("", "")
