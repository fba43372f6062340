"""The page of an experiment in a real browser, from a file, without a network."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explore_results import (
    D_MLP,
    HOSTILE,
    N_LAYERS,
    data_of,
    descriptions,
    write_graphs,
    write_home,
    write_results,
)

from fnsft.artifacts.graphs import CollaborationGraph, LayerGraph, write_graph
from fnsft.cli.main import main

pytestmark = pytest.mark.browser

# Without these the browser asks its maker's hosts for updates.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
VIEWS = {
    "overview": "",
    "methods": "methods",
    "layers": "layers/1/2",
    "neuron": "neuron/tiny/0/0",
    "search": "search?q=apples",
    "nowhere": "neuron/tiny/77/0",
}
DARK, LIGHT, TEXT_CONTRAST = "dark", "light", 4.5


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install '.[browser]'"
    )
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
    if path is None:
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_results(folder / "small")
    assert main(["explore", str(folder / "small"), "--output", str(folder / "small.html")]) == 0
    return folder / "small.html"


@pytest.fixture
def opened(browser: Any, explored: Path) -> Iterator[Any]:
    """Open a view; at the end, nothing may have been asked for and no error said."""
    contexts, said, asked = [], [], []

    def open_view(view: str = "", page: Path = explored, **options: Any) -> Any:
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(f"{page.as_uri()}#/{view}")
        tab.wait_for_selector("h1")
        return tab

    yield open_view
    for context in contexts:
        context.close()
    assert said == []
    assert {url.split("#")[0].rsplit("/", 1)[-1] for url in asked} <= {"small.html", "other.html"}
    assert all(url.startswith("file:") for url in asked)


def until(tab: Any, expression: str) -> None:
    """Wait for an expression to be true; Playwright's own waiting is forbidden by the policy."""
    for _ in range(200):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(25)
    raise AssertionError(f"{expression} was never true")


def heading(tab: Any) -> str:
    return tab.locator("h1").inner_text()


def column(tab: Any, caption: str, name: str) -> list[str]:
    """The cells of a table's column, found by the head's name."""
    table = tab.locator("table").filter(has=tab.locator("caption", has_text=caption)).first
    heads = [text.strip() for text in table.locator("thead th").all_inner_texts()]
    place = heads.index(name) + 1
    return table.locator(f"tbody tr > :nth-child({place})").all_inner_texts()


def test_the_overview_says_what_there_is(opened) -> None:
    tab = opened()
    text = tab.locator("main").inner_text()
    assert heading(tab) == "Experiment small" and tab.title().startswith("Experiment small")
    assert "CollabMask" in text and f"{N_LAYERS} layers of {D_MLP}" in text
    found = dict(
        zip(
            column(tab, "Artefacts that", "Artefacts"),
            column(tab, "Artefacts that", "Found"),
            strict=True,
        )
    )
    assert found["neuron descriptions"] == str(len(descriptions("")))
    assert found["runs with update frequencies"] == "6"


def test_every_metric_can_be_sorted_and_chosen(opened) -> None:
    tab = opened("methods")
    tab.locator("#metric").select_option("gsm8k · accuracy")
    tab.wait_for_selector("caption:has-text(' of ')")
    assert set(column(tab, "metrics: means", "Benchmark, metric")) == {"gsm8k · accuracy"}
    button = tab.get_by_role("button", name="Value", exact=True)
    button.click()
    values = [float(text.split()[0]) for text in column(tab, "metrics: means", "Value")]
    assert len(values) > 5 and values == sorted(values, reverse=True)
    button.click()
    assert [float(text.split()[0]) for text in column(tab, "metrics: means", "Value")] == values[
        ::-1
    ]
    assert tab.locator("th[aria-sort=ascending]").inner_text().startswith("Value")
    tab.locator("#method").fill("collab")
    tab.locator("#method").press("Enter")
    until(tab, "location.hash.includes('method=collab')")
    assert {text.split(",")[0] for text in column(tab, "metrics: means", "Method")} == {
        "CollabMask"
    }


def test_the_trade_off_has_a_point_for_every_row_of_its_table(opened) -> None:
    tab = opened("methods")
    points = tab.locator("svg [role=img]")
    names = column(tab, "on the Pareto front", "Method")
    assert points.count() == len(names) == 5
    labels = [points.nth(i).get_attribute("aria-label") for i in range(5)]
    for number, name in enumerate(names, start=1):
        assert any(label.startswith(f"{number}, {name.rstrip(' *')}: ") for label in labels)
    points.first.focus()
    assert tab.locator("figure .note").inner_text() == labels[0]


