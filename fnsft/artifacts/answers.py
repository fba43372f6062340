"""A folder of a model's answers: ``benchmarks.json`` and, of each benchmark, ``<name>.jsonl``."""

import dataclasses
import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fnsft.artifacts.rows import numbered_rows, typed_row
from fnsft.artifacts.storage import existing, read_json, sha256_of, write_json, write_jsonl
from fnsft.artifacts.training import Run
from fnsft.config.stages.evaluation import Benchmark
from fnsft.errors import InputError

SCHEMA = 1
FILE_NAME = "benchmarks.json"


@dataclass(frozen=True)
class Answered:
    """One benchmark as a model answered it.

    ``protocol`` says how its items were asked and will be read; ``data_sha256`` is that of its
    file and, behind a +, of its examples; ``versions`` are such as ``torch 2.13.0, evalplus
    0.3.1``. ``rows`` are JSON objects with an ``item`` each.
    """

    benchmark: Benchmark
    protocol: str
    data_sha256: str
    versions: str
    counts: dict[str, int]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class AnswersFolder:
    """The answers of one model by benchmarks' names; ``forward_mask`` as in its records."""

    run: Run
    forward_mask: Literal["on", "off"] | None
    answered: dict[str, Answered]


def rows_path(folder: Path, name: str) -> Path:
    """Return where the rows of a benchmark lie."""
    return folder / f"{name}.jsonl"


def write_answers(folder: Path, answers: AnswersFolder) -> None:
    """Write the answers into a folder that is there; ``benchmarks.json`` comes last."""
    described = {}
    for name, answered in answers.answered.items():
        path = rows_path(folder, name)
        write_jsonl(path, answered.rows)
        described[name] = {
            "benchmark": dataclasses.asdict(answered.benchmark),
            "protocol": answered.protocol,
            "data_sha256": answered.data_sha256,
            "versions": answered.versions,
            "counts": answered.counts,
            "rows": len(answered.rows),
            "rows_sha256": sha256_of(path),
        }
    write_json(
        folder / FILE_NAME,
        {
            "schema": SCHEMA,
            "run": dataclasses.asdict(answers.run),
            "forward_mask": answers.forward_mask,
            "benchmarks": described,
        },
    )


def read_answers(folder: Path) -> AnswersFolder:
    """Read a folder of answers.

    Raises
    ------
    InputError
        For a folder that holds none, of another schema, and for rows that are not those which
        were written.
    """
    path = existing(folder) / FILE_NAME
    if not path.is_file():
        raise InputError(
            f"{folder}: expected answers with a {FILE_NAME}, found none; make them with fnsft "
            "answer"
        )
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise InputError(f"{path}: expected answers of schema {SCHEMA}; answer anew")
    try:
        return AnswersFolder(
            typed_row(Run, found["run"], f"{path}: run"),
            found["forward_mask"],
            {name: _read(folder, name, about) for name, about in found["benchmarks"].items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected answers, found damage ({error}); answer anew") from None


def _read(folder: Path, name: str, about: Mapping[str, Any]) -> Answered:
    path = rows_path(folder, name)
    if sha256_of(existing(path)) != about["rows_sha256"]:
        raise InputError(
            f"{path}: expected the {about['rows']} answers that {FILE_NAME} describes, found "
            "others, or a part; answer anew"
        )
    return Answered(
        benchmark=Benchmark.from_mapping(about["benchmark"], f"{folder / FILE_NAME}: {name}"),
        protocol=about["protocol"],
        data_sha256=about["data_sha256"],
        versions=about["versions"],
        counts=about["counts"],
        rows=[row for _, row in numbered_rows(path)],
    )


def data_sha256_of(benchmark: Benchmark) -> str:
    """Hash the file of a benchmark and, behind a +, its examples."""
    files = [benchmark.file, *([benchmark.examples] if benchmark.examples else [])]
    return "+".join(sha256_of(existing(Path(file))) for file in files)


def versions_of(packages: Iterable[str], *earlier: str) -> str:
    """Return packages and versions such as ``torch 2.13.0``, behind those that came earlier."""
    words = [word for text in earlier if text for word in text.split(", ")]
    words += [f"{package} {importlib.metadata.version(package)}" for package in packages]
    return ", ".join(dict.fromkeys(words))
