"""Programs in a model's text: fences, continuations and bodies, and texts that hold none."""

import ast
import gzip
import json
import random
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from fnsft.evaluation.code.definitions import MAX_CHARACTERS, defines
from fnsft.evaluation.code.extraction import Program, answered, continued
from fnsft.evaluation.code.tasks import read_tasks

PROMPT = 'def double(x):\n    """Return x times two."""\n'
BODY = "    y = x + x\n    return y\n"
WHOLE = PROMPT + BODY
NEWLINE = "\n"
MBPP = '"""\nWrite a function double.\nassert double(2) == 4\n"""\n'


def result(program: Program) -> Any:
    """What the extracted function says to 21: it must run, not only parse."""
    assert program.code is not None
    namespace: dict[str, Any] = {}
    exec(program.code, namespace)
    return namespace["double"](21)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"Sure!\n\n```python\n{WHOLE}```\nIt adds.", "fence"),
        (f"```\n{WHOLE}```", "fence"),
        (f"~~~py\n{WHOLE}~~~\n", "fence"),
        (f"1. So:\n{textwrap.indent(f'```python{NEWLINE}{WHOLE}```', '   ')}\n2. Done.", "fence"),
        (f"```python\n{WHOLE}```\nUse it:\n```python\nprint(double(2))\n```", "fence"),
        (f"```python\ndef double(x): return 0\n```\nBetter:\n```python\n{WHOLE}```", "fence"),
        (f"```python\n{WHOLE}```\nOr\n```python\ndef double(x):\n    return", "fence"),
        (f"````markdown\n```python\nno\n```\n````\n```python\n{WHOLE}```", "fence"),
        (f"Here:\n```python\n{WHOLE}\nprint(double(", "open-fence"),
        (WHOLE, "text"),
        (f"import math\n\n{WHOLE}\nif __name__ == '__main__':\n    print(double(1))\n", "text"),
        (f"The function is below.\n\n{WHOLE}\nIt returns twice x.", "text"),
        (f"def helper(x):\n    return x\n\n\n{WHOLE.replace('x + x', 'helper(x) + x')}", "text"),
        (WHOLE.replace("    ", "\t"), "text"),
        (WHOLE.replace("\n", "\r\n"), "text"),
        ("double = lambda x: 2 * x", "text"),
        (BODY, "continuation"),
        (f"```python\n{BODY}```", "body"),  # dedented with its fence
        ("y = x + x\nreturn y", "body"),
        ("y = x + x\n    return y", "body"),
        ("        y = x + x\n        return y", "body"),
        ("\treturn x + x", "continuation"),
        (f"{BODY}\nInstruction: another\nResponse:\n    return 0", "continuation"),
    ],
)  # fmt: skip
def test_an_answer_to_an_instruction_gives_the_function_that_it_holds(
    text: str, found: str
) -> None:
    program = answered(text, PROMPT, "double")
    assert result(program) == 42
    assert program.found == found


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (PROMPT, BODY),
        (PROMPT, f"{BODY}\n\nprint(double(3))\nassert False\n"),
        (PROMPT, f"{BODY}\n\ndef double(x):\n    return 0\n"),
        (PROMPT, f"# at once\n{BODY}"),
        (PROMPT, f"{BODY}    if x >\n"),
        (PROMPT, "    y = (\nx + x\n)\n    return y\n\nx = double(\n"),  # columns inside brackets
        (PROMPT, BODY.replace("    ", "\t")),
        (PROMPT, f"Let me see.\n\n{WHOLE}"),
        (PROMPT, f"```python\n{WHOLE}```\n"),
        (MBPP, WHOLE),
        (MBPP, f"def helper(x):\n    return x\n\n{WHOLE}\nassert double(2) =="),
        (MBPP, f"```python\n{WHOLE}\n```"),
    ],
)  # fmt: skip
def test_a_prompt_that_goes_on_gives_its_function(prompt: str, text: str) -> None:
    assert result(continued(text, prompt, "double")) == 42


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "I cannot do that.",
        "```python\n```",
        "```python\ndef other(x):\n    return x\n```",
        "def double(x:\n",
        "    # to be done\n",
        "\x00",
        "(" * 10_000,
        "-" * MAX_CHARACTERS + "1",
        "return " * 3,
        "Yes",
    ],
)
def test_a_text_without_the_function_has_no_program(text: str) -> None:
    assert continued(text, PROMPT, "double") == Program(None, "nothing")
    assert answered(text, PROMPT, "double") == Program(None, "nothing")


