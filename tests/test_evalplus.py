"""HumanEval+ and MBPP+: programs run in a sandbox and are judged as EvalPlus judges them."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evalplus.eval import untrusted_check
from evalplus.gen.util import trusted_exec
from evalplus.provider import utility

from fnsft.artifacts.items import ItemScore
from fnsft.config.stages.evaluation import ScoreSettings
from fnsft.errors import InputError
from fnsft.evaluation.benchmarks.contract import Scores, Scoring
from fnsft.evaluation.code import checking, scoring
from fnsft.evaluation.code.checking import Checked, check
from fnsft.evaluation.code.comparison import Comparison, Opaque
from fnsft.evaluation.code.evalplus import as_called
from fnsft.evaluation.code.prompts import Style
from fnsft.evaluation.code.scoring import _workers, score_programs
from fnsft.evaluation.code.tasks import CodeTask, read_tasks
from fnsft.evaluation.sandbox import Sandbox, choose_sandbox

FILES = {"humaneval": "humaneval/HumanEvalPlus-Mini.jsonl.gz", "mbpp": "mbpp/MbppPlus.jsonl.gz"}
# A special oracle each but the first: a root, sets, not None, a tolerance, tuples from JSON.
QUICK = {
    "humaneval": ("HumanEval/0", "HumanEval/4", "HumanEval/20", "HumanEval/32", "HumanEval/38"),
    "mbpp": tuple(f"Mbpp/{i}" for i in (2, 88, 116, 252, 558, 581, 737)),
}


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return choose_sandbox(False)


@pytest.fixture(scope="module")
def tasks(shared_data: Path) -> dict[str, CodeTask]:
    """The quick tasks, each with a dozen inputs."""
    return {
        task.task_id: replace(task, base_input=task.base_input[:6], plus_input=task.plus_input[:6])
        for suite, file in FILES.items()
        for task in read_tasks(shared_data / file, suite)  # type: ignore[arg-type]
        if task.task_id in QUICK[suite]
    }


def scored(tasks: Sequence[CodeTask], programs: Sequence[str | None], workers: int = 2) -> Scores:
    rows = [
        {"item": task.task_id, "program": program}
        for task, program in zip(tasks, programs, strict=True)
    ]
    return score_programs(tasks, rows, Scoring(ScoreSettings(workers=workers), "answers"))


def values(scores: Scores) -> dict[str, float]:
    return {found.metric: found.value for found in scores.measurements}


# Verdicts that time has no part in are the same on a machine that has much else to do.
PATIENCE = 20.0


def evalplus_passes(task: CodeTask, program: str, seconds: float = PATIENCE) -> tuple[bool, bool]:
    """EvalPlus's own verdicts on typed base and plus inputs, and its own expected outputs."""
    found = []
    for inputs in (task.base_input, task.plus_input):
        not_none = Comparison(task).not_none
        expected, times = trusted_exec(
            task.reference, inputs, task.entry_point, record_time=True, output_not_none=not_none
        )
        status, _ = untrusted_check(
            task.suite, program, inputs, task.entry_point, expected, task.atol, times, True, seconds
        )
        found.append(status == "pass")
    return found[0], found[0] and found[1]


def patiently(task: CodeTask, program: str, sandbox: Sandbox) -> Checked:
    return check(task, program, sandbox, factor=PATIENCE)


def ours(checked: Checked) -> tuple[bool, bool]:
    plus = checked.plus is not None and checked.plus.status == "passed"
    return checked.base.status == "passed", plus


def wrapped(task: CodeTask, result: str, before: str = "") -> str:
    """The right solution, whose result R and arguments A a handmade one changes."""
    return (
        f"{task.reference}\nimport time, sys, collections\n_right = {task.entry_point}\n"
        f"def {task.entry_point}(*A):\n    {before or 'pass'}\n    R = _right(*A)\n"
        f"    return {result}\n"
    )


