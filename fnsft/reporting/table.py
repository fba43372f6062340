"""Models by methods: what stands in every cell, which is best, and what the notes say.

A block is one model, with a row for each fraction p. A method without a mask has one cell
that spans its block. The last block averages the models, each at the p that validation chose.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from fnsft.artifacts.records import Record
from fnsft.artifacts.training import TrainingRecord
from fnsft.config.stages import FRACTION_METHODS, TableSettings
from fnsft.errors import InputError
from fnsft.reporting.cells import Cell, Key, bounded, by_cell, cell_of, mean_of, name_of, task_of
from fnsft.reporting.labels import MetricStyle, in_order, style_of

Rule = Literal["validation", "mean", "test"]
RULES: dict[Rule, str] = {
    "validation": "each model's p chosen on validation",
    "mean": "mean over p",
    "test": "each model's best p on test",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table's content; ``cells`` lacks what was not measured.

    ``averages`` maps (rule, method) to the average over models; methods without a mask have
    the same one under every rule.
    """

    settings: TableSettings
    task: str
    models: tuple[str, ...]
    methods: tuple[str, ...]
    controls: tuple[str, ...]
    fractions: tuple[float | None, ...]
    masked: frozenset[str]
    cells: Mapping[Key, Cell]
    averages: Mapping[tuple[Rule, str], Cell]

    @property
    def columns(self) -> tuple[str, ...]:
        """Methods, then controls."""
        return self.methods + self.controls

    @property
    def style(self) -> MetricStyle:
        """How values are printed."""
        return style_of(self.settings.metric)

    def fractions_of(self, method: str) -> tuple[float | None, ...]:
        """Return the fractions of a method's cells: all of the table's, or None alone."""
        return self.fractions if method in self.masked else (None,)


def summarise(
    records: Iterable[Record], trainings: Iterable[TrainingRecord], settings: TableSettings
) -> Table:
    """Fill the table that ``settings`` ask for.

    Parameters
    ----------
    records
        Metric records; those of other benchmarks, metrics, models and methods, and those of
        subsets, are left out.
    trainings
        Training records, for the choice of p and for what the runs cost.

    Raises
    ------
    InputError
        When nothing is left, or when one cell would mix tasks, stages or settings.
    """
    wanted = [
        record
        for record in records
        if (record.benchmark, record.metric, record.subset)
        == (settings.benchmark, settings.metric, None)
    ]
    models = settings.models or tuple(dict.fromkeys(record.model for record in wanted))
    known = in_order(record.method for record in wanted)
    methods = settings.methods or tuple(m for m in known if m not in settings.controls)
    columns = methods + settings.controls
    wanted = [r for r in wanted if r.model in models and r.method in columns]
    if not wanted:
        raise InputError(
            f"expected records of {settings.benchmark} {settings.metric} for the table's models "
            "and methods, found none; see fnsft evaluate"
        )
    masked = frozenset(
        [record.method for record in wanted if record.fraction is not None]
        + [method for method in columns if method in FRACTION_METHODS]
    )
    shares = sorted({record.fraction for record in wanted if record.fraction is not None})
    fractions: tuple[float | None, ...] = tuple(shares) or (None,)
    grouped = by_cell(wanted)
    trained = by_cell(
        t for t in trainings if (t.run.model, t.run.method, t.run.fraction) in grouped
    )
    cells = {
        key: cell_of(runs, trained.get(key, []), name_of(key)) for key, runs in grouped.items()
    }
    if style_of(settings.metric).is_share:
        cells = {key: bounded(cell) for key, cell in cells.items()}
    task = task_of(wanted)
    table = Table(settings, task, models, methods, settings.controls, fractions, masked, cells, {})
    return _marked(_averaged(table))


def _averaged(table: Table) -> Table:
    """Choose every model's p and add the averages over models."""
    cells, averages = dict(table.cells), {}
    for method in table.columns:
        parts: dict[Rule, list[Cell]] = {rule: [] for rule in RULES}
        for model in table.models:
            found = {
                fraction: table.cells[model, method, fraction]
                for fraction in table.fractions_of(method)
                if (model, method, fraction) in table.cells
            }
            if len(found) < len(table.fractions_of(method)):
                continue  # a p that was not measured can be neither averaged over nor chosen
            parts["mean"].append(mean_of(list(found.values())))
            parts["test"].append(min(found.values(), key=lambda cell: _badness(cell, table.style)))
            chosen = _chosen_fraction(found)
            if chosen in found:
                parts["validation"].append(found[chosen])
                if chosen is not None:
                    key = (model, method, chosen)
                    cells[key] = dataclasses.replace(cells[key], chosen=True)
        for rule, picked in parts.items():
            if len(picked) == len(table.models):
                averages[rule, method] = mean_of(picked)
    return dataclasses.replace(table, cells=cells, averages=averages)


def _chosen_fraction(found: Mapping[float | None, Cell]) -> float | None:
    """Return the p that is best on validation samples; None also where one has no validation."""
    criteria = {p: c.criterion for p, c in found.items() if c.criterion is not None}
    if len(found) == 1:
        return next(iter(found))
    if len(criteria) < len(found):
        return None
    return min(criteria, key=lambda p: criteria[p])


def _badness(cell: Cell, style: MetricStyle) -> float:
    return cell.value if style.lower_is_better else -cell.value


def _marked(table: Table) -> Table:
    """Mark the best and second printed value of every block; controls do not compete."""
    cells = dict(table.cells)
    for model in table.models:
        block = [key for key in cells if key[0] == model and key[1] in table.methods]
        marks = marks_of([cells[key] for key in block], table.style)
        cells |= {key: cell for key, cell in zip(block, marks, strict=True)}
    averages = dict(table.averages)
    row = [key for key in averages if key[0] == "validation" and key[1] in table.methods]
    marks = marks_of([averages[key] for key in row], table.style)
    averages |= {key: cell for key, cell in zip(row, marks, strict=True)}
    return dataclasses.replace(table, cells=cells, averages=averages)


def marks_of(cells: Sequence[Cell], style: MetricStyle) -> list[Cell]:
    """Mark cells by their printed values, so that what looks equal shares its mark."""
    printed = [float(style.printed(cell.value)) for cell in cells]
    ranked = sorted(set(printed), reverse=not style.lower_is_better)
    marks = dict(zip(ranked, ("best", "second"), strict=False))
    return [
        dataclasses.replace(cell, mark=marks.get(value, ""))  # type: ignore[arg-type]
        for cell, value in zip(cells, printed, strict=True)
    ]
