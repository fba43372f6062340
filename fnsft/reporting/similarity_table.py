"""Whether a graph's neighbours are described alike (2026, Tables 4 and 5), beside its controls.

Table 4 (kind similarity) has the share of all connections in the top q %, for growing q; Table 5
(kind similarity-layers) the share in each range between two q, by layer. What a connection, its
rank and the top q % are stands in :mod:`fnsft.neurons.similarity`. The controls: the graph and
descriptions of a random-initialised twin; the graph of shuffled tokens with the model's own
descriptions; as many random neighbours as the graph has; and what is expected of unrelated neurons.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fnsft.artifacts.similarity import Similarity
from fnsft.config.stages import TableSettings
from fnsft.errors import InputError
from fnsft.reporting.cells import Cell
from fnsft.reporting.grid import SHARE_OF_CONNECTIONS as SHARE
from fnsft.reporting.grid import Column, Grid, Row, cell_over_seeds
from fnsft.reporting.labels import SOURCE_LABELS, counted
from fnsft.reporting.notes import titled

SOURCES = ("model", "random-init", "token-shuffled", "random-neighbours")
SAME = (  # of all rows
    *("task", "graph", "k", "n_random", "confidence", "descriptions"),
    *("embedding", "embedding_model", "n_components", "draw_seed"),
)
CONTROLS = "controls"
MOST_LAYERS = 12  # rows of a source; of more layers neighbouring ones are taken together
EXPECTED = "expected of unrelated neurons"
# A number of a layer, None where it has no connections, and its error.
Reader = Callable[[Similarity], tuple[float | None, float | None]]
Cells = dict[Column, Cell | None]
LIKE = (
    Column("mean similarity", "neighbours", "similarity"),
    Column("mean similarity", "random", "similarity"),
)


@dataclass(frozen=True)
class Pooled:
    """A number of several layers; ``n`` connections."""

    value: float
    stderr: float | None
    n: int


def similarity_grid(rows: Sequence[Similarity], settings: TableSettings) -> Grid:
    """Fill the table: kind similarity or similarity-layers.

    Raises
    ------
    InputError
        When a model has no connections of its own graph, and for rows of two tasks, graphs or
        settings, or of one layer twice.
    """
    if not rows:
        raise InputError("expected similarities, found none; see fnsft similarity")
    models = settings.models or tuple(dict.fromkeys(row.model for row in rows))
    shown = [row for row in rows if row.model in models]
    _require_one_setting(shown)
    for model in models:
        if not any((row.model, row.source) == (model, "model") and row.n for row in shown):
            raise InputError(
                f"expected similarities of the graph of {model}, found none; see fnsft similarity"
            )
    fill = _overall if settings.kind == "similarity" else _by_layer
    blocks = {
        model: fill([row for row in shown if row.model == model and row.n]) for model in models
    }
    filled = [cells for own in blocks.values() for row in own for cells in row.cells]
    one = shown[0]
    what = (
        f"connections of neurons with their {one.k} nearest neighbours, by the rank of their "
        f"descriptions' similarity among random neurons; task {one.task}, graph {one.graph}."
    )
    notes = _notes(shown, settings.kind)
    return Grid(tuple(dict.fromkeys(filled)), blocks, titled(settings.title, what), notes)


def _overall(rows: Sequence[Similarity]) -> list[Row]:
    """Return a model's rows: its graph's, its controls', and what is expected."""
    found: list[Row] = []
    for source, own in _by_source(rows):
        cells = _tops(own, lambda row: (row.n_top / row.n, row.stderr_top))
        cells |= {LIKE[0]: _cell(own, 100, lambda row: (row.similarity, None))}
        cells |= {LIKE[1]: _cell(own, 100, lambda row: (row.random_similarity, None))}
        found.append(Row(CONTROLS if found else "", SOURCE_LABELS[source], cells))
    chance = _tops(_by_source(rows)[0][1], lambda row: (row.expected_top, None))
    return [*found, Row(CONTROLS, EXPECTED, chance)]


def _by_layer(rows: Sequence[Similarity]) -> list[Row]:
    """Return a model's rows: the layers of its graph, those of its controls, what is expected."""
    found = []
    groups = _groups(sorted({row.layer for row in rows}))
    for source, own in _by_source(rows):
        for layers in groups:
            first, last = layers[0], layers[-1]
            name = f"layer {first}" if first == last else f"layers {first}–{last}"
            if not (some := [row for row in own if row.layer in layers]):
                continue
            cells = _bins(some, lambda row: (row.n_bin / row.n, row.stderr_bin))
            found.append(Row(SOURCE_LABELS[source], name, cells))
    chance = _bins(_by_source(rows)[0][1], lambda row: (row.expected_bin, None))
    return [*found, Row(EXPECTED, "all layers", chance)]


def _by_source(rows: Sequence[Similarity]) -> list[tuple[str, list[Similarity]]]:
    """Return the rows of each source that there are any of, the model's own first."""
    found = [(source, [row for row in rows if row.source == source]) for source in SOURCES]
    return [(source, own) for source, own in found if own]


