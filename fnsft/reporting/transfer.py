"""What a sequence of stages learned and forgot: its score matrix, and the records of one run.

T stages, stage j of task j. ``matrix`` R is [T + 1, T]: row i the scores after stage i, row 0
those of the base model; column j − 1 those of task j.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from fnsft.artifacts.records import Measurement, Record
from fnsft.config.stages import PRIMARY_METRICS
from fnsft.errors import InputError

BENCHMARK, DRIFT = "continual", "drift"  # benchmarks of numbers that are no scores of items
OTHERS_STAGES = "others_stages"  # how many stages another method trained; the subset is its name
IDENTITY = ("model", "method", "fraction", "lam", "affinity", "applies_to", "mask_mode", "seed")
Key = tuple[str, str, str | None, str | None]  # benchmark, metric, subset, forward mask


@dataclass(frozen=True)
class Transfer:
    """One run's records as a table reads them, and why a measure is not among them."""

    records: list[Record]
    tasks: tuple[str, ...]
    left_out: list[str]
    other_base_protocols: list[str]


def continual_measures(matrix: np.ndarray) -> dict[str, tuple[float, int]]:
    """Return the four measures of a score matrix [T + 1, T], each with its number of terms.

    Notes
    -----
    average_accuracy = mean_j R[T, j]; backward_transfer = mean_{j<T} (R[T, j] − R[j, j]);
    forward_transfer = mean_{j≥2} (R[j−1, j] − R[0, j]) (Lopez-Paz and Ranzato 2017, whose own
    forward transfer starts from a random initialisation: here from the base model); forgetting =
    mean_{j<T} (max_{1≤i<T} R[i, j] − R[T, j]) (Chaudhry et al. 2018: the base model is no stage,
    so that what fine-tuning never improved on is no forgetting). With one stage the first alone.
    """
    n = matrix.shape[1]
    found = {"average_accuracy": (float(matrix[n].mean()), n)}
    if n == 1:
        return found
    stages = np.arange(n)
    own, before = matrix[stages + 1, stages], matrix[stages, stages]
    earlier = {
        "backward_transfer": matrix[n, :-1] - own[:-1],
        "forward_transfer": before[1:] - matrix[0, 1:],
        "forgetting": matrix[1:n, :-1].max(axis=0) - matrix[n, :-1],
    }
    return found | {name: (float(terms.mean()), n - 1) for name, terms in earlier.items()}


def transfer(
    base: Iterable[Record], stages: Sequence[Sequence[Record]], drift: Iterable[Record]
) -> Transfer:
    """Join the records of a base model, of one run's stages in order, and of their drift.

    Parameters
    ----------
    stages
        Records by file; files of one stage follow each other.

    Raises
    ------
    InputError
        When the files are not stages 1 to T of one model and seed, when a stage asked a
        benchmark in another way than the next one or on other items, when one lacks what another
        has, when drift is that of another run, or when a measurement stands twice.

    Notes
    -----
    Measures that start from the base model are left out where it was asked in another way. Of
    stages that another method trained, one record tells how many, since all records are put under
    the last stage's method.
    """
    by_stage = [list(base), *_in_order(stages)]
    if any(record.stage for record in by_stage[0]) or not by_stage[0]:
        raise InputError("base: expected records of a model that was not fine-tuned (stage 0)")
    last = by_stage[-1][0]
    tasks = tuple(records[0].task for records in by_stage[1:])
    drifts = list(drift)
    for record in by_stage[0]:
        _require_same(record, last, ("model",))
    _check_drift(drifts, by_stage)
    measured = [_measured(records) for records in by_stage]
    other_protocols = _check_protocols(measured)
    found, left_out = _measures(measured, tasks, other_protocols)
    found += _others_stages([records[0].method for records in by_stage[1:]])
    sequence = ">".join(tasks)
    identity = {name: getattr(last, name) for name in IDENTITY} | {"sequence": sequence}
    unknown: dict[str, Any] = dict.fromkeys(("measures", "protocol", "data_sha256", "versions"))
    own = [dataclasses.replace(last, **unknown, **vars(measurement)) for measurement in found]
    passed = [record for records in by_stage for record in records]
    records = [dataclasses.replace(r, **identity) for r in (*passed, *drifts, *own)]
    return Transfer(records, tasks, left_out, other_protocols)


def _in_order(files: Sequence[Sequence[Record]]) -> list[list[Record]]:
    """Join the files of every stage; they must be stages 1, 2, …, T of one run."""
    every = [record for records in files for record in records]
    found = [list(members) for _, members in groupby(every, key=lambda record: record.stage)]
    numbers = [records[0].stage for records in found]
    if not all(files) or numbers != list(range(1, len(found) + 1)):
        listed = ", ".join(map(str, numbers)) + (", and an empty file" if not all(files) else "")
        raise InputError(f"stages: expected files of the stages 1, 2, … in order, found {listed}")
    tasks = [records[0].task for records in found]
    for stage, records in enumerate(found, start=1):
        for record in records:
            _require_same(record, every[-1], ("model", "seed"))
            _require_of_stage("stages", record, records[0], tasks[:stage])
    return found


