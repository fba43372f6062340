import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.manifest import manifest_path
from fnsft.artifacts.storage import write_jsonl
from fnsft.cli.main import main
from fnsft.config.stages import PretrainSettings, WorldSettings
from fnsft.data.formats import basic
from fnsft.data.samples import Sample
from fnsft.data.world.assembly import World, make_world
from fnsft.errors import InputError
from fnsft.training.pretraining import (
    batch_order,
    new_model,
    new_optimizer,
    packed_sequences,
    pretrain,
    rate_share,
    train_tokenizer,
)

TINY = PretrainSettings(
    vocab_size=320,
    d_model=32,
    n_layers=2,
    d_mlp=48,
    n_heads=2,
    steps=20,
    batch_size=4,
    sequence_tokens=32,
)
TINY_FLAGS = TINY.flags().split()


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(
        WorldSettings(documents=500, math_train=40, math_test=10, code_train=40, code_test=10)
    )


@pytest.fixture(scope="module")
def texts(world: World) -> list[str]:
    return [document.text for document in world.corpus]


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    return train_tokenizer(texts, TINY.vocab_size)


@pytest.fixture(scope="module")
def corpus(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world") / "corpus.jsonl"
    write_jsonl(path, [dataclasses.asdict(document) for document in world.corpus])
    return path


def test_any_text_survives_the_tokenizer_unchanged(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in ["a  b\n\n\tc = 10", "naïve 東京 🙂\r\n", " 007 ", "<<2+3=5>>5"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_digit_and_a_line_break_are_tokens_of_their_own(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokens = [tokenizer.decode([i]) for i in tokenizer.encode("has 1203 coins.\n\n#### 17\n")]
    assert [t for t in tokens if t.strip(" ").isdigit()] == list("120317")
    assert [t for t in tokens if "\n" in t] == ["\n"] * 3


def test_prompt_and_completion_are_cut_the_same_apart_and_joined(
    world: World, tokenizer: PreTrainedTokenizerFast
) -> None:
    asked = [Sample("question", row["answer"], row["question"]) for row in world.math_train]
    asked += [
        Sample("instruction", row["output"], row["instruction"], row["input"])
        for row in world.code_train
    ]
    for example in map(basic, asked):
        apart = tokenizer.encode(example.prompt) + tokenizer.encode(example.completion)
        assert apart == tokenizer.encode(example.prompt + example.completion)


def test_sequences_hold_the_texts_in_order_with_an_end_after_each(
    texts: list[str], tokenizer: PreTrainedTokenizerFast
) -> None:
    sequences = packed_sequences(tokenizer, texts[:50], 32)
    assert sequences.shape[1] == 32
    joined = "".join(text + "</s>" for text in texts[:50])
    packed = tokenizer.decode(sequences.flatten())
    assert joined.startswith(packed)
    assert len(tokenizer.encode(joined[len(packed) :])) < 32


def test_a_corpus_shorter_than_a_sequence_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="expected at least 100 tokens .* found"):
        packed_sequences(tokenizer, ["short"], 100)


def test_every_pass_visits_every_sequence_once_in_a_new_order() -> None:
    settings = PretrainSettings(steps=6, batch_size=4)
    first, second = batch_order(12, settings).view(2, 12)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(12))
    assert first.tolist() != second.tolist()


def test_the_rate_warms_up_to_its_peak_and_falls_to_its_end() -> None:
    shares = [rate_share(step, 1_000) for step in range(1_001)]
    assert shares[0] == pytest.approx(1 / 50)
    assert shares[49] == shares[50] == 1
    assert shares[525] == pytest.approx(0.525)
    assert shares[1_000] == pytest.approx(0.05)
    assert all(later < earlier for earlier, later in zip(shares[50:], shares[51:], strict=False))


def test_only_matrices_decay(tokenizer: PreTrainedTokenizerFast) -> None:
    model = new_model(TINY, tokenizer)
    decayed, kept = new_optimizer(model, TINY).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0)
    norms = {id(p) for name, p in model.named_parameters() if "norm" in name}
    assert {id(p) for p in kept["params"]} == norms
    assert len(decayed["params"]) + len(norms) == len(list(model.parameters()))


def test_training_lowers_the_loss_of_a_corpus(
    texts: list[str], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = new_model(TINY, tokenizer)
    settings = dataclasses.replace(TINY, steps=60)
    curve = pretrain(model, packed_sequences(tokenizer, texts, 32), settings)
    assert [point.step for point in curve] == list(range(3, 61, 3))
    assert curve[-1].loss < curve[0].loss - 1


def test_the_command_saves_a_model_that_loads_and_generates(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    assert main(["pretrain", "--corpus", str(corpus), "--output", str(folder), *TINY_FLAGS]) == 0
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.padding_side) == (
        "<pad>",
        "</s>",
        "left",
    )
    assert not set(tokenizer("Tom has 3 coins.")["input_ids"]) & set(tokenizer.all_special_ids)
    assert model.dtype == torch.float32
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    batch = tokenizer(["Tom", "Tom has 3 coins."], return_tensors="pt", padding=True)
    batch.pop("token_type_ids", None)
    assert model.generate(**batch, max_new_tokens=2).shape[0] == 2
    notes = json.loads(manifest_path(folder).read_text())["notes"]
    assert notes["n_parameters"] == model.num_parameters()
    assert notes["loss"][-1]["step"] == 20


def test_the_same_settings_give_the_same_weights_bit_for_bit(corpus: Path, tmp_path: Path) -> None:
    def base(name: str, *flags: str) -> str:
        folder = tmp_path / name
        words = ["pretrain", "--corpus", str(corpus), "--output", str(folder), *TINY_FLAGS, *flags]
        assert main(words) == 0
        return model_identity(folder)

    assert base("first") == base("again")
    assert base("first") != base("other", "--seed", "1")


def test_no_steps_leave_the_initial_model_of_the_same_shape(corpus: Path, tmp_path: Path) -> None:
    words = ["pretrain", "--corpus", str(corpus), "--output", str(tmp_path / "base"), *TINY_FLAGS]
    assert main([*words, "--steps", "0"]) == 0
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "base").state_dict()
    initial = new_model(TINY, AutoTokenizer.from_pretrained(tmp_path / "base")).state_dict()
    assert saved.keys() == initial.keys()
    assert all(torch.equal(saved[name], initial[name]) for name in saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or folder"),
        ("", "expected at least one row, found none"),
        ('{"text": "a"}\n{"body": "b"}\n', 'row 2: expected a field "text", found body'),
        ('{"text": "a"}\n', "to fill one sequence, found 2"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_one_clear_line_and_no_model(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    if content is not None:
        corpus.write_text(content)
    output = tmp_path / "models" / "base"
    words = ["pretrain", "--corpus", str(corpus), "--output", str(output), *TINY_FLAGS]
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not output.parent.exists()


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match="d_model: expected a multiple of .* found 130"):
        PretrainSettings(d_model=130, n_heads=4)
