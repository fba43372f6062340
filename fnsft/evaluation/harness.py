"""lm-eval's own tasks on local items, asked of a loaded model.

A task is defined by lm-eval's own file, of which nothing but the data's place is changed: the
prompt, the choices and what counts as an answer are lm-eval's, and so are the numbers.
"""

import contextlib
import importlib.util
import io
import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fnsft.config.stages.evaluation import Benchmark
from fnsft.errors import InputError
from fnsft.evaluation.benchmarks.contract import Subject
from fnsft.evaluation.generation import use_greedily
from fnsft.evaluation.harness_items import Item

PACKAGES = ("lm-eval",)
_LOGITS_AT_MOST = 1 << 28  # float32 logits of a batch: 1 GiB, and as much for their softmax
_NO_LIMIT = 1 << 20  # positions of a model that has no limit


@dataclass(frozen=True)
class LocalTask:
    """One task of lm-eval on local rows.

    ``definition`` is its file below lm-eval's tasks. ``examples`` are the documents that shots
    are taken from, under the name of a split that the definition takes them from. ``changes``
    are entries of the definition that differ.
    """

    name: str
    definition: str
    items: Sequence[Item]
    examples: Sequence[dict[str, Any]] = ()
    examples_split: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


def run_tasks(
    subject: Subject, benchmark: Benchmark, tasks: Sequence[LocalTask]
) -> list[tuple[Item, dict[str, Any]]]:
    """Ask a loaded model, and return every item with lm-eval's sample of it, in tasks' order.

    The model is used as it is, so that a merged adapter and a mask on the forward pass count.
    Nothing is fetched; the files that lm-eval reads lie in a folder that goes again.

    Raises
    ------
    InputError
        Without lm-eval, and where ``chat`` finds no chat template.
    """
    require_lm_eval(benchmark.kind)
    if benchmark.chat and not subject.tokenizer.chat_template:
        raise InputError(
            f"chat: expected a chat template in the tokenizer of {subject.folder}, found none; "
            "leave chat off"
        )
    use_greedily(subject.model, subject.tokenizer)
    with tempfile.TemporaryDirectory() as name, _calm():
        folder = Path(name)
        for task in tasks:
            _write_task(folder, task, benchmark.shots or 0)
        from lm_eval import evaluator
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(folder), include_defaults=False)
        found = evaluator.evaluate(
            lm=_language_model(subject),
            task_dict=manager.load([task.name for task in tasks]),
            apply_chat_template=benchmark.chat,
            fewshot_as_multiturn=benchmark.chat,
        )
    return [
        (task.items[sample["doc_id"]], sample)
        for task in tasks
        for sample in sorted(found["samples"][task.name], key=lambda sample: sample["doc_id"])
    ]


def require_lm_eval(kind: str) -> None:
    """Refuse where lm-eval, an optional package, is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError(
            f"{kind}: expected the package lm-eval, found none; pip install 'fnsft[benchmarks]'"
        )


def definitions() -> Path:
    """Return the folder of lm-eval's task definitions."""
    found = importlib.util.find_spec("lm_eval")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "tasks"


def _write_task(folder: Path, task: LocalTask, shots: int) -> None:
    files = {"test": [item.document for item in task.items]}
    if task.examples_split and shots:
        files[task.examples_split] = list(task.examples)
    paths = {}
    for split, documents in files.items():
        path = folder / f"{task.name}.{split}.jsonl"
        path.write_text("".join(json.dumps(document) + "\n" for document in documents))
        paths[split] = str(path)
    definition = {
        "include": str(definitions() / task.definition),
        "task": task.name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": paths, "cache_dir": str(folder / "cache")},
        "tag": None,
        "num_fewshot": shots,
        **({} if shots else {"fewshot_split": None, "fewshot_config": None}),
        **task.changes,
    }
    (folder / f"{task.name}.yaml").write_text(yaml.safe_dump(definition))


def _language_model(subject: Subject) -> Any:
    from lm_eval.models.huggingface import HFLM

    class Bounded(HFLM):
        """lm-eval's ``hf``, which holds the logits of whole sequences, in bounded memory."""

        def _loglikelihood_tokens(self, requests: Any, *args: Any, **options: Any) -> Any:
            longest = max(len(context) + len(ending) for _, context, ending in requests)
            logits = longest * subject.model.config.get_text_config().vocab_size
            self.batch_size_per_gpu = max(1, min(int(self.batch_size), _LOGITS_AT_MOST // logits))
            return super()._loglikelihood_tokens(requests, *args, **options)

    return Bounded(
        pretrained=subject.model,
        tokenizer=subject.tokenizer,
        batch_size=subject.settings.batch_size,
        max_length=subject.positions or _NO_LIMIT,
    )


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """Keep lm-eval's log, and off a terminal its progress bars, from the user."""
    import datasets

    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    shown = sys.stderr if sys.stderr.isatty() else io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def n_cut(subject: Subject, samples: Sequence[dict[str, Any]], max_new_tokens: int = 0) -> int:
    """Count the prompts whose beginning lm-eval cut off, so that they fit into the positions."""
    if subject.positions is None:
        return 0
    room = subject.positions - max_new_tokens
    prompts = [sample["arguments"][0][0] for sample in samples]
    return sum(len(ids) > room for ids in subject.tokenizer(prompts)["input_ids"])


def choice_of(sample: Mapping[str, Any], choices: Sequence[str]) -> dict[str, Any]:
    """Return the likeliest of the choices (the first of equals), the right one, and all values."""
    values = [float(value) for value, _ in sample["filtered_resps"]]
    target = sample["target"]
    return {
        "answer": choices[max(range(len(values)), key=values.__getitem__)],
        "target": choices[target] if isinstance(target, int) else target,
        "log_probabilities": values,
    }


def asked(benchmark: Benchmark, extract: str, **stop: str) -> dict[str, object]:
    """Return what a protocol says of a task of lm-eval."""
    return {
        "shots": benchmark.shots,
        "template": "chat" if benchmark.chat else "lm-eval",
        "extract": extract,
        **stop,
        "backend": "lm-eval",
    }
