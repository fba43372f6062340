"""What it costs to ask a model, and to compare it with another.

Answers are taken to be as long as the right ones (an assumption; a model that does not stop writes
to its limit).
"""

from collections.abc import Mapping

from fnsft.config.stages import (
    CODE_KINDS,
    HARNESS_KINDS,
    AnswerSettings,
    Benchmark,
    DriftSettings,
    EvaluateSettings,
    LesionSettings,
)
from fnsft.planning.known import Model, Samples, published
from fnsft.planning.passes import (
    WIDTH,
    Items,
    both,
    forward,
    generation,
    inference_memory,
    loaded,
)
from fnsft.planning.work import Cost, Dtype, Work

RECORD_BYTES = 230  # of an answer's row, or of an item's score


def evaluate_cost(model: Model, splits: Mapping[str, Samples], settings: EvaluateSettings) -> Cost:
    """Return the cost of ``gsm8k`` (answers), ``perplexity`` and ``cloze``, of those there are."""
    work = loaded(model, settings.dtype)
    shape, size = model.shape(), settings.batch_size
    longest, n_rows = 0.0, 0
    if "gsm8k" in splits:
        asked = splits["gsm8k"].first(settings.gsm8k_limit)
        items = items_of(asked, settings.max_new_tokens)
        work = both(work, generation(shape, items, size, settings.dtype))
        n_rows += asked.n
    if "perplexity" in splits:
        scored = splits["perplexity"].first(settings.perplexity_limit)
        work = both(work, forward(shape, scored, size, settings.dtype))
        longest = min(scored.longest, settings.max_tokens)
    if "cloze" in splits:
        work = both(work, _cloze(model, None, size, settings.dtype))
    memory = inference_memory(shape, settings.dtype, size, longest, logits=longest > 0)
    kept = float(RECORD_BYTES * n_rows)
    return Cost(work, memory, kept, model=model.name, method="evaluate")


def answer_cost(
    model: Model, asked: Mapping[str, tuple[Benchmark, Samples | None]], settings: AnswerSettings
) -> Cost:
    """Return the cost of a suite; samples are those of benchmarks that are a task's split."""
    work = loaded(model, settings.dtype)
    shape, size, dtype = model.shape(), settings.batch_size, settings.dtype
    memory, n_rows = 0.0, 0
    for benchmark, samples in asked.values():
        if benchmark.kind == "perplexity" and samples is not None:
            scored = samples.first(benchmark.limit)
            work, n = both(work, forward(shape, scored, size, dtype)), scored.n
            length, logits = float(min(scored.longest, settings.max_tokens)), True
        elif benchmark.kind == "cloze":
            work, n = both(work, _cloze(model, benchmark.limit, size, dtype)), _n_items(benchmark)
            length, logits = 32.0, False
        else:
            items = _asked(benchmark, samples)
            # lm-eval takes a letter's probability from the prompt's pass.
            work, n = both(work, generation(shape, items, size, dtype)), items.n
            length = items.prompt + min(items.limit, 2 * items.answer)
            logits = benchmark.kind in HARNESS_KINDS and items.answer <= 1
            length = min(length, 512.0) if logits else length  # logits of a batch have a limit
        memory = max(memory, inference_memory(shape, dtype, size, length, logits=logits))
        n_rows += n
    return Cost(work, memory, RECORD_BYTES * n_rows, model=model.name, method="answer")


def programs_in(asked: Mapping[str, tuple[Benchmark, Samples | None]]) -> int:
    """Return how many answers of a suite are programs that are run."""
    return sum(_n_items(b) for b, _ in asked.values() if b.kind in CODE_KINDS)


def drift_cost(model: Model, base: Model, samples: Samples, settings: DriftSettings) -> Cost:
    """Return the cost of both models' predictions and of the distance of their weights.

    Both are loaded in float32. A logit is compared in float64, some 40 operations of the host.
    """
    shape, limited = model.shape(), samples.first(settings.limit)
    passes = forward(shape, limited, settings.batch_size, settings.dtype).times(2)
    work = both(loaded(model, settings.dtype), passes)
    logits = limited.n * limited.completion * shape.vocabulary
    work = work.plus(
        host_operations=40 * logits + 10 * shape.parameters,
        disk_bytes=base.disk_bytes + base.base_bytes,
    )
    rows = settings.batch_size * limited.longest * shape.vocabulary
    memory = 2 * 4 * shape.parameters + rows * (WIDTH[settings.dtype] + 8)
    return Cost(work, memory, 2 * RECORD_BYTES * limited.n, model=model.name, method="drift")


def lesion_cost(
    model: Model, splits: Mapping[str, Samples], n_networks: int, settings: LesionSettings
) -> Cost:
    """Return the cost of every condition of :class:`fnsft.evaluation.lesion_plan.Plan`."""
    shape, size = model.shape(), settings.batch_size
    curve = min(settings.max_networks or n_networks, n_networks)
    conditions = 1 + (2 * n_networks + 2 * curve + len(settings.unmask_shares)) * (
        1 + settings.random_draws
    )
    scored = splits["evaluation"].first(settings.samples)
    work = forward(shape, scored, size, settings.dtype)
    if "cloze" in splits:
        work = both(work, _cloze(model, settings.cloze_limit, size, settings.dtype))
    if "gsm8k" in splits and settings.gsm8k_limit != 0:
        items = items_of(splits["gsm8k"].first(settings.gsm8k_limit), settings.max_new_tokens)
        work = both(work, generation(shape, items, size, settings.dtype))
    ranking = forward(shape, scored, size, settings.dtype).times(1 + n_networks)
    whole = both(loaded(model, settings.dtype), both(work.times(conditions), ranking))
    longest = min(scored.longest, settings.max_tokens)
    memory = inference_memory(shape, settings.dtype, size, longest, logits=True)
    kept = RECORD_BYTES * 2 * conditions
    return Cost(whole, memory, kept, model=model.name, method="lesion")


def items_of(samples: Samples, limit: int) -> Items:
    """Return a split's samples as questions."""
    deviation = samples.deviation_completion
    return Items(samples.n, samples.prompt, samples.completion, deviation, limit)


def _row(benchmark: Benchmark) -> dict[str, float]:
    row = published("data")["benchmarks"][benchmark.kind]
    assert isinstance(row, dict)
    return row


def _n_items(benchmark: Benchmark) -> int:
    n = int(_row(benchmark)["items"])
    return min(n, benchmark.limit or n)


def _asked(benchmark: Benchmark, samples: Samples | None) -> Items:
    if samples is not None:
        return items_of(samples.first(benchmark.limit), benchmark.max_new_tokens)
    row = _row(benchmark)
    limit = 1 if row["answer"] <= 1 else benchmark.max_new_tokens
    return Items(_n_items(benchmark), row["prompt"], row["answer"], row["deviation"], limit)


def _cloze(model: Model, limit: int | None, batch_size: int, dtype: Dtype) -> Work:
    """Return the work of every choice of every item."""
    row = published("data")["benchmarks"]["cloze"]
    n = row["choices"] * min(row["items"], limit or row["items"])
    samples = Samples(n, row["prompt"], row["answer"], 0.0, 0.0, 32)
    return forward(model.shape(), samples, batch_size, dtype)