@pytest.mark.parametrize("seed", range(40))
def test_whatever_surrounds_a_fence_its_program_is_found_as_it_stands(seed: int) -> None:
    rng = random.Random(seed)
    words = [
        "def",
        "class x:",
        "return",
        "import",
        "the",
        "`double`",
        "\n",
        "\n    ",
        '"',
        "'''",
        "(",
    ]
    before, after = (" ".join(rng.choices(words, k=rng.randrange(30))) for _ in range(2))
    program = answered(f"{before}\n```python\n{WHOLE}```\n{after}", PROMPT, "double")
    assert (program.code, program.found) == (WHOLE, "fence")


@pytest.mark.parametrize("seed", range(40))
def test_every_program_that_is_found_compiles_and_defines_its_function(seed: int) -> None:
    rng = random.Random(seed)
    lines = (WHOLE + "```python\n```\n\nprose here\ndef double(x):\n\treturn 1\n  odd").split("\n")
    text = "\n".join(rng.choices(lines, k=rng.randrange(1, 12)))
    for found in (continued(text, PROMPT, "double"), answered(text, PROMPT, "double")):
        assert (found.code is None) == (found.found == "nothing")
        if found.code is not None:
            names = {getattr(node, "name", None) for node in ast.parse(found.code).body}
            assert "double" in names


def test_long_prose_is_read_in_a_second() -> None:
    prose = ("from what I see we import nothing, def initely\nclass room talk (\n" * 2_000)[
        :100_000
    ]
    start = time.process_time()
    assert answered(prose, PROMPT, "double").code is None
    assert continued(prose, PROMPT, "double").code is None
    assert time.process_time() - start < 5  # under 0.5 s alone


def test_the_function_may_be_defined_in_any_way_that_binds_its_name() -> None:
    for program in (
        "def f(): pass",
        "async def f(): pass",
        "class f: pass",
        "f = 1",
        "f: int = 1",
        "(e, f) = 1, 2",
        "from math import sqrt as f",
    ):
        assert defines(program, "f"), program
    for program in ("g = 1", "f: int", "if 1:\n    def f(): pass", "f()", "def f(", "return f"):
        assert not defines(program, "f"), program


def test_evalplus_solutions_are_found_whole_however_they_are_written(shared_data: Path) -> None:
    for file, suite in (
        ("humaneval/HumanEvalPlus.jsonl.gz", "humaneval"),
        ("mbpp/MbppPlus.jsonl.gz", "mbpp"),
    ):
        for task in read_tasks(shared_data / file, suite, 100):  # type: ignore[arg-type]
            prompt = task.prompt.strip() + "\n"
            fenced = f"It is:\n```python\n{task.reference}\n```\nDone."
            solution = task.canonical_solution.replace("\t", "    ")
            assert answered(fenced, prompt, task.entry_point).code == f"{task.prompt}{solution}\n"
            tail = "\n\nprint('so')\ndef more(:\n"
            code = continued(task.canonical_solution + tail, prompt, task.entry_point).code
            assert code is not None and code.startswith(prompt + solution.rstrip())


def test_tasks_are_read_from_files_plain_and_gzipped_and_cut_by_limit(
    tmp_path: Path, shared_data: Path
) -> None:
    packed = shared_data / "humaneval" / "HumanEvalPlus-Mini.jsonl.gz"
    plain = tmp_path / "mini.jsonl"
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    assert read_tasks(plain, "humaneval") == read_tasks(packed, "humaneval")
    first = json.loads(plain.read_text().splitlines()[2])
    third = read_tasks(packed, "humaneval", 3)[-1]
    assert third.task_id == first["task_id"] and third.plus_input == tuple(first["plus_input"])
