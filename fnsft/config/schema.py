"""The JSON schema of a configuration, derived from the dataclasses, and its errors in words.

``python -m fnsft.config.schema`` writes ``workflow/schemas/config.schema.json`` anew; a test
compares the two.
"""

import dataclasses
import difflib
import json
from pathlib import Path
from typing import Any

from fnsft.config.catalogues import (
    BenchmarkEntry,
    FigureEntry,
    GraphEntry,
    LaterStages,
    MeasuresEntry,
    ModelEntry,
    NetworksEntry,
    PaperEntry,
    Selection,
    SequenceEntry,
    SuiteEntry,
    SweepEntry,
    TableEntry,
    TaskEntry,
)
from fnsft.config.settings import FieldType, Settings, fields_of, nearest, range_text
from fnsft.config.stages import (
    AnswerSettings,
    Benchmark,
    CaptureSettings,
    ClusterSettings,
    DescribeSettings,
    DriftSettings,
    EvaluateSettings,
    LesionSettings,
    NetworksSettings,
    OverlapSettings,
    PrepareSettings,
    PretrainSettings,
    ProjectSettings,
    ScoreSettings,
    SimilaritySettings,
    TrainSettings,
    WorldSettings,
)
from fnsft.errors import InputError

JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
NOUNS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
LIMITS = {
    "minimum": "minimum",
    "above": "exclusiveMinimum",
    "maximum": "maximum",
    "below": "exclusiveMaximum",
}


def build_schema() -> dict[str, Any]:
    """Return the schema (JSON Schema 2020-12) of a merged configuration."""
    graph = {"type": "string", "description": "entry of graphs that the method reads (collab)"}
    method = _object("a method's training settings", TrainSettings)
    method["properties"]["graph"] = graph
    method["properties"]["networks"] = {
        "type": "string",
        "description": "entry of networks that mask_mode is about",
    }
    method["properties"]["earlier"] = {
        "type": "string",
        "description": "entry of methods for the stages before the last one of a sequence",
    }
    method["properties"]["calibration"] = {
        "type": "string",
        "description": "entry of tasks whose samples ssu protects in a first stage",
    }
    benchmark = _object("a benchmark", Benchmark, BenchmarkEntry)
    properties = {
        "experiment": {"type": "string", "description": "folder below results/"},
        "data_dir": {"type": "string", "description": "folder of the tasks' files"},
        "run": _object("what the experiment covers", Selection),
        "models": _catalogue("base models", _object("a base model", ModelEntry)),
        "tasks": _catalogue("data sets", _object("a data set", TaskEntry, PrepareSettings)),
        "benchmarks": _catalogue("benchmarks", benchmark),
        "suites": _catalogue("suites of benchmarks", _object("a suite", SuiteEntry)),
        "sequences": _catalogue("sequences of stages", _object("a sequence", SequenceEntry)),
        "methods": _catalogue("methods", method),
        "graphs": _catalogue(
            "collaboration graphs", _object("a graph", GraphEntry, ProjectSettings)
        ),
        "networks": _catalogue(
            "functional networks", _object("networks", NetworksEntry, NetworksSettings)
        ),
        "tables": _catalogue("tables", _object("a table", TableEntry, Selection)),
        "figures": _catalogue("figures", _object("a figure", FigureEntry, Selection)),
        "paper": _object("what results/paper.pdf holds", PaperEntry),
        "training": _object("every run's settings, unless a method has its own", TrainSettings),
        "capture": _object("activation dumps", CaptureSettings),
        "clustering": _object("spectral clusters", ClusterSettings),
        "measures": _object("measures of graphs", MeasuresEntry),
        "overlap": _object("what the graph changes about a mask", OverlapSettings),
        "descriptions": _object("descriptions of neurons", DescribeSettings),
        "similarity": _object("whether neighbours are described alike", SimilaritySettings),
        "lesions": _object("lesions of networks", LesionSettings),
        "evaluation": _object("evaluation", EvaluateSettings),
        "answers": _object("answers to benchmarks", AnswerSettings),
        "scoring": _object("scores of answers", ScoreSettings),
        "drift": _object("distance to a stage's first model", DriftSettings),
        "later_stages": _object("what changes after a sequence's first stage", LaterStages),
        "sweep": _object("learning-rate sweep", SweepEntry),
        "world": _object("the synthetic world", WorldSettings),
        "pretrain": _object("the tiny base model", PretrainSettings),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fnsft experiment",
        "description": "Made by python -m fnsft.config.schema from the dataclasses.",
        "type": "object",
        "properties": properties,
        "required": ["experiment", "run", "models", "tasks", "methods", "tables", "figures"],
        "additionalProperties": False,
    }


def validate(config: dict[str, Any]) -> None:
    """Refuse a configuration that the schema does not allow, naming the nearest known key."""
    import jsonschema

    validator = jsonschema.Draft202012Validator(build_schema())
    errors = sorted(validator.iter_errors(config), key=lambda error: list(map(str, error.path)))
    if errors:
        raise InputError(_in_words(errors[0]))


def _in_words(error: Any) -> str:
    where = ".".join(map(str, error.path)) or "configuration"
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        key = next(k for k in error.instance if k not in known)
        return f"{where}: unknown key {key!r}; {nearest(key, known)}"
    if error.validator == "required":
        return f"{where}: {error.message}"
    found = f"found {error.instance!r}"
    if error.validator == "enum":
        choices = [choice for choice in error.validator_value if choice is not None]
        near = difflib.get_close_matches(str(error.instance), choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{where}: expected one of {', '.join(choices)}, {found}{hint}"
    if error.validator == "type":
        kinds = error.validator_value
        nouns = [NOUNS[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds)]
        return f"{where}: expected {' or '.join(nouns)}, {found}"
    ends = {keyword: end for end, keyword in LIMITS.items()}
    limit = range_text({ends[error.validator]: error.validator_value})
    return f"{where}: expected a number {limit}, {found}"


def _catalogue(description: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "description": description, "additionalProperties": entry}


def _object(description: str, *classes: type[Settings]) -> dict[str, Any]:
    properties = {
        name: _property(field) for cls in classes for name, field in fields_of(cls).items()
    }
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "additionalProperties": False,
    }


def _property(field: dataclasses.Field[Any]) -> dict[str, Any]:
    kind = FieldType.of(field.type)
    item: dict[str, Any] = {"type": JSON_TYPES[kind.base]}
    if kind.base is float:
        # YAML 1.1 reads 1e-4 as a string; the dataclass casts it.
        item["type"] = ["number", "string"]
    if kind.choices:
        item["enum"] = [*kind.choices, None] if kind.optional else list(kind.choices)
    item |= {LIMITS[end]: limit for end, limit in field.metadata["limits"].items()}
    if kind.many:
        item = {"type": "array", "items": item}
    if kind.optional:
        item["type"] = [
            *([item["type"]] if isinstance(item["type"], str) else item["type"]),
            "null",
        ]
    item["description"] = field.metadata["help"]
    if field.default is not dataclasses.MISSING:
        item["default"] = list(field.default) if kind.many else field.default
    return item


def schema_text() -> str:
    """Return the schema as it is committed."""
    return json.dumps(build_schema(), indent=1) + "\n"


if __name__ == "__main__":
    Path("workflow/schemas/config.schema.json").write_text(schema_text())
