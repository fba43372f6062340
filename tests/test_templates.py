"""How samples are written, by the tokenizer's template and by ours."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from models import tiny_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from fnsft.artifacts.prompt_formats import PromptFormat, read_prompt_format, write_prompt_format
from fnsft.data.formats import Example, basic
from fnsft.data.samples import Sample, Turn
from fnsft.data.templates import choose_format, render, render_prompt
from fnsft.data.tokens import IGNORED, encode
from fnsft.errors import InputError

CHAT = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Llama 2: no words of its own before an answer, and a beginning of sequence.
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('System role not supported') }}{% endif %}{% endfor %}"
)
# Reasoning models: an empty block of thoughts before the answer.
THINKING = CHAT.replace(
    "message.content + '<|im_end|>'",
    "('<think>\n\n</think>\n\n' if message.role == 'assistant' else '') + message.content"
    " + '<|im_end|>'",
)
KINDS = ("plain", "question", "instruction", "conversation", "text")
QUESTION = Sample("question", "17", "What is 3 + 14?", "Ada counts.")
INSTRUCTION = Sample("instruction", "def f(): pass", "Write a function.", "named f")
CONVERSATION = Sample(
    "conversation",
    "Seven.",
    "And 3 + 4?",
    before=(Turn("user", "2 + 2?"), Turn("assistant", "Four."), Turn("user", "Thanks")),
)


def tokenizer_with(chat_template: str | None = None, adds: str = "$A") -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=adds, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.chat_template = chat_template
    if chat_template and "im_end" in chat_template:
        tokenizer.add_special_tokens(
            {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
        )
    return tokenizer


def written(
    sample: Sample, template: Any, tokenizer: PreTrainedTokenizerFast, system: str = ""
) -> Example:
    return render(choose_format(template, sample.kind, system, tokenizer), tokenizer, sample)


def test_alpaca_is_written_as_published() -> None:
    """The two prompts of Stanford's Alpaca (Taori et al. 2023), and a line break after them."""
    without = (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
    )
    with_input = (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
    )
    tokenizer = tokenizer_with()
    bare = dataclasses.replace(INSTRUCTION, context="")
    prompt = without.format(instruction=bare.question)
    answer = f"{bare.answer}</s>"
    assert written(bare, "alpaca", tokenizer) == Example(prompt, answer, special_tokens=False)
    prompt = with_input.format(instruction=bare.question, input=INSTRUCTION.context)
    assert written(INSTRUCTION, "alpaca", tokenizer) == Example(prompt, answer, False)


def test_alpaca_writes_turns_one_below_the_other_and_a_system_message_first() -> None:
    found = written(CONVERSATION, "alpaca", tokenizer_with(), "Be brief.")
    assert found.prompt == (
        "Be brief.\n\n### Instruction:\n2 + 2?\n\n### Response:\nFour.</s>\n\n### Instruction:\n"
        "Thanks\n\n### Instruction:\nAnd 3 + 4?\n\n### Response:\n"
    )
    assert found.completion == "Seven.</s>"


def test_chatml_ends_answers_where_the_model_stops() -> None:
    found = written(CONVERSATION, "chatml", tokenizer_with(), "Be brief.")
    assert found.prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n"
        "<|im_start|>assistant\nFour.</s>\n<|im_start|>user\nThanks<|im_end|>\n"
        "<|im_start|>user\nAnd 3 + 4?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert found.completion == "Seven.</s>\n"
    knows_it = tokenizer_with(CHAT)  # its end of sequence is <|im_end|>
    as_chat, as_chatml = (written(CONVERSATION, t, knows_it) for t in ("chat", "chatml"))
    assert as_chat == as_chatml


@pytest.mark.parametrize("template", ["alpaca", "chatml"])
@pytest.mark.parametrize(
    ("adds", "begin"), [("$A", ()), ("<s> $A", (1,)), ("<s> $A </s>", (1,)), ("<s> <s> $A", (1, 1))]
)
def test_what_a_tokenizer_puts_before_a_text_begins_a_chat_exactly_once(
    template: str, adds: str, begin: tuple[int, ...]
) -> None:
    tokenizer = tokenizer_with(adds=adds)
    encoded = encode(tokenizer, written(INSTRUCTION, template, tokenizer))
    bare = encode(tokenizer_with(), written(INSTRUCTION, template, tokenizer_with()))
    assert encoded.prompt_ids == begin + bare.prompt_ids
    assert encoded.completion_ids == bare.completion_ids
    assert encoded.ids.count(2) == 1


