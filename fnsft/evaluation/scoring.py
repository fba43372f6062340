"""Scores of a folder of answers: records, and the items behind them."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from fnsft.artifacts.answers import Answered, AnswersFolder, data_sha256_of, rows_path, versions_of
from fnsft.artifacts.records import Record
from fnsft.config.settings import nearest
from fnsft.config.stages.evaluation import CODE_KINDS, Benchmark, ScoreSettings
from fnsft.errors import InputError
from fnsft.evaluation.benchmarks import kind_of
from fnsft.evaluation.benchmarks.contract import Scores, Scoring, named


def with_data(answers: AnswersFolder, moved: Mapping[str, Path]) -> dict[str, Benchmark]:
    """Return the benchmarks, of which those of code have tests in files that are read again.

    Parameters
    ----------
    moved
        Where the files of benchmarks are now, if they are not where they were.

    Raises
    ------
    InputError
        For a benchmark that was not answered or needs no file, and for a file that is not there
        or not the one that was answered.
    """
    answered = answers.answered
    for name in moved:
        if name not in answered:
            raise InputError(f"data: no benchmark {name!r}; {nearest(name, list(answered))}")
        if answered[name].benchmark.kind not in CODE_KINDS:
            raise InputError(
                f"data {name}: expected a benchmark of code, whose tests are read again, found "
                f"{answered[name].benchmark.kind}; leave it off"
            )
    return {name: _with_file(name, found, moved.get(name)) for name, found in answered.items()}


def _with_file(name: str, answered: Answered, moved: Path | None) -> Benchmark:
    benchmark = answered.benchmark
    if benchmark.kind not in CODE_KINDS:
        return benchmark
    if moved is not None:
        benchmark = dataclasses.replace(benchmark, file=str(moved))
    if not Path(benchmark.file).exists():
        raise InputError(
            f"{benchmark.file}: no such file, whose tests {name} needs; say where it is with "
            f"--data {name}=FILE"
        )
    if data_sha256_of(benchmark) != answered.data_sha256:
        raise InputError(
            f"{benchmark.file}: expected the file that {name} was answered from, found another "
            "(its sha256 differs); give the former with --data, or answer anew"
        )
    return benchmark


def scored(
    folder: Path,
    answers: AnswersFolder,
    benchmarks: Mapping[str, Benchmark],
    settings: ScoreSettings,
) -> Iterator[tuple[str, Scores]]:
    """Yield the name and the scores of one benchmark after the other."""
    for name, benchmark in benchmarks.items():
        rows = answers.answered[name].rows
        where = Scoring(settings, str(rows_path(folder, name)))
        yield name, named(kind_of(benchmark.kind).scores(rows, benchmark, where), name)


def records_of(answers: AnswersFolder, name: str, scores: Scores) -> list[Record]:
    """Return a benchmark's measurements as records, with what they were made of."""
    answered = answers.answered[name]
    return [
        Record.of(
            answers.run,
            measurement,
            answers.forward_mask,
            measures=answered.benchmark.measures,
            protocol=answered.protocol,
            data_sha256=answered.data_sha256,
            versions=versions_of(scores.packages, answered.versions),
        )
        for measurement in scores.measurements
    ]
