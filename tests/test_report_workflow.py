"""Reports and pages of what was made, and of nothing else: no job runs for them."""

import base64
import html
import json
import re
from pathlib import Path

import pytest
import yaml
from explore_results import data_of, write_graphs, write_metrics
from workflow_runs import SMOKE, copy_tree, planned, snakemake

from fnsft.reporting.figures.captions import caption_of
from fnsft.reporting.html_table import html_table

pytestmark = pytest.mark.workflow

TABLE = "**A table of the smoke test.**\n\n|     | gsm8k |\n| --- | ----: |\n| SFT |  12.5 |\n"
# The smallest PNG there is: one transparent pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def tree(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which one table and one figure were made."""
    tree = copy_tree(repository, tmp_path_factory.mktemp("clone"))
    results = tree / "results/smoke"
    (results / "figures").mkdir(parents=True)
    (results / "table1.html").write_text(html_table(TABLE))
    (results / "figures/validation_perplexity.png").write_bytes(PNG)
    write_metrics(results)
    return tree


@pytest.fixture(scope="module")
def report(tree: Path) -> str:
    arguments = ["--profile", "cpu", "--configfile", *SMOKE, "--report", "report.html"]
    done = snakemake(tree, *arguments, "--", "made")
    assert done.returncode == 0, done.stderr
    return (tree / "report.html").read_text()


def entries(report: str) -> dict[str, dict]:
    """What the report holds, by path."""
    found = re.search(r"var results = (\{.*?\});?\s*</script>", report, re.S)
    return json.loads(found[1])


def content(entry: dict) -> bytes:
    return base64.b64decode(entry["data_uri"].split("base64,")[1])


def test_a_report_holds_the_tables_and_figures_that_were_made(report: str) -> None:
    found = entries(report)
    assert set(found) == {
        "results/smoke/table1.html",
        "results/smoke/figures/validation_perplexity.png",
    }
    table = found["results/smoke/table1.html"]
    assert content(table).decode() == html_table(TABLE)
    assert table["labels"] == {"table": "table1"}
    assert "Models by methods" in table["caption"]
    assert content(found["results/smoke/figures/validation_perplexity.png"]) == PNG


def test_a_figures_caption_is_that_of_its_kind(report: str) -> None:
    figure = entries(report)["results/smoke/figures/validation_perplexity.png"]
    words = re.sub(r"<[^>]+>|\s+", " ", html.unescape(figure["caption"])).split()
    assert words == caption_of("perplexity").split()


def test_a_report_holds_the_merged_configuration(report: str, repository: Path) -> None:
    found = re.search(r'var workflow_desc = ("(?:[^"\\]|\\.)*")', report)
    text = re.search(r'<pre class="configuration">(.*?)</pre>', json.loads(found[1]), re.S)
    shown = yaml.safe_load(html.unescape(text[1]))
    files = [yaml.safe_load((repository / name).read_text()) for name in ("config.yaml", *SMOKE)]
    for file in files[1:]:
        merge(files[0], file)
    assert shown == files[0]


def merge(below: dict, above: dict) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            merge(below[key], value)
        else:
            below[key] = value


def test_a_report_is_small_and_runs_nothing(report: str, tree: Path) -> None:
    assert len(report.encode()) < 10e6
    assert not (tree / "results/smoke/models").exists()
    assert not (tree / "results/smoke/world").exists()


def test_a_table_is_published_as_a_page_too(tree: Path) -> None:
    assert planned(tree, target="results/table1.html")["publish_table"] == 1


def test_the_page_of_results_asks_for_nothing_and_follows_what_is_made(tree: Path) -> None:
    target = "results/explore.html"
    assert planned(tree, target=target) == {"explore": 1, "publish_explore": 1}
    arguments = ["--profile", "cpu", "--configfile", *SMOKE]
    done = snakemake(tree, *arguments, "--", target)
    assert done.returncode == 0, done.stderr
    shown = data_of((tree / target).read_text())["overview"]
    assert shown["experiment"] == "smoke" and shown["models"] == ["tiny"]
    assert planned(tree, target=target) == {}
    (tree / "results/smoke/table1.csv").write_text("a\n")
    assert planned(tree, target=target) == {"explore": 1, "publish_explore": 1}
    (tree / "results/smoke/table1.csv").unlink()
    assert planned(tree, target=target) == {}
    write_graphs(tree / "results/smoke/neurons/tiny/math/seed0")
    assert planned(tree, target=target) == {"explore": 1, "publish_explore": 1}
