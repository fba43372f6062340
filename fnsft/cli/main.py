"""The ``fnsft`` command: finds the stage, reads its flags, reports bad input in one line."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from fnsft import __version__
from fnsft.cli.flags import add_settings, read_settings
from fnsft.errors import InputError
from fnsft.hub.tokens import SECRET

# In the order of the data flow. A stage's module has SETTINGS, add_paths(parser) and
# run(arguments, settings).
STAGES = {
    "world": "make the embedded synthetic world: corpus, word problems, functions, facts",
    "pretrain": "train a tokenizer and a tiny base model on a corpus",
    "fetch": "fetch a model, a data set or a wheel to a local folder",
    "convert": "turn a GGUF file into a Hugging Face model folder",
    "twin": "make a random-initialised model of the same shape, a control",
    "prepare": "render, split and sample a data set into prompts and completions",
    "statistics": "count and rank the tokens of the training split",
    "capture": "record which MLP neurons every token activates",
    "project": "project the co-activation hypergraph to a collaboration graph",
    "cluster": "cluster the neurons of a collaboration graph",
    "measure": "measure whether a graph and its clusters mean anything",
    "networks": "find functional networks by ICA, without any training",
    "match": "match the networks of two inputs, data sets or models",
    "agree": "measure whether ICA networks and collaboration clusters agree",
    "lesion": "measure what removing networks costs and keeping only them leaves",
    "overlap": "measure what the graph changes about a mask",
    "train": "fine-tune with a method that decides what may change",
    "evaluate": "measure accuracy, perplexity and recall of a model",
    "generate": "answer prompts with a model, to try it",
    "merge": "fold an adapter or a forward mask into plain weights",
    "export": "write a tuned model for others: all weights, or what changed",
    "apply-delta": "put changed weights onto their base, or take them off",
    "push": "upload a tuned model or adapter with its model card",
    "choose": "choose a learning rate per method by validation perplexity",
    "table": "make a table of metric records: LaTeX and CSV",
    "figure": "draw a figure: PDF and PNG",
    "show": "print a table's CSV as text",
    "check-hf-token": "say whether a hub token is found, works, and reaches a model",
    "doctor": "say what this machine has, and what is missing",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``fnsft`` and return its exit code: 0, or 2 for bad input."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    stage = arguments[0] if arguments and arguments[0] in STAGES else None
    parser = _parser(stage)
    parsed = parser.parse_args(arguments)
    module = _module(parsed.stage)
    try:
        settings = read_settings(parsed, module.SETTINGS) if module.SETTINGS else None
        module.run(parsed, settings)
    except InputError as error:
        print(f"fnsft {parsed.stage}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        # A full disk, a missing permission: the user's to mend, and the message names the file.
        print(f"fnsft {parsed.stage}: {error}", file=sys.stderr)
        return 2
    return 0


def entry_point() -> None:
    """Run ``fnsft`` and exit with its code."""
    sys.exit(main())


def _module(stage: str) -> ModuleType:
    return importlib.import_module(f"fnsft.cli.{stage.replace('-', '_')}")


class _Parser(argparse.ArgumentParser):
    """Hides what looks like a token of the hub in the line about words that it does not know."""

    def error(self, message: str) -> NoReturn:
        super().error(SECRET.sub("***", message))


def _parser(stage: str | None) -> argparse.ArgumentParser:
    """Build the parser; only the named stage's module is imported."""
    parser = _Parser(
        prog="fnsft", description="Fine-tune language models and choose which neurons may change."
    )
    parser.add_argument("--version", action="version", version=f"fnsft {__version__}")
    subparsers = parser.add_subparsers(dest="stage", metavar="stage", required=True)
    for name, summary in STAGES.items():
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            allow_abbrev=False,
        )
        if name == stage:
            module = _module(name)
            module.add_paths(subparser)
            if module.SETTINGS:
                add_settings(subparser, module.SETTINGS)
    return parser
