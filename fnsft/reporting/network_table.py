"""What networks do, beside random neurons of the same number: a row a lesion, a block a model.

Networks stand in the order of their effect on the ranking split; all numbers are of the
evaluation split, which had no part in that order. Networks of several seeds are other analyses,
so that there a row is a place in the order.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence

from fnsft.artifacts.lesions import Lesion
from fnsft.config.stages import TableSettings
from fnsft.reporting.cells import Cell
from fnsft.reporting.grid import SHARE, Column, Grid, Row, cell_over_seeds, deviation_of
from fnsft.reporting.labels import counted
from fnsft.reporting.lesion_summary import LOSS, NetworkEffect
from fnsft.reporting.lesions import (
    Condition,
    ModelLesions,
    condition_of,
    lesions_by_model,
    measured,
)
from fnsft.reporting.notes import titled

TOGETHER = (1, 2, 4)  # networks removed or kept together, beside all of them
SINGLE = "one network removed, in order of effect"
SECTIONS = {"removed": "the first n removed together", "kept": "only the first n kept"}
NEURONS = Column("share", "neurons", SHARE)
AS_BAD = Column("as bad", "random", SHARE)
AMPLIFIED = "amplified"
Cells = dict[Column, Cell | None]


def networks_grid(rows: Sequence[Lesion], settings: TableSettings) -> Grid:
    """Fill the table of what networks do.

    Raises
    ------
    InputError
        When a model has no lesions, and when they do not compare.
    """
    models = lesions_by_model(rows, settings.models)
    known = dict.fromkeys(name for found in models.values() for name in found.intact)
    benchmarks = [LOSS, *(name for name in known if name != LOSS)]
    amplified = any(effect.amplified for found in models.values() for effect in found.effects)
    blocks = {model: _block(found, benchmarks, amplified) for model, found in models.items()}
    columns = [NEURONS, *_pair(LOSS), AS_BAD]
    columns += [column for name in benchmarks[1:] for column in _pair(name)]
    columns += _pair(AMPLIFIED) if amplified else ()
    row = next(row for row in rows if row.model in models)
    what = f"perplexity and accuracy, task {row.task}, networks {row.networks}."
    notes = _notes(models)
    if amplified:
        notes.append("Amplified: perplexity with the activations multiplied instead.")
    return Grid(tuple(columns), blocks, titled(settings.title, what), tuple(notes))


def _pair(group: str) -> tuple[Column, Column]:
    metric = "perplexity" if group in (LOSS, AMPLIFIED) else "accuracy"
    return Column(group, "network", metric), Column(group, "random", metric)


def _block(found: ModelLesions, benchmarks: Sequence[str], amplified: bool) -> list[Row]:
    """Return a model's rows: intact, every network alone, the first n together."""
    # Seeds that share their evaluation data have measured the intact model once, not often.
    intact = {
        _pair(name)[0]: cell_over_seeds([measured(name, row) for row in once])
        for name in benchmarks
        for once in [{(row.value, row.n): row for row in found.intact.get(name, ())}.values()]
    }
    ranked = sorted(found.effects, key=lambda effect: effect.rank)
    rows = [Row("", "intact", intact)]
    for rank, group in itertools.groupby(ranked, key=lambda effect: effect.rank):
        effects = list(group)
        name = f"network {effects[0].network}" if found.n_seeds == 1 else _ordinal(rank)
        rows.append(Row(SINGLE, name, _single(effects, benchmarks, amplified)))
    n_networks = len(rows) - 1
    for experiment, section in SECTIONS.items():
        numbers = [n for kind, n in found.conditions if kind == experiment]
        for n in numbers:
            if n in (*TOGETHER, max(numbers)):
                condition = found.conditions[experiment, n]
                masked = statistics.fmean(condition.masked)
                share = 1 - masked if experiment == "kept" else masked
                name = f"all {n:g}" if n == n_networks else f"n = {n:g}"
                rows.append(Row(section, name, _cells(share, condition, benchmarks)))
    return rows


def _single(effects: Sequence[NetworkEffect], benchmarks: Sequence[str], amplified: bool) -> Cells:
    """Return the cells of one network, or of all seeds' networks at one place of the order."""
    removed = condition_of([(effect.share, effect.removed) for effect in effects])
    cells = _cells(statistics.fmean(removed.masked), removed, benchmarks)
    network, _ = _pair(LOSS)
    cell = cells[network]
    if cell and all(c.random and not c.draws_as_bad for c in removed.comparisons[LOSS]):
        cells[network] = dataclasses.replace(cell, mark="beyond")
    if amplified:
        more = condition_of([(effect.share, effect.amplified) for effect in effects])
        cells |= _compared(AMPLIFIED, LOSS, more)
    return cells


def _cells(share: float, condition: Condition, benchmarks: Sequence[str]) -> Cells:
    """Return the cells of networks that are masked together, of this share of all neurons."""
    seeds, n_draws = len(condition.masked), len(condition.draws(LOSS))
    bad = sum(found.draws_as_bad for found in condition.comparisons.get(LOSS, ()))
    as_bad = Cell(bad / n_draws, None, "items", None, seeds, n_draws=n_draws) if n_draws else None
    cells: Cells = {NEURONS: Cell(share, None, "items", None, seeds), AS_BAD: as_bad}
    for name in benchmarks:
        cells |= _compared(name, name, condition)
    return cells


def _compared(group: str, benchmark: str, condition: Condition) -> Cells:
    """Return the cells of a network and of the random sets beside it."""
    network, random = _pair(group)
    comparisons, draws = condition.comparisons.get(benchmark, ()), condition.draws(benchmark)
    cell = cell_over_seeds([measured(benchmark, found) for found in comparisons])
    cells: Cells = {network: cell, random: None}
    if cell and draws:
        cells[random] = dataclasses.replace(
            cell,
            value=statistics.fmean(draws),
            uncertainty=deviation_of(draws),
            kind="draws, sd",
            n_draws=len(draws),
        )
    return cells


def _notes(models: Mapping[str, ModelLesions]) -> list[str]:
    """Say how networks were ranked, and what chance alone would show."""
    seeds = counted(found.n_seeds for found in models.values())
    draws = [
        len(effect.removed[LOSS].random) for found in models.values() for effect in found.effects
    ]
    order = (
        "Order: by the rise of the loss on the ranking split; all numbers are of the evaluation "
        "split, which had no part in it."
    )
    if seeds != "1":
        order += " Seeds find other networks: a row is a place in the order of each."
    if not any(draws):
        return [order, "Random sets were not measured."]
    n_seeds = min(found.n_seeds for found in models.values())
    each, chance = "" if seeds == "1" else " in any seed", (min(draws) + 1) ** n_seeds
    return [
        order,
        f"Random: as many neurons of every layer, {counted(draws)} draws a lesion and seed. As "
        f"bad: the random sets whose perplexity is at least the network's. †: none is{each}; by "
        f"chance alone this is so of one network in {chance:,}.",
    ]


def _ordinal(number: int) -> str:
    last = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number // 10 % 10 == 1 else last}"