def test_a_beginning_that_the_tokenizers_own_template_writes_stands_once() -> None:
    tokenizer = tokenizer_with(INST, adds="<s> $A")
    encoded = encode(tokenizer, written(QUESTION, "chat", tokenizer))
    assert tokenizer.decode(encoded.ids) == (
        "<s>[INST] Ada counts.\n\nWhat is 3 + 14? [/INST] 17</s>"
    )


@pytest.mark.parametrize("sample", [QUESTION, INSTRUCTION, CONVERSATION], ids=lambda s: s.kind)
@pytest.mark.parametrize("chat_template", [CHAT, INST, THINKING])
@pytest.mark.parametrize("adds", ["$A", "<s> $A </s>"])
def test_labels_are_the_whole_conversation_but_its_prompt(
    sample: Sample, chat_template: str, adds: str
) -> None:
    tokenizer = tokenizer_with(chat_template, adds)
    parts = (sample.context, sample.question)
    content = "\n\n".join(p for p in (parts[::-1] if sample is INSTRUCTION else parts) if p)
    messages = [vars(turn) for turn in sample.before] + [{"role": "user", "content": content}]
    whole = [*messages, {"role": "assistant", "content": sample.answer}]
    ids = tokenizer.apply_chat_template(whole, return_dict=False)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids[: len(prompt)] == prompt
    while ids[-1] != tokenizer.eos_token_id:  # what the template writes behind an answer
        ids.pop()
    encoded = encode(tokenizer, written(sample, "auto", tokenizer))
    assert encoded.prompt_ids == tuple(prompt)
    assert encoded.ids == tuple(ids)
    assert encoded.labels == (*[IGNORED] * len(prompt), *ids[len(prompt) :])


def test_auto_takes_the_tokenizers_template_and_else_what_fits() -> None:
    bare, own = tokenizer_with(), tokenizer_with(CHAT)
    chosen = {kind: choose_format("auto", kind, "", bare).template for kind in KINDS}  # type: ignore[arg-type]
    assert chosen == {
        "plain": "basic",
        "question": "basic",
        "instruction": "alpaca",
        "conversation": "chatml",
        "text": "basic",
    }
    with_own = {choose_format("auto", kind, "", own).template for kind in KINDS if kind != "text"}  # type: ignore[arg-type]
    assert with_own == {"chat"}


@pytest.mark.parametrize("template", ["auto", "chat", "chatml", "alpaca", "basic"])
def test_a_text_stands_as_it_is_in_any_template(template: str) -> None:
    sample = Sample("text", "Once upon a time")
    assert written(sample, template, tokenizer_with(CHAT)) == Example("", "Once upon a time")
    in_chat = PromptFormat("chat", "question")
    assert render(in_chat, tokenizer_with(CHAT), sample) == Example("", "Once upon a time")


def test_basic_is_the_plain_form() -> None:
    assert written(QUESTION, "basic", tokenizer_with(CHAT)) == basic(QUESTION)


CHATS = [*itertools.product(("chat", "alpaca", "chatml"), KINDS[:-1], ("", "Be brief."))]
PLAIN = [("basic", kind, "") for kind in KINDS if kind != "conversation"]


@pytest.mark.parametrize(("template", "kind", "system"), CHATS + PLAIN)
@pytest.mark.parametrize("adds", ["$A", "<s> $A"])
def test_a_bare_prompt_is_written_as_in_training(
    template: Any, kind: Any, system: str, adds: str, tmp_path: Path
) -> None:
    tokenizer = tokenizer_with(CHAT, adds)
    chosen = choose_format(template, kind, system, tokenizer)
    write_prompt_format(tmp_path, chosen)
    read = read_prompt_format(tmp_path)
    assert read == chosen
    if kind == "text":
        assert render_prompt(read, tokenizer, "Once") == Example("Once", "")
        return
    for context in ("", "Ada counts."):
        sample = Sample(kind, "17", "What is 3 + 14?", context)
        trained = render(chosen, tokenizer, sample)
        bare = render_prompt(read, tokenizer, sample.question, context)
        assert bare == dataclasses.replace(trained, completion="")
        assert encode(tokenizer, bare).prompt_ids == encode(tokenizer, trained).prompt_ids


