"""Programs that a model writes for a benchmark's tasks."""

from pathlib import Path

from fnsft.config.stages.evaluation import Benchmark
from fnsft.evaluation.benchmarks.contract import Answers, Subject, ask, protocol_of
from fnsft.evaluation.code.prompts import stops_in_words, style_of
from fnsft.evaluation.code.tasks import Suite, read_tasks


def write_programs(subject: Subject, benchmark: Benchmark, suite: Suite) -> Answers:
    """Ask a model for one program a task, greedily.

    Rows hold ``item`` (the task's id), ``prompt``, ``text``, ``program`` (None where the text
    has none that defines the function), ``found`` (where in the text it stood) and ``finished``.
    """
    tasks = read_tasks(Path(benchmark.file), suite, benchmark.limit)
    style = style_of(benchmark.template, suite, subject.format, subject.tokenizer)
    prompts = [style.prompt(task, subject.tokenizer) for task in tasks]
    ids = [subject.encoder.encode(prompt).prompt_ids for prompt in prompts]
    asked = ask(subject, ids, benchmark.max_new_tokens, style.stops)
    rows = []
    for task, prompt, answer in zip(tasks, prompts, asked.generations, strict=True):
        program = style.program(answer.text, task)
        rows.append(
            {
                "item": task.task_id,
                "prompt": prompt.prompt,
                "text": answer.text,
                "program": program.code,
                "found": program.found,
                "finished": answer.finished,
            }
        )
    template = style.name if style.format is None else f"{style.name}-{style.format.template}"
    how = {
        "shots": 0,
        "template": template,
        "extract": "fence|text|continuation|body",
        "stop": stops_in_words(style.stops),
    }
    return Answers(rows, protocol_of(subject, benchmark, how), asked.counts)
