"""Records of benchmarks as reports of learning and forgetting read them.

Records of raw scores and of ``fnsft transfer`` alike: those of the longest sequence of stages
count, its earlier stages only where the records were joined. A record of stage 0 is the base
model's, whatever run it was joined to.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fnsft.artifacts.records import Record
from fnsft.config.stages import PRIMARY_METRICS, FigureSettings, TableSettings
from fnsft.errors import InputError
from fnsft.reporting.labels import (
    BENCHMARK_LABELS,
    PLUS,
    benchmark_label,
    in_order,
    label_of,
    task_labels,
)
from fnsft.reporting.transfer import BENCHMARK, DRIFT, OTHERS_STAGES

BASE = "base"
PERPLEXITY = "perplexity"
Metric = tuple[str, str]  # benchmark and metric


@dataclass(frozen=True)
class Scores:
    """Scores of the runs of one sequence of tasks, and once a model those of its base.

    Of base models alone there are no ``tasks``. ``labels`` are how benchmarks are called,
    ``task_labels`` how tasks are; ``earlier`` says by method which of its stages others trained.
    """

    tasks: tuple[str, ...]
    models: tuple[str, ...]
    methods: tuple[str, ...]
    base: tuple[Record, ...]
    tuned: tuple[Record, ...]
    labels: Mapping[str, str]
    task_labels: Mapping[str, str]
    earlier: Mapping[str, str]

    def label(self, benchmark: str, metric: str = "") -> str:
        """Return how a benchmark is written."""
        return benchmark_label(benchmark, metric, self.labels)

    def task(self, name: str) -> str:
        """Return how a task is written."""
        return self.task_labels.get(name, name)

    @property
    def trained_on(self) -> str:
        """The tasks, in their order."""
        return ", then ".join(map(self.task, self.tasks))

    @property
    def last(self) -> list[Record]:
        """Records after the last stage; of base models alone theirs."""
        if not self.tasks:
            return list(self.base)
        return [record for record in self.tuned if record.stage == len(self.tasks)]

    def metrics(self, benchmarks: Sequence[str] = (), plus: bool = False) -> list[Metric]:
        """Return what stands for every benchmark: a share, where there is none its perplexity.

        Parameters
        ----------
        benchmarks
            Benchmarks in their order; of none all as they come.
        plus
            Whether EvalPlus's further tests count as a benchmark of their own.

        Raises
        ------
        InputError
            When one of ``benchmarks`` has no such score.
        """
        found = dict.fromkeys((record.benchmark, record.metric) for record in self.last)
        chosen = []
        for benchmark in benchmarks or dict.fromkeys(name for name, _ in found):
            shares = [m for m in PRIMARY_METRICS if (benchmark, m) in found]
            plain = [PERPLEXITY] if (benchmark, PERPLEXITY) in found else []
            further = [PLUS] if plus and (benchmark, PLUS) in found else []
            names = (shares[:1] or plain) + further
            if benchmarks and not names:
                after = f" after {self.tasks[-1]}" if self.tasks else ""
                raise InputError(
                    f"{benchmark}: expected scores{after}, found none; see fnsft score"
                )
            chosen += [(benchmark, name) for name in names]
        return chosen


def scores_of(records: Iterable[Record], settings: TableSettings | FigureSettings) -> Scores:
    """Sort records out for the models and methods of a table or figure.

    Records of subsets, and of models without the mask on their forward pass, are left out.
    Benchmarks and tasks have the settings' labels, else benchmarks their customary ones.

    Raises
    ------
    InputError
        When no run is left (a table of benchmarks may be of base models alone), when runs are of
        sequences that do not continue each other, and when a model has two bases.
    """
    every = list(records)
    shown = [
        record
        for record in every
        if record.subset is None
        and record.forward_mask != "off"
        and record.model in (settings.models or (record.model,))
    ]
    asked = settings.methods + settings.controls if settings.methods else ()
    found = [r for r in shown if r.stage > 0 and r.method in (asked or (r.method,))]
    base = tuple(_bases(record for record in shown if record.stage == 0))
    base_alone = settings.kind == "benchmarks" and {*asked} <= {BASE} and not found and base
    tasks = [] if base_alone else last_sequence(found).split(">")
    tuned = [record for record in found if sequence_of(record) == ">".join(tasks)]
    models = tuple(dict.fromkeys(record.model for record in (tuned or base)))
    methods = asked or in_order(record.method for record in tuned)
    methods = tuple(m for m in methods if m not in settings.controls and m != BASE)
    scores = Scores(
        tasks=tuple(tasks),
        models=tuple(m for m in settings.models if m in models) or models,
        methods=methods,
        base=base,
        tuned=tuple(tuned),
        labels=BENCHMARK_LABELS
        | dict(zip(settings.benchmarks, settings.benchmark_labels, strict=False)),
        task_labels=task_labels(settings),
        earlier=_earlier(every, {record.method for record in tuned}),
    )
    _require_told_apart(scores)
    _require_comparable(scores)
    return scores


def _earlier(records: Iterable[Record], methods: Collection[str]) -> dict[str, str]:
    """Return by method which of its stages others trained, in words."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        if record.metric == OTHERS_STAGES and record.method in methods:
            other = label_of(record.subset or "")
            words = f"{record.value:g} of {record.n} stages are those of {other}"
            found.setdefault(record.method, {})[words] = None
    return {method: ", ".join(words) for method, words in found.items()}


