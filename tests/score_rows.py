"""Hand-made records and items of runs over two stages, math and then code, for reports."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fnsft.artifacts.items import ItemScore, items_path, write_items
from fnsft.artifacts.records import Measurement, Record, write_records
from fnsft.artifacts.training import Run
from fnsft.reporting.transfer import transfer

TASKS = ("math", "code")
N_ITEMS = {"gsm8k": 80, "humaneval": 60, "cloze": 50, "perplexity-math": 40, "perplexity-code": 40}
MEASURES = {
    "gsm8k": "math",
    "humaneval": "code",
    "perplexity-math": "math",
    "perplexity-code": "code",
}
# Share of right answers, or loss, in the base model and after each stage.
LEVELS = {
    "gsm8k": (0.2, 0.7, 0.4),
    "humaneval": (0.1, 0.1, 0.6),
    "cloze": (0.9, 0.7, 0.5),
    "perplexity-math": (1.5, 0.6, 1.0),
    "perplexity-code": (1.5, 1.4, 0.5),
}
# What is learned less of code, and kept more of what came before.
EFFECTS = {
    "sft": (0.0, 0.0),
    "sft-half": (0.1, 0.05),
    "sft-quarter": (0.2, 0.10),
    "replay": (0.05, 0.25),
    "collab": (0.0, 0.1),
    "shuffled": (0.02, 0.08),
}
MASKED = ("collab", "shuffled")
Stage = tuple[list[Record], list[ItemScore]]


def stage_of(method: str, seed: int, stage: int, model: str = "tiny") -> Stage:
    """Return the records and items of one model; the items of a seed have the same luck."""
    run = run_of(method, seed, stage, model)
    learned, kept = EFFECTS.get(method, (0.0, 0.0)) if stage == 2 else (0.0, 0.0)
    records, items = [], []
    for name, n in N_ITEMS.items():
        luck = np.random.default_rng([seed if stage else 9, len(name)]).random(n)
        loss = name.startswith("perplexity")
        better = -learned if MEASURES.get(name) == "code" else kept
        level = LEVELS[name][stage] + (-better if loss else better)
        if loss:
            weights = np.random.default_rng(len(name)).integers(5, 30, n).astype(float)
            values = weights * (level + 0.1 * luck)
            metrics = {"perplexity": (float(np.exp(values.sum() / weights.sum())), values)}
        else:
            weights, values = np.ones(n), (luck < level).astype(float)
            metric = "pass_at_1" if name == "humaneval" else "accuracy"
            metrics = {metric: (float(values.mean()), values)}
            if name == "humaneval":
                plus = values * (luck < 0.8 * level)
                metrics["pass_at_1_plus"] = (float(plus.mean()), plus)
        if name == "gsm8k":
            metrics["format_ok"] = (0.95 - 0.1 * stage, np.empty(0))
        for metric, (value, scores) in metrics.items():
            stderr = math.sqrt(max(value * (1 - value), 0.1) / n)
            records.append(
                Record.of(
                    run,
                    Measurement(name, metric, value, stderr, n),
                    measures=MEASURES.get(name),
                    protocol=f"{name} shots=0 stop=eos|Question:",
                    data_sha256=name,
                )
            )
            items += [
                ItemScore(name, metric, f"{name}/{i}", float(v), float(w))
                for i, (v, w) in enumerate(zip(scores, weights, strict=False))
            ]
    return records, items


def run_of(method: str, seed: int, stage: int, model: str = "tiny") -> Run:
    """Return a run's identity; replay's first stage is plain fine-tuning."""
    if stage == 0:
        return Run(model, "", "base")
    method = "sft" if (method, stage) == ("replay", 1) else method
    share = 0.5 if method in MASKED else None
    sequence = ">".join(TASKS[:stage])
    return Run(model, TASKS[stage - 1], method, share, stage=stage, seed=seed, sequence=sequence)


def drift_of(method: str, seed: int, model: str = "tiny") -> list[Record]:
    """Return how far the last stage went."""
    run = run_of(method, seed, 2, model)
    learned, _ = EFFECTS[method]
    return [
        Record.of(run, Measurement("drift", "kl_forward", 0.3 - learned + 0.01 * seed, 0.01, 200)),
        Record.of(run, Measurement("drift", "relative_weight_change", 0.02, None, 900_000)),
        Record.of(run, Measurement("drift", "relative_weight_change", 0.5, None, 9, "part=mlp")),
    ]


def joined(
    methods: Iterable[str] = EFFECTS, seeds: Iterable[int] = (0, 1, 2), model: str = "tiny"
) -> list[Record]:
    """Return the records of ``fnsft transfer`` of every run."""
    base = stage_of("base", 0, 0, model)[0]
    return [
        record
        for method in methods
        for seed in seeds
        for record in transfer(
            base,
            [stage_of(method, seed, stage, model)[0] for stage in (1, 2)],
            drift_of(method, seed, model),
        ).records
    ]


def write_stage(folder: Path, method: str, seed: int, stage: int = 2) -> tuple[Path, Path]:
    """Write a stage's records and items as ``fnsft score`` does; return both files."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{method}-{seed}-{stage}.jsonl"
    records, items = stage_of(method, seed, stage)
    write_records(path, records)
    write_items(items_path(path), items)
    return path, items_path(path)
