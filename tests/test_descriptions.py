"""Descriptions of neurons: the file, what is found in activations, and a published database."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from families import model_of
from models import tiny_tokenizer
from pyarrow import parquet
from torch import Tensor

from fnsft.architectures import watch_site
from fnsft.artifacts.descriptions import Description, read_descriptions, write_descriptions
from fnsft.artifacts.storage import read_json, write_jsonl
from fnsft.cli.main import main
from fnsft.config.stages import DescribeSettings
from fnsft.errors import InputError
from fnsft.neurons.descriptions import TokenTexts, find_tokens
from fnsft.neurons.top_tokens import NO_TOKEN, TokenScores, TopActivations, first_windows

THREE = [
    Description(0, 0, "+", '" seven", " nine"', 0.5, ("she had « seven» apples",)),
    Description(0, 0, "-", '"\u2028"', 0.0),
    Description(1, 3, "-", '" dog"', 1.0),
]


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz"])
def test_descriptions_come_back_as_they_were_written(tmp_path: Path, name: str) -> None:
    write_descriptions(tmp_path / name, THREE, "abc", "database")
    found = read_descriptions(tmp_path / name, "abc")
    assert list(found) == THREE == list(found)
    assert found.header.source == "database"


def test_the_same_descriptions_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_descriptions(tmp_path / name, THREE, "abc")
    packed = (tmp_path / "a.jsonl.gz").read_bytes()
    assert packed == (tmp_path / "b.jsonl.gz").read_bytes()
    assert packed[3:8] == bytes(5)  # of gzip's header: no name, no time


def test_descriptions_out_of_order_twice_or_with_an_impossible_score_are_not_written(
    tmp_path: Path,
) -> None:
    for wrong in (
        [THREE[1], THREE[0]],
        [THREE[2], THREE[0]],
        [THREE[0], THREE[0]],
        [Description(0, 0, "+", "x", 1.5)],
        [Description(0, -1, "+", "x", 0.5)],
    ):
        with pytest.raises(InputError, match=r"d\.jsonl: expected"):
            write_descriptions(tmp_path / "d.jsonl", wrong, "abc")
        assert list(tmp_path.iterdir()) == []


def test_what_is_no_description_of_this_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl.gz"
    write_descriptions(path, THREE, "abc")
    with pytest.raises(InputError, match="made from model abc, expected model def"):
        read_descriptions(path, "def")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="found damage"):
        list(read_descriptions(path))
    (tmp_path / "other.jsonl").write_text('{"model": "x"}\n')
    with pytest.raises(InputError, match="found another file"):
        read_descriptions(tmp_path / "other.jsonl")
    lines = gzip.decompress(whole).decode().split("\n")
    for line, message in (
        (json.dumps({"layer": 0}), "line 5: the field 'neuron' is missing"),
        (
            lines[1].replace('"contexts": [', '"contexts": [1, '),
            "line 5: contexts: expected a list",
        ),
        (lines[1], "line 5: expected layers, neurons and signs in order"),
        ("[" * 100_000, "line 5: expected JSON, found"),
        (f'{{"layer": {"1" * 5_000}}}', "line 5: expected JSON, found"),
    ):
        (tmp_path / "d.jsonl").write_text("\n".join([*lines[:4], line, ""]))
        with pytest.raises(InputError, match=message):
            list(read_descriptions(tmp_path / "d.jsonl"))


def places_of(values: np.ndarray, candidates: np.ndarray, n_top: int) -> np.ndarray:
    """The slow way: of one sign, by decreasing value, then by place; [n_top, N]."""
    found = np.full((n_top, values.shape[1]), NO_TOKEN)
    for neuron in range(values.shape[1]):
        order = sorted(range(len(values)), key=lambda t, n=neuron: (-values[t, n], t))
        own = [t for t in order if candidates[t] and values[t, neuron] > 0][:n_top]
        found[: len(own), neuron] = own
    return found


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_the_largest_activations_are_found_whatever_the_batches_with_ties_to_the_earlier(
    batch: int,
) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(-4, 5, (40, 6)).astype(np.float32) / 3
    values[:, 5] = np.abs(values[:, 5])  # never negative
    candidates = rng.random(40) < 0.7
    top = TopActivations(2, 5, candidates)
    for start in range(0, 40, batch):
        some = slice(start, min(start + batch, 40))
        for layer, sign in enumerate((1, -1)):
            top.see(layer, some, sign * torch.from_numpy(values[some]))
    wanted = np.stack([places_of(sign * values, candidates, 5) for sign in (1, -1)])
    assert (top.places(0) == wanted).all() and (top.places(1) == wanted[::-1]).all()
    assert (wanted[1, :, 5] == NO_TOKEN).all() and (wanted[0] != NO_TOKEN).any()


def scores_of(ids: np.ndarray, values: np.ndarray, top: np.ndarray, batch: int) -> np.ndarray:
    scores = TokenScores(ids, [top])
    for start in range(0, len(ids), batch):
        some = slice(start, min(start + batch, len(ids)))
        scores.see(0, some, torch.from_numpy(values[some]))
    return scores.scores(0)


@pytest.mark.parametrize("batch", [3, 50])
def test_a_score_is_the_correlation_of_activity_and_top_tokens_and_never_negative(
    batch: int,
) -> None:
    rng = np.random.default_rng(1)
    ids, values = rng.integers(0, 9, 50), rng.normal(size=(50, 30))
    top = rng.integers(NO_TOKEN, 9, (2, 3, 30))
    found = scores_of(ids, values, top, batch)
    raw = np.empty((2, 30))
    for sign, neuron in np.ndindex(2, 30):
        x = np.maximum((1, -1)[sign] * values[:, neuron], 0)
        raw[sign, neuron] = np.corrcoef(x, np.isin(ids, top[sign, :, neuron]))[0, 1]
    assert (raw < 0).any() and (raw > 0).any()
    assert np.allclose(found, np.maximum(raw, 0), atol=1e-12)


def test_a_neuron_that_fires_at_its_tokens_alone_scores_1_and_a_constant_one_nothing() -> None:
    ids = np.array([4, 5, 6, 4, 5, 6])
    values = np.tile(np.linspace(-0.1, 0.9, 11), (6, 1))  # the same everywhere, up to rounding
    values[:, 0] = [2, 0, 0, 2, 0, 0]
    top = np.full((2, 1, 11), NO_TOKEN)
    top[0] = 4
    found = scores_of(ids, values, top, 4)
    assert found[0, 0] == 1.0
    assert np.isnan(found[0, 1:]).all() and np.isnan(found[1]).all()


def test_a_window_counts_where_it_comes_first() -> None:
    rng = np.random.default_rng(2)
    samples = [tuple(rng.integers(0, 2, n)) for n in (1, 9, 1, 30, 9)] + [(0, 1), (0, 1)]
    seen, wanted = set(), []
    for ids in samples:
        for i in range(len(ids)):
            key = (ids[max(0, i - 2) : i], ids[i], ids[i + 1 : i + 3])
            wanted.append(key not in seen)
            seen.add(key)
    assert first_windows(samples, 2).tolist() == wanted
    assert not all(wanted[-2:]) and sum(wanted) < len(wanted) - 10


@pytest.mark.parametrize("family", ["Llama", "GPT2", "OPT", "Mixtral"])
def test_tokens_are_those_of_what_the_down_projection_reads_in_any_family(family: str) -> None:
    model = model_of(family).double()
    rng = np.random.default_rng(3)
    samples = [tuple(rng.integers(3, 40, n).tolist()) for n in (12, 20, 3, 9, 17)]
    found = find_tokens(model, samples, DescribeSettings(n_tokens=4, batch_size=2))
    alone: dict[int, list[Tensor]] = {0: [], 1: []}
    for ids in samples:  # one by one there is no padding
        with (
            torch.no_grad(),
            watch_site(model, "intermediate", lambda layer, v: alone[layer].append(v.clone())),
        ):
            model(input_ids=torch.tensor([ids]))
    even, odd = (np.concatenate(samples[start::2]) for start in (0, 1))
    for layer in (0, 1):
        values = torch.cat(alone[layer][::2]).float().numpy()
        first = first_windows(samples[::2], 5)
        wanted = np.stack([places_of(sign * values, first, 4) for sign in (1, -1)])
        assert (found.places[layer] == wanted).all()
        top = np.where(wanted == NO_TOKEN, NO_TOKEN, even[wanted])
        unseen = torch.cat(alone[layer][1::2]).numpy()
        scores = scores_of(odd, unseen, top, 100)
        assert np.allclose(found.scores[layer], scores, atol=1e-9, equal_nan=True)
    n_negative = sum((places[1] != NO_TOKEN).any(axis=0).sum() for places in found.places)
    assert (n_negative == 0) == (family == "OPT")  # whose activation is never negative
    assert found.without_activation[1] == sum(places[1].size // 4 for places in found.places) - (
        n_negative
    )


@pytest.mark.parametrize("text", ["x 🦜 q é", "🦜🦜", "日本 x"])
def test_contexts_keep_the_text_and_mark_whole_characters(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert len(ids) > len(text)  # all bytes of the long characters are tokens of their own
    texts, found = TokenTexts(tokenizer, [ids]), []
    for place in range(len(ids)):
        some = ids[max(0, place - 5) : place + 6]
        before, _, rest = texts.context(place).partition("«")
        marked, _, after = rest.partition("»")
        assert before + marked + after == tokenizer.decode(some)
        found.append(marked)
    numbers = [len(tokenizer(character)["input_ids"]) for character in text]
    assert found == [c for c, n in zip(text, numbers, strict=True) for _ in range(n)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    names = ("Ada", "Bo", "Zoe", "Tom", "a girl")
    rows = [
        {
            "prompt": f"{name} has {n} apples.\nAnswer:",
            "completion": f" {n} + 1 apples. #### {n + 1}",
        }
        for n, name in enumerate(names)
    ]
    write_jsonl(tmp_path / "train.jsonl", rows)
    return tmp_path / "train.jsonl"


def describe(model: Path, output: Path, *flags: Any) -> int:
    return main(["describe", "--model", str(model), "--output", str(output), *map(str, flags)])


def test_batches_of_another_size_write_the_same_bytes(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / f"{size}.jsonl.gz" for size in (1, 4)]
    for size, path in zip((1, 4), paths, strict=True):
        flags = ("--dtype", "float64", "--batch-size", size, "--n-contexts", 2)
        assert describe(tiny_model_dir, path, "--data", data, *flags) == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert "256 descriptions" in capsys.readouterr().err
    found = list(read_descriptions(paths[0]))
    for one in found:
        assert len(one.contexts) == 2
        tokens = [context.partition("«")[2].partition("»")[0] for context in one.contexts]
        assert all(json.dumps(token) in one.text for token in tokens if token.isascii())
        assert tokens[0] in json.loads(f"[{one.text}]")[0]
    notes = read_json(tmp_path / "1.jsonl.gz.manifest.json")["notes"]
    assert (notes["samples"], notes["descriptions"]) == (5, 256)


ROWS = [
    {"layer": 1, "neuron": 63, "polarity": 1, "description": "apples", "score": 0.7},
    {"layer": 0, "neuron": 2, "polarity": -1, "description": " names ", "score": None},
    {"layer": 0, "neuron": 2, "polarity": 1, "description": None, "score": 0.4},
    {"layer": 0, "neuron": 0, "polarity": 1, "description": "digits", "score": -0.1},
    {"layer": 0, "neuron": 1, "polarity": 1, "description": "dots", "score": float("nan")},
]


def test_a_database_is_imported_in_order_and_what_is_invalid_scores_0(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "d.parquet")
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("d.parquet", "d.jsonl.gz"):
        output = tmp_path / f"of-{name}.jsonl"
        assert describe(tiny_model_dir, output, "--database", tmp_path / name) == 0
        found = read_descriptions(output)
        assert found.header.source == "database"
        assert list(found) == [
            Description(0, 0, "+", "digits", 0.0),
            Description(0, 1, "+", "dots", 0.0),
            Description(0, 2, "+", "", 0.0),
            Description(0, 2, "-", "names", 0.0),
            Description(1, 63, "+", "apples", 0.7),
        ]
        assert read_json(output.with_name(f"{output.name}.manifest.json"))["notes"]["invalid"] == 4
        assert "0.70 on average; 4 without a text or a score score 0\n" in capsys.readouterr().err


def test_columns_of_other_names_are_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    row = {"Layer": "1", "unit": 3, "is_positive": False, "explanation": "x", "fit": "0.25"}
    write_jsonl(tmp_path / "d.jsonl", [row])
    flags = ("--database", tmp_path / "d.jsonl", "--columns", "neuron=unit", "score=fit")
    assert describe(tiny_model_dir, tmp_path / "out.jsonl", *flags) == 0
    assert list(read_descriptions(tmp_path / "out.jsonl")) == [Description(1, 3, "-", "x", 0.25)]


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        ({"layer": 2}, (), "line 2: expected one of 2 layers of 64 neurons, found layer 2"),
        ({"neuron": 64}, (), "line 2: expected one of 2 layers of 64 neurons"),
        ({"neuron": True}, (), "line 2: neuron: expected a whole number from 0, found True"),
        ({"layer": 1, "neuron": 63}, (), "line 2: expected one description a sign, found another"),
        ({"polarity": "up"}, (), "line 2: polarity: expected a sign"),
        ({"score": 70}, (), "line 2: expected a score of at most 1, found 70"),
        ({"score": 10**400}, (), "line 2: expected a score of at most 1, found inf"),
        ({"score": True}, (), "line 2: expected a score in [0, 1], found True"),
        ({"neuron": "1" * 5_000}, (), "line 2: neuron: expected a whole number from 0"),
        ({"description": "\ud800"}, (), "line 2: description: expected text, found half a"),
        ({}, ("--columns", "layer=block"), "line 1: columns: no column 'block'"),
        ({}, ("--columns", "nueron=x"), "columns: expected such as layer=block"),
    ],
    ids=lambda value: f"{value!s:.60}",
)
def test_a_row_that_cannot_be_is_refused_with_its_place(
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    flags: tuple[str, ...],
    message: str,
) -> None:
    second = ROWS[0] | {"neuron": 5} | change
    (tmp_path / "d.jsonl").write_text(f"{json.dumps(ROWS[0])}\n{json.dumps(second)}\n")
    output = tmp_path / "out.jsonl"
    assert describe(tiny_model_dir, output, "--database", tmp_path / "d.jsonl", *flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.glob("*out*"))


def test_a_dump_without_a_score_and_one_sample_are_refused(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "d.jsonl", [{"layer": "0", "index": "1", "description": "x"}])
    output = tmp_path / "out.jsonl"
    assert describe(tiny_model_dir, output, "--database", tmp_path / "d.jsonl") == 2
    assert "name it: --columns score=NAME" in capsys.readouterr().err
    data.write_text(data.read_text().split("\n")[0] + "\n")
    assert describe(tiny_model_dir, output, "--data", data) == 2
    assert "samples: expected two or more, found 1" in capsys.readouterr().err
    assert describe(tiny_model_dir, tmp_path / "out.csv", "--data", data) == 2
    assert "ends in .jsonl or .jsonl.gz" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))
