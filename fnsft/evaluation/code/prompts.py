"""How programs are asked for: a text to go on with, or an instruction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from fnsft.artifacts.prompt_formats import PromptFormat
from fnsft.data.formats import Example
from fnsft.data.templates import render_prompt
from fnsft.errors import InputError
from fnsft.evaluation.code.extraction import Program, answered, continued
from fnsft.evaluation.code.tasks import CodeTask, Suite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# EvalPlus 0.3.1, evalplus/codegen.py.
_ASKED = (
    "Please provide a self-contained Python script that solves the following problem in a "
    "markdown code block:"
)
_ANSWER_BEGINS = (
    "Below is a Python script with a self-contained function that solves the problem and passes "
    "corresponding tests:"
)
_WORLD_ASKED = "Complete the function."  # as the embedded world asks, and answers with a body

# EvalPlus 0.3.1, evalplus/provider/utility.py; functions stop as HumanEval does.
_STOPS = ("<|endoftext|>", "<|endofmask|>", "</s>", "\nif __name__", "\ndef main(", "\nprint(")
_STOPS_OF_HUMANEVAL = ("\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert ")
_STOPS_OF_MBPP = ('\n"""', "\nassert")
_FENCE_ENDS = "\n```\n"


@dataclass(frozen=True)
class Style:
    """How one model is asked for programs.

    ``completion``: the program's beginning stands alone. ``instruction``: as the model's training
    wrote instructions. ``chat``: EvalPlus's question in the tokenizer's chat template, the answer
    begun for the model.
    """

    name: Literal["completion", "instruction", "chat"]
    suite: Suite
    format: PromptFormat | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which an answer ends."""
        if self.name == "chat":
            return (*_STOPS, _FENCE_ENDS)
        if self.name == "instruction":
            # Not the end of a fence, which a fence of no language begins with as well.
            return _STOPS
        return (*_STOPS, *(_STOPS_OF_MBPP if self.suite == "mbpp" else _STOPS_OF_HUMANEVAL))

    def prompt(self, task: CodeTask, tokenizer: "PreTrainedTokenizerBase") -> Example:
        """Write the prompt of a task."""
        beginning = beginning_of(task)
        if self.name == "completion":
            return Example(beginning, "")
        asked = f"{_ASKED}\n```\n{beginning.strip()}\n```\n"
        if self.name == "chat":
            return Example(_chat_prompt(asked, tokenizer), "", special_tokens=False)
        assert self.format is not None
        if self.suite == "functions":
            return render_prompt(self.format, tokenizer, _WORLD_ASKED, beginning.rstrip())
        return render_prompt(self.format, tokenizer, asked.rstrip())

    def program(self, text: str, task: CodeTask) -> Program:
        """Find the program in what a model wrote."""
        find = continued if self.name == "completion" else answered
        if self.name == "chat":
            text = f"```python\n{text}"
        return find(text, beginning_of(task), task.entry_point)


def beginning_of(task: CodeTask) -> str:
    """Return the beginning of a task's program as EvalPlus gives it to models."""
    return task.prompt.strip() + "\n"


def style_of(
    template: Literal["auto", "completion", "instruction"],
    suite: Suite,
    format: PromptFormat | None,
    tokenizer: "PreTrainedTokenizerBase",
) -> Style:
    """Return how a model is asked.

    ``auto`` is an instruction where the model's training recorded a format with prompts, or its
    tokenizer has a chat template, in which a model without a format is asked. ``instruction`` is
    written as the training wrote its own kind of prompt, and in plain text for a model without a
    format, whatever its tokenizer has: so a base and what it was tuned to on another task in
    plain text are asked alike.
    """
    if format is not None and format.kind == "text":
        format = None
    if template == "completion" or (
        template == "auto" and format is None and not tokenizer.chat_template
    ):
        return Style("completion", suite)
    if template == "auto" and format is None:
        return Style("chat", suite)
    # A model that was tuned on questions is asked for programs as if tuned on instructions, so
    # that all stages of a sequence meet the same text.
    chosen = format or PromptFormat("basic", "instruction")
    return Style("instruction", suite, replace(chosen, kind="instruction", spaced=False))


def _chat_prompt(asked: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Write a conversation that ends inside of the fence in which the answer stands."""
    from jinja2 import TemplateError

    mark = "[program]"
    messages = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": f"{_ANSWER_BEGINS}\n```python\n{mark}\n```\n"},
    ]
    try:
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
    except (TemplateError, ValueError) as error:
        raise InputError(
            f"template: the tokenizer's chat template refuses an answer that is begun "
            f"({' '.join(str(error).split()):.160}); use template=completion"
        ) from None
    before, found, _ = whole.rpartition(mark)
    if not found:
        raise InputError(
            "template: expected a chat template that writes answers, found none in what it "
            "wrote; use template=completion"
        )
    return before


def stops_in_words(stops: Sequence[str]) -> str:
    """Return stop texts on one line without white space, as protocols name them."""
    return "|".join(["eos", *(stop.encode("unicode_escape").decode() for stop in stops)]).replace(
        " ", "_"
    )
