import io
import json
import re
import shutil
import time
from html.parser import HTMLParser

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import roc_auc_score

from tripletomics import report
from tripletomics.evaluation import METRICS
from tripletomics.pl.style import PALETTE
from tripletomics.report import cell_data

NASTY = 'CD4+ <T> & "x"</script><script>alert(1)</script>'
FORMULA = '=HYPERLINK("http://x", "y")'
METHODS = ["pca2", "umap", "mlp", "tt"]
TITLES = {"pca2": "PCA", "umap": "UMAP", "mlp": "MLP", "tt": "tripletomics"}
SPACES = {"pca2": ["map"], "umap": ["map"], "mlp": ["metric"], "tt": ["map", "metric"]}


def table(methods, types, silent=()):
    """Made-up numbers for every metric: held-out and all cells 0.8, null 0.1, training 0.99."""
    rows = []
    for method in methods:
        for space in SPACES[method]:
            for metric, info in METRICS.items():
                for name in types if metric == "recall" else [""]:
                    row = {"method": method, "space": space, "metric": metric, "type": name, "sd": 0.011, "n_seeds": 3,
                           "family": info.family, "label_circular": info.circular, "null": ""}  # fmt: skip
                    if info.family == "cost":
                        rows.append({**row, "split": "", "value": 1234.5})
                    elif info.family == "page":
                        rows.append({**row, "split": "", "value": 0.00123})
                    elif info.family == "exchangeability":
                        rows.append({**row, "split": "held-out", "value": 0.678})
                    elif metric in ("permutation_p", "reachable_p"):
                        value = 0.43 if method in silent and metric == "permutation_p" else 0.001
                        rows.append({**row, "split": "held-out", "value": value})
                    else:
                        value = np.nan if metric == "pseudotime_spearman" else 0.8123
                        rows.append({**row, "split": "train", "value": 0.99})
                        rows.append({**row, "split": "held-out", "value": value})
                        rows.append({**row, "split": "permuted", "value": 0.1357, "null": "fit on permuted labels"})
    return pd.DataFrame(rows)


def parts(adata, methods=METHODS, label="cell_type", silent=()):
    """What a comparison gives to the report, with made-up numbers; maps are columns of a projection."""
    random = np.random.default_rng(0)
    adata = adata.copy()
    adata.obs["tt_split"] = pd.Categorical(np.where(random.random(adata.n_obs) < 0.2, "held-out", "train"))
    places = np.asarray(adata.X @ random.normal(size=(adata.n_vars, 4)) / 20)
    for i, method in enumerate(m for m in methods if "map" in SPACES[m]):
        adata.obsm[f"X_{method}"] = places[:, [i, i + 1]]
    types = sorted(adata.obs[label].dropna().astype(str).unique())
    counts = pd.DataFrame(np.eye(len(types), dtype=int) * 9 + 1, index=types, columns=types)
    steps = np.arange(20.0)
    curves = {"step": steps, "loss": 1 / (1 + steps), "held_out_f1": np.where(steps % 5 == 0, 0.8, np.nan)}
    return {
        "adata": adata, "label": label, "methods": list(methods), "titles": {m: TITLES[m] for m in methods},
        "table": table(methods, types, silent), "confusions": dict.fromkeys(methods, counts),
        "histories": {"tt": {"metric": curves, "map": curves}} if "tt" in methods else {},
        "settings": {"hold_out": "0.2 <of all>", "batch": "None", "unlabelled": ", NA", "seeds": "0, 1",
                     "call": "tripletomics compare <b>.h5ad --label cell_type"},
        "versions": {"tripletomics": "9.8", "scanpy": "1.x", "torch": "2.x"}, "title": "blood & <i>bone</i>",
        "summary": "UMAP & <b>tt</b> find the types.\n\nMore words.",
    }  # fmt: skip


