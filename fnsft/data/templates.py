"""How a sample is written for a model: the tokenizer's chat template, one of ours, or plainly.

``alpaca`` and ``chatml`` are chat templates in Jinja (``chat_templates/``) that the tokenizer
applies as it applies its own, so that a tuned model can be saved with them and any tool writes
the same prompts. Where a tokenizer puts a beginning of sequence before a text, ours begin with
it: a rendered chat is whole, and nothing is added when it is tokenised.
"""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.artifacts.prompt_formats import Kind, PromptFormat
from fnsft.config.stages.data import Template
from fnsft.data.formats import Example, basic
from fnsft.data.samples import Sample
from fnsft.data.tokens import Encoder
from fnsft.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOLDER = Path(__file__).parent / "chat_templates"


def choose_format(
    template: Template, kind: Kind, system: str, tokenizer: "PreTrainedTokenizerBase"
) -> PromptFormat:
    """Return how samples of a kind are written.

    ``auto`` is the tokenizer's chat template if it has one, else alpaca for instructions,
    chatml for conversations and basic for the rest. A text always stands as it is.

    Raises
    ------
    InputError
        For ``chat`` without a template, a conversation in ``basic``, and a system message that
        would be written nowhere.
    """
    chosen: Template = template
    if kind == "text":
        chosen = "basic"
    elif template == "auto" and tokenizer.chat_template:
        chosen = "chat"
    elif template == "auto":
        chosen = {"instruction": "alpaca", "conversation": "chatml"}.get(kind, "basic")  # type: ignore[assignment]
    if chosen == "chat" and not tokenizer.chat_template:
        raise InputError(
            "template: expected a tokenizer with a chat template, found none; use "
            "--template chatml, alpaca or basic"
        )
    if chosen == "basic" and kind == "conversation":
        raise InputError("template: basic has no place for turns; use --template chatml")
    if chosen == "basic" and system:
        what = "a text stands as it is" if kind == "text" else "basic has no place for it"
        raise InputError(f"system: {what}; leave it off, or use prompts with --template chatml")
    ours = _written_for(chosen, tokenizer) if chosen in ("alpaca", "chatml") else None
    return PromptFormat(chosen, kind, system, ours)  # type: ignore[arg-type]


def _written_for(name: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Read a template of ours, and let it begin with what the tokenizer puts before a text."""
    begin = tokenizer.decode(Encoder.of(tokenizer).ids_before)
    source = (FOLDER / f"{name}.jinja").read_text()
    literal = json.dumps(begin, ensure_ascii=False)
    return f"{{{{- {literal} -}}}}\n{source}" if begin else source


def render(format: PromptFormat, tokenizer: "PreTrainedTokenizerBase", sample: Sample) -> Example:
    """Write a sample; the prompt is what generation begins with, and the loss is on the rest.

    In a chat the context stands before a question with a blank line between them, and after
    an instruction. ``format.system`` begins a conversation that has no system message itself.

    Raises
    ------
    InputError
        When the template refuses the messages, writes another prompt for generation than
        before an answer, or does not write all of the answer.
    """
    if format.template == "basic" or sample.kind == "text":
        return basic(sample)
    messages = _messages(format, sample)
    prompt = _applied(format, tokenizer, messages, True)
    written = functools.partial(_completion, format, tokenizer, messages, prompt)
    rejected = written(sample.rejected) if sample.rejected else None
    return Example(prompt, written(sample.answer), special_tokens=False, rejected=rejected)


def _completion(
    format: PromptFormat,
    tokenizer: "PreTrainedTokenizerBase",
    messages: list[dict[str, str]],
    prompt: str,
    answer: str,
) -> str:
    """Return what the template writes behind a prompt for an answer."""
    answered = [*messages, {"role": "assistant", "content": answer}]
    whole = _applied(format, tokenizer, answered, False)
    completion = whole.removeprefix(prompt)
    if not whole.startswith(prompt):
        raise InputError(
            f"template: the tokenizer's chat template ends a prompt with {prompt[-40:]!r} for "
            "generation, and not so before an answer; use --template chatml"
        )
    if _bare(answer) not in _bare(completion):
        raise InputError(
            f"template: the tokenizer's chat template does not write all of the answer, found "
            f"{completion!r:.60}; use --template chatml"
        )
    return completion


def render_prompt(
    format: PromptFormat,
    tokenizer: "PreTrainedTokenizerBase",
    question: str,
    context: str = "",
) -> Example:
    """Write a prompt as :func:`render` does in training; the completion is empty."""
    if format.kind == "text":
        return Example(question, "")
    sample = Sample(format.kind, " " if format.spaced else "", question, context)
    if format.template == "basic":
        return Example(basic(sample).prompt, "")
    prompt = _applied(format, tokenizer, _messages(format, sample), True)
    return Example(prompt, "", special_tokens=False)


def _messages(format: PromptFormat, sample: Sample) -> list[dict[str, str]]:
    turns = [{"role": turn.role, "content": turn.content} for turn in sample.before]
    if format.system and not (turns and turns[0]["role"] == "system"):
        turns.insert(0, {"role": "system", "content": format.system})
    if format.template == "alpaca":
        return [*turns, {"role": "user", "content": sample.question, "input": sample.context}]
    parts = [sample.context, sample.question]
    if sample.kind == "instruction":
        parts.reverse()
    return [*turns, {"role": "user", "content": "\n\n".join(part for part in parts if part)}]


def _applied(
    format: PromptFormat,
    tokenizer: "PreTrainedTokenizerBase",
    messages: list[dict[str, str]],
    for_generation: bool,
) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            messages,
            chat_template=format.chat_template,
            add_generation_prompt=for_generation,
            tokenize=False,
        )
    except (TemplateError, ValueError) as error:
        roles = ", ".join(message["role"] for message in messages)
        reason = " ".join(str(error).split())
        raise InputError(
            f"template: the tokenizer's chat template refuses the messages {roles} "
            f"({reason:.160}); leave --system off, or use --template chatml"
        ) from None


def _bare(text: str) -> str:
    return "".join(text.split())
