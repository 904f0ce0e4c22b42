"""The pipelines run or at least call what there is, and the files of the repository agree on versions and packages."""

import inspect
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml
from samples import make_cells

from tripletomics import cli

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = sorted((ROOT / "pipelines" / "modules").rglob("main.nf"))
IN_CONDA = {"matplotlib": "matplotlib-base", "torch": "pytorch"}  # other names of the same package
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("command-line", "from-r")]
CALLS = [ROOT / "pipelines" / "Snakefile", *MODULES, *PAGES]


def read(path):
    return yaml.safe_load((ROOT / path).read_text())


def bounds(requirement):
    """The name of a package and its lower and upper bounds."""
    name, rest = re.fullmatch(r"([\w.-]+?) ?([<>=,\d.]*)(?:;.*)?", requirement).groups()
    return IN_CONDA.get(name, name), frozenset(rest.split(","))


def test_one_version():
    version = PROJECT["version"]
    assert read("CITATION.cff")["version"] == read("conda/recipe.yaml")["context"]["version"] == version
    assert (ROOT / "CHANGELOG.md").read_text().count(f"\n## [{version}]") == 1
    for module in MODULES:
        assert f"tripletomics={version}" in module.with_name("environment.yml").read_text()


def test_the_recipe_has_the_dependencies_of_the_package():
    run = {bounds(one) for one in read("conda/recipe.yaml")["requirements"]["run"] if not one.startswith("python ")}
    assert run == {bounds(one) for one in PROJECT["dependencies"]}


def test_workflows_and_templates_are_complete():
    tests = read(".github/workflows/test.yml")["jobs"]
    tried = {row["python"] for row in tests["test"]["strategy"]["matrix"]["include"]}
    assert tried == {"3.11", "3.12", "3.13", "3.14"}
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for job in read(path)["jobs"].values():
            assert all({"uses", "run"} & {*step} for step in job["steps"]), path
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"):
        assert {*read(path)} >= {"name", "description", "body"}, path
    assert all({"repo", "rev", "hooks"} == {*one} for one in read(".pre-commit-config.yaml")["repos"])


@pytest.mark.parametrize("path", CALLS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_option_is_one_of_its_command(path):
    text = path.read_text()
    if path.suffix == ".md":
        text = "\n\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    calls = re.findall(r"\btripletomics (\w+)((?:(?!\n\n|\btripletomics ).)*)", text, re.DOTALL)
    calls = [(verb, words) for verb, words in calls if verb in cli.COMMANDS]
    assert calls
    for verb, words in calls:
        known = {name.replace("_", "-") for name in inspect.signature(cli.COMMANDS[verb]).parameters}
        for option in re.findall(r"(?<![\w-])--([a-z][a-z-]*)", words):
            assert option.removeprefix("no-") in known | {"help"}, f"{verb} --{option}"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.parent.name)
def test_a_module_says_what_it_takes_and_gives(module):
    text, meta = module.read_text(), yaml.safe_load(module.with_name("meta.yml").read_text())
    emitted = re.findall(r'path\("(.*?)"\)\s*, emit: (\w+)', text) + re.findall(r'path "(.*?)"\s*, emit: (\w+)', text)
    found = {name: next(iter(channel[-1] if isinstance(channel, list) else channel)) for name, channel in (
        (name, channel[0]) for name, channel in meta["output"].items()
    )}  # fmt: skip
    assert found == {name: pattern for pattern, name in emitted}
    taken = re.search(r"input:\n(.*?)\n\n", text, re.DOTALL)[1]
    assert re.findall(r"(?:val|path)[ (](\w+)", taken) == [next(iter(one)) for part in meta["input"] for one in part]
    assert {"name", "description", "keywords", "authors", "tools"} <= {*meta}
    assert len(meta["keywords"]) >= 3


@pytest.mark.skipif(shutil.which("snakemake") is None, reason="needs snakemake")
def test_snakemake_runs(tmp_path):
    """Each rule once, with few steps, and samples whose names are numbers or regular expressions."""
    for name, seed in (("reference", 1), ("one", 2), ("two", 3)):
        make_cells(120, seed, "abc", genes=40).write_h5ad(tmp_path / f"{name}.h5ad")
    settings = {
        "reference": "reference.h5ad", "label": "kind",
        "samples": {2: "one.h5ad", "a+(b).c": "two.h5ad"},
        "fit": "--steps 5 --hold-out 0.2", "compare": "--methods pca2 --seeds 1",
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    ran = subprocess.run(
        ["snakemake", "-s", ROOT / "pipelines" / "Snakefile", "--configfile", "config.yaml", "--cores", "2", "--quiet"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr + "".join(log.read_text() for log in tmp_path.rglob("logs/**/*.txt"))
    results = tmp_path / "results"
    for sample in ("2", "a+(b).c"):
        labels = pd.read_csv(results / "samples" / f"{sample}.csv")
        assert len(labels) == 120
        types = json.loads((results / "samples" / f"{sample}.json").read_text())["types"]
        assert {one["predicted_type"]: one["cells"] for one in types} == labels["tt_label"].value_counts().to_dict()
        assert (results / "samples" / f"{sample}.png").stat().st_size > 1000
    assert json.loads((results / "model.json").read_text())["settings"]["steps"] == 5
    assert (results / "model.md").read_text().startswith("# Model card: model.tt")
    assert "</html>" in (results / "report.html").read_text()
