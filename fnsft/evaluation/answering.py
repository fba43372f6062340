"""All benchmarks that one model answers; it is loaded once, when all items have been read."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from fnsft.artifacts.answers import (
    Answered,
    AnswersFolder,
    data_sha256_of,
    read_answers,
    versions_of,
    write_answers,
)
from fnsft.artifacts.prompt_formats import read_prompt_format
from fnsft.artifacts.storage import sampled_sha256_of, written_whole
from fnsft.artifacts.training import FILE_NAME
from fnsft.config.stages.evaluation import AnswerSettings, Benchmark
from fnsft.data.tokens import Encoder, load_tokenizer, positions_of, stop_ids_of
from fnsft.errors import InputError
from fnsft.evaluation.benchmarks import kind_of
from fnsft.evaluation.benchmarks.contract import Answers, Subject
from fnsft.evaluation.generators import generator_of
from fnsft.evaluation.loading import load_model
from fnsft.training.merging import adapter_base

_PACKAGES = ("torch", "transformers")


def answer(
    folder: Path,
    benchmarks: Mapping[str, Benchmark],
    settings: AnswerSettings,
    empty: AnswersFolder,
    kept: Path,
) -> AnswersFolder:
    """Answer benchmarks with the model in a folder.

    Every kind is asked twice. The first time, without a model, it comes as far as its first
    question, so that bad items of the last benchmark show before the first one is answered.

    Parameters
    ----------
    empty
        Who the model is, without answers.
    kept
        Folder that each benchmark's answers go to as they are there, and from which an
        interrupted run takes them again. The caller removes it.

    Raises
    ------
    InputError
        For items that cannot be read, in a line that names the benchmark.
    """
    unloaded = _subject(folder, settings)
    for name, benchmark in benchmarks.items():
        _answers(unloaded, name, benchmark)
    hashes = {name: data_sha256_of(benchmark) for name, benchmark in benchmarks.items()}
    of_model = _digest([dataclasses.asdict(settings), settings.version, *_hashes(folder)])
    places = {
        name: kept / _digest([of_model, name, dataclasses.asdict(benchmark), hashes[name]])
        for name, benchmark in benchmarks.items()
    }
    if missing := [name for name, place in places.items() if not place.is_dir()]:
        subject = _loaded(unloaded)
        for name in missing:
            found = _answers(subject, name, benchmarks[name])
            assert found is not None
            versions = versions_of((*_PACKAGES, *found.packages))
            made = Answered(
                benchmarks[name], found.protocol, hashes[name], versions, found.counts, found.rows
            )
            with written_whole(places[name], replace=True) as partial:
                partial.mkdir()
                write_answers(partial, dataclasses.replace(empty, answered={name: made}))
    answered = {name: read_answers(place).answered[name] for name, place in places.items()}
    return dataclasses.replace(empty, answered=answered)


def _hashes(folder: Path) -> list[str]:
    """Return what tells the model in a folder, and what it runs on, from others."""
    folders = [folder, adapter_base(folder)]
    return [*(sampled_sha256_of(x) for x in folders if x is not None), versions_of(_PACKAGES)]


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _subject(folder: Path, settings: AnswerSettings) -> Subject:
    """Return all of a subject but its model."""
    tokenizer = load_tokenizer(folder)
    base = adapter_base(folder) or folder
    return Subject(
        folder=folder,
        model=cast(Any, _Unloaded()),
        tokenizer=tokenizer,
        encoder=Encoder.of(tokenizer, stop_ids_of(base)),
        generator=cast(Any, _Unloaded()),
        settings=settings,
        format=read_prompt_format(folder),
        positions=positions_of(base),
        tuned=(folder / FILE_NAME).is_file(),
    )


def _loaded(subject: Subject) -> Subject:
    settings = subject.settings
    model = load_model(subject.folder, settings.dtype, settings.forward_mask)
    generator = generator_of(settings.backend, model, subject.tokenizer, settings.batch_size)
    return dataclasses.replace(subject, model=model, generator=generator)


def _answers(subject: Subject, name: str, benchmark: Benchmark) -> Answers | None:
    """Return the answers to a benchmark; None as soon as a model that is not loaded is needed."""
    try:
        return kind_of(benchmark.kind).answers(subject, benchmark)
    except _ModelNeeded:
        return None
    except InputError as error:
        raise InputError(f"benchmark {name}: {error}") from None


class _ModelNeeded(BaseException):
    """Nothing that a kind would catch by chance."""


class _Unloaded:
    """Stands for a model or a generator that is loaded later."""

    def __getattr__(self, name: str) -> NoReturn:
        raise _ModelNeeded

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise _ModelNeeded