def _require_comparable(scores: Scores) -> None:
    """Refuse scores of one model on several files, and seeds that were asked in several ways."""
    data: dict[tuple[Any, ...], Any] = {}
    protocols: dict[tuple[Any, ...], Any] = {}
    for record in (*scores.base, *scores.tuned):
        of_model = record.model, record.benchmark
        of_cell = (*of_model, record.metric, record.method, record.fraction, record.stage)
        for field, found, key in (
            ("data_sha256", data, of_model),
            ("protocol", protocols, of_cell),
        ):
            mine = getattr(record, field)
            if record.benchmark not in (BENCHMARK, DRIFT) and found.setdefault(key, mine) != mine:
                raise InputError(
                    f"{record.model}, {record.benchmark}: expected one {field} in a column, found "
                    f"{found[key]} and {mine}; answer the same items in the same way"
                )


def _require_told_apart(scores: Scores) -> None:
    """Refuse two benchmarks that one label and metric would make one column of."""
    found: dict[tuple[str, str], str] = {}
    for benchmark, metric in dict.fromkeys((r.benchmark, r.metric) for r in scores.last):
        label = scores.label(benchmark)
        if (other := found.setdefault((label, metric), benchmark)) != benchmark:
            raise InputError(
                f"benchmark_labels: expected {other} and {benchmark}, which have {metric}, told "
                f"apart, found {label} for both"
            )


def last_sequence(records: Sequence[Record]) -> str:
    """Return the sequence that all others lead to."""
    sequences = sorted({sequence_of(record) for record in records}, key=len)
    if not sequences:
        raise InputError(
            "expected records of fine-tuned models, of the models and methods that are asked for, "
            "found none; see fnsft score and fnsft transfer"
        )
    for sequence in sequences:
        if not f"{sequences[-1]}>".startswith(f"{sequence}>"):
            raise InputError(
                f"expected the records of one sequence of tasks, found {sequence} and "
                f"{sequences[-1]}; give one at a time"
            )
    return sequences[-1]


def sequence_of(record: Record) -> str:
    """Return a record's tasks; records from before there were sequences have one task."""
    return record.sequence or record.task


def _bases(records: Iterable[Record]) -> Iterable[Record]:
    """Return every base score once, without the run that it was joined to."""
    names = ("fraction", "lam", "affinity", "applies_to", "mask_mode", "seed", "sequence")
    no_run: dict[str, Any] = dict.fromkeys(names)
    found: dict[tuple[str, str, str], Record] = {}
    for record in records:
        key = (record.model, record.benchmark, record.metric)
        plain = replace(record, method=BASE, **no_run)
        if (first := found.setdefault(key, plain)).value != plain.value:
            raise InputError(
                f"{record.model}: expected one base model, found {record.benchmark} "
                f"{record.metric} {first.value:g} and {plain.value:g}; join all runs to one"
            )
    return found.values()