def test_a_layer_shows_its_clusters_hubs_and_controls(opened) -> None:
    tab = opened("layers/0")
    assert tab.locator("svg a.tile").count() == 5
    assert column(tab, "stays inside", "Neurons") == ["9", "10", "10", "10", "10"]
    # A neuron without a + description is shown by its other one.
    assert any(column(tab, "most lists", "Description"))
    hubs = column(tab, "most lists", "Neuron")
    assert hubs[0] == "0:7" and len(hubs) == 10
    for name, value in (("model", "1.60"), ("random-initialised twin", "1.20")):
        assert column(tab, "Score of the clusters", name)[0] == value
    assert column(tab, "Score of the clusters", "tokens shuffled")[:2] == ["1", "2"]
    tab.locator("svg a.tile").nth(2).click()
    tab.wait_for_selector("#members")
    assert tab.locator(".neurons a").count() == 10


def test_a_neuron_has_all_that_is_known_of_it_and_links_to_its_neighbours(opened) -> None:
    tab = opened("neuron/tiny/2/11")
    cards = tab.locator("article")
    assert cards.count() == 2 and "Positive activations" in cards.first.inner_text()
    assert cards.first.locator("mark").count() == 3
    assert "showing 3 of 6 contexts" in cards.first.inner_text()
    neighbours = column(tab, "heaviest", "Neuron")
    assert neighbours and all(re.fullmatch(r"2:\d+", name) for name in neighbours)
    weights = [float(text) for text in column(tab, "heaviest", "Weight")]
    assert weights == sorted(weights, reverse=True)
    assert column(tab, "the layer's mean", "Method") == ["CollabMask, p = 0.5", "Random, p = 0.5"]
    tab.get_by_role("link", name=neighbours[0], exact=True).first.click()
    until(tab, f"document.querySelector('h1').textContent.includes('{neighbours[0]}')")
    assert heading(tab) == f"Neuron {neighbours[0]} of tiny"


def test_a_neuron_in_a_network_shows_what_its_lesion_does(opened) -> None:
    from network_rows import networks_of

    network, layers = next(iter(networks_of("stack", N_LAYERS, D_MLP).templates.neurons.items()))
    neuron = next(int(n) for n in layers[0])
    tab = opened(f"neuron/tiny/0/{neuron}")
    assert f"ica {network}" in column(tab, "Networks that it is in", "Network")
    assert all(
        re.fullmatch(r"\d of 5", text)
        for text in column(tab, "Networks that it is in", "Random sets as bad")
    )


def test_search_finds_places_and_words_and_says_when_it_finds_none(opened) -> None:
    tab = opened()
    field = tab.get_by_label("Find a neuron")
    field.fill("3:41")
    field.press("Enter")
    until(tab, "document.querySelector('h1').textContent.startsWith('Search')")
    assert column(tab, "Neurons that were found", "Neuron") == ["3:41"]
    tab.get_by_role("link", name="3:41").click()
    until(tab, "document.querySelector('h1').textContent.startsWith('Neuron')")
    tab.go_back()
    tab.go_back()
    until(tab, "document.querySelector('h1').textContent.startsWith('Experiment')")

    field.fill("APPLES river")
    tab.get_by_role("button", name="Find").click()
    until(tab, "document.querySelector('h1').textContent.includes('APPLES')")
    expected = [d for d in descriptions("") if "apples" in d.text and "river" in d.text]
    found = column(tab, "Neurons that were found", "Description")
    assert tab.locator("main p").first.inner_text() == f"{len(expected)} neurons found."
    assert found and all("apples" in text and "river" in text for text in found)
    scores = [float(text) for text in column(tab, "Neurons that were found", "Score")]
    assert scores == sorted(scores, reverse=True)

    field.fill("zebra")
    field.press("Enter")
    until(tab, "document.querySelector('h1').textContent.includes('zebra')")
    assert "0 neurons found." in tab.locator("main").inner_text()