def _tops(rows: Sequence[Similarity], read: Reader) -> Cells:
    """Return the cells of each top q %; 100 holds all and is left out."""
    shares = sorted({row.q for row in rows if row.q < 100})
    return {Column("connections", f"top {q:g}", SHARE): _cell(rows, q, read) for q in shares}


def _bins(rows: Sequence[Similarity], read: Reader) -> Cells:
    """Return the cells of each range between two q."""
    ends = sorted({row.q for row in rows})
    return {
        Column("connections", f"{low:g}–{high:g}", SHARE): _cell(rows, high, read)
        for low, high in itertools.pairwise([0, *ends])
    }


def _groups(layers: Sequence[int]) -> list[Sequence[int]]:
    """Put neighbouring layers together where there are too many."""
    size = math.ceil(len(layers) / MOST_LAYERS)
    return [layers[start : start + size] for start in range(0, len(layers), size)]


def _cell(rows: Sequence[Similarity], q: float, read: Reader) -> Cell | None:
    """Pool the layers of each seed, then the seeds."""
    of_q = [row for row in rows if row.q == q]
    seeds = dict.fromkeys(row.seed for row in of_q)
    return cell_over_seeds([_pooled([r for r in of_q if r.seed == s], read) for s in seeds])


def _pooled(rows: Sequence[Similarity], read: Reader) -> Pooled:
    """Weigh layers by their connections; their errors are independent."""
    n = sum(row.n for row in rows)
    read_rows = [
        (row.n, value, error) for row in rows for value, error in [read(row)] if value is not None
    ]
    squares = [(count * error) ** 2 for count, _, error in read_rows if error is not None]
    # Where no or all connections are in, the errors are 0 and say nothing.
    stderr = math.sqrt(sum(squares)) / n or None if len(squares) == len(rows) else None
    return Pooled(sum(count * value for count, value, _ in read_rows) / n, stderr, n)


def _require_one_setting(rows: Sequence[Similarity]) -> None:
    for field in SAME:
        for model in dict.fromkeys(row.model for row in rows):
            # Models may be described by different sources; a model and its controls may not.
            some = [r for r in rows if field != "descriptions" or r.model == model]
            if len(found := sorted({getattr(row, field) for row in some}, key=str)) > 1:
                listing = ", ".join(map(str, found))
                raise InputError(f"expected one {field} for all similarities, found {listing}")
    for model in dict.fromkeys(row.model for row in rows):
        shares: dict[tuple[str, int, int], set[float]] = {}
        for row in rows:
            if row.model == model:
                shares.setdefault((row.source, row.seed, row.layer), set()).add(row.q)
        if len(sets := {tuple(sorted(found)) for found in shares.values()}) > 1:
            listing = " and ".join(", ".join(f"{q:g}" for q in one) for one in sorted(sets)[:2])
            raise InputError(
                f"{model}: expected the same q of all similarities, found {listing}; run fnsft "
                "similarity with one q"
            )
    keys = [dataclasses.astuple(row)[:6] + (row.q,) for row in rows]
    if len(set(keys)) < len(keys):
        twice = next(row for row, key in zip(rows, keys, strict=True) if keys.count(key) > 1)
        raise InputError(
            f"{twice.model}: expected each layer once, found layer {twice.layer} of "
            f"{twice.source} (seed {twice.seed}, q = {twice.q:g}) twice"
        )


def _notes(rows: Sequence[Similarity], kind: str) -> tuple[str, ...]:
    """Say what the columns and controls are, whose descriptions, and what is left out."""
    one = rows[0]
    own = [row for row in rows if row.source == "model" and row.q == 100]
    texts = [
        f"In the top q %: the one-sided {one.confidence:.0%} upper bound (Clopper–Pearson) on the "
        f"connection's share of up to {one.n_random:,} random neurons of its layer that are at "
        "least as similar is at most q.",
    ]
    if kind == "similarity-layers":
        texts.append("Columns a–b: in the top b % and in no smaller top.")
    published = dict.fromkeys(row.model for row in rows if row.descriptions == "database")
    whose = []
    if published:
        whose.append(
            f"of {', '.join(published)} a published database's, which describes no "
            "random-initialised twin"
        )
    if any(row.model not in published for row in rows):
        whose.append("top tokens of the models' own activations")
    texts.append(f"Descriptions: {'; else '.join(whose)}.")
    left_out = counted(_per_run(own, "n_left_out"))
    undescribed = counted(_per_run(own, "n_undescribed"))
    texts.append(
        f"Neurons without a description that scores above 0: {undescribed}; connections left out "
        f"for it: {left_out}."
    )
    texts.append(
        "Items are connections. Errors over items are clustered by both neurons, since those of "
        "one neuron, and those that lead to one hub, are not independent."
    )
    return tuple(texts)


def _per_run(rows: Sequence[Similarity], field: str) -> list[int]:
    runs = dict.fromkeys((row.model, row.seed) for row in rows)
    return [
        sum(getattr(row, field) for row in rows if (row.model, row.seed) == run) for run in runs
    ]
