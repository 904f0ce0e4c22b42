import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from tripletomics import pl


def table(groups="abc", n_genes=30, name="{}"):
    """Each group against the one after it; genes shuffled, about a third pull back."""
    random = np.random.default_rng(0)
    names = [name.format(group) for group in groups]
    parts = []
    for i, group in enumerate(names):
        attribution = random.normal(0.5, 1, n_genes)
        parts.append(
            pd.DataFrame(
                {
                    "group": group,
                    "against": names[(i + 1) % len(names)],
                    "gene": [f"GENE{j}" for j in random.permutation(n_genes)],
                    "attribution": attribution,
                    "share": attribution / np.abs(attribution).sum(),
                    "mean_group": random.random(n_genes),
                    "mean_against": random.random(n_genes),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def bars(ax):
    """Gene, length in percent, edge colour and whether it is filled, from the top."""
    names = [text.get_text() for text in ax.get_yticklabels()]
    return [
        (name, bar.get_width(), to_rgb(bar.get_edgecolor()), to_rgb(bar.get_facecolor()) != (1, 1, 1))
        for name, bar in zip(names, ax.patches, strict=True)
    ]


def titles(ax):
    """The lines above a panel, from the top."""
    lines = [text for text in ax.texts if text.get_gid() == "title"]
    return [text.get_text() for text in sorted(lines, key=lambda text: -text.xyann[1])]


def test_the_strongest_genes_either_way_with_their_share_colour_and_filling():
    given = table()
    figure = pl.genes(given, n=4, n_back=2)
    assert len(figure.axes) == 3
    for i, (ax, group) in enumerate(zip(figure.axes, "abc", strict=True)):
        rows = given[given["group"] == group].sort_values("attribution", ascending=False)
        higher = rows["mean_group"] > rows["mean_against"]
        n = max(2, int(higher[:4].sum()))  # at least half are markers, and these are first
        rows = pd.concat([rows[higher][:n], rows[~higher][: 4 - n], rows[-2:]])
        wanted = []
        for k, row in enumerate(rows.itertuples()):
            to = i if k < 4 else (i + 1) % 3
            higher = row.mean_group > row.mean_against if k < 4 else row.mean_against > row.mean_group
            wanted.append((row.gene, pytest.approx(100 * row.share), to_rgb(pl.PALETTE[to]), higher))
        assert bars(ax) == wanted
        assert titles(ax) == [group, f"against {'abca'[i + 1]}"]
        places = [bar.get_y() for bar in ax.patches]
        assert np.diff(places).min() == pytest.approx(1)  # a gap lies between the two kinds
        gaps = [n - 1, 3] if n < 4 else [3]
        assert np.flatnonzero(np.diff(places) > 1.2).tolist() == gaps
        assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert len({ax.get_xlim() for ax in figure.axes}) == 1


def test_panels_have_their_own_scales_where_their_bars_differ_by_more_than_two_times():
    given = table()
    for ratio, scales in ((0.9, 1), (0.2, 3)):
        shares = given["share"].where(given["group"] != "a", ratio * given["share"])
        figure = pl.genes(given.assign(share=shares), n_back=0)
        assert len({ax.get_xlim() for ax in figure.axes}) == scales
        words = " ".join(text.get_text() for text in figure.texts)
        assert ("Each panel has its own scale." in words) == (scales > 1)
        for ax in figure.axes:
            assert ax.get_xlim()[0] <= 0 < max(length for _, length, _, _ in bars(ax)) < ax.get_xlim()[1]


def test_the_caption_says_what_the_bars_are_shares_of():
    words = " ".join(text.get_text() for text in pl.genes(table()).texts)
    assert "all 30 genes" in words
    words = " ".join(text.get_text() for text in pl.genes(table()[::2]).texts)  # not all rows: not all genes
    assert "all genes" in words


def test_genes_that_do_not_pull_are_never_drawn():
    given = table("ab", 6)
    given["share"] = np.r_[0.5, 0.3, 0.0, 0.0, 0.0, -0.2, np.zeros(6)]
    first, second = pl.genes(given, n=5, n_back=5).axes
    assert [length for _, length, _, _ in bars(first)] == [50, 30, -20]
    assert bars(second) == []
    assert len(pl.genes(given, n_back=0).axes[0].patches) == 2


def test_groups_have_the_colours_of_a_map_of_all_of_them():
    given = table("ab").astype({"group": "category", "against": "category"})
    for end in ("group", "against"):
        given[end] = given[end].cat.set_categories(["z", "b", "a"])
    (ax,) = pl.genes(given, groups="b", n_back=3).axes
    assert {color for _, _, color, _ in bars(ax)} == {to_rgb(pl.PALETTE[1]), to_rgb(pl.PALETTE[0])}  # by name
    (ax,) = pl.genes(table("ab"), groups=["b"], n_back=0, palette={"a": "red", "b": "blue"}).axes
    assert {color for _, _, color, _ in bars(ax)} == {to_rgb("blue")}


def test_groups_come_in_the_order_asked_for_and_the_table_stays():
    given = table()
    before = given.copy()
    figure = pl.genes(given, groups=["c", "a"])
    assert [titles(ax)[0] for ax in figure.axes] == ["c", "a"]
    assert figure.texts[0].get_text() == "Genes that set each group apart"
    ordered = given.assign(**{end: pd.Categorical(given[end], ["b", "c", "a"]) for end in ("group", "against")})
    assert [titles(ax)[0] for ax in pl.genes(ordered).axes] == ["b", "c", "a"]
    pd.testing.assert_frame_equal(given, before)


def test_a_table_from_a_file_is_drawn_alike(tmp_path):
    given = table()
    given.to_csv(tmp_path / "genes.csv", index=False)
    categories = given.astype({"group": "category", "against": "category"})
    for other in (pd.read_csv(tmp_path / "genes.csv"), categories):
        for one, two in zip(pl.genes(given).axes, pl.genes(other).axes, strict=True):
            for a, b in zip(bars(one), bars(two), strict=True):
                assert a == (b[0], pytest.approx(b[1]), *b[2:])


@pytest.mark.parametrize(("n", "width"), [(1, 7.1), (1, 2.5), (2, 3.5), (15, 7.1), (15, 3.5)])
def test_all_words_are_inside_the_page_and_apart(n, width):
    figure = pl.genes(table("abcdefghijklmno"[:n], name="a rather long name of a type {}"), width=width)
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= width
    page = figure.bbox
    boxes = [ax.get_tightbbox() for ax in figure.axes] + [figure.legends[0].get_window_extent()]
    for box in boxes:
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= page.x1 + 1
        assert box.y1 <= page.y1 + 1
    assert not any(one.shrunk(0.98, 0.98).overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n=0 is not a whole number of at least 1"),
        ({"n_back": -1}, "n_back=-1 is not a whole number of at least 0"),
        ({"n": 2.5}, r"n=2.5 is not a whole number"),
        ({"groups": ["A"]}, r"groups has 'A', which is not in the table. Did you mean 'a'\? Groups: a, b, c."),
        ({"groups": []}, r"groups=\[\] names no group to draw"),
        ({"palette": ["red"]}, "palette has 1 colours for 3 types"),
        ({"table": table()[:0]}, "table has no row"),
        ({"table": table().drop(columns="share")}, "table lacks the columns share. Pass what tt.explain returns"),
    ],
)
def test_errors_say_what_was_given_and_draw_nothing(settings, message):
    with pytest.raises(ValueError, match=message):
        pl.genes(**({"table": table()} | settings))
    with pytest.raises(TypeError, match="table must be a DataFrame, not dict"):
        pl.genes({})
    assert not plt.get_fignums()
