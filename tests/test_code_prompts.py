"""How programs are asked for, and kind functions from answers to scores."""

import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from evalplus.provider.utility import make_raw_chat_prompt
from models import tiny_tokenizer

from fnsft.artifacts.prompt_formats import PromptFormat
from fnsft.cli.main import main
from fnsft.config.presets import TaskPreset
from fnsft.config.stages.evaluation import AnswerSettings, Benchmark, ScoreSettings
from fnsft.data.formats import read_examples
from fnsft.data.tokens import Encoder
from fnsft.errors import InputError
from fnsft.evaluation.benchmarks import kind_of
from fnsft.evaluation.benchmarks.contract import Scoring, Subject
from fnsft.evaluation.code.checking import check
from fnsft.evaluation.code.prompts import stops_in_words, style_of
from fnsft.evaluation.code.tasks import read_tasks
from fnsft.evaluation.generation import Generation
from fnsft.evaluation.sandbox import choose_sandbox

PROMPT = 'def double(x):\n    """Return x times two."""\n'
TASK = {
    "task_id": "World/0",
    "prompt": PROMPT,
    "entry_point": "double",
    "canonical_solution": "    return x + x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-3) == -6\n",
}
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tokenizer_with(chat_template: str | None) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.fixture
def task(tmp_path: Path) -> Any:
    return read_tasks(written(tmp_path / "one.jsonl", TASK), "functions")[0]


def test_a_base_model_goes_on_with_the_program(task: Any) -> None:
    style = style_of("auto", "functions", None, tokenizer_with(None))
    assert style.prompt(task, tokenizer_with(None)).prompt == PROMPT
    assert "\ndef " in style.stops and '\n"""' not in style.stops
    assert style.program("    return x + x\nx = 1", task).code == f"{PROMPT}    return x + x\n"


def test_a_model_tuned_on_the_world_is_asked_as_its_rows_were_written(
    tmp_path: Path, task: Any
) -> None:
    row = {
        "instruction": "Complete the function.",
        "input": PROMPT.rstrip(),
        "output": "    return 1",
    }
    (tmp_path / "train.json").write_text(json.dumps([row]))
    trained = read_examples(tmp_path / "train.json", TaskPreset.read("codealpaca")).examples[0]
    for kind in ("instruction", "question", "plain"):  # trained on code, or on math before
        style = style_of("auto", "functions", PromptFormat("basic", kind), tokenizer_with(None))
        assert style.prompt(task, tokenizer_with(None)) == replace(trained, completion="")
    assert style.program("    return x + x", task).code == f"{PROMPT}    return x + x"


def test_an_instruction_that_is_asked_for_is_the_same_for_a_base_model(task: Any) -> None:
    tokenizer = tokenizer_with(None)
    base = style_of("instruction", "functions", None, tokenizer)
    tuned = style_of("instruction", "functions", PromptFormat("basic", "question"), tokenizer)
    assert base == tuned
    chat = tokenizer_with(CHAT)
    assert style_of("instruction", "functions", None, chat) == tuned
    assert style_of("auto", "functions", None, chat).name == "chat"
    text = style_of("auto", "functions", PromptFormat("basic", "text"), tokenizer)
    assert text.name == "completion"  # trained on texts without prompts


@pytest.mark.parametrize("suite", ["functions", "humaneval", "mbpp"])
def test_a_chat_model_is_asked_word_for_word_as_evalplus_does(suite: Any, task: Any) -> None:
    tokenizer = tokenizer_with(CHAT)
    style = style_of("auto", suite, None, tokenizer)
    prompt = style.prompt(task, tokenizer)
    source = Path(find_spec("evalplus.codegen").origin or "").read_text()  # type: ignore[union-attr]
    asked, begun = (
        re.search(f'{name}_prefix = "(.*)"', source) for name in ("instruction", "response")
    )
    assert asked and begun
    assert prompt.prompt == make_raw_chat_prompt(PROMPT, asked[1], begun[1], tokenizer)
    assert not prompt.special_tokens
    whole = style.program(f"{PROMPT}    return x + x", task)
    assert whole.code == f"{PROMPT}    return x + x"
    assert style_of("completion", suite, None, tokenizer).name == "completion"


