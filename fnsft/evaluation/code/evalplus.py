"""What is taken from EvalPlus: its tables of special cases, from the installed package.

The package is asked for no data, so that its download and its cache are never touched.
"""

import importlib
from dataclasses import replace
from typing import Any

from fnsft.errors import InputError
from fnsft.evaluation.code.tasks import CodeTask


def evalplus_module(name: str) -> Any:
    """Import a module of EvalPlus.

    Raises
    ------
    InputError
        Where the package is not installed.
    """
    try:
        return importlib.import_module(f"evalplus.{name}")
    except ModuleNotFoundError as error:
        raise InputError(
            f"benchmarks humaneval and mbpp: expected the package evalplus, found none ({error}); "
            "pip install 'fnsft[benchmarks]'"
        ) from None


def as_called(task: CodeTask) -> CodeTask:
    """Return a task whose inputs have the types that it is called with.

    JSON has no tuples, sets or complex numbers; EvalPlus says by task where MBPP has them. A
    task is given once: what has been typed is typed otherwise a second time.
    """
    if task.suite != "mbpp":
        return task
    typed = evalplus_module("data.mbpp").mbpp_deserialize_inputs
    base, plus = (
        tuple(typed(task.task_id, list(inputs))) for inputs in (task.base_input, task.plus_input)
    )
    return replace(task, base_input=base, plus_input=plus)