def _check_drift(drifts: Iterable[Record], by_stage: Sequence[Sequence[Record]]) -> None:
    """Refuse drift of another run than the stages are of, and what stands twice."""
    tasks = [records[0].task for records in by_stage[1:]]
    for stage, found in groupby(sorted(drifts, key=lambda r: r.stage), key=lambda r: r.stage):
        if not 1 <= stage <= len(tasks):
            raise InputError(
                f"drift: expected records of the stages 1 to {len(tasks)}, found stage {stage}"
            )
        for record in _measured(found).values():
            _require_of_stage("drift", record, by_stage[stage][0], tasks[:stage])
            if "since=any" in (record.protocol or "").split():
                raise InputError(
                    f"drift: expected the distance of stage {stage} from the model that it began "
                    "with, found one from any (--since any); measure it with --since stage"
                )


def _require_of_stage(where: str, record: Record, first: Record, tasks: Sequence[str]) -> None:
    _require_same(record, first, (*IDENTITY, "task"))
    if record.sequence not in (None, expected := ">".join(tasks)):
        raise InputError(
            f"{where}: stage {record.stage} is the end of {record.sequence}, expected {expected}; "
            "give the stages of one run"
        )


def _others_stages(methods: Sequence[str]) -> list[Measurement]:
    others = [method for method in methods if method != methods[-1]]
    return [
        Measurement(BENCHMARK, OTHERS_STAGES, float(others.count(m)), None, len(methods), m)
        for m in dict.fromkeys(others)
    ]


def _require_same(record: Record, other: Record, fields: Iterable[str]) -> None:
    for field in fields:
        mine, others = getattr(record, field), getattr(other, field)
        if mine != others:
            raise InputError(
                f"{field}: expected one for all records of a run, found {mine} (stage "
                f"{record.stage}, {record.method}) and {others} (stage {other.stage}, "
                f"{other.method})"
            )


def _measured(records: Iterable[Record]) -> dict[Key, Record]:
    found: dict[Key, Record] = {}
    for record in records:
        key = (record.benchmark, record.metric, record.subset, record.forward_mask)
        if key in found:
            raise InputError(
                f"{record.benchmark} {record.metric}: expected one record of stage "
                f"{record.stage}, found two; name each file once"
            )
        found[key] = record
    return found


def _check_protocols(measured: Sequence[Mapping[Key, Record]]) -> list[str]:
    """Refuse stages that were asked differently; return where only the base model was."""
    others = []
    last = {record.benchmark: record for record in measured[-1].values()}
    for stage, records in enumerate(measured):
        for record in {record.benchmark: record for record in records.values()}.values():
            if (end := last.get(record.benchmark)) is None:
                continue
            for field in ("data_sha256", "protocol"):
                mine, its = getattr(record, field), getattr(end, field)
                if mine == its:
                    continue
                if field == "protocol" and stage == 0:
                    others.append(record.benchmark)
                    continue
                raise InputError(
                    f"{record.benchmark}: {field}: expected that of stage {end.stage}, {its}; "
                    f"found {mine} at stage {stage}; score every stage in one way"
                )
        for key, record in records.items():
            whole = record.subset is None and record.benchmark not in others
            if whole and key in measured[-1] and record.n != (n := measured[-1][key].n):
                raise InputError(
                    f"{record.benchmark} {record.metric}: expected the {n} items of stage "
                    f"{measured[-1][key].stage}, found {record.n} at stage {stage}; answer as many "
                    "after every stage (limit)"
                )
    return others


def _measures(
    measured: Sequence[Mapping[Key, Record]], tasks: Sequence[str], asked_otherwise: Sequence[str]
) -> tuple[list[Measurement], list[str]]:
    """Return what can be measured, and in words what cannot.

    ``asked_otherwise`` names benchmarks whose score of the base model is not comparable.
    """
    scores = [
        {
            record.benchmark: record
            for record in records.values()
            if record.metric in PRIMARY_METRICS
            and record.subset is None
            and record.forward_mask != "off"
        }
        for records in measured
    ]
    for stage, found in enumerate(scores):
        if missing := sorted(set().union(*scores) - set(found)):
            raise InputError(
                f"{missing[0]}: expected a score of every stage, found none at stage {stage}; "
                "score it there too, or leave it out everywhere"
            )
    of_task = [[b for b, r in scores[-1].items() if r.measures == task] for task in tasks]
    others = [b for b, r in scores[-1].items() if r.measures not in tasks]
    results, left_out = [], []
    if without := [task for task, found in zip(tasks, of_task, strict=True) if not found]:
        left_out.append(f"average accuracy, transfer, forgetting: no share for {without[0]}")
    else:
        matrix = np.array(
            [[statistics.fmean(s[b].value for b in names) for names in of_task] for s in scores]
        )
        four = continual_measures(matrix)
        later = [b for names in of_task[1:] for b in names if b in asked_otherwise]
        if later:
            del four["forward_transfer"]
            left_out.append(_no_base("forward transfer", later))
        results += [
            Measurement(BENCHMARK, name, value, None, n) for name, (value, n) in four.items()
        ]
    if changed := [b for b in others if b in asked_otherwise]:
        left_out.append(_no_base("general retention", changed))
    elif others:
        change = statistics.fmean(scores[-1][b].value - scores[0][b].value for b in others)
        results.append(Measurement(BENCHMARK, "general_retention", change, None, len(others)))
    else:
        left_out.append("general retention: no benchmark that no stage trained on")
    return results, left_out


def _no_base(measure: str, benchmarks: Iterable[str]) -> str:
    return f"{measure}: the base model was asked in another way, {', '.join(benchmarks)}"