def test_a_tuned_chat_model_is_asked_as_it_was_tuned_with_evalplus_question(task: Any) -> None:
    tokenizer = tokenizer_with(CHAT)
    style = style_of("auto", "humaneval", PromptFormat("chat", "question", "Be brief."), tokenizer)
    prompt = style.prompt(task, tokenizer).prompt
    assert prompt.startswith("<system>Be brief.</system><user>Please provide a self-contained")
    assert prompt.endswith(f"```\n{PROMPT.strip()}\n```</user><assistant>")
    assert "\n```\n" not in style.stops


def test_a_chat_template_without_answers_is_refused_in_one_line(task: Any) -> None:
    for template in ("{{ messages[0].content }}", "{{ raise_exception('no') }}"):
        tokenizer = tokenizer_with(template)
        with pytest.raises(InputError, match="^template: .*; use template=completion$"):
            style_of("auto", "humaneval", None, tokenizer).prompt(task, tokenizer)


def test_stop_texts_of_one_benchmark_do_not_reach_the_next() -> None:
    tokenizer = tokenizer_with(None)
    first = style_of("auto", "mbpp", None, tokenizer).stops
    between = style_of("auto", "humaneval", None, tokenizer).stops
    assert style_of("auto", "mbpp", None, tokenizer).stops == first != between
    words = stops_in_words(between)
    assert " " not in words and "\n" not in words and words.startswith("eos|<|endoftext|>|")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"test": None}, "test: found None, which is of another type"),
        ({"test": "def chek(candidate): pass"}, "test: expected check(candidate), found"),
        ({"entry_point": "treble"}, "that define treble, found a program that does not"),
        ({"canonical_solution": "return x +"}, "that define double, found a program that does not"),
        ({"task_id": 3}, "task_id: found 3, which is of another type"),
    ],
)
def test_rows_that_are_no_tasks_are_named(tmp_path: Path, change: Any, said: str) -> None:
    path = written(tmp_path / "rows.jsonl", TASK, TASK | {"task_id": "World/1"} | change)
    with pytest.raises(InputError, match=rf"rows\.jsonl line 2: .*{re.escape(said)}"):
        read_tasks(path, "functions")
    assert len(read_tasks(path, "functions", 1)) == 1


def test_files_of_another_kind_are_named(tmp_path: Path, shared_data: Path) -> None:
    plain = shared_data / "humaneval" / "HumanEval.jsonl.gz"
    with pytest.raises(InputError, match="line 1: .*found a plain test; use kind=functions"):
        read_tasks(plain, "humaneval")
    assert len(read_tasks(plain, "functions")) == 164
    with pytest.raises(InputError, match="task_id: expected HumanEval/…, found 'Mbpp/2'"):
        read_tasks(shared_data / "mbpp" / "MbppPlus.jsonl.gz", "humaneval")
    missing = {name: value for name, value in TASK.items() if name != "entry_point"}
    for rows, said in (
        ([], "expected at least one task, found none"),
        ([TASK, TASK], "line 2: task_id: expected each once, found World/0 again"),
        ([missing], "the field 'entry_point' is missing; found task_id, prompt"),
    ):
        with pytest.raises(InputError, match=said):
            read_tasks(written(tmp_path / "other.jsonl", *rows), "functions")
    mbpp = {"base_input": [[1]], "plus_input": [2], "atol": 0, "task_id": "Mbpp/1"}
    with pytest.raises(InputError, match="plus_input: expected lists of arguments, found 2"):
        read_tasks(written(tmp_path / "third.jsonl", TASK | mbpp), "mbpp")


class Canned:
    """A generator that says the same to every prompt."""

    name = "hf"

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def __call__(self, prompts: Any, *, max_new_tokens: int, stops: Any = ()) -> list[Generation]:
        assert len(prompts) == len(self.texts) and max_new_tokens == 32
        return [Generation(text, finished=True) for text in self.texts]


def test_a_test_that_tells_what_cannot_be_told_fails_and_nothing_else(tmp_path: Path) -> None:
    told = "def check(candidate):\n    assert candidate(2) == 4, candidate(2)\n"
    (task,) = read_tasks(written(tmp_path / "one.jsonl", TASK | {"test": told}), "functions")
    huge = PROMPT + "    return 10**5000\n"
    assert check(task, huge, choose_sandbox(False)).base.status == "failed"


