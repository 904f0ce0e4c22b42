"""The card of a model: its tables have the numbers of the model, and all that limits its use is said."""

from dataclasses import replace

import numpy as np
import pytest
from markdown_it import MarkdownIt
from samples import rows_of

import tripletomics as tt
from tripletomics import seen


def tables(card):
    """The rows of each table, read by a parser of Markdown."""
    page = MarkdownIt().enable("table").render(card)
    return [[tuple(row) for row in rows_of(part)] for part in page.split("<table>")[1:]]


def test_the_tables_have_the_numbers_of_the_model(trained):
    model, adata = trained
    types, checks, versions, settings = tables(model.card())
    assert dict(types[1:]) == {
        name: str(size) for name, size in zip(model.types, model.reference.sizes.astype(int), strict=True)
    }
    for title, key in (("held-out cells", "held-out"), ("permuted labels", "permuted"), ("training cells", "train")):
        expected = tuple(f"{model.scores[key][space]:.3f}" for space in ("map", "metric"))
        assert next(row for row in checks if row[0] == title)[1:3] == expected
    assert dict(versions[1:]) == model.versions | {"model": model.id}
    assert dict(settings[1:]) == model.settings
    said = model.card()
    assert f"macro-F1 {model.checks['macro_f1']:.3f}" in said
    assert f"Calibration error {model.checks['ece']:.3f}" in said
    split = adata.obs["tt_split"]
    assert f"and {(split == 'held-out').sum()} were held out" in said
    assert "a random share of the same samples" in said
    assert not any(name in said for name in adata.obs_names)


def test_a_reader_is_warned(trained, unlabelled):
    model = trained[0]
    assert "**" not in model.card()
    hollow = replace(model, p_value={"map": 0.5, "metric": 0.5})
    assert hollow.card().splitlines()[2].startswith("**No signal: the held-out cells score no better than")
    alone = replace(model, scores={"train": model.scores["train"]}, p_value={}, checks={}, calibration=None)
    assert "No cell was held out: nothing says how good it is on new cells." in alone.card()
    assert "tripletomics transform new.h5ad" in alone.card()
    assert "tt.predict(" not in alone.card()
    kept = replace(model, settings=model.settings | {"hold_out": "donor"})
    assert "were chosen by hold_out: donor. The column tt_split of the fitted cells says which" in kept.card()
    card = unlabelled.model.card()
    assert "None: it was fitted without labels." in card
    assert "Measured: rna (150 features) and protein (12 features)." in card


def test_names_are_text(trained):
    model = trained[0]
    names = ["a|b", "_c_", "*d*", "<b>e</b>", "[f](g)", "`h`", "i\\j &lt; ~~R&D~~"]
    assert [row[0] for row in tables(replace(model, classes=names).card())[0][1:]] == names


def test_an_equation_is_text(trained):
    assert "\\$x\\$" in replace(trained[0], classes=["$x$", *trained[0].classes[1:]]).card()


def test_it_says_what_cells_were_for(trained):
    model, split = trained[0], trained[1].obs["tt_split"]
    held_out, rest = (split == "held-out").sum(), (split == "train").sum()
    assert f"{rest} trained the encoder" not in model.card()  # some calibrated the predictions
    roles = np.where(model.seen.roles == seen.HELD_OUT, seen.HELD_OUT, seen.TRAINING)
    alone = replace(model, seen=replace(model.seen, roles=roles))
    assert f"{rest} trained the encoder, and {held_out} were held out. The training cells also" in alone.card()
    assert ": parts of them were left out of further" in alone.card()
    assert "whole batches" in replace(alone, settings=model.settings | {"batch": "donor"}).card()
    assert "calibrated the predictions" not in replace(alone, calibration=None).card()


def test_only_the_smallest_types_are_named(trained):
    model = trained[0]
    sizes = np.r_[np.arange(2, 14), 50]
    many = replace(model, classes=[f"t{i}" for i in range(13)], reference=replace(model.reference, sizes=sizes))
    (line,) = [line for line in many.card().splitlines() if "fewer than 15" in line]
    assert line.endswith(" held out: " + ", ".join(f"t{i} ({i + 2})" for i in range(10)) + ", and 2 more.")


def test_what_a_person_wrote_stays(trained, tmp_path):
    place = tmp_path / "a.md"
    trained[0].save(tmp_path / "a.tt", card=True)
    first = place.read_bytes()
    (placeholder,) = [line for line in first.splitlines() if line.startswith(b"- Source:")]
    for own in ("- Source: Köln, 2024".encode("cp1252"), b"- Source: blood\n  - licence: CC0\n\nAnd more."):
        written = first.replace(placeholder, own)
        place.write_bytes(written)
        trained[0].save(tmp_path / "a.tt", card=True)
        assert place.read_bytes() == written
    place.write_bytes(written.replace(b"\n", b"\r\n"))  # by an editor of Windows
    trained[0].save(tmp_path / "a.tt", card=True)
    assert place.read_bytes() == written
    place.write_bytes(first.replace(placeholder + b"\n", b""))
    trained[0].save(tmp_path / "a.tt", card=True)
    assert place.read_bytes() == first


def test_a_card_stands_next_to_its_model(trained, tmp_path):
    model = trained[0]
    model.save(tmp_path / "a b.tt", card=True)
    text = (tmp_path / "a b.md").read_text()
    assert text.startswith("# Model card: a b.tt\n")
    assert text == model.card().replace("model.tt", "a b.tt").replace("--model a b.tt", "--model 'a b.tt'")
    model.save(tmp_path / "a b.tt", card=True)  # a card may be replaced
    assert (tmp_path / "a b.md").read_text() == text
    assert tt.load(tmp_path / "a b.tt").card() == model.card()
    for mine in ("mine", "# Model card of our study\n", "# Model card: ours\n\n## Data\n", text[2:]):
        (tmp_path / "notes.md").write_text(mine)
        with pytest.raises(ValueError, match=r"notes.md' exists and is not a model card .*: give the model another"):
            model.save(tmp_path / "notes.tt", card=True)
        assert (tmp_path / "notes.md").read_text() == mine
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b.md", "a b.tt", "notes.md"]