# Each with what it returns, R being right, and what it does before.
HANDMADE = {
    "right": ("R", ""),
    "prints": ("R", "print('x' * 1000)"),
    "off by 1e-7": ("R + 1e-7", ""),
    "off by 1e-3": ("R + 1e-3", ""),
    "off by one": ("R + 1", ""),
    "list": ("list(R)", ""),
    "reversed": ("R[::-1]", ""),
    "text": ("str(R)", ""),
    "bool": ("bool(R)", ""),
    "iterator": ("iter([R])", ""),
    "dict": ("dict(R)", ""),
    "defaultdict": ("collections.defaultdict(int, R)", ""),
    "none": ("None", ""),
    "zero": ("0", ""),
    "nan": ("float('nan')", ""),
    "array": ("__import__('numpy').array([R])", ""),
    "numpy": ("numpy.float64(R)", "import numpy"),
    "numpy off by 1e-9": ("numpy.float64(R + 1e-9)", "import numpy"),
    "numpy of 32 bits": ("numpy.float32(R)", "import numpy"),
    "numpy inside off by 1e-9": ("(*map(numpy.float64, R[:-1]), R[-1] + 1e-9)", "import numpy"),
    "mutates": ("[R, A[0].clear()][0]", ""),
    "exception": ("R", "raise ValueError('no')"),
    "exits": ("R", "sys.exit(0)"),
    "exception later": ("R", "G = globals(); G['n'] = G.get('n', 0) + 1; 1 / (G['n'] < 3)"),
}
ON = {
    "HumanEval/4": [
        "right", "prints", "off by 1e-7", "off by 1e-3", "text", "nan", "array", "mutates",
        "exception", "exits", "exception later", "numpy", "numpy off by 1e-9", "numpy of 32 bits",
    ],
    "HumanEval/20": ["list", "reversed", "numpy inside off by 1e-9"],  # a tuple of floats
    "Mbpp/2": ["list", "reversed", "iterator", "none"],  # compared as sets
    "Mbpp/88": ["right", "dict", "defaultdict", "list", "none"],  # a Counter
    "Mbpp/116": ["right", "off by one", "bool"],  # called with tuples
    "Mbpp/252": ["right", "off by 1e-7", "off by 1e-3"],  # called with complex numbers
    "Mbpp/558": ["right", "zero"],
    "Mbpp/581": ["right", "off by one"],
    "Mbpp/737": ["right", "bool", "iterator", "none", "text"],  # asked not to be None
}  # fmt: skip


@pytest.mark.parametrize("task_id", ON)
def test_evalplus_gives_the_same_verdicts_on_handmade_solutions(
    task_id: str, tasks: dict[str, CodeTask], sandbox: Sandbox
) -> None:
    task = as_called(tasks[task_id])
    for name in ON[task_id]:
        program = wrapped(task, *HANDMADE[name])
        assert ours(patiently(task, program, sandbox)) == evalplus_passes(task, program), name


def test_evalplus_gives_the_same_verdict_on_what_does_not_load_or_end(
    tasks: dict[str, CodeTask], sandbox: Sandbox
) -> None:
    task = tasks["HumanEval/4"]
    for program in ("", "def f(:", "1 / 0", "import nothing_of_this_name", "x = 1"):
        assert (
            ours(patiently(task, program, sandbox))
            == evalplus_passes(task, program)
            == (False,) * 2
        )
    slow = wrapped(task, "R", "time.sleep(30)")
    found = check(task, slow, sandbox)
    assert found.base.status == "timeout" and found.base.used >= 1
    assert evalplus_passes(task, slow, 1) == (False, False)


def test_evalplus_lets_no_root_pass_and_we_take_those_that_are_close(
    tasks: dict[str, CodeTask], sandbox: Sandbox
) -> None:
    task = tasks["HumanEval/32"]
    assert evalplus_passes(task, task.reference) == (False, False)  # its release's mistake
    assert ours(patiently(task, task.reference, sandbox)) == (True, True)
    for result in ("R + 1e-7", "[R]", "R + 1"):
        right = result == "R + 1e-7"
        assert ours(patiently(task, wrapped(task, result), sandbox)) == (right, right)


def test_evalplus_refuses_a_close_number_of_a_subclass_and_we_take_it(
    tasks: dict[str, CodeTask], sandbox: Sandbox
) -> None:
    task = tasks["HumanEval/4"]
    for result, theirs in (("R", True), ("R + 1e-9", False)):
        program = wrapped(task, f"type('Own', (float,), {{}})({result})")
        assert evalplus_passes(task, program) == (theirs, theirs)
        assert ours(patiently(task, program, sandbox)) == (True, True)


LIAR = """
class Liar(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __repr__(self): return "4"
def {name}(*A): return {value}
"""


@pytest.mark.parametrize("value", ["Liar()", "[Liar()]", "(Liar(),)", "type('X', (), {})()"])
def test_evalplus_is_fooled_by_an_object_that_equals_everything_and_we_are_not(
    value: str, tasks: dict[str, CodeTask], sandbox: Sandbox
) -> None:
    task = tasks["HumanEval/38"]
    program = LIAR.format(name=task.entry_point, value=value)
    assert ours(patiently(task, program, sandbox)) == (False, False)
    if value == "Liar()":
        assert evalplus_passes(task, program) == (True, True)


