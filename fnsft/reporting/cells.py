"""The number in one cell of a table, and how sure it is.

A cell is one model, method and fraction p (None for methods without a mask); its runs differ
by seed alone.
"""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeVar

from fnsft.artifacts.records import Record
from fnsft.artifacts.training import TrainingRecord
from fnsft.errors import InputError

Key = tuple[str, str, float | None]
Kind = Literal["items", "pooled items", "seeds", "bound", "seeds, sd", "draws, sd", "paired"]
T = TypeVar("T", bound=Record | TrainingRecord)
BOUND_LEVEL = 0.95
BOUND_IN_WORDS = "beside a share of no or of all items its one-sided 95 % bound"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value in the metric's own unit and its standard error.

    ``kind`` says where the error comes from: one run's items; the items of two runs, root
    mean square (both answer the same items, so that two runs are no second sample of them);
    the spread of three or more seeds; or, in averages, the mean of the parts' errors, which
    bounds that of the average however they are correlated. In tables of networks it is the
    standard deviation over seeds, or over random draws. A paired difference has an interval, from
    ``low`` to ``high``, in place of an error; a share of no or of all items has one of the two
    (see :func:`bounded`). A mean over models or fractions has no n where theirs differ. By the
    ``criterion`` on validation samples, the lower the better, a fraction is chosen.
    """

    value: float
    uncertainty: float | None
    kind: Kind
    n_items: int | None
    n_seeds: int | None
    validation_perplexity: float | None = None
    criterion: float | None = None
    learning_rate: float | None = None
    optimizer_steps: float | None = None
    chosen: bool = False
    mark: Literal["", "best", "second", "beyond", "differs"] = ""
    n_draws: int | None = None
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, None without two of them."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def bound(self) -> tuple[Literal["≤", "≥"], float] | None:
        """The only end, None without one and of an interval."""
        if self.low is None:
            return None if self.high is None else ("≤", self.high)
        return ("≥", self.low) if self.high is None else None


def bounded(cell: Cell) -> Cell:
    """Give a share of no or of all items a one-sided 95 % bound in place of an error of zero.

    Notes
    -----
    Of n items none: at most 1 − 0.05^(1/n), the end of Clopper and Pearson's interval (1934); of
    all: at least 0.05^(1/n). Seeds that answer the same items add none to n.
    """
    if cell.uncertainty != 0 or cell.value not in (0, 1) or not cell.n_items:
        return cell
    last = (1 - BOUND_LEVEL) ** (1 / cell.n_items)
    low, high = (None, 1 - last) if cell.value == 0 else (last, None)
    return dataclasses.replace(cell, uncertainty=None, low=low, high=high)


def cell_of(records: Sequence[Record], trainings: Sequence[TrainingRecord], where: str) -> Cell:
    """Join the runs of one cell; see :class:`Cell` for its uncertainty."""
    values = [record.value for record in records]
    value, kind, uncertainty = statistics.fmean(values), "items", records[0].stderr
    if len(values) >= 3:
        spread = statistics.stdev(values) if all(map(math.isfinite, values)) else None
        kind, uncertainty = "seeds", spread and spread / math.sqrt(len(values))
    elif len(values) == 2:
        kind, uncertainty = "pooled items", _root_mean_square([r.stderr for r in records])
    perplexities = [training.best_validation_perplexity for training in trainings]
    criteria = [training.criterion for training in trainings]
    steps = [training.optimizer_steps for training in trainings]
    return Cell(
        value=value,
        uncertainty=uncertainty,
        kind=kind,  # type: ignore[arg-type]
        n_items=_the_only(records, "n", where),
        n_seeds=len(records),
        validation_perplexity=statistics.fmean(perplexities) if perplexities else None,
        criterion=statistics.fmean(criteria) if criteria else None,
        learning_rate=learning_rate_of(trainings, where),
        optimizer_steps=statistics.fmean(steps) if steps else None,
    )


def learning_rate_of(trainings: Sequence[TrainingRecord], where: str) -> float | None:
    """Return the learning rate of all seeds, None without a run."""
    rates = {training.run.learning_rate for training in trainings}
    if len(rates) > 1:
        found = ", ".join(map(str, sorted(rates, key=str)))
        raise InputError(f"{where}: expected one learning rate for all seeds, found {found}")
    return next(iter(rates), None)


def task_of(records: Iterable[Record]) -> str:
    """Return the task of all records; of several none could be the table's."""
    tasks = tuple(dict.fromkeys(record.task for record in records))
    if len(tasks) > 1:
        raise InputError(f"expected the records of one task, found {', '.join(tasks)}")
    return tasks[0]


def mean_of(cells: Sequence[Cell]) -> Cell:
    """Average cells of several models or fractions, which answer the same items.

    One cell keeps its kind of error.
    """
    errors = [cell.uncertainty for cell in cells]
    known = [error for error in errors if error is not None]
    items, seeds = {cell.n_items for cell in cells}, {cell.n_seeds for cell in cells}
    return Cell(
        value=statistics.fmean(cell.value for cell in cells),
        uncertainty=statistics.fmean(known) if len(known) == len(errors) else None,
        kind="bound" if len(cells) > 1 else cells[0].kind,
        n_items=items.pop() if len(items) == 1 else None,
        n_seeds=seeds.pop() if len(seeds) == 1 else None,
    )


def by_cell(runs: Iterable[T]) -> dict[Key, list[T]]:
    """Group runs by cell; two of one seed, or of other settings than the seed, are refused."""
    grouped: dict[Key, list[T]] = defaultdict(list)
    for item in runs:
        run = item.run if isinstance(item, TrainingRecord) else item
        grouped[run.model, run.method, run.fraction].append(item)
    for key, items in grouped.items():
        identities = [item.run if isinstance(item, TrainingRecord) else item for item in items]
        seeds = [identity.seed for identity in identities]
        if len(set(seeds)) < len(seeds):
            raise InputError(
                f"{name_of(key)}: expected one run a seed, found seeds "
                f"{', '.join(map(str, seeds))}; give the files of one stage and one setting"
            )
        for field in ("task", "stage", "lam", "affinity", "applies_to", "mask_mode"):
            _the_only(identities, field, name_of(key))
    return dict(grouped)


def keys_of(found: Iterable[Key], model: str, methods: Sequence[str]) -> Iterator[Key]:
    """Yield the keys of a model's rows: of every method one, or each of its fractions."""
    known = list(found)
    for method in methods:
        own = [key for key in known if key[:2] == (model, method)]
        yield from sorted(own, key=lambda key: key[2] or 0) or [(model, method, None)]


def name_of(key: Key) -> str:
    """Write a cell's key for an error message."""
    model, method, fraction = key
    return f"{model}, {method}" + ("" if fraction is None else f", p = {fraction:g}")


def _the_only(items: Sequence[object], field: str, where: str) -> int:
    found = {getattr(item, field) for item in items}
    if len(found) > 1:
        listing = ", ".join(map(str, sorted(found, key=str)))
        raise InputError(f"{where}: expected one {field} for all seeds, found {listing}")
    return found.pop()


def _root_mean_square(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return None
    return math.sqrt(statistics.fmean(error**2 for error in known))
