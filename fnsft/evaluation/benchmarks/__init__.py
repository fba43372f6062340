"""Kinds of benchmarks, each a module with ``answers`` and ``scores`` (see ``contract``)."""

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from fnsft.evaluation.benchmarks.contract import Kind

# Modules are imported when they are asked for: some need packages that are not always there.
MODULES: dict[str, str] = {
    "gsm8k": "gsm8k",
    "exact": "exact",
    "cloze": "cloze",
    "perplexity": "perplexity",
    "functions": "functions",
    "humaneval": "humaneval",
    "mbpp": "mbpp",
    "mmlu": "mmlu",
    "mmlu-pro": "mmlu_pro",
    "pubmedqa": "pubmedqa",
}


def kind_of(name: str) -> "Kind":
    """Return the module of a kind of benchmark."""
    return cast("Kind", importlib.import_module(f"{__name__}.{MODULES[name]}"))
