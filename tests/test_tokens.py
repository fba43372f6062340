"""Token ids of prepared splits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from models import TEXTS, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import GPT2Config, PreTrainedTokenizerFast

from fnsft.data.formats import Example
from fnsft.data.tokens import (
    IGNORED,
    Encoded,
    encode,
    load_samples,
    load_split,
    load_split_of,
    load_tokenizer,
    positions_of,
    stop_ids_of,
)
from fnsft.errors import InputError

END = 2
PROMPT_IDS = (1, 300, 260, 275, 28, 284, 283, 287, 33, 201, 297, 89, 279, 28)


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
        (row("", ""), "expected a prompt or a completion, found neither"),
        (row("a", "b") | {"special_tokens": 1}, "special_tokens: expected true or false, found 1"),  # type: ignore[operator]
        ([1], "expected an object"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, bad: object, message: str) -> None:
    path = write_split(tmp_path, row("a", "b"), bad)
    with pytest.raises(InputError, match=rf"train\.jsonl line 2: .*{message}"):
        load_split(path, tiny_tokenizer(), max_tokens=100)


@pytest.mark.parametrize("template", ["$A", "<s> $A", "<s> $A </s>", "</s> $A"])
def test_prepared_rows_keep_the_ids_that_they_always_had(shared_data: Path, template: str) -> None:
    tokenizer = tokenizer_adding(template)
    n_after = template.endswith("</s>")
    lines = (shared_data / "gsm8k" / "test.jsonl").read_text().splitlines()[:50]
    for line in map(json.loads, lines):
        prompt, completion = f"Question: {line['question']}\nAnswer:", f" {line['answer']}"
        whole = tokenizer(prompt)["input_ids"]
        reference = whole[: len(whole) - n_after]
        answer = tokenizer(completion, add_special_tokens=False)["input_ids"]
        encoded = encode(tokenizer, Example(prompt, completion))
        assert encoded == Encoded(tuple(reference), (*answer, END))


def test_the_ids_of_a_row_are_as_written_down() -> None:
    encoded = encode(tokenizer_adding("<s> $A"), Example("Question: 3 + 14?\nAnswer:", " 17"))
    assert encoded.prompt_ids == PROMPT_IDS
    assert encoded.completion_ids == (223, 265, END)


def test_a_beginning_that_a_template_has_written_is_not_put_there_again() -> None:
    tokenizer = tokenizer_adding("<s> $A </s>")
    bare = encode(tiny_tokenizer(), Example("Ada", "x"))
    encoded = encode(tokenizer, Example("<s>Ada", "x</s>\n", special_tokens=False))
    assert encoded == Encoded((1, *bare.prompt_ids), bare.completion_ids)
    twice = encode(tokenizer, Example("Ada</s>", "x", special_tokens=False))
    assert twice.prompt_ids == (*bare.prompt_ids, END)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Ada", "Ada</s>"),
        ("Ada\n", "Ada\n</s>"),
        ("Ada</s>", "Ada</s>"),
        ("Ada</s>\n", "Ada</s>"),
        ("Ada</s></s>", "Ada</s>"),
        ("Ada</s> \n</s>", "Ada</s>"),
        ("a</s>b", "a</s>b</s>"),
        ("a</s>b</s>\n", "a</s>b</s>"),
    ],
)
def test_an_answer_ends_with_one_stop_token_and_is_never_cut(written: str, read: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = encode(tokenizer, Example("q", written)).completion_ids
    assert tokenizer.decode(ids) == read
    assert ids == tuple(tokenizer(read)["input_ids"])


def test_a_model_may_stop_at_other_tokens_than_the_tokenizers(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    end = tokenizer.convert_tokens_to_ids("<end>")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [END, end]}))
    assert stop_ids_of(tmp_path) == {END, end}
    example = Example("q", "a<end>\n")
    a = tuple(tokenizer("a")["input_ids"])
    assert encode(tokenizer, example, stop_ids_of(tmp_path)).completion_ids == (*a, end)
    assert tokenizer.decode(encode(tokenizer, example).completion_ids) == "a<end>\n</s>"
    path = write_split(tmp_path, row("q", "a<end>\n"))
    split = load_split(path, tokenizer, 9, stop_ids_of(tmp_path))
    assert split.samples[0].labels == (IGNORED, *a, end)
    assert split.stop_ids == {END, end}


def test_samples_that_few_ask_for_end_as_those_of_training_do(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    stops = [tokenizer.convert_tokens_to_ids("<end>")]
    path = write_split(tmp_path, row("q", "a<end>\n"), {"text": "a<end>"})
    sample, text = load_samples(path, tokenizer, stops)
    assert sample == encode(tokenizer, Example("q", "a<end>\n"), stops).ids
    assert sample[-1] == stops[0]
    assert text == tuple(tokenizer("a<end>")["input_ids"])


@pytest.mark.parametrize(("found", "ids"), [({}, set()), ({"eos_token_id": 7}, {7})])
def test_a_generation_config_names_none_one_or_several_stops(
    tmp_path: Path, found: dict[str, int], ids: set[int]
) -> None:
    assert stop_ids_of(tmp_path) == frozenset()
    (tmp_path / "generation_config.json").write_text(json.dumps(found))
    assert stop_ids_of(tmp_path) == ids


def test_a_completion_is_not_marked_as_the_beginning_of_a_text() -> None:
    """SentencePiece tokenizers write "a" as "▁a" at the beginning of what they are given."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    bare.decoder = decoders.Metaspace(prepend_scheme="always")
    alphabet = sorted({*"".join(TEXTS)})
    trainer = trainers.BpeTrainer(
        vocab_size=200,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bare.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="</s>")
    for prompt, completion in (("Response:\n", "def add(a, b)"), ("Answer:", " She has")):
        encoded = encode(tokenizer, Example(prompt, completion))
        assert encoded.prompt_ids == tuple(tokenizer(prompt)["input_ids"])
        assert tokenizer.decode(encoded.ids) == prompt + completion + "</s>"
        pieces = tokenizer.convert_ids_to_tokens(encoded.completion_ids)
        assert "".join(pieces) == completion.replace(" ", "▁") + "</s>"
    text = encode(tokenizer, Example("", "def add(a, b)"))  # a beginning, which is marked
    assert text.ids == tuple(tokenizer("def add(a, b)</s>")["input_ids"])


