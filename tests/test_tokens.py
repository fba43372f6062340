"""Token ids of prepared splits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from models import tiny_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from fnsft.data.formats import Example
from fnsft.data.tokens import encode, load_split, load_tokenizer
from fnsft.errors import InputError

END = 2


def tokenizer_adding(template: str, bos_token: str = "<s>") -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[("<s>", 1), ("</s>", END)]
    )
    return tokenizer


def write_split(folder: Path, *rows: object) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(prompt: str, completion: str) -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


def test_prompt_and_completion_are_cut_apart_even_where_one_token_would_span_both() -> None:
    tokenizer = tiny_tokenizer()
    whole = tokenizer("How many")["input_ids"]
    encoded = encode(tokenizer, Example("How ma", "ny"))
    assert encoded.prompt_ids == tuple(tokenizer("How ma")["input_ids"])
    assert encoded.completion_ids == (*tokenizer("ny")["input_ids"], END)
    assert len(encoded.ids) - 1 > len(whole)
    assert tokenizer.decode(encoded.ids[:-1]) == "How many"


@pytest.mark.parametrize(
    ("template", "bos_token", "before"),
    [
        ("$A", "<s>", ()),
        ("<s> $A", "<s>", (1,)),
        ("<s> $A </s>", "<s>", (1,)),
        ("$A </s>", "<s>", ()),
        ("</s> $A", "</s>", (END,)),
    ],
)
def test_only_a_beginning_of_sequence_is_put_around_a_prompt(
    template: str, bos_token: str, before: tuple[int, ...]
) -> None:
    example = Example("Question: 3 + 14?\nAnswer:", " 17")
    bare = encode(tiny_tokenizer(), example)
    encoded = encode(tokenizer_adding(template, bos_token), example)
    assert encoded.prompt_ids == before + bare.prompt_ids
    assert encoded.completion_ids == bare.completion_ids
    assert encoded.completion_ids[-1] == END


@pytest.mark.parametrize("template", ["$A", "<s> $A", "$A </s>", "<s> $A </s>"])
def test_an_end_of_sequence_that_is_written_in_the_prompt_stays(template: str) -> None:
    encoded = encode(tokenizer_adding(template), Example("Ada</s>", "x"))
    assert encoded.prompt_ids[-1] == END
    assert encoded.prompt_ids.count(END) == 1


def test_an_empty_prompt_keeps_its_beginning_of_sequence() -> None:
    assert encode(tokenizer_adding("<s> $A </s>"), Example("", "x")).prompt_ids == (1,)
    assert encode(tokenizer_adding("</s> $A", "</s>"), Example("", "x")).prompt_ids == (END,)


def test_longer_samples_are_left_out_and_counted_but_never_cut(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    path = write_split(tmp_path, row("ab", "c"), row("abcd" * 9, "e"), row("q", "rs"))
    kept = [encode(tokenizer, Example("ab", "c")), encode(tokenizer, Example("q", "rs"))]
    split = load_split(path, tokenizer, max_tokens=max(len(sample.ids) for sample in kept))
    assert split.samples == kept
    assert split.n_left_out == 1
    assert split.n_tokens == sum(len(sample.ids) for sample in kept)


def test_a_split_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    path = write_split(tmp_path, row("abcd" * 9, "e"))
    with pytest.raises(InputError, match=r"at most max_tokens=5 tokens, found the shortest of 1"):
        load_split(path, tiny_tokenizer(), max_tokens=5)
    with pytest.raises(InputError, match="found an empty file"):
        load_split(write_split(tmp_path), tiny_tokenizer(), max_tokens=5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"prompt": "a"}, "'completion' is missing"),
        ({"question": "a", "answer": "b"}, "'prompt' is missing"),
        (row("a", 3), "completion: expected a text, found 3"),  # type: ignore[arg-type]
        (row("", "a"), "prompt: expected at least one token"),
        ([1], "expected an object"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, bad: object, message: str) -> None:
    path = write_split(tmp_path, row("a", "b"), bad)
    with pytest.raises(InputError, match=rf"train\.jsonl line 2: .*{message}"):
        load_split(path, tiny_tokenizer(), max_tokens=100)


def test_a_tokenizer_survives_its_folder(tiny_model_dir: Path) -> None:
    example = Example("Question: 3 + 14?\nAnswer:", " 17")
    assert encode(load_tokenizer(tiny_model_dir), example) == encode(tiny_tokenizer(), example)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a tokenizer, found none"):
        load_tokenizer(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        load_tokenizer(tmp_path / "model")


def test_without_a_padding_token_the_end_of_sequence_pads(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>"
    ).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token_id == END


def test_a_tokenizer_without_end_of_sequence_is_refused(tmp_path: Path) -> None:
    PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer).save_pretrained(
        tmp_path
    )
    with pytest.raises(InputError, match="with an end of sequence"):
        load_tokenizer(tmp_path)


def test_the_module_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, fnsft.data.tokens; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
