"""Item scores of runs, and from them the columns of paired differences."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fnsft.artifacts.items import items_path, read_items
from fnsft.artifacts.records import Record, read_records
from fnsft.errors import InputError
from fnsft.reporting.cells import Cell, Key, name_of
from fnsft.reporting.paired import Difference, Runs, differences, exponentiated, holm, paired
from fnsft.reporting.scores import PERPLEXITY, Metric, sequence_of

SUFFIX = ".items.jsonl"
SIGNIFICANT = 0.05
LARGEST_LOG = 700.0  # above it the perplexity is infinite
ItemRuns = Mapping[Metric, Mapping[Key, Runs]]


@dataclass(frozen=True)
class ItemFile:
    """One file of item scores and the run that it is of."""

    path: Path
    run: Record
    records: tuple[Record, ...]


def item_files(paths: Sequence[Path]) -> list[ItemFile]:
    """Find whose items the files hold: the records lie beside them.

    Raises
    ------
    InputError
        When a file is not called as items are, or has no records beside it.
    """
    files = []
    for path in paths:
        records = path.with_name(path.name.removesuffix(SUFFIX) + ".jsonl")
        if items_path(records) != path:
            raise InputError(f"{path}: expected item scores, a name that ends in {SUFFIX}")
        found = read_records([records])
        if not found:
            raise InputError(f"{records}: expected the records of {path.name}, found none")
        files.append(ItemFile(path, found[0], tuple(found)))
    return files


def items_by_metric(files: Sequence[ItemFile], sequence: str) -> ItemRuns:
    """Read the items after the last stage of a sequence, and of base models.

    Raises
    ------
    InputError
        When two files are of one run, a file names an item twice, or items do not add up to
        the records beside them.
    """
    found: dict[Metric, dict[Key, dict[int | None, dict[str, tuple[float, float]]]]] = {}
    for file in files:
        path, run = file.path, file.run
        if run.forward_mask == "off" or (run.stage and sequence_of(run) != sequence):
            continue
        own: set[Metric] = set()
        for score in read_items(path):
            metric = (score.benchmark, score.metric)
            seeds = found.setdefault(metric, {}).setdefault(
                (run.model, run.method, run.fraction), {}
            )
            if metric not in own and run.seed in seeds:
                raise InputError(f"{path}: expected one file of every run, found two of this one")
            own.add(metric)
            items = seeds.setdefault(run.seed, {})
            if score.item in items:
                raise InputError(f"{path}: {score.benchmark}: the item {score.item!r} stands twice")
            items[score.item] = (score.value, score.weight)
        for metric in own:
            key = (run.model, run.method, run.fraction)
            _require_theirs(file, metric, found[metric][key][run.seed])
    return found


def _require_theirs(
    file: ItemFile, metric: Metric, items: Mapping[str, tuple[float, float]]
) -> None:
    """Refuse items that do not add up to what their record says."""
    for record in file.records:
        if (record.benchmark, record.metric, record.subset) == (*metric, None):
            _require_sum(record, items, f"{file.path}", "score the answers again")


def require_shown(items: ItemRuns, records: Iterable[Record]) -> None:
    """Refuse items of other answers than the records of a table are of.

    Raises
    ------
    InputError
        When they do not add up to a record.
    """
    for record in records:
        runs = items.get((record.benchmark, record.metric), {})
        seeds = runs.get((record.model, record.method, record.fraction), {})
        if record.seed in seeds:
            where = name_of((record.model, record.method, record.fraction))
            remedy = "join the run's records again (fnsft transfer)"
            _require_sum(record, seeds[record.seed], where, remedy)


def _require_sum(
    record: Record, items: Mapping[str, tuple[float, float]], where: str, remedy: str
) -> None:
    values, weights = (math.fsum(column) for column in zip(*items.values(), strict=True))
    total = values / weights
    if record.metric == PERPLEXITY:
        total = math.exp(total) if total < LARGEST_LOG else math.inf
    if record.n != len(items) or not math.isclose(record.value, total, rel_tol=1e-6):
        raise InputError(
            f"{where}: {record.benchmark} {record.metric}: expected items that add up to the "
            f"record's {record.value:.6g} over {record.n}, found {total:.6g} over {len(items)}; "
            f"{remedy}"
        )


def difference_cells(
    items: ItemRuns, metric: Metric, reference: str, shown: Callable[[Key], bool]
) -> dict[Key, Cell]:
    """Return the differences of one column; those that stand after Holm's correction are marked.

    Of shares they are differences, of perplexities ratios. ``shown`` picks the cells that are
    compared, and so corrected for.

    Raises
    ------
    InputError
        When the reference has several shares p, and when two runs answered different items.
    """
    runs = items.get(metric, {})
    found: dict[Key, Difference] = {}
    for model in dict.fromkeys(key[0] for key in runs):
        standards = {key: of for key, of in runs.items() if key[:2] == (model, reference)}
        if len(standards) > 1:
            raise InputError(
                f"reference: expected one share p of {reference}, which others are compared with, "
                f"found {'; '.join(map(name_of, standards))}; show one, or compare with another"
            )
        standard = next(iter(standards.values()), {})
        pairs = {
            key: pair
            for key, of in runs.items()
            if key[0] == model and key[1] != reference and shown(key)
            for pair in [paired(of, standard, f"{metric[0]}, {name_of(key)} and {reference}")]
            if pair is not None
        }
        found |= zip(pairs, differences(list(pairs.values())), strict=True)
    adjusted = holm([difference.p for difference in found.values()])
    return {
        key: _cell(exponentiated(d) if metric[1] == PERPLEXITY else d, p)
        for (key, d), p in zip(found.items(), adjusted, strict=True)
    }


def _cell(difference: Difference, p: float) -> Cell:
    return Cell(
        value=difference.value,
        uncertainty=None,
        kind="paired",
        n_items=difference.n_items,
        n_seeds=difference.n_seeds,
        mark="differs" if p < SIGNIFICANT else "",
        low=difference.low,
        high=difference.high,
    )
