"""All benchmarks of one model, which is loaded once."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fnsft.artifacts.records import Measurement
from fnsft.artifacts.rows import numbered_rows, typed_row
from fnsft.config.stages import EvaluateSettings
from fnsft.data.formats import Example
from fnsft.data.tokens import EncodedSplit, encode, load_split, load_tokenizer
from fnsft.errors import InputError
from fnsft.evaluation import cloze, gsm8k, perplexity
from fnsft.evaluation.generation import Generation, generate
from fnsft.evaluation.loading import load_model
from fnsft.training.completion_loss import completion_loss


@dataclass
class Evaluation:
    """Measurements, the answers that a reader may want to see, and counts for the manifest."""

    measurements: list[Measurement] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmarks:
    """What a model is measured on; empty, or None, where no file was given."""

    problems: Sequence[Example]
    items: Sequence[cloze.ClozeItem]
    split: EncodedSplit | None = None


def evaluate(folder: Path, files: dict[str, Path], settings: EvaluateSettings) -> Evaluation:
    """Measure the model in ``folder`` on the given files of gsm8k, cloze and perplexity.

    Files are read before the model is loaded, so that a bad row costs no time.
    """
    tokenizer = load_tokenizer(folder)
    benchmarks = read_benchmarks(files, tokenizer, settings)
    model = load_model(folder, settings.dtype, settings.forward_mask)
    return measure(model, tokenizer, benchmarks, settings)


def read_benchmarks(
    files: dict[str, Path], tokenizer: PreTrainedTokenizerBase, settings: EvaluateSettings
) -> Benchmarks:
    """Read the given files of gsm8k, cloze and perplexity."""
    problems = read_problems(files["gsm8k"], settings.gsm8k_limit) if "gsm8k" in files else []
    items = cloze.read_cloze(files["cloze"]) if "cloze" in files else []
    split = None
    if "perplexity" in files:
        split = load_split(files["perplexity"], tokenizer, settings.max_tokens)
    return Benchmarks(problems, items, split)


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    benchmarks: Benchmarks,
    settings: EvaluateSettings,
) -> Evaluation:
    """Measure a loaded model on every benchmark that is there."""
    result = Evaluation()
    if benchmarks.problems:
        _answer(result, model, tokenizer, benchmarks.problems, settings)
    if benchmarks.items:
        scores = cloze.log_probabilities(model, benchmarks.items, tokenizer, settings.batch_size)
        result.measurements += cloze.measure(benchmarks.items, scores)
    if benchmarks.split:
        samples = benchmarks.split.samples[: settings.perplexity_limit]
        losses = completion_loss(model, samples, settings.batch_size)
        result.measurements += perplexity.measure(losses)
        result.counts["perplexity_samples_too_long"] = benchmarks.split.n_left_out
    return result


def read_problems(path: Path, limit: int | None) -> list[Example]:
    """Read the first ``limit`` problems of a prepared split; each has a gold number."""
    problems = []
    for number, row in list(numbered_rows(path))[:limit]:
        problem = typed_row(Example, row, f"{path} line {number}")
        if gsm8k.gold_answer(problem.completion) is None:
            raise InputError(
                f"{path} line {number}: completion: expected a number after ####, "
                f"found {problem.completion[-60:]!r}"
            )
        problems.append(problem)
    if not problems:
        raise InputError(f"{path}: expected at least one problem, found none")
    return problems


def _answer(
    result: Evaluation,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Example],
    settings: EvaluateSettings,
) -> None:
    prompts = [encode(tokenizer, problem).prompt_ids for problem in problems]
    answers = generate(
        model,
        tokenizer,
        prompts,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
    )
    scored = [gsm8k.score(a.text, p.completion) for a, p in zip(answers, problems, strict=True)]
    steps = [gsm8k.step_count(problem.completion) for problem in problems]
    result.measurements += gsm8k.measure(scored, steps)
    result.counts["answers_cut_by_max_new_tokens"] = sum(not a.finished for a in answers)
    result.answers += [
        _shown(index, problem, answer, scores)
        for index, (problem, answer, scores) in enumerate(
            zip(problems, answers, scored, strict=True)
        )
    ]


def _shown(
    index: int, problem: Example, answer: Generation, scored: gsm8k.Scored
) -> dict[str, Any]:
    """Return one answer as a row for a reader."""
    read = asdict(scored)
    read["extracted"] = None if scored.extracted is None else str(scored.extracted)
    read["gold"] = str(scored.gold)
    return (
        {"index": index, "prompt": problem.prompt, "text": answer.text}
        | read
        | {"finished": answer.finished}
    )