def test_what_comes_from_the_data_is_text(opened) -> None:
    tab = opened("neuron/tiny/0/0")
    assert tab.locator("article p").first.inner_text() == " ".join(HOSTILE.split())
    assert "<i>0</i>" in tab.locator("article li").first.inner_text()
    assert tab.locator("img, main script, article i, article b").count() == 0
    assert tab.title() == "Neuron 0:0 of tiny – fnsft small"


def test_a_model_with_any_name_has_pages(opened, tmp_path: Path) -> None:
    results = tmp_path / "odd"
    write_home(results, model="a <b>&?#%", hostile=False)
    page = tmp_path / "other.html"
    assert main(["explore", str(results), "--output", str(page)]) == 0
    tab = opened("layers/0", page=page)
    assert tab.locator("main b").count() == 0
    tab.get_by_role("link", name="0:7", exact=True).first.click()
    until(tab, "document.querySelector('h1').textContent.startsWith('Neuron')")
    assert heading(tab) == "Neuron 0:7 of a <b>&?#%"
    tab.reload()
    tab.wait_for_selector("h1")
    assert heading(tab) == "Neuron 0:7 of a <b>&?#%"


def test_a_page_without_descriptions_says_what_makes_them(opened, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_graphs(tmp_path / f"bare/neurons/tiny/math/seed{seed}")
    page = tmp_path / "other.html"
    assert main(["explore", str(tmp_path / "bare"), "--output", str(page)]) == 0
    target = "snakemake --profile cpu results/bare/neurons/tiny/math/seed1/"
    tab = opened("neuron/tiny/0/3?on=math%201%20paper", page=page)
    commands = tab.locator("main .note code").all_inner_texts()
    assert commands[0] == f"{target}descriptions.jsonl.gz"
    assert commands[1] == f"{target}networks/ica.safetensors"
    assert "snakemake" in opened("methods", page=page).locator("main .note").first.inner_text()


def test_a_neuron_that_did_not_fit_says_so(opened, tmp_path: Path) -> None:
    write_home(tmp_path / "wide")
    page = tmp_path / "other.html"
    arguments = ["explore", str(tmp_path / "wide"), "--output", str(page)]
    assert main(arguments) == 0
    room = 0.9 * page.stat().st_size / 1e6
    assert main([*arguments, "--max-megabytes", str(room)]) == 0
    tab = opened("layers/0", page=page)
    shown = re.search(r"showing (\d+) of 200 neurons", tab.locator("main").inner_text())
    assert 0 < int(shown[1]) < 200
    here = data_of(page.read_text())["homes"][0]["ids"][0]
    absent = next(neuron for neuron in range(D_MLP) if neuron not in here)
    says = opened(f"neuron/tiny/0/{absent}", page=page).locator("main").inner_text()
    assert "This neuron has no page here: showing" in says
    assert tab.locator(f'a[href*="/0/{absent}?"]').count() == 0


def press(tab: Any, key: str, until: str, most: int = 60) -> None:
    """Press a key until what has the focus fits."""
    for _ in range(most):
        tab.keyboard.press(key)
        if tab.evaluate(f"document.activeElement.matches({until!r})"):
            return
    raise AssertionError(f"{until} was not reached by {key}")


def test_the_keyboard_reaches_and_works_everything(opened) -> None:
    tab = opened()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert tab.locator(".skip").bounding_box()["x"] >= 0
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    press(tab, "Shift+Tab", "nav a[data-view=methods]")
    tab.keyboard.press("Enter")
    until(tab, "document.activeElement.textContent === 'Methods'")
    press(tab, "Tab", ".point")
    assert tab.evaluate("getComputedStyle(document.activeElement.firstChild).strokeWidth") == "4px"
    press(tab, "Tab", "thead button")
    tab.keyboard.press("Enter")
    assert tab.locator("th[aria-sort]").count() == 1
    assert "sorted by" in tab.locator("#status").inner_text()

    tab = opened("layers/0")
    press(tab, "Tab", "#layer")
    tab.keyboard.press("ArrowDown")
    until(tab, "document.querySelector('h1').textContent === 'Layer 1 of tiny'")
    assert tab.evaluate("document.activeElement.id") == "layer"
    press(tab, "Tab", "a.tile")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#members")
    press(tab, "Tab", ".neurons a")
    tab.keyboard.press("Enter")
    until(tab, "document.activeElement.textContent.startsWith('Neuron 1:')")
    assert tab.evaluate("getComputedStyle(document.querySelector('nav a')).display") == "block"


NAMELESS = """() => [...document.querySelectorAll('a, button, input, select, [tabindex="0"]')]
  .filter(one => !(one.getAttribute('aria-label') || one.textContent.trim()
    || [...(one.labels || [])].some(label => label.textContent.trim())))
  .map(one => one.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_screen_reader_finds_its_way(opened, view: str) -> None:
    tab = opened(view)
    for landmark in ("banner", "main", "search"):
        assert tab.get_by_role(landmark).count() == 1
    assert tab.get_by_role("navigation", name="Views").count() == 1
    assert tab.locator("h1").count() == 1 and tab.locator("html[lang=en]").count() == 1
    levels = tab.locator("main h1, main h2, main h3, main h4").evaluate_all(
        "found => found.map(one => Number(one.tagName[1]))"
    )
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    assert tab.evaluate(NAMELESS) == []
    ids = tab.locator("[id]").evaluate_all("found => found.map(one => one.id)")
    assert len(ids) == len(set(ids))
    unnamed = "table:not(:has(caption)), th:not([scope]), svg:not([aria-label], [aria-hidden])"
    assert tab.locator(unnamed).count() == 0
    assert tab.locator("table").count() == tab.locator("table:has(tbody th[scope=row])").count()


CONTRASTS = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) =>
    [r, g, b].map((value, i) => a * value + (1 - a) * below[i]);
  const luminance = (colour) => colour
    .map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (one) => {
    if (!one) return [255, 255, 255];
    return over(rgba(getComputedStyle(one).backgroundColor), behind(one.parentElement));
  };
  const found = [];
  for (const one of document.querySelectorAll('body *')) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !one.getClientRects().length || one.closest('.unseen, script, style')) continue;
    const style = getComputedStyle(one);
    const drawn = one.namespaceURI.endsWith('svg');
    let below = behind(drawn ? one.closest('figure, td, p') : one);
    const shape = drawn && one.parentElement.querySelector('rect, circle');
    if (shape && one.parentElement.matches('.tile, .point')) {
      const [r, g, b, a] = rgba(getComputedStyle(shape).fill);
      below = over([r, g, b, a * Number(getComputedStyle(shape).fillOpacity)], below);
    }
    const text = over(rgba(drawn ? style.fill : style.color), below);
    const [light, dark] = [luminance(text), luminance(below)].sort((a, b) => b - a);
    found.push([(light + 0.05) / (dark + 0.05), one.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_text_stands_out_in_both_colour_schemes(opened, view: str, scheme: str) -> None:
    tab = opened(view, color_scheme=scheme)
    found = tab.evaluate(CONTRASTS)
    assert len(found) > 8
    assert [text for contrast, text in found if contrast < TEXT_CONTRAST] == []
    background = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    red = int(re.search(r"\d+", background)[0])
    assert red < 60 if scheme == DARK else red > 200


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_narrow_screen_scrolls_tables_and_never_the_page(opened, view: str) -> None:
    tab = opened(view, viewport={"width": 320, "height": 640})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 320


def test_who_wants_less_motion_gets_none(opened) -> None:
    script = "getComputedStyle(document.documentElement).scrollBehavior"
    assert opened(reduced_motion="reduce").evaluate(script) == "auto"
    assert opened(reduced_motion="no-preference").evaluate(script) == "smooth"


def test_a_page_of_48_000_neurons_opens(opened, tmp_path: Path) -> None:
    rng, n, k = np.random.default_rng(0), 6_000, 12
    layers = [
        LayerGraph(
            indptr=np.arange(n + 1) * k,
            indices=rng.integers(0, n, n * k).astype(np.int32),
            weights=np.sort(rng.random((n, k), dtype=np.float32))[:, ::-1].ravel() + 0.01,
        )
        for _ in range(8)
    ]
    path = tmp_path / "large/neurons/tiny/math/seed0/graphs/paper.safetensors"
    path.parent.mkdir(parents=True)
    write_graph(path, CollaborationGraph(layers, n, k), "0" * 16)
    page = tmp_path / "other.html"
    assert main(["explore", str(tmp_path / "large"), "--output", str(page)]) == 0
    assert 2e6 < page.stat().st_size < 1e7
    assert heading(opened("neuron/tiny/7/5999", page=page)) == "Neuron 7:5999 of tiny"