def test_functions_are_asked_for_answered_and_scored(tmp_path: Path) -> None:
    helper = (
        "def inverse(x):\n    return x / 2\n\n\n" + PROMPT,
        "def check(candidate):\n    assert inverse(candidate(2)) == 2\n    assert double(3) == 6\n",
    )
    tasks = [
        TASK | {"task_id": "World/0"},
        TASK | {"task_id": "World/1"},
        TASK | {"task_id": "World/2"},
        TASK | {"task_id": "World/3", "prompt": helper[0], "test": helper[1]},
        TASK | {"task_id": "World/4", "prompt": helper[0], "test": helper[1]},
        TASK | {"task_id": "World/5"},
    ]
    file = written(tmp_path / "tasks.jsonl", *tasks, TASK | {"task_id": "World/6"})
    texts = [
        "    return x + x",
        "    return x * 3",
        "no program",
        "    return x + x",
        "    return 4",  # the test's own call of double must meet the program, not the solution
        "    while True: x += 1\n    return x",
    ]
    tokenizer = tokenizer_with(None)
    subject = Subject(
        tmp_path, None, tokenizer, Encoder.of(tokenizer), Canned(texts), AnswerSettings(),  # type: ignore[arg-type]
        PromptFormat("basic", "instruction"), None, True,
    )  # fmt: skip
    benchmark = Benchmark(kind="functions", file=str(file), limit=6, max_new_tokens=32)
    functions = kind_of("functions")
    answers = functions.answers(subject, benchmark)
    assert answers.protocol.startswith(
        "functions shots=0 template=instruction-basic extract=fence|text|continuation|body stop=eos"
    )
    assert answers.rows[0] == {
        "item": "World/0",
        "prompt": f"Instruction: Complete the function.\n{PROMPT.rstrip()}\nResponse:\n",
        "text": "    return x + x",
        "program": f"{PROMPT}    return x + x",
        "found": "continuation",
        "finished": True,
    }
    rows = json.loads(json.dumps(answers.rows))
    scores = functions.scores(rows, benchmark, Scoring(ScoreSettings(), "answers"))
    hits = {item.item: item.value for item in scores.items if item.metric == "pass_at_1"}
    assert hits == {f"World/{i}": hit for i, hit in enumerate([1, 0, 0, 1, 0, 0])}
    found = {measured.metric: measured.value for measured in scores.measurements}
    assert found == {"pass_at_1": 2 / 6, "format_ok": 5 / 6}
    assert scores.counts["programs_out_of_time"] == scores.counts["programs_run_twice"] == 1
    assert scores.packages == ()


@pytest.mark.parametrize(
    ("template", "written_as"), [("auto", "chat"), ("instruction", "instruction-basic")]
)
def test_a_base_with_a_chat_template_is_asked_as_the_protocol_says(
    tmp_path: Path, template: Any, written_as: str
) -> None:
    tokenizer = tokenizer_with(CHAT)
    subject = Subject(
        tmp_path, None, tokenizer, Encoder.of(tokenizer), Canned(["x"]), AnswerSettings(),  # type: ignore[arg-type]
        None, None, False,
    )  # fmt: skip
    file = written(tmp_path / "tasks.jsonl", TASK)
    benchmark = Benchmark(kind="functions", file=str(file), max_new_tokens=32, template=template)
    answers = kind_of("functions").answers(subject, benchmark)
    assert f" template={written_as} " in answers.protocol
    assert answers.rows[0]["prompt"].startswith("<user>") == (written_as == "chat")


def test_a_solution_that_fails_its_own_test_is_the_files_mistake(tmp_path: Path) -> None:
    wrong = TASK | {"canonical_solution": "    return x\n"}
    file = written(tmp_path / "tasks.jsonl", wrong)
    rows = [{"item": "World/0", "program": None}]
    benchmark = Benchmark(kind="functions", file=str(file))
    with pytest.raises(InputError, match="canonical_solution of World/0 to pass .*AssertionError"):
        kind_of("functions").scores(rows, benchmark, Scoring(ScoreSettings(), "answers"))


def test_a_file_of_another_kind_is_one_line_and_exit_code_2(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "plain.jsonl", TASK | {"task_id": "HumanEval/0"})
    named = ["--model", str(tiny_model_dir), "--model-name", "tiny"]
    chosen = ["--benchmark", "code", "kind=humaneval", f"file={file}"]
    assert main(["answer", *named, "--output", str(tmp_path / "answers"), *chosen]) == 2
    assert "plain.jsonl line 1: expected EvalPlus's base_input" in capsys.readouterr().err
    assert not (tmp_path / "answers").exists()
