"""``fnsft drift``: how far a tuned model is from the one that it began with."""

import argparse
import sys
from pathlib import Path

from fnsft.config.stages import DriftSettings
from fnsft.errors import InputError

SETTINGS = DriftSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the two models, the new task's data and the output."""
    parser.add_argument(
        "--model", type=Path, required=True, help="tuned model or adapter, with a training.json"
    )
    parser.add_argument(
        "--base", type=Path, required=True, help="model folder that it is compared with"
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="prepared split of the new task, .jsonl"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="records, .jsonl; each sample's divergence goes beside it, to <stem>.items.jsonl",
    )


def run(arguments: argparse.Namespace, settings: DriftSettings) -> None:
    """Check that the models can be compared, load both, write their divergence and distance.

    Memory: both models in float32, whatever ``dtype`` their predictions are taken in.
    """
    import torch

    from fnsft.artifacts.answers import versions_of
    from fnsft.artifacts.forward_masks import read_forward_mask
    from fnsft.artifacts.identity import model_identity
    from fnsft.artifacts.items import items_path, write_items
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.records import Record, write_records
    from fnsft.artifacts.storage import existing, require_suffix, sha256_of
    from fnsft.artifacts.training import read_training
    from fnsft.data.tokens import load_split, load_tokenizer, positions_of, stop_ids_of
    from fnsft.evaluation.drift import divergence, require_comparable, weight_change
    from fnsft.evaluation.loading import load_model
    from fnsft.training.quantisation import read_packing

    require_suffix(arguments.output, ".jsonl")
    tuned, base = arguments.model, existing(arguments.base)
    training = read_training(existing(tuned))
    identity, began_with = training.run, training.began_with
    if settings.since == "stage" and began_with not in (None, found := model_identity(base)):
        raise InputError(
            f"--base: expected the model that {tuned} began with ({began_with}), found another "
            f"({found}); give that one, or --since any"
        )
    files = {"model": tuned, "base": base, "data": existing(arguments.data)}
    with recorded_stage(settings, files, arguments.output) as record:
        tokenizer = load_tokenizer(tuned)
        require_comparable(tokenizer, load_tokenizer(base), base)
        limits = (settings.max_tokens, stop_ids_of(base), positions_of(base))
        split = load_split(arguments.data, tokenizer, *limits)
        samples = split.samples[: settings.limit]
        is_packed = read_packing(tuned) is not None
        loaded_in = settings.dtype if is_packed else "float32"
        models = load_model(tuned, loaded_in), load_model(base, loaded_in)
        weights = [] if is_packed else weight_change(*models)
        if not is_packed:
            for model in models:
                model.to(dtype=getattr(torch, settings.dtype))
        moved = divergence(*models, samples, settings.batch_size)
        asked = (
            f"{settings.stage} teacher-forced completions since={settings.since} "
            f"limit={settings.limit} max_tokens={settings.max_tokens} dtype={settings.dtype}"
        )
        compared = f"{settings.stage} parameters since={settings.since} dtype=float32"
        measured = [(m, asked) for m in moved.measurements()] + [(m, compared) for m in weights]
        provenance = {
            "data_sha256": sha256_of(arguments.data),
            "versions": versions_of(("torch", "transformers")),
        }
        mask = None if read_forward_mask(tuned) is None else "on"
        write_records(
            arguments.output,
            [Record.of(identity, m, mask, protocol=how, **provenance) for m, how in measured],
        )
        write_items(items_path(arguments.output), moved.items())
        record.note(
            samples=len(samples),
            completion_tokens=int(moved.tokens.sum()),
            samples_too_long=split.n_left_out,
            weights="left out: the base is packed" if is_packed else "compared",
        )
    listing = ", ".join(f"{m.metric} {m.value:.4g}" for m, _ in measured if m.subset is None)
    print(f"{arguments.output}: {identity.method}: {listing}", file=sys.stderr)
