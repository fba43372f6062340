"""``fnsft evaluate``: accuracy, perplexity and recall of one model, as metric records."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fnsft.config.settings import flag_of
from fnsft.config.stages import EvaluateSettings
from fnsft.errors import InputError

if TYPE_CHECKING:
    from fnsft.artifacts.training import Run
    from fnsft.evaluation.own_rows import OwnRows

SETTINGS = EvaluateSettings
BENCHMARKS = ("gsm8k", "exact", "cloze", "perplexity")
PREPARED = ("gsm8k", "exact", "perplexity")


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the model, the benchmarks' files and the output."""
    parser.add_argument("--model", type=Path, required=True, help="model or adapter folder")
    parser.add_argument("--gsm8k", type=Path, help="prepared split whose problems are answered")
    parser.add_argument(
        "--exact", type=Path, help="prepared split; an answer is right when it is the completion"
    )
    parser.add_argument("--cloze", type=Path, help="prompts with choices, an answer, a subject")
    parser.add_argument("--perplexity", type=Path, help="prepared split whose loss is taken")
    own = parser.add_argument_group("rows that are not prepared")
    own.add_argument(
        "--rows",
        type=Path,
        help="rows in a file or folder (.json, .jsonl, .csv, .parquet, …; of several splits test), "
        "written as the model was trained: their perplexity, and answers with --score",
    )
    own.add_argument("--preset", metavar="NAME|FILE", help="how the rows of a task are read")
    own.add_argument("--columns", metavar="TEXT", help="fields, such as prompt=q,completion=a")
    own.add_argument(
        "--score",
        choices=("none", "number", "exact"),
        help="how answers are scored: not, the number after ####, or the whole text (default: "
        "the preset's, else none)",
    )
    parser.add_argument("--model-name", help="name of a base model (no training.json)")
    parser.add_argument("--task", help="task that a base model stands beside")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="records, .jsonl; answers go beside it, to <stem>.generations.jsonl",
    )


def run(arguments: argparse.Namespace, settings: EvaluateSettings) -> None:
    """Load the model once, measure every benchmark that was given, write the records."""
    files = {name: getattr(arguments, name) for name in BENCHMARKS}
    files = {name: path for name, path in files.items() if path is not None}
    if not files and arguments.rows is None:
        listing = ", ".join(f"--{name}" for name in (*BENCHMARKS, "rows"))
        raise InputError(f"expected at least one of {listing}, found none")
    _require_apart(arguments)
    names = {"model_name": arguments.model_name, "task": arguments.task}
    identity = identity_of(arguments.model, names)
    forward_mask = forward_mask_of(arguments.model, settings.forward_mask)

    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.records import Record, write_records
    from fnsft.artifacts.storage import write_jsonl
    from fnsft.evaluation.suite import evaluate

    inputs = {"model": arguments.model} | files
    if arguments.rows is not None:
        inputs["rows"] = arguments.rows
    if arguments.preset and Path(arguments.preset).is_file():
        inputs["preset"] = Path(arguments.preset)
    with recorded_stage(settings, inputs, arguments.output) as record:
        rows = _own_rows(arguments)
        if rows is not None:
            print(*rows.lines, sep="\n", file=sys.stderr)
            record.note(preset=arguments.preset, **rows.notes)
        result = evaluate(arguments.model, files, settings, rows)
        if result.answers:
            answers = arguments.output.with_name(f"{arguments.output.stem}.generations.jsonl")
            write_jsonl(answers, result.answers)
        records = [Record.of(identity, m, forward_mask) for m in result.measurements]
        write_records(arguments.output, records)
        record.note(**result.counts)
    whole = [m for m in result.measurements if m.subset is None]
    listing = ", ".join(f"{m.benchmark} {m.metric} {m.value:.4g}" for m in whole)
    print(f"{arguments.output}: {identity.model} {identity.method}: {listing}", file=sys.stderr)


def _require_apart(arguments: argparse.Namespace) -> None:
    """Refuse prepared splits beside raw rows, flags of raw rows without any, rows as output."""
    output, rows = arguments.output, arguments.rows
    if rows is not None and output.resolve() == rows.resolve():
        raise InputError(f"{output}: expected another file than --rows; name another output")
    for name in PREPARED if rows is not None else ("preset", "columns", "score"):
        if getattr(arguments, name) is not None:
            found = "with" if rows is not None else "without"
            what = "a prepared split" if name in PREPARED else "rows that are not prepared"
            raise InputError(f"--{name}: is about {what}, found {found} --rows; leave it off")


def _own_rows(arguments: argparse.Namespace) -> "OwnRows | None":
    """Return the rows that are not prepared, written for the model, if there are any."""
    if arguments.rows is None:
        return None
    from fnsft.config.presets import TaskPreset
    from fnsft.evaluation.own_rows import read_own_rows

    preset = TaskPreset.read(arguments.preset) if arguments.preset else None
    columns, score = arguments.columns or "", arguments.score
    return read_own_rows(arguments.rows, arguments.model, preset, columns, score)


def identity_of(model: Path, names: dict[str, str | None]) -> "Run":
    """Return who the model is: from its ``training.json``, else a base model's given names.

    ``names`` are the values of the flags ``model_name`` and, of a stage that has it, ``task``.
    """
    from fnsft.artifacts.storage import existing
    from fnsft.artifacts.training import FILE_NAME, Run, read_training

    flags = " and ".join(map(flag_of, names))
    if (existing(model) / FILE_NAME).is_file():
        if any(names.values()):
            raise InputError(f"{model}: {FILE_NAME} there names the run; leave {flags} out")
        return read_training(model).run
    if not all(names.values()):
        raise InputError(f"{model}: no {FILE_NAME}, so this is a base model: give {flags}")
    return Run(model=names["model_name"] or "", task=names.get("task") or "", method="base")


def forward_mask_of(model: Path, wanted: Literal["on", "off"]) -> Literal["on", "off"] | None:
    """Return what records say of a model's mask on its forward pass; None when it has none."""
    from fnsft.artifacts.forward_masks import FILE, read_forward_mask

    mask = read_forward_mask(model)
    if mask is None and wanted == "off":
        raise InputError(
            f"{model}: expected {FILE}, of a model that was trained with a mask on its "
            "forward pass, found none; leave --forward-mask out"
        )
    return None if mask is None else wanted