@pytest.fixture(scope="module")
def awkward(pbmc_file):
    """Real cells with every kind of column, an unlabelled part, a type that breaks HTML, and a place that is none."""
    adata = ad.read_h5ad(pbmc_file)
    kind = adata.obs["cell_type"].astype(str)
    kind[kind == "CD4+/CD25 T Reg"] = NASTY
    kind.iloc[:20], kind.iloc[20:40] = "Unknown", np.nan
    adata.obs["cell_type"] = kind.astype("category").cat.add_categories("nobody")
    adata.obs["CD79A"] = np.where(np.arange(700) % 9, adata.obs["n_counts"], np.nan)  # as a gene is called
    adata.obs["alive"] = np.arange(700) % 2 == 0
    adata.obs["barcode"] = adata.obs_names
    given = parts(adata, silent=["umap"])
    given["adata"].obsm["X_umap"][3] = np.inf
    given["adata"].obs_names = [FORMULA, *adata.obs_names[1:]]
    given["adata"].uns["log1p"] = {"base": None}
    return given


@pytest.fixture(scope="module")
def page(awkward, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "page.html"
    report.write(path, **awkward)
    return path


class Reader(HTMLParser):
    """Collects the elements, the addresses that a browser would fetch, the scripts and the text outside them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.fetched, self.scripts, self.text, self.inside = [], [], {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = dict(attrs).get("id", "script") if tag in ("script", "style") else None
        self.fetched += [v for k, v in attrs if k in ("src", "href", "srcset", "data") and not v.startswith("data:")]

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.scripts[self.inside] = data
        else:
            self.text.append(data)


def test_page_is_self_contained_and_escaped(page):
    text = page.read_text()
    read = Reader(text)
    assert read.fetched == []
    assert "link" not in read.tags
    assert "@import" not in text.split("</style>")[0]
    assert "default-src 'none'" in text
    assert "connect-src" not in text
    assert "<script>alert(1)" not in text
    assert "<b>tt</b>" not in text
    words = " ".join(read.text)
    assert NASTY in words  # as a row of the recall table
    assert "UMAP & <b>tt</b> find the types." in words
    assert json.loads(read.scripts["page"])["columns"][0]["names"].count(NASTY) == 1


def test_names_of_others_control_nothing():
    shown = report.page._template().environment.from_string("{{ name }} {{ '<b>'|safe }}").render(name="a\x07\u202e<")
    assert shown == "a\ufffd\ufffd&lt; <b>"


def test_top_says_what_the_page_is_of(page, awkward, tmp_path):
    words = re.sub(r"\s+", " ", " ".join(Reader(page.read_text()).text))
    top = words[: words.index("Colour by")]
    assert "blood & <i>bone</i>: maps by cell_type, 20" in top  # in the browser's tab, with the date
    assert "700 cells in 3 maps, judged on" in top
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d \S+ · tripletomics 9.8 · scanpy 1.x · torch 2.x · seeds 0, 1 ", top)
    assert "tripletomics compare <b>.h5ad --label cell_type" in top
    assert "unlabelled (empty), NA" in words
    assert "not used batch" in words
    report.write(tmp_path / "of-mice.html", **{**awkward, "title": ""})
    assert "<h1>of-mice</h1>" in (tmp_path / "of-mice.html").read_text()


def test_numbers_of_the_table_appear(page):
    words = re.sub(r"\s+", " ", " ".join(Reader(page.read_text()).text))
    assert "held-out F1 0.812 · permuted 0.136" in words
    assert "no signal (p = 0.43)" in words
    assert "silhouette of the labels † " in words
    assert "seconds" not in words  # of a machine that may have been busy
    assert "1,234" not in words
    heads = re.search(r"Recall of each type.*?</thead>", page.read_text(), re.DOTALL)[0]
    heads = re.findall(r'<button class="sort">(.*?)</button>', heads)
    assert len(set(heads)) == len(heads)
    assert words.count("page used by half of all cells") == 2  # among the main scores and among all of them
    assert "0.12 %" in words
    assert "AUROC (.5 = no) best is 0.5" in words
    assert "spread of held-out / training cells (1 = alike) best is 1" in words
    assert "cells at the edge of the map lower is better" in words
    assert "– " in words  # a score of nothing
    assert words.index("Scores of training cells: no evidence") < words.index("0.990")
    assert "Genes: 765 of 765" in words
    assert "Columns with too many names to colour by: barcode" in words
    assert "1 cell has no coordinates here" in words


def test_methods_without_signal_are_not_coloured(awkward, tmp_path):
    given = {**awkward, "table": table(METHODS, ["a"], silent=METHODS)}
    report.write(tmp_path / "noise.html", **given)
    text = (tmp_path / "noise.html").read_text()
    assert "--tint" not in text.split("</style>")[1]
    assert "No signal: no method finds the types" in text
    assert text.count('class="stamp"') == 3
    assert '"warning":""' not in text


def test_too_few_held_out_cells_are_no_alarm(awkward, tmp_path):
    given = {**awkward, "table": table(METHODS, ["a"], silent=METHODS)}
    given["table"].loc[given["table"]["metric"] == "reachable_p", "value"] = 0.2
    report.write(tmp_path / "few.html", **given)
    text = (tmp_path / "few.html").read_text()
    assert "No signal: no method" not in text
    assert 'class="stamp"' not in text
    assert "Too few held-out cells to tell whether any method finds their types" in text


def test_colours_are_those_of_the_figures_and_unused_categories_keep_theirs(pbmc):
    kind = pbmc.obs["cell_type"].astype("category")
    types = cell_data.types_of(kind[kind != kind.cat.categories[0]], "cell_type")
    assert types.colours == list(PALETTE[:10])
    assert 0 not in types.codes
    many = cell_data.types_of(pd.Series([f"type {i:02}" for i in range(40)]), "many")
    assert many.colours[30] == PALETTE[0]
    assert cell_data.types_of(pd.Series([1, 2, np.nan]), "cluster").codes.tolist() == [0, 1, -1]
    assert cell_data.types_of(pd.Series([True, False]), "flag").names == ["False", "True"]


def test_subsample_follows_types_and_keeps_rare_ones(monkeypatch):
    monkeypatch.setattr(cell_data, "MAX_CELLS", 20_000)
    codes = np.repeat([0, 1, 2, -1], [48_000, 24_000, 40, 8_000])
    held = np.arange(len(codes)) % 10 == 0
    rows = cell_data.shown_rows(codes, held, seed=0)
    assert 19_900 <= len(rows) <= 20_000
    assert len(set(rows)) == len(rows)
    assert (codes[rows] == 2).sum() == 40
    assert (codes[rows] == 0).sum() == pytest.approx(2 * (codes[rows] == 1).sum(), rel=0.02)
    assert held[rows].mean() == pytest.approx(0.1, abs=0.01)
    assert np.array_equal(rows, cell_data.shown_rows(codes, held, seed=0))
    layers = np.where(codes[rows] < 0, 0, 1 + held[rows])
    assert (np.diff(layers) >= 0).all()  # held-out cells are drawn last


def test_page_says_what_it_leaves_out(monkeypatch, pbmc, tmp_path):
    monkeypatch.setattr(cell_data, "MAX_CELLS", 300)
    monkeypatch.setattr(cell_data, "GENE_BYTES", 2000)
    report.write(tmp_path / "small.html", **parts(pbmc, methods=["pca2"]))
    text = re.sub(r"\s+", " ", (tmp_path / "small.html").read_text())
    shown = int(re.search(r"<b>(\d+) cells are shown</b>", text)[1])
    assert 250 <= shown <= 300
    stored = int(re.search(r"Genes: (\d+) of 765 are in this page, the most variable ones", text)[1])
    assert 1 <= stored < 20
    assert "<h2>Training</h2>" not in text  # no method with a history


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_genes_come_by_variance_in_255_steps(kind):
    x = np.array([[0, 1, 5.0], [0, 2, 0], [0, 1, np.nan], [0, 2, 2.5]])
    given = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[kind](x)
    adata = ad.AnnData(given, var=pd.DataFrame(index=["none", "low", "odd"]))
    rows = np.array([3, 2, 1, 0])
    found = dict(cell_data.by_variance(adata, rows))
    assert list(found) == ["low", "none", "odd"]
    assert found["odd"].tolist()[::2] == [2.5, 0]
    store = cell_data.Store()
    entries = cell_data.number_entries([("low", found["low"]), ("odd", found["odd"])], "gene", store)
    assert [(entry["low"], entry["at"], entry["row"]) for entry in entries] == [(1.0, 0, 0), (0.0, 0, 1)]
    steps = cell_data.zlib.decompress(cell_data.base64.b64decode(store.blocks[0]))
    assert list(steps)[4:] == [128, 255, 0, 254]


def test_errors_come_before_work(awkward, tmp_path):
    with pytest.raises(ValueError, match=r"does not end in \.html"):
        report.write(tmp_path / "page.htm", **awkward)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        report.write(tmp_path / "none" / "page.html", **awkward)
    with pytest.raises(KeyError, match="Did you mean 'cell_type'"):
        report.write(tmp_path / "page.html", **{**awkward, "label": "celltype"})
    assert list(tmp_path.iterdir()) == []


def start(*flags):
    """A headless Chromium, or a skip that says what is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1440,1000", *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def wait(driver, script, seconds=30.0):
    """Wait until a script returns something true; return it."""
    end = time.monotonic() + seconds
    while not (found := driver.execute_script(f"return {script}")):
        assert time.monotonic() < end, (script, driver.get_log("browser"))
        time.sleep(0.05)
    return found


def load(driver, path):
    driver.get(path.as_uri())
    wait(driver, "document.body && document.body.dataset.ready")
    wait(driver, "document.querySelectorAll('.plot > div > *').length > 0")


SOURCE = "Bokeh.documents[0].get_model_by_name('cells')"
FLAGS = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@pytest.fixture(scope="module")
def browser(page):
    driver = start(*FLAGS)
    try:
        load(driver, page)
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def fresh(browser):
    """The page with nothing selected or hidden, coloured by type."""
    browser.execute_script("document.getElementById('reset').click()")
    wait(browser, f"{SOURCE}.selected.indices.length === 0")
    return browser


def pixels(driver, number=0):
    """One map as an image (height, width, 3)."""
    from PIL import Image

    time.sleep(0.3)  # until it is painted
    png = driver.find_elements("css selector", ".plot")[number].screenshot_as_png
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=float)


