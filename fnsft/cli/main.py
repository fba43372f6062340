"""The ``fnsft`` command: finds the stage, reads its flags, reports bad input in one line."""

import argparse
import contextlib
import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType, ModuleType
from typing import NoReturn

from fnsft import __version__, devices
from fnsft.artifacts.exhaustion import in_short, lack_of_room, lacks_memory
from fnsft.cli.flags import add_settings, read_settings
from fnsft.errors import InputError, Interrupted
from fnsft.hub.tokens import SECRET, redacted

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
    "describe": "describe every MLP neuron by its top tokens, or import descriptions",
    "project": "project the co-activation hypergraph to a collaboration graph",
    "cluster": "cluster the neurons of a collaboration graph",
    "measure": "measure whether a graph and its clusters mean anything",
    "networks": "find functional networks by ICA, without any training",
    "similarity": "measure whether neighbours in a graph are described alike",
    "match": "match the networks of two inputs, data sets or models",
    "agree": "measure whether ICA networks and collaboration clusters agree",
    "lesion": "measure what removing networks costs and keeping only them leaves",
    "overlap": "measure what the graph changes about a mask",
    "train": "fine-tune with a method that decides what may change",
    "evaluate": "measure accuracy, perplexity and recall of a model",
    "answer": "answer benchmarks with a model",
    "score": "score answers; programs among them run in a sandbox",
    "drift": "measure how far a stage moved a model",
    "transfer": "measure what a sequence of stages learned and forgot",
    "generate": "answer prompts with a model, to try it",
    "merge": "fold an adapter or a forward mask into plain weights",
    "export": "write a tuned model for others: all weights, or what changed",
    "apply-delta": "put changed weights onto their base, or take them off",
    "push": "upload a tuned model or adapter with its model card",
    "choose": "choose a learning rate per method by validation perplexity",
    "table": "make a table of metric records: LaTeX, CSV, Markdown and HTML",
    "figure": "draw a figure: PDF and PNG",
    "explore": "make one HTML page of an experiment's results, down to single neurons",
    "show": "print a table's CSV as text",
    "paper": "put tables and figures into one LaTeX document",
    "typeset": "compile a LaTeX document to PDF",
    "check-hf-token": "say whether a hub token is found, works, and reaches a model",
    "plan": "say what a configuration costs, and whether it fits, before it runs",
    "doctor": "say what this machine has, and what is missing",
}

# Those that compute with a model on devices: one each, and `train` one a process. In a pool of
# devices all others see none, but for one whose settings ask for it.
ON_DEVICES = frozenset(
    ("capture", "describe", "networks", "lesion", "overlap", "train", "evaluate", "answer", "drift")
    + ("generate",)
)
# Those that are there to use a network; FNSFT_OFFLINE=1 keeps it from all others.
ON_NETWORK = frozenset(("fetch", "push", "check-hf-token"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``fnsft`` and return its exit code: 0, 2 for bad input, or 128 + a signal's number."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    stage = arguments[0] if arguments and arguments[0] in STAGES else None
    parser = _parser(stage)
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.refuse(unknown, arguments)
    module = _module(parsed.stage)
    if os.environ.get("FNSFT_OFFLINE") == "1" and parsed.stage not in ON_NETWORK:
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        settings = read_settings(parsed, module.SETTINGS) if module.SETTINGS else None
        if (output := getattr(parsed, "output", None)) is not None and not output.name:
            raise InputError(f"output: expected a new file or folder, found {str(output)!r}")
        if parsed.stage != "doctor":  # which says what there is
            asked = getattr(settings, "device", "cpu") != "cpu"
            n_devices = int(parsed.stage in ON_DEVICES or asked)
            devices.take(n_devices * getattr(parsed, "processes", 1))
        module.run(parsed, settings)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (InputError, OSError) as error:
        # A full disk, a missing permission are the user's to mend too. What stands where a name
        # should, and is quoted, may be a token.
        _say(parsed.stage, SECRET.sub("***", redacted(str(error))))
        return 2
    except KeyboardInterrupt as told:
        if os.environ.get("RANK", "0") == "0":  # one of the processes that share a run
            _say(parsed.stage, "interrupted; the same command goes on")
        return 128 + getattr(told, "signum", signal.SIGINT)
    except Exception as error:
        if reason := lack_of_room(error):
            _say(parsed.stage, f"a disk has no room left ({reason}); free some")
        elif lacks_memory(error):
            _say(parsed.stage, f"memory ran out ({in_short(error)}); give it more, or ask for less")
        else:
            raise
        return 2
    return 0


def _say(stage: str, what: str) -> None:
    """Print one line; that its disk may be full changes no exit code."""
    with contextlib.suppress(OSError):
        print(f"fnsft {stage}: {what}", file=sys.stderr)


def entry_point() -> None:
    """Run ``fnsft`` and exit with its code.

    SIGTERM, as ``kill`` and batch systems send it, ends a stage as Ctrl-C does: what is half
    written goes.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.exit(main())
    except Interrupted as told:  # where no stage has begun, or one has ended
        sys.exit(128 + told.signum)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(signum)


def _module(stage: str) -> ModuleType:
    return importlib.import_module(f"fnsft.cli.{stage.replace('-', '_')}")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command in one line, in which no token of the hub shows."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {SECRET.sub('***', message)}; see {self.prog} --help\n")

    def refuse(self, unknown: Sequence[str], arguments: Sequence[str]) -> NoReturn:
        """Refuse words that no stage takes, with the flag that is spelt most alike."""
        stages = next(a for a in self._actions if isinstance(a, argparse._SubParsersAction))
        named = (stages.choices[word] for word in arguments if word in STAGES)
        stage: argparse.ArgumentParser = next(named, self)
        known = [flag for action in stage._actions for flag in action.option_strings]
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        stage.error(f"unknown argument {' '.join(unknown)}{hint}")


def _parser(stage: str | None) -> _Parser:
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
