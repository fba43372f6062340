"""Answers: the numbers of ``fnsft evaluate``, whatever the batch, and nothing half-written."""

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from benchmark_files import MAX_NEW_TOKENS, benchmark_words, write_benchmark_files

from fnsft.artifacts.answers import read_answers
from fnsft.artifacts.items import items_path, read_items
from fnsft.artifacts.records import Record, read_records
from fnsft.artifacts.storage import write_jsonl
from fnsft.artifacts.training import Run, TrainingRecord, write_training
from fnsft.cli.main import main
from fnsft.data.tokens import load_tokenizer
from fnsft.evaluation import benchmarks
from fnsft.evaluation.benchmarks.contract import Answers, protocol_of
from fnsft.evaluation.generation import generate
from fnsft.evaluation.loading import load_model

LIMIT = f"max_new_tokens={MAX_NEW_TOKENS}"


@pytest.fixture(scope="module")
def files(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_benchmark_files(tmp_path_factory.mktemp("items"), tiny_model_dir)


def answer(model: Path, output: Path, *words: str, name: str | None = "tiny") -> int:
    names = ["--model-name", name] if name else []
    return main(["answer", "--model", str(model), "--output", str(output), *names, *words])


def score(answers: Path, *words: str) -> list[Record]:
    output = answers.with_name(f"{answers.name}.jsonl")
    assert main(["score", str(answers), "--output", str(output), *words]) == 0
    return read_records([output])


def numbers(records: list[Record]) -> dict[tuple[str, str, str | None], tuple[Any, ...]]:
    return {
        (r.benchmark.removesuffix("-x"), r.metric, r.subset): (r.value, r.stderr, r.n)
        for r in records
    }


def test_scores_are_those_of_evaluate_to_the_last_digit(
    tiny_model_dir: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    output = tmp_path / "evaluated.jsonl"
    words = [word for kind, file in files.items() for word in (f"--{kind}", str(file))]
    names = ["--model-name", "tiny", "--task", "math"]
    settings = ["--max-new-tokens", str(MAX_NEW_TOKENS), "--batch-size", "5"]
    command = ["evaluate", "--model", str(tiny_model_dir), "--output", str(output)]
    assert main([*command, *names, *settings, *words]) == 0
    expected = numbers(read_records([output]))

    folder = tmp_path / "answers"
    words = benchmark_words(files, LIMIT)
    assert answer(tiny_model_dir, folder, *words, "--batch-size", "5") == 0
    assert numbers(score(folder)) == expected
    for kind in ("gsm8k", "exact", "cloze"):
        assert 0 < expected[kind, "accuracy", None][0] < 1, "a share of 0 or 1 would show little"


@pytest.mark.parametrize("trained", [False, True])
def test_scores_do_not_depend_on_the_batch_size(
    trained: bool, request: pytest.FixtureRequest, tmp_path: Path, files: dict[str, Path]
) -> None:
    model = request.getfixturevalue("tiny_model_dir")
    if trained:
        # Its tokenizer is a stand-in, whose texts lead to ties between tokens.
        model = request.getfixturevalue("shared_data") / "models" / "stories260k"
        files = {kind: file for kind, file in files.items() if kind in ("cloze", "perplexity")}
    found, rows = {}, {}
    for size in (1, 3, 64):
        folder = tmp_path / f"answers{size}"
        assert answer(model, folder, *benchmark_words(files, LIMIT), "--batch-size", str(size)) == 0
        found[size] = numbers(score(folder))
        rows[size] = [(folder / f"{kind}-x.jsonl").read_bytes() for kind in files]
    n_generated = 0 if trained else 2
    for size in (3, 64):
        assert rows[size][:n_generated] == rows[1][:n_generated]
        # Losses differ in their last bits, shares do not.
        perplexity = ("perplexity", "perplexity", None)
        assert found[size].pop(perplexity) == pytest.approx(found[1][perplexity], rel=1e-6)
        assert found[size] == {k: v for k, v in found[1].items() if k != perplexity}


def test_a_protocol_says_how_each_kind_was_asked(
    tiny_model_dir: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    folder = tmp_path / "answers"
    words = benchmark_words(files, LIMIT, "limit=2")
    assert answer(tiny_model_dir, folder, *words, "--max-tokens", "300") == 0
    answered = read_answers(folder).answered
    assert [len(found.rows) for found in answered.values()] == [2] * 4
    assert {name: found.protocol for name, found in answered.items()} == {
        "gsm8k-x": r"gsm8k shots=0 template=as-written extract=decimal|strict|flexible "
        r"stop=eos|\nQuestion: max_new_tokens=24 dtype=float32 backend=hf",
        "exact-x": "exact template=as-written extract=lines|whole|contains stop=eos "
        "max_new_tokens=24 dtype=float32 backend=hf",
        "cloze-x": "cloze extract=log-probability|per-character dtype=float32",
        "perplexity-x": "perplexity template=as-written max_tokens=300 dtype=float32",
    }


def test_a_protocol_names_the_template_that_data_were_prepared_with(
    tiny_model_dir: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(files["gsm8k"], data / "test.jsonl")
    (data / "prompt_format.json").write_text('{"template": "basic", "kind": "question"}')
    prepared = {"gsm8k": data / "test.jsonl", "perplexity": data / "test.jsonl"}
    words = benchmark_words(prepared, "limit=1", "max_new_tokens=2")
    assert answer(tiny_model_dir, tmp_path / "answers", *words) == 0
    problems, losses = read_answers(tmp_path / "answers").answered.values()
    assert " template=basic " in problems.protocol
    assert losses.protocol == "perplexity template=basic max_tokens=512 dtype=float32", (
        "fewer than --max-tokens: the model's positions"
    )


def tuned_model(folder: Path, base: Path) -> Path:
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).symlink_to(file)
    run = Run("tiny", "code", "collab", 0.5, 0.5, "knn", "gradient", None, 2, 3, 1e-3, "math>code")
    write_training(folder, TrainingRecord(run, [], [], 1, 1, 1.5, 1, 0.5, 1.0, 1.0))
    return folder


def test_records_say_who_answered_what_and_how(
    tiny_model_dir: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    model = tuned_model(tmp_path / "tuned", tiny_model_dir)
    folder = tmp_path / "answers"
    words = benchmark_words({"cloze": files["cloze"]}, "measures=facts", "limit=5")
    assert answer(model, folder, *words, name=None) == 0
    records = score(folder)
    (answered,) = read_answers(folder).answered.values()
    assert {(r.method, r.seed, r.stage, r.sequence, r.n) for r in records if not r.subset} == {
        ("collab", 3, 2, "math>code", 5)
    }
    assert {(r.benchmark, r.measures, r.protocol) for r in records} == {
        ("cloze-x", "facts", answered.protocol)
    }
    (versions,) = {r.versions for r in records}
    assert versions is not None
    assert [word.split()[0] for word in versions.split(", ")] == ["torch", "transformers"]
    assert {r.data_sha256 for r in records} == {answered.data_sha256}
    manifest = json.loads((tmp_path / "answers.manifest.json").read_text())
    assert manifest["inputs"]["cloze-x file"]["sha256"] == answered.data_sha256
    assert manifest["notes"]["benchmarks"]["cloze-x"]["measures"] == "facts"


def test_items_add_up_to_their_metrics(
    tiny_model_dir: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    folder = tmp_path / "answers"
    assert answer(tiny_model_dir, folder, *benchmark_words(files, LIMIT)) == 0
    metrics = numbers(score(folder))
    items = read_items(items_path(tmp_path / "answers.jsonl"))
    for kind in files:
        metric = "perplexity" if kind == "perplexity" else "accuracy"
        own = [item for item in items if (item.benchmark, item.metric) == (f"{kind}-x", metric)]
        assert [item.item for item in own] == [str(number) for number in range(24)]
        quotient = sum(item.value for item in own) / sum(item.weight for item in own)
        value = math.exp(quotient) if kind == "perplexity" else quotient
        assert metrics[kind, metric, None][0] == pytest.approx(value, rel=1e-12)


def test_of_a_prompt_that_leaves_no_room_the_last_tokens_are_kept_and_it_is_counted(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    long = " ".join(map(str, range(300))) + " Question: Ada has"
    rows = [{"prompt": p, "completion": "\n#### 1"} for p in (long, "Question: 1?\nAnswer:")]
    write_jsonl(tmp_path / "long.jsonl", rows)
    words = benchmark_words({"gsm8k": tmp_path / "long.jsonl"}, LIMIT)
    assert answer(tiny_model_dir, tmp_path / "answers", *words) == 0
    (found,) = read_answers(tmp_path / "answers").answered.values()
    assert found.counts["prompts_cut_to_fit"] == 1
    ids, room = tokenizer(long)["input_ids"], 512 - MAX_NEW_TOKENS
    model = load_model(tiny_model_dir, "float32")
    options = {"batch_size": 1, "max_new_tokens": MAX_NEW_TOKENS}
    last, first = generate(model, tokenizer, [ids[-room:], ids[:room]], **options)
    assert found.rows[0]["text"] == last.text != first.text


def test_bad_items_of_the_last_benchmark_show_before_the_model_loads(
    tiny_model_dir: Path,
    tmp_path: Path,
    files: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model_dir, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    write_jsonl(tmp_path / "bad.jsonl", [{"prompt": "Ann is"}])
    words = benchmark_words(files | {"cloze": tmp_path / "bad.jsonl"}, LIMIT)
    assert answer(broken, tmp_path / "answers", *words) == 2
    assert "benchmark cloze-x: " in (error := capsys.readouterr().err)
    assert "bad.jsonl line 1: the field 'choices' is missing" in error
    assert list(tmp_path.glob("*answers*")) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["m"], "benchmark m: the key 'kind' is missing; add kind=…"),
        (["m", "kind=gsm8k"], "benchmark m: the key 'file' is missing"),
        (["m", "kind=gsm8k", "flie=x"], "benchmark m: unknown key 'flie'; did you mean 'file'?"),
        (["m", "kind=gsm9k", "file=x"], "benchmark m: kind: expected one of gsm8k, exact"),
        (["m", "kind"], "benchmark m: expected KEY=VALUE, each key once, found 'kind'"),
        (["m", "kind=gsm8k", "kind=exact"], "each key once, found 'kind=exact'"),
        (["m", "kind=gsm8k", "file=x", "limit=ten"], "limit: expected a whole number, found 'ten'"),
        (["m", "kind=gsm8k", "file=x", "limit=0"], "limit: expected a value above 0, found 0"),
        (["m", "kind=mmlu", "file=x", "shots=0", "chat=yes"], "chat: expected true or false"),
        (["m", "kind=gsm8k", "file=x", "shots=3"], "benchmark m: shots: gsm8k has none"),
        (["../m", "kind=gsm8k", "file=x"], "benchmark '../m': expected a name of letters"),
        (["m", "kind=cloze", "file=none.jsonl"], "benchmark m: none.jsonl: no such file"),
    ],
)
def test_a_benchmark_that_cannot_be_meant_is_one_line(
    words: list[str],
    message: str,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert answer(tiny_model_dir, tmp_path / "answers", "--benchmark", *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_answered_or_written_is_refused(
    tiny_model_dir: Path,
    tmp_path: Path,
    files: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = benchmark_words({"gsm8k": files["gsm8k"]}, LIMIT)
    tuned = tuned_model(tmp_path / "tuned", tiny_model_dir)
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("mine")
    new = tmp_path / "answers"
    cases: list[tuple[Callable[[], int], str]] = [
        (lambda: answer(tiny_model_dir, new, *words, name=None), "give --model-name"),
        (lambda: answer(tuned, new, *words), "names the run; leave --model-name out"),
        (lambda: answer(tiny_model_dir, new, *words, *words), "each name once"),
        # Before anything is read, or hours of answers would have no place.
        (
            lambda: answer(
                tiny_model_dir, full, *benchmark_words({"gsm8k": tmp_path / "none.jsonl"})
            ),
            "holds files that fnsft did not make",
        ),
        (
            lambda: answer(tiny_model_dir, new, *words, "--forward-mask", "off"),
            "leave --forward-mask out",
        ),
        (
            lambda: answer(
                tiny_model_dir,
                new,
                *benchmark_words({"gsm8k": files["gsm8k"]}, "max_new_tokens=512"),
            ),
            "max_new_tokens: expected less than the model's 512 positions, found 512",
        ),
    ]
    for attempt, message in cases:
        assert attempt() == 2
        assert message in capsys.readouterr().err
    assert not new.exists()


def test_an_interrupted_run_keeps_what_was_answered_and_shows_nothing_half_made(
    tiny_model_dir: Path,
    tmp_path: Path,
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered: list[str] = []
    interrupted = True

    def answers(subject: Any, benchmark: Any) -> Answers:
        assert subject.model.config
        if interrupted and len(answered) == 1:
            raise KeyboardInterrupt
        answered.append(benchmark.file)
        return Answers([{"item": "0"}], protocol_of(subject, benchmark, {}))

    kind = ModuleType("fnsft.evaluation.benchmarks.cloze")
    kind.answers = answers  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, kind.__name__, kind)
    assert benchmarks.kind_of("cloze") is kind
    output = tmp_path / "answers"
    one, two = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    for file in (one, two):
        shutil.copy(files["cloze"], file)
    words = [*benchmark_words({"cloze": one}), "--benchmark", "b", "kind=cloze", f"file={two}"]
    assert answer(tiny_model_dir, output, *words) == 130
    assert answered == [str(one)] and not output.exists()
    interrupted = False
    assert answer(tiny_model_dir, output, *words) == 0
    assert answered == [str(one), str(two)]
    assert sorted(path.name for path in tmp_path.glob("*answers*")) == [
        "answers",
        "answers.manifest.json",
    ]
    assert list(read_answers(output).answered) == ["cloze-x", "b"]