def draw_lasso(driver, number):
    """Drag around all of one map but its left third."""
    from selenium.webdriver.common.action_chains import ActionChains

    plot = driver.find_elements("css selector", ".plot")[number]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    half = plot.size["width"] // 2 - 4
    drag = ActionChains(driver, duration=30)
    drag.move_to_element_with_offset(plot, -half // 3, -half).click_and_hold()
    for x, y in ((half, -half), (half, half), (-half // 3, half), (-half // 3, -half + 2)):
        drag.move_to_element_with_offset(plot, x, y)
    drag.release().perform()


def test_page_loads_without_errors_and_draws(fresh):
    bad = [entry for entry in fresh.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert bad == []
    assert fresh.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert fresh.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert fresh.execute_script("return window.alerted") is None
    for number in range(3):
        assert pixels(fresh, number).std() > 5


def test_lasso_selects_the_same_cells_in_all_maps(fresh, awkward):
    before = pixels(fresh, 2)
    draw_lasso(fresh, 0)
    chosen = wait(fresh, f"{SOURCE}.selected.indices.length && [...{SOURCE}.selected.indices]")
    x = np.array(fresh.execute_script(f"return Array.from({SOURCE}.data.x0)"))
    assert 50 < len(chosen) < 650
    assert x[chosen].min() > np.setdiff1d(x, x[chosen]).min()
    shared = "Bokeh.documents[0].roots().map((plot) => plot.renderers.at(-1).data_source.id)"
    assert len(set(fresh.execute_script(f"return {shared}"))) == 1
    assert f"{len(chosen)} cells selected" in fresh.find_element("id", "selection").text
    assert np.abs(pixels(fresh, 2) - before).max() > 50  # the others fade elsewhere, too
    shares = [int(share) for share in re.findall(r"(\d+) ·", fresh.find_element("id", "selection").text)]
    assert sum(shares) == len(chosen)


def saved(driver):
    """The table of the selected cells as the page saves it, and as pandas reads it."""
    blob = (
        "URL.createObjectURL = (blob) => { window.saved = blob.text().then((t) => { window.csv = t; }); return '#'; };"
    )
    driver.execute_script(f"window.csv = undefined; {blob} document.getElementById('csv').click()")
    text = wait(driver, "window.csv")
    return text, pd.read_csv(io.StringIO(text), keep_default_na=False, na_values={"umap_1": "", "umap_2": ""})


def test_selected_cells_are_saved_with_what_marks_them(fresh, awkward):
    adata = awkward["adata"]
    fresh.execute_script(f"{SOURCE}.selected.indices = Array.from({{length: 700}}, (_, i) => i)")
    text, cells = saved(fresh)
    assert "\n\"'=HYPERLINK" in text  # a spreadsheet takes it for text
    assert sorted(cells["cell"]) == sorted(adata.obs_names.str.replace(FORMULA, f"'{FORMULA}", regex=False))
    cells = cells.set_index(cells["cell"].replace(f"'{FORMULA}", FORMULA)).loc[adata.obs_names]
    assert cells["split"].tolist() == adata.obs["tt_split"].tolist()
    kind = adata.obs["cell_type"].astype(object).where(~adata.obs["cell_type"].isin(["Unknown"]))
    assert cells["cell_type"].tolist() == kind.fillna("unlabelled").tolist()
    assert list(cells.columns[3:]) == [f"{method}_{i}" for method in ("pca2", "umap", "tt") for i in (1, 2)]
    assert np.allclose(cells[["tt_1", "tt_2"]], adata.obsm["X_tt"], rtol=1e-6)
    assert cells["umap_1"].isna().tolist() == (np.arange(700) == 3).tolist()
    assert "needs 3 selected cells or more, and 3 other visible ones" in marked(fresh)

    held = (cells["split"] == "held-out").to_numpy()
    rows = cell_data.shown_rows(cell_data.types_of(adata.obs["cell_type"], "").codes, held, seed=0)
    chosen = (adata.obs["cell_type"] == "CD14+ Monocyte").to_numpy()[rows]
    fresh.execute_script(f"{SOURCE}.selected.indices = arguments[0]", np.flatnonzero(chosen).tolist())
    lines = re.findall(r"(\S+) (-?[\d.]+) (\d\.\d\d)\n", marked(fresh))
    assert len(lines) == 10
    x = pd.DataFrame(adata.X.toarray()[rows], columns=adata.var_names)
    best = x.apply(lambda gene: roc_auc_score(chosen, gene)).nlargest(10)
    assert [float(auroc) for _, _, auroc in lines] == pytest.approx(best.tolist(), abs=0.01)
    for gene, difference, auroc in lines:
        assert float(auroc) == pytest.approx(roc_auc_score(chosen, x[gene]), abs=0.01)
        drawn = x[gene].clip(upper=x[gene].quantile(0.995))
        assert float(difference) == pytest.approx(drawn[chosen].mean() - drawn[~chosen].mean(), abs=0.02)


def marked(driver):
    """What the page says of the genes that mark the selected cells."""
    driver.execute_script("document.getElementById('mark').click()")
    wait(driver, "!/^$|^Comparing/.test(document.getElementById('markers').innerText)")
    return driver.find_element("id", "markers").text


def test_an_empty_lasso_says_so_and_offers_nothing(fresh):
    fresh.execute_script("Bokeh.documents[0].roots()[0].x_range.setv({start: 1e6, end: 1e6 + 1})")
    draw_lasso(fresh, 0)
    wait(fresh, "document.getElementById('selection').innerText.startsWith('No cell lies inside')")
    assert fresh.find_elements("css selector", "#selection button") == []


def test_keys_move_through_the_map_and_the_legend(fresh, awkward):
    from selenium.webdriver.common.keys import Keys

    focused = "document.activeElement"
    plot = fresh.find_elements("css selector", ".plot")[2]
    stops = "return [...arguments[0].querySelectorAll('*')].filter((e) => e.tabIndex >= 0).length"
    assert fresh.execute_script(stops, plot) == 0  # one stop a map
    fresh.execute_script("arguments[0].focus()", plot)
    fresh.switch_to.active_element.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)  # the last type, then the one before
    spoken = fresh.find_element("id", "spoken").get_attribute("textContent")
    name, count = re.fullmatch(r"(.*), (\d+) cells", spoken).groups()
    types = awkward["adata"].obs["cell_type"]
    assert int(count) == (types == name).sum()
    assert name in fresh.find_element("id", "tip").text
    fresh.switch_to.active_element.send_keys(Keys.ENTER)
    assert len(fresh.execute_script(f"return [...{SOURCE}.selected.indices]")) == int(count)
    fresh.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    cell = fresh.find_element("id", "spoken").get_attribute("textContent").split(", ")[0]
    assert types[cell] == name
    fresh.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert fresh.execute_script(f"return {SOURCE}.selected.indices.length") == 0
    item = fresh.find_elements("css selector", "#legend .type")[1]
    fresh.execute_script("arguments[0].focus()", item)
    fresh.switch_to.active_element.send_keys(Keys.ENTER)
    assert fresh.execute_script(f"return {focused}.ariaPressed") == "false"  # the same item, drawn anew
    fresh.switch_to.active_element.send_keys(Keys.ENTER)
    assert fresh.execute_script(f"return {focused}.ariaPressed") == "true"


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_overlaps_or_is_cut(fresh, width):
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 400}
    fresh.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        time.sleep(0.2)
        assert fresh.execute_script("return document.documentElement.scrollWidth") <= width
        shown = "[...document.querySelectorAll(arguments[0])].filter((e) => e.offsetParent)"
        boxes = f"return {shown}.map((e) => e.getBoundingClientRect())"
        (panel,), maps = (fresh.execute_script(boxes, which) for which in ("aside", ".map"))
        for one in maps:
            assert panel["bottom"] <= one["top"] or one["right"] <= panel["left"]
        assert min(one["width"] for one in maps) > 290
        assert not fresh.execute_script(f"return {shown}.some((e) => e.scrollWidth > e.clientWidth)", ".scores td")
        assert max(one["right"] for one in fresh.execute_script(boxes, ".fit, .pairs, .histories")) <= width
    finally:
        fresh.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        fresh.refresh()  # the maps get their sizes back


def test_legend_click_hides_a_type_in_all_maps(fresh, awkward):
    before = pixels(fresh, 1)
    items = fresh.find_elements("css selector", "#legend .type")
    names = [item.find_element("css selector", "span").text for item in items]
    assert NASTY in names
    assert "unlabelled" in names
    assert "nobody" not in names
    fresh.execute_script("arguments[0].click()", items[names.index("CD14+ Monocyte")])
    count = int((awkward["adata"].obs["cell_type"] == "CD14+ Monocyte").sum())
    kept = "Bokeh.documents[0].roots().map((plot) => plot.renderers.at(-1).view.indices.count)"
    assert fresh.execute_script(f"return {kept}") == [700 - count] * 3
    assert np.abs(pixels(fresh, 1) - before).max() > 50
    fresh.execute_script("document.getElementById('held').click()")
    held = (awkward["adata"].obs["tt_split"] == "held-out") & (awkward["adata"].obs["cell_type"] != "CD14+ Monocyte")
    assert fresh.execute_script(f"return {kept}") == [int(held.sum())] * 3


def colour_by(driver, name, kind):
    """Choose a column or a gene as a user does; return the colours of the cells."""
    box = driver.find_element("id", "colour")
    driver.execute_script("arguments[0].focus()", box)
    box.send_keys(name)
    item = f"[...document.querySelectorAll('#found li')].find((li) => li.innerText.startsWith('{name}') && " \
           f"li.innerText.endsWith('{kind}'))"  # fmt: skip
    before = driver.execute_script(f"return {SOURCE}.data.colour[0] + ',' + {SOURCE}.data.colour[699]")
    wait(driver, item)
    driver.execute_script(f"{item}.dispatchEvent(new PointerEvent('pointerdown'))")
    wait(driver, f"{SOURCE}.data.colour[0] + ',' + {SOURCE}.data.colour[699] !== '{before}'")
    return np.array(driver.execute_script(f"return Array.from({SOURCE}.data.colour)"))


def test_a_gene_and_a_column_of_the_same_name_colour_the_cells(fresh, page, awkward):
    types = np.array(fresh.execute_script(f"return Array.from({SOURCE}.data.colour)"))
    assert len(set(types)) > 15  # pale and full, and grey
    before = pixels(fresh, 0)
    gene = colour_by(fresh, "CD79A", "gene")
    assert np.abs(pixels(fresh, 0) - before).max() > 50
    held = awkward["adata"].obs["tt_split"].to_numpy() == "held-out"
    rows = cell_data.shown_rows(cell_data.types_of(awkward["adata"].obs["cell_type"], "").codes, held, seed=0)
    values = awkward["adata"][:, "CD79A"].X.toarray()[rows, 0]
    assert len(set(gene[values == 0])) == 1
    assert gene[values > 3].max() < gene[values == 0][0]  # more is darker
    column = colour_by(fresh, "CD79A", "column")
    grey = 0xD4D4D4FF
    assert np.array_equal(column == grey, np.isnan(awkward["adata"].obs["CD79A"].to_numpy()[rows]))
    colour_by(fresh, "alive", "column")
    legend = fresh.find_elements("css selector", "#legend .type span")
    assert [item.text for item in legend] == ["False", "True"]


def test_hover_says_what_a_cell_is(fresh, awkward):
    from selenium.webdriver.common.action_chains import ActionChains

    plot = fresh.find_elements("css selector", ".plot")[0]
    fresh.execute_script("scrollTo(0, 0)")
    x, y = fresh.execute_script(  # of the cell that is drawn last, from the middle of the map
        f"const [s, {{x_range, y_range}}] = [{SOURCE}, Bokeh.documents[0].roots()[0]];"
        "const part = (range, at) => (at - range.start) / (range.end - range.start) - 0.5;"
        "return [part(x_range, s.data.x0[699]), -part(y_range, s.data.y0[699])]"
    )
    side = plot.size["width"]
    for shift in (3, 0):
        ActionChains(fresh).move_to_element_with_offset(plot, round(x * side) + shift, round(y * side)).perform()
    wait(fresh, "!document.getElementById('tip').hidden")
    kind, split, name = re.split(r"\n| · ", fresh.find_element("id", "tip").text)
    cell = awkward["adata"].obs.loc[name]
    assert (kind, split) == (str(cell["cell_type"]), "held-out")
    rings = fresh.find_elements("css selector", ".ring")
    assert [ring.value_of_css_property("visibility") for ring in rings] == ["visible"] * 3


def test_tables_sort_and_confusions_change(fresh):
    heads = fresh.find_elements("css selector", ".scores .sort")
    fresh.execute_script("arguments[0].click()", heads[0])
    first = "document.querySelector('.scores tbody tr:nth-child(2) th').textContent"
    assert fresh.execute_script(f"return {first}").startswith("PCA")
    fresh.execute_script("arguments[0].click()", heads[0])
    assert fresh.execute_script(f"return {first}").startswith("UMAP")
    assert len(fresh.find_elements("css selector", "#matrix tbody tr")) == 11
    fresh.execute_script("const w = document.getElementById('which'); w.value = 1; w.onchange()")
    assert "no signal" in fresh.find_element("id", "warning").text
    assert [item.text for item in fresh.find_elements("css selector", "#which option")] == [
        "PCA, map", "UMAP, map", "MLP, metric space", "tripletomics, map",
    ]  # fmt: skip


def test_page_works_without_webgl(page, browser):
    backend = "Bokeh.documents[0].roots()[0].output_backend"
    driver = start("--disable-3d-apis")
    try:
        load(driver, page)
        assert driver.execute_script(f"return {backend}") == "canvas"
        assert pixels(driver).std() > 5
        draw_lasso(driver, 1)
        wait(driver, f"{SOURCE}.selected.indices.length")
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        driver.quit()
    if browser.execute_script(f"return {backend}") != "webgl":
        pytest.skip("this Chromium has no WebGL, not even an emulated one: the other tests ran without it, too")
