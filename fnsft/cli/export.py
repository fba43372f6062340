"""``fnsft export``: a tuned model for others, as all of its weights or as what changed."""

import argparse
import sys
from pathlib import Path

from fnsft.config.stages import ExportSettings, MergeSettings
from fnsft.errors import InputError

SETTINGS = ExportSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the tuned model, its base and the output."""
    parser.add_argument("model", type=Path, metavar="FOLDER", help="tuned model or adapter")
    parser.add_argument("--output", type=Path, required=True, help="folder of the export")
    parser.add_argument(
        "--base",
        help="folder or hub name of the base: required for a delta; for an adapter, instead of "
        "the one that it names",
    )


def run(arguments: argparse.Namespace, settings: ExportSettings) -> None:
    """Write the chosen format."""
    if settings.format == "delta":
        write_difference(arguments, settings)
    else:
        write_safetensors(arguments, settings, settings.max_shard_gib)


def write_safetensors(
    arguments: argparse.Namespace,
    settings: ExportSettings | MergeSettings,
    shard_gib: float = ExportSettings.max_shard_gib,
) -> None:
    """Write plain weights, with what lies beside them merged, and say what was written."""
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import existing
    from fnsft.training.merging import write_plain

    inputs = {"model": existing(arguments.model)}
    with recorded_stage(settings, inputs, arguments.output) as record:
        done = write_plain(
            arguments.model, arguments.output, arguments.base, settings.dtype, shard_gib
        )
        record.note(merged=list(done.parts), parameters=done.n_parameters)
    merged = f", with the {' and the '.join(done.parts)} merged" if done.parts else ""
    print(
        f"{arguments.output}: {done.n_parameters:,} parameters in {done.dtype}{merged}",
        file=sys.stderr,
    )


def write_difference(arguments: argparse.Namespace, settings: ExportSettings) -> None:
    """Write the changed entries, and say how many they are."""
    from fnsft.artifacts.deltas import write_delta
    from fnsft.artifacts.identity import ADAPTER
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import existing, require_elsewhere, size_in_words
    from fnsft.artifacts.weights import open_weights
    from fnsft.hub.models import local_model

    tuned = existing(arguments.model)
    if (tuned / ADAPTER).is_file():
        raise InputError(
            f"{tuned}: expected a model, found an adapter, which is smaller than a delta; pass it "
            "on with fnsft push, or merge it first"
        )
    if arguments.base is None or settings.dtype is not None:
        raise InputError(
            "a delta needs its --base, and its types are those of both models: "
            "give --base and leave --dtype out"
        )
    base = local_model(arguments.base)
    require_elsewhere(arguments.output, tuned, base)
    with recorded_stage(settings, {"model": tuned, "base": base}, arguments.output) as record:
        done = write_delta(arguments.output, open_weights(base), open_weights(tuned))
        record.note(changed_entries=done.n_changed, entries=done.n, bytes=done.delta_bytes)
    share = f"{100 * done.n_changed / done.n:.2f} %"
    sizes = f"{size_in_words(done.delta_bytes)}, of {size_in_words(done.tuned_bytes)} for all"
    advice = "; --format safetensors is smaller" if done.delta_bytes > done.tuned_bytes else ""
    print(
        f"{arguments.output}: {done.n_changed:,} of {done.n:,} entries changed ({share}); {sizes}"
        f"{advice}",
        file=sys.stderr,
    )