FORGERS = {
    "patches the comparison": "import builtins, json, operator\nbuiltins.all = lambda x: True\n"
    "operator.eq = lambda a, b: True\njson.dumps = lambda *a, **k: '\"passed\"'\n",
    "patches numpy": "import numpy\nnumpy.allclose = lambda *a, **k: True\n",
    "looks for what is expected": "import gc, sys\n"
    "X = [v for o in gc.get_objects() if isinstance(o, dict) for k, v in list(o.items())"
    " if isinstance(k, str) and k in ('expected', 'exp', 'reference', 'canonical_solution')]\n"
    "assert not X, 'found it'\n",
    "writes verdicts to every file": "import os\nfor fd in range(3, 40):\n    try:\n"
    '        os.write(fd, b\'{"status": "passed"}\\n\')\n    except OSError:\n        pass\n',
    "ends with success": "import os\nos._exit(0)\n",
}


@pytest.mark.parametrize("name", FORGERS)
def test_evalplus_programs_that_forge_a_verdict_fail(
    name: str, tasks: dict[str, CodeTask], sandbox: Sandbox
) -> None:
    task = tasks["HumanEval/38"]
    program = f"{FORGERS[name]}\ndef {task.entry_point}(*A): return 'forged'\n"
    found = patiently(task, program, sandbox)
    assert found.base.status in ("failed", "died") and found.plus is None
    assert "found it" not in found.base.message


def test_evalplus_solutions_of_special_tasks_pass_and_wrong_ones_fail(
    tasks: dict[str, CodeTask],
) -> None:
    chosen = list(tasks.values())
    right = scored(chosen, [task.reference for task in chosen])
    assert values(right) == {"pass_at_1": 1.0, "pass_at_1_plus": 1.0, "format_ok": 1.0}
    assert [item.item for item in right.items[: len(chosen)]] == list(tasks)
    assert right.notes["sandbox"] == choose_sandbox(False).name
    assert right.notes["time_limit_factor"] >= 1.0 and right.packages == ("evalplus",)
    wrong = scored(chosen[:4], [wrapped(task, "('wrong', R)") for task in chosen[:4]])
    assert values(wrong) == {"pass_at_1": 0.0, "pass_at_1_plus": 0.0, "format_ok": 1.0}


def test_evalplus_further_tests_count_for_plus_alone(tasks: dict[str, CodeTask]) -> None:
    task = tasks["HumanEval/4"]
    base, plus = task.base_input, task.plus_input
    only_base = wrapped(task, "R", f"assert A[0] in {[list(call)[0] for call in base]!r}")
    assert any(call not in base for call in plus)
    assert values(scored([task], [only_base])) == {
        "pass_at_1": 1.0, "pass_at_1_plus": 0.0, "format_ok": 1.0,
    }  # fmt: skip


def test_evalplus_scores_do_not_depend_on_workers_or_the_order_of_rows(
    tasks: dict[str, CodeTask],
) -> None:
    chosen = list(tasks.values())[:5]
    programs = [chosen[0].reference, None, "def f(:", chosen[3].reference, wrapped(chosen[4], "0")]
    one, three = scored(chosen, programs, 1), scored(chosen, programs, 3)
    assert (one.measurements, one.items) == (three.measurements, three.items)
    rows = [
        {"item": task.task_id, "program": program}
        for task, program in reversed(list(zip(chosen, programs, strict=True)))
    ]
    back = score_programs(chosen, rows, Scoring(ScoreSettings(workers=2), "answers"))
    assert back.items == one.items
    assert values(one) == {"pass_at_1": 0.4, "pass_at_1_plus": 0.4, "format_ok": 0.8}
    assert one.items[1] == ItemScore("", "pass_at_1", chosen[1].task_id, 0.0)


def test_evalplus_programs_that_run_out_of_time_are_run_once_more(
    tasks: dict[str, CodeTask],
) -> None:
    task = tasks["Mbpp/2"]
    found = scored([task], [wrapped(task, "R", "time.sleep(300)")])
    assert found.counts["programs_run_twice"] == found.counts["programs_out_of_time"] == 1
    assert values(found)["pass_at_1"] == 0.0