@pytest.mark.parametrize("template", ["alpaca", "chatml"])
def test_a_tokenizer_saved_with_our_template_writes_the_same(template: Any, tmp_path: Path) -> None:
    tokenizer = tokenizer_with(adds="<s> $A")
    format = choose_format(template, "conversation", "", tokenizer)
    trained = encode(tokenizer, render(format, tokenizer, CONVERSATION))
    tokenizer.chat_template = format.chat_template
    tokenizer.save_pretrained(tmp_path)
    anew = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    turns = [*CONVERSATION.before, Turn("user", CONVERSATION.question)]
    messages = [vars(turn) for turn in turns]
    prompt = anew.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tuple(prompt) == trained.prompt_ids


def test_a_systems_own_message_is_kept_and_the_setting_fills_in() -> None:
    own = dataclasses.replace(CONVERSATION, before=(Turn("system", "Rhyme."),))
    tokenizer = tokenizer_with(CHAT)
    assert "Rhyme." in written(own, "chat", tokenizer, "Be brief.").prompt
    assert "Be brief." not in written(own, "chat", tokenizer, "Be brief.").prompt
    first = written(QUESTION, "chat", tokenizer, "Be brief.").prompt
    assert first.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nAda")


def test_thoughts_before_an_answer_are_part_of_what_is_learned() -> None:
    found = written(QUESTION, "chat", tokenizer_with(THINKING))
    assert found.completion == "<think>\n\n</think>\n\n17<|im_end|>\n"


@pytest.mark.parametrize(
    ("chat_template", "message"),
    [
        (CHAT.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif"), "<think>"),
        (CHAT.replace("message.content", "message.content[:1]"), "not write all of the answer"),
        (CHAT.replace("{% for", "{% fro", 1), "refuses the messages user"),
        ("{{ messages[0]['content'].nothing.more }}", "refuses the messages user"),
    ],
)
def test_a_template_that_cannot_be_trained_with_is_refused(
    chat_template: str, message: str
) -> None:
    with pytest.raises(InputError, match=f"{message}.*--template chatml") as error:
        written(QUESTION, "chat", tokenizer_with(chat_template))
    assert "\n" not in str(error.value)


def test_white_space_that_a_template_trims_is_no_loss() -> None:
    tokenizer = tokenizer_with(CHAT.replace("message.content", "message.content | trim"))
    sample = dataclasses.replace(QUESTION, answer=" 17\n")
    assert written(sample, "chat", tokenizer).completion == "17<|im_end|>\n"


def test_a_template_without_system_messages_says_so() -> None:
    with pytest.raises(InputError, match=r"system, user \(System role not.*leave --system off"):
        written(QUESTION, "chat", tokenizer_with(INST), "Be brief.")


@pytest.mark.parametrize(
    ("template", "kind", "system", "message"),
    [
        ("chat", "question", "", "with a chat template, found none; use --template chatml"),
        ("basic", "conversation", "", "use --template chatml"),
        ("basic", "question", "Be brief.", "system: basic has no place"),
        ("auto", "question", "Be brief.", "system: basic has no place"),
        ("chatml", "text", "Be brief.", "system: a text stands as it is"),
    ],
)
def test_what_no_template_can_write_is_refused(
    template: Any, kind: Any, system: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        choose_format(template, kind, system, tokenizer_with())


def test_a_folder_without_a_format_has_none_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    assert read_prompt_format(tmp_path) is None
    path = tmp_path / "prompt_format.json"
    path.write_text("{")
    with pytest.raises(InputError, match=r"prompt_format\.json: expected JSON"):
        read_prompt_format(tmp_path)
    path.write_text(json.dumps({"template": "auto", "kind": "text"}))
    with pytest.raises(InputError, match=r"prompt_format\.json: template: expected one of chat"):
        read_prompt_format(tmp_path)
