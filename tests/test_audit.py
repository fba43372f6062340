"""What the loss is taken of."""

import json
from pathlib import Path

import pytest
from models import tiny_tokenizer

from fnsft.data.audit import audit
from fnsft.data.tokens import IGNORED, Encoded, EncodedSplit, load_split
from fnsft.errors import InputError

END, OTHER_END = 2, 9


def split_of(*samples: tuple[int, int], n_left_out: int = 0) -> EncodedSplit:
    """Samples of so many prompt tokens, and so many answer tokens before the stop token."""
    encoded = [Encoded((7,) * prompt, (*[8] * answer, END)) for prompt, answer in samples]
    return EncodedSplit(encoded, n_left_out)


def written(folder: Path, *rows: tuple[str, str]) -> Path:
    path = folder / "train.jsonl"
    texts = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in rows]
    path.write_text("\n".join(texts))
    return path


def test_supervised_tokens_are_the_answers_and_their_stop_tokens() -> None:
    found = audit(split_of((5, 1), (2, 3), (1, 7)), tiny_tokenizer())
    assert (found.supervised_min, found.supervised_median, found.supervised_max) == (2, 4, 8)
    assert found.supervised_share == (2 + 4 + 8) / (5 + 2 + 1 + 2 + 4 + 8)
    assert (found.n_samples, found.n_stop_only, found.n_left_out) == (3, 0, 0)
    assert found.lines() == [
        "samples: 3; loss on 2 / 4 / 8 tokens of each (min / median / max), 64% of all, the stop "
        "token with them"
    ]


def test_the_counts_are_those_of_the_labels_that_training_sees(tmp_path: Path) -> None:
    rows = [("Question: 3 + 14?\nAnswer:", " 17"), ("Question: 1 + 1?\nAnswer:", " It is 2.")]
    split = load_split(written(tmp_path, *rows), tiny_tokenizer(), 100)
    labels = [[label for label in sample.labels if label != IGNORED] for sample in split.samples]
    found = audit(split, tiny_tokenizer())
    assert found.supervised_min == min(map(len, labels))
    assert found.supervised_max == max(map(len, labels))
    assert found.supervised_share == sum(map(len, labels)) / split.n_tokens


def test_what_was_left_out_by_length_is_said_with_what_to_do(tmp_path: Path) -> None:
    path = written(tmp_path, ("q", "a"), ("q" * 30, "a"), ("q" * 40, "a"))
    lines = audit(load_split(path, tiny_tokenizer(), 10), tiny_tokenizer()).lines()
    n_longest = len(tiny_tokenizer()("q" * 40 + "a")["input_ids"]) + 1
    assert lines[1:] == [
        f"left out as longer than max_tokens=10: 2, the longest has {n_longest}; raise "
        "--max-tokens to keep them"
    ]


def test_samples_longer_than_the_models_positions_are_said_to_be(tmp_path: Path) -> None:
    path = written(
        tmp_path, ("q", "a"), ("q" * 30, "a"), ("", "Ada has 3 apples and buys 14 more.")
    )
    lines = audit(load_split(path, tiny_tokenizer(), 100, positions=9), tiny_tokenizer()).lines()
    assert lines[1] == "left out as longer than the model's 9 positions: 1, the longest has 32"
    assert lines[2].startswith("texts longer than the model's 9 positions: 1, cut into")


def test_pieces_of_texts_end_without_a_stop_token_but_for_the_last(tmp_path: Path) -> None:
    path = written(tmp_path, ("", "Ada has 3 apples and buys 14 more."), ("", "Ada has"))
    split = load_split(path, tiny_tokenizer(), 8)
    n_pieces = len(split.samples) - 1
    lines = audit(split, tiny_tokenizer()).lines()
    assert lines[1] == f"texts longer than max_tokens=8: 1, cut into {n_pieces} pieces"
    split.samples[-2] = Encoded((7,), (8, 8))  # the last piece of the first text
    with pytest.raises(InputError, match=r"stop token at the end .* found none in 1 of"):
        audit(split, tiny_tokenizer())


def test_a_sample_that_does_not_end_with_a_stop_token_is_refused() -> None:
    split = split_of((2, 3), (2, 4))
    split.samples.append(Encoded((7,), (8, END, 8)))
    with pytest.raises(InputError, match=r"found none in 1 of 3, .* never learn to stop"):
        audit(split, tiny_tokenizer())


def test_another_stop_token_of_the_model_counts_as_one() -> None:
    samples = [Encoded((7,), (8, OTHER_END))]
    assert audit(EncodedSplit(samples, 0, stop_ids=frozenset({OTHER_END})), tiny_tokenizer())
    with pytest.raises(InputError, match="stop token"):
        audit(EncodedSplit(samples, 0), tiny_tokenizer())


def test_samples_whose_labels_are_all_ignored_are_refused() -> None:
    all_ignored = Encoded((7, 8, END), ())
    assert set(all_ignored.labels) == {IGNORED}
    with pytest.raises(InputError, match=r"labels: .* found none in 2 of 2, .* nothing .* learned"):
        audit(EncodedSplit([all_ignored] * 2, 0), tiny_tokenizer())
    with pytest.raises(InputError, match=r"found none in 1 of 3"):
        audit(EncodedSplit([*split_of((1, 1), (1, 1)).samples, all_ignored], 0), tiny_tokenizer())
    with pytest.raises(InputError, match=r"found none in 0 of 0"):
        audit(EncodedSplit([], 0), tiny_tokenizer())


def test_samples_with_the_stop_token_alone_are_counted_and_refused_when_all_are() -> None:
    found = audit(split_of((3, 0), (2, 1), (4, 0)), tiny_tokenizer())
    assert found.n_stop_only == 2
    assert found.lines()[-1] == "samples with the stop token alone in the loss: 2"
    with pytest.raises(InputError, match=r"stop token alone in all 2 samples.*--columns"):
        audit(split_of((3, 0), (4, 0)), tiny_tokenizer())