def test_evalplus_outputs_too_large_to_travel_are_compared_by_digests(
    tasks: dict[str, CodeTask], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "_MANY_ENTRIES", 1)
    task = tasks["HumanEval/20"]  # pairs of floats
    near = "tuple(x + 1e-9 for x in R)"  # which is right where values travel
    for result in ("R", near, "R[::-1]", "list(R)", "(*R, 0)", "1 / 0"):
        right = result == "R"
        assert ours(patiently(task, wrapped(task, result), sandbox)) == (right, right), result
    forger = wrapped(task, "R[::-1]", "globals().update(hashlib=None, digest_of_output=max)")
    assert ours(patiently(task, forger, sandbox)) == (False, False)


def test_evalplus_all_calls_of_a_program_have_a_time_limit_together(
    tasks: dict[str, CodeTask], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks["HumanEval/4"]
    slow = wrapped(task, "R", "time.sleep(0.1)")
    assert patiently(task, slow, sandbox).base.status == "passed"
    monkeypatch.setattr(checking, "_MIN_PROGRAM_SECONDS", 0.15)
    assert check(task, slow, sandbox).base.status == "timeout"
    assert check(task, slow, sandbox, factor=200).base.status == "passed"
    # Never less than four times what the reference takes.
    own = replace(task, canonical_solution=slow.removeprefix(task.prompt))
    assert check(own, slow, sandbox).base.status == "passed"


def test_evalplus_programs_that_load_slowly_have_more_time_on_a_slow_machine(
    tasks: dict[str, CodeTask], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "_LOAD_SECONDS", 0.2)
    task = tasks["HumanEval/4"]
    slow = f"import time\ntime.sleep(0.4)\n{task.reference}"
    assert check(task, slow, sandbox).base.status == "timeout"
    assert check(task, slow, sandbox, factor=200).base.status == "passed"


def slow_in_the_sandbox(task: CodeTask, seconds: float) -> CodeTask:
    """A task whose solution is slow where programs run: there the environment is empty."""
    wait = f"time.sleep({seconds} * ('PYTEST_CURRENT_TEST' not in __import__('os').environ))"
    solution = wrapped(task, "R", wait).removeprefix(task.prompt)
    return replace(task, canonical_solution=solution, base_input=task.base_input[:1], plus_input=())


def test_evalplus_time_limits_grow_on_a_slow_machine_which_is_said(
    tasks: dict[str, CodeTask], capsys: pytest.CaptureFixture[str]
) -> None:
    task = slow_in_the_sandbox(tasks["HumanEval/4"], 1.2)
    found = scored([task], [task.reference])
    assert values(found)["pass_at_1"] == 1.0  # beyond EvalPlus's limit of one second
    assert found.notes["time_limit_factor"] >= 2.4
    assert "this machine is slow" in capsys.readouterr().err


def test_evalplus_notices_a_machine_that_becomes_slow_while_it_scores(
    tasks: dict[str, CodeTask], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = list(tasks.values())  # of which every other one is timed before
    chosen[1] = slow_in_the_sandbox(chosen[1], 1.2)
    found = scored(chosen, [task.reference for task in chosen])
    assert values(found)["pass_at_1"] == 1.0
    assert found.counts["programs_run_twice"] >= 1 and found.counts["programs_out_of_time"] == 0
    assert found.notes["time_limit_factor"] >= 2.4
    assert "this machine is slow" in capsys.readouterr().err


def test_evalplus_refuses_a_machine_on_which_reference_solutions_do_not_end(
    tasks: dict[str, CodeTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_HOPELESS", 1.5)
    task = slow_in_the_sandbox(tasks["HumanEval/4"], 15)
    with pytest.raises(InputError, match="expected a machine on which .* 2 times its limit"):
        scored([task], [task.reference])


def test_evalplus_refuses_a_file_whose_own_solution_fails(tasks: dict[str, CodeTask]) -> None:
    task = tasks["HumanEval/4"]
    # Its results differ from call to call.
    broken = wrapped(task, "id(object()) + time.time()").removeprefix(task.prompt)
    with pytest.raises(
        InputError, match="^answers: expected the canonical_solution of HumanEval/4"
    ):
        scored([replace(task, canonical_solution=broken)], [None])
    broken = "    return numbers.no\n"
    with pytest.raises(InputError, match="HumanEval/4: .* takes its own inputs, found AttributeE"):
        scored([replace(task, canonical_solution=broken)], [None])


def test_evalplus_rows_must_be_those_of_the_tasks(tasks: dict[str, CodeTask]) -> None:
    task = tasks["HumanEval/4"]
    for items in ([], ["HumanEval/5"], [task.task_id] * 2):
        rows = [{"item": item, "program": None} for item in items]
        with pytest.raises(InputError, match="^answers: expected one row for each of the 1 tasks"):
            score_programs([task], rows, Scoring(ScoreSettings(), "answers"))


def test_evalplus_checks_whose_process_is_killed_end_in_one_line() -> None:
    with pytest.raises(InputError, match="found one killed"), _workers(1) as pool:
        pool.submit(os._exit, 1).result()


def test_evalplus_missing_is_one_line_and_needed_by_its_suites_alone(
    tasks: dict[str, CodeTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "evalplus.eval", None)
    with pytest.raises(InputError, match=r"package evalplus, found none .*; pip install 'fnsft\["):
        scored([tasks["HumanEval/4"]], [None])


def test_evalplus_stop_texts_are_the_ones_that_we_use() -> None:
    for suite in ("humaneval", "mbpp"):
        completion = [*utility.EOS, *utility.extra_eos_for_direct_completion(suite)]
        assert list(Style("completion", suite).stops) == completion  # type: ignore[arg-type]
        assert list(Style("chat", suite).stops) == [*utility.EOS, "\n```\n"]  # type: ignore[arg-type]


def compared(name: str, arguments: list[Any], out: Any, expected: Any, atol: float = 0) -> bool:
    task = CodeTask("mbpp", "Mbpp/0", "", name, "", atol=atol)
    return Comparison(task).agrees(arguments, out, expected, atol)


def test_evalplus_oracles_take_what_their_tasks_allow() -> None:
    assert compared("are_equivalent", [1, 2], "anything", True)
    assert compared("sum_div", [7], 0, 8) and not compared("sum_div", [7], 1, 8)
    assert compared("digit_distance_nums", [1, 20], 3, 99)  # 01 and 20
    assert compared("digit_distance_nums", [1, 20], 99, 99)
    assert compared("surface_Area", [3, 4], 35, 33) and not compared("surface_Area", [3, 4], 36, 33)
    assert compared("check_str", ["a"], Opaque(), True) and compared(
        "check_str", ["a"], None, False
    )
    assert not compared("check_str", ["a"], False, True)
    assert compared("Diff", [[1], [2]], [2, 1, 1], [1, 2]) and not compared("Diff", [], [1], [1, 2])
    assert not compared("plain", [7], 0, 8)


def test_evalplus_tolerance_is_for_floats_of_the_same_type_and_length() -> None:
    assert compared("f", [], 1.0 + 1e-9, 1.0, 1e-6) and not compared("f", [], 1.001, 1.0, 1e-6)
    assert compared("f", [], 1e9 + 50, 1e9, 1e-6)  # 1e-7 of the expected value
    assert not compared("f", [], 1e9 + 200, 1e9, 1e-6)
    assert not compared("f", [], 1.0 + 1e-9, 1.0)
    assert not compared("f", [], [1.0], (1.0,), 1e-6) and not compared("f", [], 1, 1.0 + 1e-9, 1e-6)
    assert not compared("f", [], [1.0, 1.0], [1.0], 1e-6)
    assert not compared("f", [], float("nan"), float("nan"), 1e-6)
    comparison = Comparison(CodeTask("mbpp", "Mbpp/0", "", "f", ""))
    for expected in (1.0, [1.0, 2.0], (1.0,), np.array([1.0])):
        assert comparison.tolerance(0, expected) == 1e-6
        assert comparison.tolerance(1e-4, expected) == 1e-4
    for expected in (1, [1, 2.0], [], "1.0", None, np.array([1]), {"a": 1.0}):
        assert comparison.tolerance(0, expected) == 0
    assert comparison.tolerance(1e-6, 1) == 1e-6  # what was switched on stays on


@pytest.mark.evalplus
@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "suite", "n"),
    [("humaneval/HumanEvalPlus.jsonl.gz", "humaneval", 164), (FILES["mbpp"], "mbpp", 378)],
)
def test_evalplus_solutions_all_pass_in_the_sandbox(
    file: str, suite: Any, n: int, shared_data: Path
) -> None:
    tasks = read_tasks(shared_data / file, suite)
    assert len(tasks) == n
    try:
        found = scored(tasks, [task.reference for task in tasks])
    except InputError as error:
        if "expected a machine" not in str(error):
            raise
        pytest.skip(str(error))
    assert [item for item in found.items if not item.value] == []
