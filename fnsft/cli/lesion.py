"""``fnsft lesion``: what removing networks costs, and what keeping only them leaves."""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.cli.flags import add_names
from fnsft.config.stages import EvaluateSettings, LesionSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fnsft.artifacts.lesions import Lesion
    from fnsft.evaluation.lesion_plan import Plan
    from fnsft.evaluation.lesions import Material

SETTINGS = LesionSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes, and the names in tables and figures."""
    parser.add_argument("--model", type=Path, required=True, help="model or adapter folder")
    parser.add_argument(
        "--networks", type=Path, required=True, help="networks, .safetensors or .json"
    )
    parser.add_argument(
        "--ranking", type=Path, required=True, help="prepared split that orders the networks"
    )
    parser.add_argument(
        "--evaluation", type=Path, required=True, help="prepared split whose loss is shown"
    )
    parser.add_argument("--cloze", type=Path, help="prompts with choices, an answer, a subject")
    parser.add_argument("--gsm8k", type=Path, help="prepared split whose problems are answered")
    parser.add_argument("--output", type=Path, required=True, help="lesions, .jsonl")
    add_names(parser, "networks", shown_in="tables")


def run(arguments: argparse.Namespace, settings: LesionSettings) -> None:
    """Load the model once, measure it under every mask, write what it cost.

    A mask that the model was trained with stays on, beneath those of the lesions.
    """
    from fnsft.artifacts.lesions import write_lesions
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.data.tokens import load_tokenizer
    from fnsft.evaluation.lesions import lesion
    from fnsft.evaluation.loading import load_model

    files = {
        name: getattr(arguments, name)
        for name in ("model", "networks", "ranking", "evaluation", "cloze", "gsm8k")
        if getattr(arguments, name) is not None
    }
    if settings.gsm8k_limit == 0:
        files.pop("gsm8k", None)
    settings = dataclasses.replace(settings, seed=settings.seed + arguments.run_seed)
    run_of = {
        "model": arguments.model_name,
        "task": arguments.task,
        "networks": arguments.networks_name,
        "seed": arguments.run_seed,
    }
    with recorded_stage(settings, files, arguments.output) as record:
        tokenizer = load_tokenizer(arguments.model)
        material, left_out = read_material(files, tokenizer, settings)
        model = load_model(arguments.model, settings.dtype)
        plan = read_plan(files, model, settings)
        clock = time.perf_counter()
        found = lesion(model, lambda split: material.measure(model, tokenizer, split), plan, run_of)
        write_lesions(arguments.output, found.rows)
        record.note(
            networks_by_effect=found.order,
            conditions=plan.n_conditions,
            masks_measured=found.n_masks,
            measuring_seconds=round(time.perf_counter() - clock, 3),
            samples_too_long=left_out,
            unmasked=bool(plan.strengths) or "left out: the networks' file has no loadings",
        )
    print(
        f"{arguments.output}: {len(found.order)} networks, {plan.n_conditions} conditions; "
        f"{summary(found.rows)}",
        file=sys.stderr,
    )


def read_material(
    files: dict[str, Path], tokenizer: "PreTrainedTokenizerBase", settings: LesionSettings
) -> "tuple[Material, dict[str, int]]":
    """Read what is measured, and count the samples that were too long."""
    from fnsft.data.tokens import load_split
    from fnsft.evaluation.lesions import Material
    from fnsft.evaluation.suite import read_benchmarks

    evaluate = EvaluateSettings(
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        gsm8k_limit=settings.gsm8k_limit or None,
    )
    accuracies = read_benchmarks(files, tokenizer, evaluate)
    accuracies = dataclasses.replace(accuracies, items=accuracies.items[: settings.cloze_limit])
    ranking, evaluation = (
        load_split(files[name], tokenizer, settings.max_tokens)
        for name in ("ranking", "evaluation")
    )
    material = Material(
        samples={
            "ranking": ranking.samples[: settings.samples],
            "evaluation": evaluation.samples[: settings.samples],
        },
        accuracies=accuracies,
        settings=evaluate,
    )
    return material, {"ranking": ranking.n_left_out, "evaluation": evaluation.n_left_out}


def read_plan(files: dict[str, Path], model: "PreTrainedModel", settings: LesionSettings) -> "Plan":
    """Read the networks, which must be of this model, and their loadings if there are any."""
    from fnsft.architectures.sites import site_widths
    from fnsft.artifacts.identity import model_identity
    from fnsft.artifacts.networks import read_networks, read_templates
    from fnsft.config.layer_ranges import parse_layers
    from fnsft.evaluation.lesion_plan import Plan, loading_strengths

    path = files["networks"]
    has_loadings = path.suffix == ".safetensors"
    identity = model_identity(files["model"]) if has_loadings else None
    templates = read_templates(path, site_widths(model), identity)
    return Plan(
        templates=templates,
        layers=parse_layers(settings.layers, len(templates.widths)),
        strengths=loading_strengths(read_networks(path)[1]) if has_loadings else [],
        settings=settings,
    )


def summary(rows: "list[Lesion]") -> str:
    """Say what the network that costs most costs, beside random ones of its size."""
    from fnsft.reporting.lesion_summary import LOSS, summarise_lesions

    first = summarise_lesions(rows)[0]
    removed = first.removed[LOSS]
    assert removed.random_mean is not None  # random_draws is above 0
    return (
        f"without network {first.network} ({first.n_neurons:,} neurons, {first.share:.1%}) the "
        f"loss rises by {first.effect:.3g} nats a token, without as many random ones by "
        f"{removed.random_mean - removed.intact:.3g}"
    )
