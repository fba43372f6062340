"""All benchmarks of one model, which is loaded once."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fnsft.artifacts.records import Measurement
from fnsft.config.stages import EvaluateSettings
from fnsft.data.formats import Example
from fnsft.data.tokens import (
    EncodedSplit,
    Encoder,
    encode_split,
    load_split,
    load_tokenizer,
    positions_of,
    stop_ids_of,
)
from fnsft.evaluation import cloze, exact, gsm8k, perplexity
from fnsft.evaluation.generation import Generation, generate, stop_ids
from fnsft.evaluation.loading import load_model
from fnsft.evaluation.own_rows import OwnRows, require_room
from fnsft.evaluation.questions import (
    answer_of,
    read_examples,
    scored_problems,
    scored_questions,
)
from fnsft.training.completion_loss import completion_loss
from fnsft.training.merging import adapter_base


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
    questions: Sequence[Example] = ()


def evaluate(
    folder: Path, files: dict[str, Path], settings: EvaluateSettings, rows: OwnRows | None = None
) -> Evaluation:
    """Measure the model in ``folder`` on the given files of gsm8k, exact, cloze and perplexity.

    ``rows`` that are not prepared take the place of gsm8k, exact and perplexity. All is read
    before the model is loaded, so that a bad row costs no time.
    """
    tokenizer = load_tokenizer(folder)
    base = adapter_base(folder) or folder
    encoder = Encoder.of(tokenizer, stop_ids_of(base))
    positions = positions_of(base)
    benchmarks = read_benchmarks(files, tokenizer, settings, encoder.stop_ids, positions)
    if rows is not None:
        benchmarks = with_rows(benchmarks, rows, encoder, settings, positions)
    model = load_model(folder, settings.dtype, settings.forward_mask)
    return measure(model, tokenizer, benchmarks, settings)


def read_benchmarks(
    files: dict[str, Path],
    tokenizer: PreTrainedTokenizerBase,
    settings: EvaluateSettings,
    stop_ids: Iterable[int] = (),
    positions: int | None = None,
) -> Benchmarks:
    """Read the given files of gsm8k, exact, cloze and perplexity.

    ``stop_ids`` end completions beside the tokenizer's end of sequence, and samples longer than
    the model's ``positions`` are left out.
    """
    problems: list[Example] = []
    if "gsm8k" in files:
        problems = scored_problems(read_examples(files["gsm8k"], settings.gsm8k_limit))
    questions: list[Example] = []
    if "exact" in files:
        encoder = Encoder.of(tokenizer, stop_ids)
        questions = scored_questions(read_examples(files["exact"], settings.exact_limit), encoder)
    items = cloze.read_cloze(files["cloze"]) if "cloze" in files else []
    split = None
    if "perplexity" in files:
        split = load_split(files["perplexity"], tokenizer, settings.max_tokens, stop_ids, positions)
    return Benchmarks(problems, items, split, questions)


def with_rows(
    benchmarks: Benchmarks,
    rows: OwnRows,
    encoder: Encoder,
    settings: EvaluateSettings,
    positions: int | None,
) -> Benchmarks:
    """Add rows that are not prepared: their perplexity, and answers as they are scored."""
    split = encode_split(rows.samples, rows.where, encoder, settings.max_tokens, positions)
    benchmarks = replace(benchmarks, split=split)
    if rows.score == "none":
        return benchmarks
    number = rows.score == "number"
    asked = rows.samples[: settings.gsm8k_limit if number else settings.exact_limit]
    require_room(asked, encoder, positions and positions - settings.max_new_tokens)
    if number:
        return replace(benchmarks, problems=scored_problems(asked))
    return replace(benchmarks, questions=scored_questions(asked, encoder))


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    benchmarks: Benchmarks,
    settings: EvaluateSettings,
) -> Evaluation:
    """Measure a loaded model on every benchmark that is there."""
    result = Evaluation()
    encoder = Encoder.of(tokenizer, stop_ids(model, tokenizer))
    if benchmarks.problems:
        _answer_problems(result, model, encoder, benchmarks.problems, settings)
    if benchmarks.questions:
        _answer_questions(result, model, encoder, benchmarks.questions, settings)
    if benchmarks.items:
        scores = cloze.log_probabilities(model, benchmarks.items, tokenizer, settings.batch_size)
        result.measurements += cloze.measure(benchmarks.items, scores)
    if benchmarks.split:
        samples = benchmarks.split.samples[: settings.perplexity_limit]
        losses = completion_loss(model, samples, settings.batch_size)
        result.measurements += perplexity.measure(losses)
        if all(sample.rejected_ids for sample in samples):
            others = [sample.with_rejected for sample in samples]
            rejected = completion_loss(model, others, settings.batch_size)
            result.measurements.append(perplexity.preference(losses, rejected))
        result.counts["perplexity_samples_too_long"] = benchmarks.split.n_left_out
    return result


def _answer_problems(
    result: Evaluation,
    model: PreTrainedModel,
    encoder: Encoder,
    problems: Sequence[Example],
    settings: EvaluateSettings,
) -> None:
    """Answer GSM8K problems, and read the number that each answer ends on."""
    answers = [
        Generation("", finished=True) if gsm8k.begins_another(answer.text) else answer
        for answer in _answers(model, encoder, problems, settings, (gsm8k.STOP,))
    ]
    golds = [answer_of(problem, encoder) for problem in problems]
    scored = [gsm8k.score(a.text, gold) for a, gold in zip(answers, golds, strict=True)]
    steps = [gsm8k.step_count(problem.completion) for problem in problems]
    result.measurements += gsm8k.measure(scored, steps)
    result.counts["answers_cut_by_max_new_tokens"] = sum(not a.finished for a in answers)
    for index, (problem, answer, scores) in enumerate(zip(problems, answers, scored, strict=True)):
        read = asdict(scores)
        read["extracted"] = None if scores.extracted is None else str(scores.extracted)
        read["gold"] = str(scores.gold)
        result.answers.append(_shown(index, problem, answer, read))


def _answer_questions(
    result: Evaluation,
    model: PreTrainedModel,
    encoder: Encoder,
    questions: Sequence[Example],
    settings: EvaluateSettings,
) -> None:
    """Answer questions whose answer is right when it is the completion's text."""
    answers = _answers(model, encoder, questions, settings)
    golds = [answer_of(question, encoder) for question in questions]
    scored = [exact.score(a.text, gold) for a, gold in zip(answers, golds, strict=True)]
    result.measurements += exact.measure(scored)
    result.counts["exact_answers_cut_by_max_new_tokens"] = sum(not a.finished for a in answers)
    for index, (question, answer, scores) in enumerate(
        zip(questions, answers, scored, strict=True)
    ):
        row = _shown(index, question, answer, asdict(scores))
        result.answers.append({"benchmark": exact.BENCHMARK} | row)


def _answers(
    model: PreTrainedModel,
    encoder: Encoder,
    examples: Sequence[Example],
    settings: EvaluateSettings,
    stops: Sequence[str] = (),
) -> list[Generation]:
    return generate(
        model,
        encoder.tokenizer,
        [encoder.encode(example).prompt_ids for example in examples],
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        stops=stops,
    )


def _shown(
    index: int, example: Example, answer: Generation, read: dict[str, Any]
) -> dict[str, Any]:
    """Return one answer as a row for a reader."""
    return (
        {"index": index, "prompt": example.prompt, "text": answer.text}
        | read
        | {"finished": answer.finished}
    )
