"""Token statistics: counts, ranks and weights."""

from pathlib import Path

import numpy as np
import pytest

from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.statistics import read_statistics
from fnsft.artifacts.storage import read_json, write_jsonl
from fnsft.cli.main import main
from fnsft.data.formats import Example
from fnsft.data.tokens import encode, load_tokenizer
from fnsft.errors import InputError
from fnsft.neurons.frequencies import frequency_ranks, token_weights

ROWS = [
    {"prompt": "Question: 1 + 1?\nAnswer:", "completion": " 2"},
    {"prompt": "Question: Ada has 3 apples.\nAnswer:", "completion": " She has 3.\n#### 3"},
    {"prompt": "Question:" + " long" * 40, "completion": " no"},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    return tmp_path / "train.jsonl"


def test_rank_one_is_the_most_frequent_and_equal_counts_share_their_mean_rank() -> None:
    counts = np.array([0, 5, 1, 9, 1, 0, 1])
    assert frequency_ranks(counts).tolist() == [0, 2, 4, 1, 4, 0, 4]


def test_a_token_weighs_its_rank_to_the_power_beta() -> None:
    ranks = frequency_ranks(np.array([8, 4, 2, 1]))
    weights = token_weights(np.array([3, 0, 3, 2, 1]), ranks, beta=2.0, drop_top_tokens=0)
    assert weights.tolist() == [16, 1, 16, 9, 4]


def test_ranks_are_taken_before_the_most_frequent_tokens_are_dropped() -> None:
    """And β = 0 drops them too: they make no hyperedge, whatever they would weigh."""
    ranks = frequency_ranks(np.array([8, 4, 2, 1]))
    ids = np.arange(4)
    assert token_weights(ids, ranks, beta=1.0, drop_top_tokens=2).tolist() == [0, 0, 3, 4]
    assert token_weights(ids, ranks, beta=0.0, drop_top_tokens=2).tolist() == [0, 0, 1, 1]


def test_of_equally_frequent_tokens_the_smaller_id_is_dropped_first() -> None:
    ranks = frequency_ranks(np.array([1, 0, 3, 3, 3]))
    weights = token_weights(np.array([4, 3, 2, 0]), ranks, beta=1.0, drop_top_tokens=2)
    assert weights.tolist() == [2, 0, 0, 4]


def test_a_token_without_rank_is_refused() -> None:
    ranks = frequency_ranks(np.array([8, 0, 2]))
    for token in (1, 3):
        with pytest.raises(InputError, match=f"token {token} .* not in the token statistics"):
            token_weights(np.array([0, token]), ranks, beta=1.0, drop_top_tokens=0)


def test_dropping_every_token_is_refused() -> None:
    with pytest.raises(InputError, match="less than the 2 tokens that occur, found 2"):
        token_weights(np.array([0]), np.array([1.0, 2.0]), beta=1.0, drop_top_tokens=2)


def test_all_tokens_of_the_split_are_counted_and_no_padding(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "tokens.safetensors"
    paths = ["--model", str(tiny_model_dir), "--data", str(data), "--output", str(output)]
    assert main(["statistics", *paths, "--max-tokens", "60"]) == 0
    tokenizer = load_tokenizer(tiny_model_dir)
    kept = [encode(tokenizer, Example(**row)).ids for row in ROWS[:2]]
    statistics = read_statistics(output, model_identity(tiny_model_dir))
    assert statistics.counts.dtype == np.int64
    assert statistics.counts.shape == statistics.ranks.shape == (len(tokenizer),)
    for token in range(len(tokenizer)):
        assert statistics.counts[token] == sum(ids.count(token) for ids in kept)
    assert statistics.counts[tokenizer.eos_token_id] == 2
    assert statistics.counts[tokenizer.pad_token_id] == 0
    assert np.array_equal(statistics.ranks, frequency_ranks(statistics.counts))
    notes = read_json(tmp_path / "tokens.safetensors.manifest.json")["notes"]
    assert (notes["samples"], notes["samples_left_out"]) == (2, 1)


def test_statistics_of_another_model_are_refused(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "tokens.safetensors"
    paths = ["--model", str(tiny_model_dir), "--data", str(data), "--output", str(output)]
    assert main(["statistics", *paths]) == 0
    with pytest.raises(InputError, match="made from model .* expected model 0123"):
        read_statistics(output, "0123")
