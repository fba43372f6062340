"""``fnsft answer``: what a model answers to benchmarks; ``fnsft score`` reads it."""

import argparse
import dataclasses
import re
import shutil
import sys
from pathlib import Path

from fnsft.cli.evaluate import forward_mask_of, identity_of
from fnsft.config.settings import FieldType, fields_of, nearest
from fnsft.config.stages import AnswerSettings
from fnsft.config.stages.evaluation import Benchmark
from fnsft.errors import InputError

SETTINGS = AnswerSettings
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the model, the benchmarks and the output."""
    parser.add_argument("--model", type=Path, required=True, help="model or adapter folder")
    parser.add_argument(
        "--benchmark",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "KEY=VALUE"),
        help=f"a benchmark by a name of yours, and its keys ({_keys()}); may be given repeatedly",
    )
    parser.add_argument("--model-name", help="name of a base model (no training.json)")
    parser.add_argument("--output", type=Path, required=True, help="folder of answers")


def _keys() -> str:
    described = []
    for name, field in fields_of(Benchmark).items():
        choices = FieldType.of(field.type).choices
        listing = f" {{{','.join(choices)}}}" if choices else ""
        described.append(f"{name}{listing}: {field.metadata['help']}")
    return "; ".join(described)


def run(arguments: argparse.Namespace, settings: AnswerSettings) -> None:
    """Read all items, load the model once, answer every benchmark, write the folder whole."""
    benchmarks = benchmarks_of(arguments.benchmark)
    identity = identity_of(arguments.model, {"model_name": arguments.model_name})
    forward_mask = forward_mask_of(arguments.model, settings.forward_mask)

    from fnsft.artifacts.answers import AnswersFolder, write_answers
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import require_replaceable, written_whole
    from fnsft.evaluation.answering import answer

    output = arguments.output
    require_replaceable(output)
    if output.is_file():
        raise InputError(f"{output}: expected a folder or none, found a file; name another")
    kept = output.with_name(f".{output.name}.answered")
    with recorded_stage(settings, _inputs(arguments.model, benchmarks), output) as record:
        empty = AnswersFolder(identity, forward_mask, {})
        answers = answer(arguments.model, benchmarks, settings, empty, kept)
        with written_whole(output) as partial:
            partial.mkdir()
            write_answers(partial, answers)
        shutil.rmtree(kept)
        notes = {
            name: dataclasses.asdict(found.benchmark) | {"protocol": found.protocol} | found.counts
            for name, found in answers.answered.items()
        }
        record.note(benchmarks=notes)
    listing = ", ".join(f"{name} {len(found.rows)}" for name, found in answers.answered.items())
    print(f"{output}: {identity.model} {identity.method}: answers to {listing}", file=sys.stderr)


def _inputs(model: Path, benchmarks: dict[str, Benchmark]) -> dict[str, Path]:
    inputs = {"model": model}
    for name, benchmark in benchmarks.items():
        inputs[f"{name} file"] = Path(benchmark.file)
        if benchmark.examples:
            inputs[f"{name} examples"] = Path(benchmark.examples)
    return inputs


def benchmarks_of(given: list[list[str]]) -> dict[str, Benchmark]:
    """Read ``NAME KEY=VALUE …`` words, a benchmark each.

    Raises
    ------
    InputError
        For a name that is none or stands twice, a key that is unknown, missing or stands twice,
        and a value of the wrong type.
    """
    benchmarks: dict[str, Benchmark] = {}
    for name, *words in given:
        if not _NAME.fullmatch(name) or name in benchmarks:
            raise InputError(
                f"benchmark {name!r}: expected a name of letters, digits and . _ - before the "
                "KEY=VALUE words, each name once; rename it"
            )
        where = f"benchmark {name}"
        benchmarks[name] = Benchmark.from_mapping(_mapping(words, where), where)
    return benchmarks


def _mapping(words: list[str], where: str) -> dict[str, object]:
    fields = fields_of(Benchmark)
    mapping: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key in mapping:
            raise InputError(f"{where}: expected KEY=VALUE, each key once, found {word!r}")
        if key not in fields:
            raise InputError(f"{where}: unknown key {key!r}; {nearest(key, list(fields))}")
        mapping[key] = _value(value, FieldType.of(fields[key].type).base)
    required = [n for n, field in fields.items() if field.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in mapping]:
        raise InputError(f"{where}: the key {missing[0]!r} is missing; add {missing[0]}=…")
    return mapping


def _value(text: str, base: type) -> object:
    """Return a whole number or a truth value where one is meant; else the text, to be refused."""
    if base is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    return int(text) if base is int and re.fullmatch(r"-?\d+", text) else text