def test_a_text_has_no_prediction_for_its_first_token() -> None:
    ids = tuple(tiny_tokenizer()("Ada has 3 apples")["input_ids"])
    encoded = encode(tiny_tokenizer(), Example("", "Ada has 3 apples"))
    assert encoded.labels == (IGNORED, *ids[1:], END)
    begun = encode(tokenizer_adding("<s> $A"), Example("", "Ada has 3 apples"))
    assert begun.ids == (1, *ids, END)
    assert begun.labels == (IGNORED, *ids, END)


@pytest.mark.parametrize("template", ["$A", "<s> $A", "<s> <s> $A"])
@pytest.mark.parametrize("max_tokens", [3, 4, 7, 8])
def test_longer_texts_become_pieces_that_predict_every_token_once(
    tmp_path: Path, template: str, max_tokens: int
) -> None:
    tokenizer = tokenizer_adding(template)
    texts = ("Ada has 3 apples and buys 14 more.", "Q: 3+14? A: seventeen")
    wholes = [encode(tokenizer, Example("", text)) for text in texts]
    split = load_split(write_split(tmp_path, *(row("", t) for t in texts)), tokenizer, max_tokens)
    assert all(1 < len(piece.ids) <= max_tokens for piece in split.samples)
    predicted = [label for piece in split.samples for label in piece.labels if label != IGNORED]
    assert predicted == [label for whole in wholes for label in whole.completion_ids]
    assert split.samples[1].ids[0] == split.samples[0].ids[-1]
    n_pieces = [-(-(len(whole.ids) - 1) // (max_tokens - 1)) for whole in wholes]
    assert len(split.samples) == sum(n_pieces)
    assert (split.n_texts_cut, split.n_unfinished) == (2, sum(n_pieces) - 2)
    assert split.n_left_out == 0


def test_texts_that_fit_are_not_cut_and_prompts_never(tmp_path: Path) -> None:
    text = encode(tiny_tokenizer(), Example("", "Ada has 3"))
    path = write_split(tmp_path, row("", "Ada has 3"), row("a" * 40, "b"), row("a" * 50, "b"))
    split = load_split(path, tiny_tokenizer(), len(text.ids))
    assert split.samples == [text]
    longest = len(encode(tiny_tokenizer(), Example("a" * 50, "b")).ids)
    assert (split.n_left_out, split.longest_left_out) == (2, longest)
    assert (split.n_texts_cut, split.n_unfinished) == (0, 0)


def test_no_sample_is_longer_than_the_models_positions(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    assert positions_of(tiny_model_dir) == 512
    assert positions_of(tmp_path) is None  # as of an adapter
    GPT2Config(n_positions=9).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    path = write_split(tmp_path, row("a" * 7, "b"), row("a" * 8, "b"), row("", "a" * 16))
    for asked, longest, in_positions in ((8, 8, False), (9, 9, False), (10, 9, True)):
        split = load_split_of(tmp_path, path, asked)
        assert max(len(sample.ids) for sample in split.samples) == longest
        assert (split.max_tokens, split.in_positions) == (longest, in_positions)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_positions": 4}')
    write_split(tmp_path, row("a" * 7, "b"))
    with pytest.raises(InputError, match="at most 4 tokens, the model's positions, found the sho"):
        load_split_of(tmp_path, path, 100)


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
