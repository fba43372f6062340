"""What a table says of itself in words: every number in it comes from the cells.

Plain text; a writer escapes it for its own format.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from fnsft.reporting.cells import BOUND_IN_WORDS, Cell
from fnsft.reporting.grid import DASH
from fnsft.reporting.labels import counted, label_of
from fnsft.reporting.table import RULES, Rule, Table

LISTED_METHODS = 4  # more that share a kind of uncertainty are called the others
MOST_LISTED = 3  # more that share a number of steps are all but the others


def caption_of(table: Table) -> str:
    """Return the caption: the title that was given, then what was measured."""
    unit = f", in {table.style.unit}" if table.style.unit else ""
    metric = table.settings.metric.replace("_", " ")
    measured = f"{metric} on {table.settings.benchmark}{unit}, task {table.task}."
    return titled(table.settings.title, measured)


def titled(title: str, measured: str) -> str:
    """Put the title that was given before what was measured."""
    words = title.strip().rstrip(".")
    sentence = measured[0].upper() + measured[1:]
    return f"{words}. {sentence}" if words else sentence


def notes_of(table: Table) -> list[str]:
    """Return the notes, each a sentence or a few."""
    notes = _uncertainty(table)
    if any(cell.bound for cell in table.cells.values()):
        notes.append(f"≤, ≥: {BOUND_IN_WORDS}; an average with such a part has no error.")
    notes += [_marks(table), *_averages(table), *_steps(table)]
    missing = missing_cells(table)
    absent = sum(("validation", method) not in table.averages for method in table.columns)
    if missing or absent:
        notes.append(
            f"{DASH}: not measured ({numbered(missing, 'cell')} without a record; "
            f"{numbered(absent, 'average')} without every record and validation)."
        )
    return notes


def missing_cells(table: Table) -> int:
    """Count the cells of models that have no record."""
    return sum(
        (model, method, fraction) not in table.cells
        for model in table.models
        for method in table.columns
        for fraction in table.fractions_of(method)
    )


def _uncertainty(table: Table) -> list[str]:
    groups: dict[str, list[str]] = defaultdict(list)
    for (_, method, _), cell in sorted(
        table.cells.items(), key=lambda entry: table.columns.index(entry[0][1])
    ):
        groups[_kind_in_words(cell)].append(method)
    if len(groups) == 1:
        return [next(iter(groups)).capitalize() + "."]
    *smaller, (most, methods) = sorted(groups.items(), key=lambda group: len(set(group[1])))
    others = "All others" if len(set(methods)) > LISTED_METHODS else _listed(methods)
    return [*(f"{_listed(m)}: {words}." for words, m in smaller), f"{others}: {most}."]


def _kind_in_words(cell: Cell) -> str:
    items = f"{cell.n_items:,} items" if cell.n_items is not None else "items"
    if cell.kind == "seeds":
        return f"mean ± standard error over {cell.n_seeds} seeds, {items} each"
    if cell.kind == "pooled items":
        return f"mean of two seeds ± standard error over {items} (root mean square of the two)"
    return f"one run ± standard error over {items}"


def _marks(table: Table) -> str:
    text = "Bold: best of its block; underlined: second; equal printed values share a mark"
    return f"{text}; controls, behind the rule, do not compete." if table.controls else f"{text}."


def _averages(table: Table) -> list[str]:
    masked = [method for method in table.columns if method in table.masked]
    if len(table.fractions) < 2 or not masked:
        return []
    notes = [f"Average: {RULES['validation']} (lowest loss; marked † in its block)."]
    remarks: dict[Rule, str] = {"mean": "", "test": ", which flatters masked methods"}
    for rule, remark in remarks.items():
        found = [
            f"{label_of(m)} {_with_error(table, table.averages[rule, m])}"
            for m in masked
            if (rule, m) in table.averages
        ]
        if found:
            notes.append(f"Average by {RULES[rule]} instead{remark}: {', '.join(found)}.")
    bound = "± of averages: mean of their parts' standard errors, an upper bound"
    return [*notes, f"{bound} (the parts answer the same items)."]


def _with_error(table: Table, cell: Cell) -> str:
    printed = table.style.printed
    return printed(cell.value) + (
        f" ± {printed(cell.uncertainty)}" if cell.uncertainty is not None else ""
    )


def _steps(table: Table) -> list[str]:
    """State the optimizer steps, which differ between methods (GMT's are fewer)."""
    found: dict[str, list[int]] = defaultdict(list)
    for (_, method, _), cell in table.cells.items():
        if cell.optimizer_steps is not None:
            found[method].append(round(cell.optimizer_steps))
    steps = {method: counted(found[method]) for method in table.columns if method in found}
    return told_by_method("Optimizer steps", steps)


def told_by_method(what: str, found: Mapping[str, str]) -> list[str]:
    """State what the runs of every method have, and of many that share it, who does not."""
    groups: dict[str, list[str]] = defaultdict(list)
    for method, words in found.items():
        groups[words].append(method)
    if len(groups) <= 1:
        return [f"{what} of every run: {words}." for words in groups]
    usual = max(groups, key=lambda words: len(groups[words]))
    if len(groups[usual]) <= MOST_LISTED:
        return [f"{what} a run: {_by_words(groups)}."]
    del groups[usual]
    return [f"{what} of every run: {usual}, but {_by_words(groups)}."]


def _by_words(groups: Mapping[str, Iterable[str]]) -> str:
    return "; ".join(f"{_listed(methods)} {words}" for words, methods in groups.items())


def _listed(methods: Iterable[str]) -> str:
    return ", ".join(label_of(method) for method in dict.fromkeys(methods))


def numbered(n: int, noun: str) -> str:
    """Return a number with its noun, of which one is alone."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
