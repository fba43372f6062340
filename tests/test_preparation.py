"""Anyone's rows as prepared folders."""

import csv
import itertools
import json
import random
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from models import tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from fnsft.artifacts.prompt_formats import PromptFormat, read_prompt_format
from fnsft.config.presets import TaskPreset
from fnsft.config.stages import DataSettings
from fnsft.data.audit import audit
from fnsft.data.formats import Example
from fnsft.data.held_out import compared, drawn, n_held_out, prompt_digest
from fnsft.data.preparation import Preparation, prepare
from fnsft.data.row_files import Rows, read_rows_by_split
from fnsft.data.shown import shown
from fnsft.data.templates import render_prompt
from fnsft.data.tokens import load_split
from fnsft.errors import InputError

CHAT = (
    "{% for m in messages %}{{ '<s>' + m.role + '\n' + m.content + '</s>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def chat_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    return tokenizer


def sums(n: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(start, start + n)
    ]


def made(
    folder: Path, splits: Any, validation: Any = None, preset: str | None = None, **settings: Any
) -> Preparation:
    """Prepare rows that are in memory, or of files, with a tokenizer without a chat template."""
    tokenizer = settings.pop("tokenizer", None) or tiny_tokenizer()
    if not isinstance(splits, dict):
        splits = {"train": splits}
    rows = {k: v if isinstance(v, Rows) else Rows.of(f"given ({k})", v) for k, v in splits.items()}
    held = Rows.of("given (file)", validation) if validation is not None else None
    task = TaskPreset.read(preset) if preset else None
    return prepare(rows, held, task, DataSettings(**settings), tokenizer, folder)


def read(folder: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def prompts(folder: Path, split: str) -> list[str]:
    return [row["prompt"] for row in read(folder, split)]


def test_a_csv_becomes_a_folder_that_training_reads(tmp_path: Path) -> None:
    path, folder = tmp_path / "sums.csv", tmp_path / "prepared"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(sums(200))
    rows = read_rows_by_split(path)
    found = prepare(rows, None, None, DataSettings(), chat_tokenizer(), folder)
    train, validation = (read(folder, split) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (190, 10)
    assert sorted(file.name for file in folder.iterdir()) == [
        "prompt_format.json",
        "train.jsonl",
        "validation.jsonl",
    ]
    expected = {
        f"<s>user\nWhat is {i} + {i}?</s>\n<s>assistant\n": f"{2 * i}</s>\n" for i in range(200)
    }
    assert {row["prompt"]: row["completion"] for row in train + validation} == expected
    assert all(row["special_tokens"] is False for row in train)
    assert read_prompt_format(folder) == PromptFormat("chat", "question", "", None)
    split = load_split(folder / "train.jsonl", chat_tokenizer(), 100)
    assert audit(split, chat_tokenizer()).n_samples == 190
    tokenizer = chat_tokenizer()
    answers = {tokenizer.decode(sample.completion_ids) for sample in split.samples}
    assert answers <= {f"{2 * i}</s>" for i in range(200)}
    assert found.notes["train_samples"] == 190
    assert found.notes["splits"]["train"]["rows"] == 200


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    rows = sums(60)
    for name, seed in (("a", 3), ("again", 3), ("other", 4)):
        made(tmp_path / name, rows, data_seed=seed)
    for split in ("train", "validation"):
        first, again, other = (prompts(tmp_path / n, split) for n in ("a", "again", "other"))
        assert first == again
        assert first != other
    assert prompts(tmp_path / "a", "train") != sorted(prompts(tmp_path / "a", "train"))


def test_fewer_samples_are_some_of_more_and_validation_stays(tmp_path: Path) -> None:
    rows = sums(100)
    held, trained = [], []
    for n in (5, 30, None):
        folder = tmp_path / str(n)
        made(folder, rows, max_samples=n, validation_fraction=0.2)
        held.append(prompts(folder, "validation"))
        trained.append(set(prompts(folder, "train")))
    assert held[1] == held[2]
    assert len(held[1]) == 20
    assert held[0] == held[1][:5]  # a trial does not validate on more rows than it trains on
    assert [len(found) for found in trained] == [5, 30, 80]
    assert trained[0] < trained[1] < trained[2]
    assert trained[2].isdisjoint(held[1])


def test_the_order_of_splits_changes_nothing(tmp_path: Path) -> None:
    splits = {"train": sums(20), "dev": sums(5, 50), "test": sums(5, 80)}
    made(tmp_path / "a", splits)
    made(tmp_path / "b", dict(reversed(splits.items())))
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev", "eval"])
def test_a_split_that_is_named_so_validates(tmp_path: Path, name: str) -> None:
    made(tmp_path / "out", {"train": sums(20), name: sums(5, 50)})
    assert len(prompts(tmp_path / "out", "train")) == 20
    assert len(prompts(tmp_path / "out", "validation")) == 5
    assert not (tmp_path / "out" / "test.jsonl").exists()


def test_splits_may_be_named_and_a_test_split_stays_whole_and_in_order(tmp_path: Path) -> None:
    splits = {"aux": sums(20), "train": sums(9, 30), "odd": sums(6, 50), "test": sums(7, 80)}
    made(tmp_path / "out", splits, data_split="aux", validation_split="odd")
    number = [
        sorted(int(p.split()[3]) for p in prompts(tmp_path / "out", split))
        for split in ("train", "validation")
    ]
    assert number == [[*range(20)], [*range(50, 56)]]
    tested = [int(prompt.split()[3]) for prompt in prompts(tmp_path / "out", "test")]
    assert tested == [*range(80, 87)]


def test_a_presets_splits_are_taken_where_they_are(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        "train: a\nvalidation: b\ntest: c\nkind: question\n"
        "prompt: '{question}'\ncompletion: '{answer}'\n"
    )
    splits = {"a": sums(4), "b": sums(3, 10), "c": sums(2, 20)}
    made(tmp_path / "out", splits, preset=str(preset))
    names = ("train", "validation", "test")
    assert [len(prompts(tmp_path / "out", name)) for name in names] == [4, 3, 2]
    made(tmp_path / "alone", sums(10), preset=str(preset))
    assert len(prompts(tmp_path / "alone", "train")) == 9


@pytest.mark.parametrize("settings", [{"data_split": "test"}, {"validation_split": "test"}])
def test_a_split_has_one_role(tmp_path: Path, settings: dict[str, str]) -> None:
    found = made(tmp_path / "out", {"train": sums(20), "test": sums(20, 50)}, **settings)
    assert sorted(found.notes["splits"]) in (["train"], ["train", "validation"])
    assert not (tmp_path / "out" / "test.jsonl").exists()


def test_a_file_validates_in_place_of_a_split(tmp_path: Path) -> None:
    made(tmp_path / "out", {"train": sums(20), "dev": sums(5, 50)}, validation=sums(4, 70))
    found = prompts(tmp_path / "out", "validation")
    assert sorted(int(prompt.split()[3]) for prompt in found) == [70, 71, 72, 73]
    assert len(prompts(tmp_path / "out", "train")) == 20


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.99])
def test_at_least_one_row_validates_and_one_trains(tmp_path: Path, fraction: float) -> None:
    made(tmp_path / "out", sums(3), validation_fraction=fraction)
    n = len(prompts(tmp_path / "out", "validation"))
    assert n == {0.01: 1, 0.3: 1, 0.99: 2}[fraction]
    assert len(prompts(tmp_path / "out", "train")) == 3 - n


def conversations(n: int) -> list[dict[str, Any]]:
    """Rows of four answers each; every turn has the row's name."""
    return [
        {
            "messages": [
                {"role": role, "content": f"row{i}. {role} {turn}"}
                for turn in range(4)
                for role in ("user", "assistant")
            ]
        }
        for i in range(n)
    ]


@pytest.mark.parametrize("turns", ["all", "last"])
def test_all_turns_of_a_conversation_are_on_one_side(tmp_path: Path, turns: str) -> None:
    made(tmp_path / "out", conversations(40), turns=turns, validation_fraction=0.25)
    sides = [
        {row["completion"].split(".")[0] for row in read(tmp_path / "out", split)}
        for split in ("train", "validation")
    ]
    assert [len(side) for side in sides] == [30, 10]
    assert sides[0].isdisjoint(sides[1])
    assert len(read(tmp_path / "out", "train")) == (120 if turns == "all" else 30)


def test_turns_of_a_conversation_do_not_stay_together(tmp_path: Path) -> None:
    made(tmp_path / "out", conversations(40))
    names = [row["completion"].split(".")[0] for row in read(tmp_path / "out", "train")]
    assert sum(a == b for a, b in itertools.pairwise(names)) < 20


def test_validation_has_no_more_samples_than_wanted(tmp_path: Path) -> None:
    settings = {"validation_fraction": 0.5, "max_validation_samples": 10}
    made(tmp_path / "a", conversations(20), **settings)
    assert len(read(tmp_path / "a", "validation")) == 8
    assert len(read(tmp_path / "a", "train")) == 72
    splits = {"train": conversations(5), "dev": conversations(25)[5:]}
    made(tmp_path / "b", splits, max_validation_samples=3)
    assert len(read(tmp_path / "b", "validation")) == 4  # one row is never cut
    made(tmp_path / "c", {"train": sums(5), "dev": sums(20, 50)}, max_validation_samples=10)
    assert len(read(tmp_path / "c", "validation")) == 10


def planted() -> dict[str, list[dict[str, str]]]:
    """Two training rows whose prompt validates or tests, in other case and white space."""
    copies = [{"question": "what IS  50 +\n50?", "answer": "x"}] + sums(1, 80)
    return {"train": sums(20) + copies, "dev": sums(5, 50), "test": sums(5, 80)}


def test_a_training_sample_with_a_held_out_prompt_is_left_out(tmp_path: Path) -> None:
    found = made(tmp_path / "out", planted())
    assert found.notes["train_samples_with_held_out_prompt"] == 2
    assert len(prompts(tmp_path / "out", "train")) == 20
    assert "duplicates: 2 training samples" in "\n".join(found.summary)


def test_duplicates_are_kept_and_counted_when_told_so(tmp_path: Path) -> None:
    found = made(tmp_path / "out", planted(), deduplicate=False)
    assert found.notes["train_samples_with_held_out_prompt"] == 2
    assert len(prompts(tmp_path / "out", "train")) == 22
    assert "kept (--no-deduplicate)" in "\n".join(found.summary)


def test_repeats_within_training_are_counted_and_kept(tmp_path: Path) -> None:
    found = made(tmp_path / "out", {"train": sums(20) + sums(3) + sums(1), "dev": sums(5, 50)})
    assert found.notes["train_samples_with_repeated_prompt"] == 4
    assert len(prompts(tmp_path / "out", "train")) == 24


def test_comparing_agrees_with_every_pair() -> None:
    numbers = random.Random(0)

    def example() -> Example:
        words = [numbers.choice(["Ada", "ADA", "ada", "b"]) for _ in range(numbers.randint(1, 3))]
        text = numbers.choice([" ", "\n", "\t  "]).join(words)
        return Example(text, "x") if numbers.random() < 0.7 else Example("", text)

    train, held = [[example() for _ in range(60)] for _ in range(2)]
    held = held[:4]

    def text(e: Example) -> list[str]:
        return (e.prompt or e.completion).lower().split()

    matches = [any(text(e) == text(other) for other in held) for e in train]
    kept = [e for e, match in zip(train, matches, strict=True) if not match]
    n_repeats = sum(any(text(e) == text(o) for o in kept[:i]) for i, e in enumerate(kept))
    found = compared(train, {prompt_digest(e) for e in held}, True)
    assert (found.kept, found.n_held_out, found.n_repeats) == (kept, sum(matches), n_repeats)
    assert 0 < sum(matches) < 60
    assert n_repeats > 0


def test_a_draw_is_the_beginning_of_a_longer_one_and_holds_no_more_rows() -> None:
    class Held(list[Example]):
        """A list that can be watched."""

    alive: list[int] = []

    def groups() -> Iterator[tuple[int, list[Example]]]:
        watched: list[weakref.ref[Held]] = []
        for number in range(1, 301):
            group = Held([Example(str(number), "x")])
            watched.append(weakref.ref(group))
            alive.append(sum(ref() is not None for ref in watched))
            yield number, group

    everything = drawn(groups(), None, seed=5)
    alive.clear()
    assert drawn(groups(), 7, seed=5) == everything[:7]
    assert max(alive) <= 7 + 3
    assert sorted(int(group[0].prompt) for group in everything) == [*range(1, 301)]
    assert drawn(groups(), 7, seed=6) != everything[:7]


@pytest.mark.parametrize(
    ("sizes", "n_rows", "cap", "expected"),
    [([1, 1, 1], 2, 9, 2), ([1, 1, 1], 3, 2, 2), ([4, 1], 2, 2, 1), ([2, 2, 2], 3, 4, 2)],
)
def test_whole_rows_are_held_out_up_to_a_number_of_samples(
    sizes: list[int], n_rows: int, cap: int, expected: int
) -> None:
    groups = [[Example("q", "a")] * size for size in sizes]
    assert n_held_out(groups, n_rows, cap) == expected


def test_of_a_stream_the_first_rows_alone_are_read(tmp_path: Path) -> None:
    largest = 0

    def endless() -> Iterator[tuple[int, dict[str, str]]]:
        nonlocal largest
        for number in itertools.count(1):
            largest = max(largest, number)
            yield number, {"question": f"{number}?", "answer": "x"}

    rows = {"train": Rows("endless", endless), "test": Rows("endless too", endless)}
    made(tmp_path / "out", rows, streaming=True, max_samples=300, validation_fraction=0.1)
    found = prompts(tmp_path / "out", "train") + prompts(tmp_path / "out", "validation")
    assert {int(p.split("?")[0].split()[-1]) for p in found} == {*range(1, 301)}
    assert len(prompts(tmp_path / "out", "validation")) == 30
    assert largest <= 301
    assert not (tmp_path / "out" / "test.jsonl").exists()


def test_a_test_split_without_answers_does_not_stop_training(tmp_path: Path) -> None:
    for name, test in (("null", {"question": "q", "answer": None}), ("none", {"question": "q"})):
        found = made(tmp_path / name, {"train": sums(20), "test": [test]})
        assert not (tmp_path / name / "test.jsonl").exists()
        assert any(line.startswith("test: given (test): left out") for line in found.summary)
        assert len(prompts(tmp_path / name, "train")) == 19


def test_rows_without_an_answer_are_counted_with_the_first_of_them(tmp_path: Path) -> None:
    rows = sums(20)
    rows[7]["answer"] = rows[9]["answer"] = " "
    found = made(tmp_path / "out", rows)
    train = found.notes["splits"]["train"]
    assert (train["rows"], train["rows_used"]) == (20, 18)
    assert train["left_out"] == {"with an empty answer": {"rows": 2, "first_row": 8}}
    assert any("2 rows with an empty answer (the first is row 8)" in s for s in found.summary)


def test_texts_and_instructions_take_their_own_form(tmp_path: Path) -> None:
    made(tmp_path / "texts", [{"text": f"Once {i}"} for i in range(20)])
    assert read_prompt_format(tmp_path / "texts") == PromptFormat("basic", "text", "", None)
    row = read(tmp_path / "texts", "train")[0]
    assert row["prompt"] == ""
    assert row["completion"].startswith("Once ")
    made(tmp_path / "todo", [{"instruction": f"Do {i}", "output": "x"} for i in range(20)])
    format = read_prompt_format(tmp_path / "todo")
    assert format is not None
    assert (format.template, format.kind) == ("alpaca", "instruction")
    assert format.chat_template


def test_a_preset_in_basic_gives_the_rows_of_the_workflow(
    tmp_path: Path, shared_data: Path
) -> None:
    rows = read_rows_by_split(shared_data / "gsm8k" / "test.jsonl")
    preset = TaskPreset.read("gsm8k")
    settings = DataSettings(template="basic")
    prepare(
        {"train": next(iter(rows.values()))},
        None,
        preset,
        settings,
        tiny_tokenizer(),
        tmp_path / "out",
    )
    found = read(tmp_path / "out", "train") + read(tmp_path / "out", "validation")
    lines = (shared_data / "gsm8k" / "test.jsonl").read_text().splitlines()
    expected = [
        (f"Question: {row['question']}\nAnswer:", f" {row['answer']}")
        for row in map(json.loads, lines)
    ]
    assert sorted((row["prompt"], row["completion"]) for row in found) == sorted(expected)


NO_SYSTEM = CHAT.replace("'<s>' + m.role", "raise_exception('No') if m.role == 'system' else '<s>'")


@pytest.mark.parametrize(
    ("splits", "settings", "message"),
    [
        (sums(1), {}, r"given \(train\): expected at least 2 rows, of which one validates"),
        ({"a": sums(9)}, {}, r"data_split: expected one of a, found 'train' \(given"),
        (sums(9), {"validation_split": "dev"}, "validation_split: expected one of train, found 'd"),
        (sums(9), {"validation_split": "train"}, "another split than the one trained on"),
        (sums(9), {"streaming": True}, "streaming: would hold every row; give --max-samples"),
        ([{"question": "q", "answer": ""}] * 3, {}, "expected a row with an answer, found 3 rows"),
        (
            {"train": sums(3), "dev": sums(3)},
            {},
            r"given \(train\): expected samples to train on, found 3, all with a held-out",
        ),
        ({"train": sums(3), "dev": [{"a": 1}]}, {}, r"given \(dev\).*a"),
        (sums(9), {"system": "Be brief."}, "system: basic has no place"),
        (sums(9), {"template": "chat"}, "with a chat template, found none"),
        (conversations(3), {"template": "basic"}, "use --template chatml"),
        (
            sums(9),
            {"system": "s", "tokenizer": NO_SYSTEM},
            r"given \(train\) row 1: template: .*refuses the messages system, user \(No\)",
        ),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    tmp_path: Path, splits: Any, settings: dict[str, Any], message: str
) -> None:
    settings = dict(settings)
    if "tokenizer" in settings:
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = settings["tokenizer"]
        settings["tokenizer"] = tokenizer
    with pytest.raises(InputError, match=message) as error:
        made(tmp_path / "out", splits, **settings)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_three_samples_are_shown_as_the_model_sees_them(tmp_path: Path) -> None:
    found = made(tmp_path / "out", sums(20), tokenizer=chat_tokenizer())
    lines = found.lines(terminal=False)
    first = read(tmp_path / "out", "train")[0]
    at = lines.index("--- training sample 1 ---")
    question = first["prompt"].splitlines()[1]
    answer = first["completion"].strip()
    assert lines[at + 1 : at + 6] == [
        "prompt | <s>user",
        f"prompt | {question}",
        "prompt | <s>assistant",
        "prompt | ",
        f"answer | {answer}",
    ]
    assert sum(line.startswith("--- training sample") for line in lines) == 3
    assert "template: chat, the tokenizer's own" in lines
    assert "samples: 19 train, 1 validate, rows drawn from the training split" in lines
    assert not any("\x1b" in line for line in lines)
    assert any("\x1b[2mprompt" in line for line in found.lines(terminal=True))


def test_long_parts_are_shortened_and_controls_are_escaped() -> None:
    example = Example("a" * 900 + "\x1b[31m\u202e", "b\x07é")
    lines = shown(tiny_tokenizer(), example, terminal=False)
    assert lines[0].startswith("prompt | aaa")
    assert "[…106 characters…]" in lines[0]
    assert "\\x1b[31m\\u202e" in lines[0]
    assert lines[1] == "answer | b\\x07é</s>"
    assert len("".join(lines)) < 900


@pytest.mark.parametrize(("answer", "prompt"), [("4", "2+2=\n"), (" 4", "2+2=")])
def test_a_bare_plain_prompt_meets_its_answer_as_in_training(
    tmp_path: Path, answer: str, prompt: str
) -> None:
    rows = [{"prompt": f"{i}+{i}=", "completion": answer} for i in range(9)]
    made(tmp_path / "made", rows, template="basic")
    format = read_prompt_format(tmp_path / "made")
    assert format is not None
    assert render_prompt(format, tiny_tokenizer(), "2+2=").prompt == prompt
    assert {p.endswith("\n") for p in prompts(tmp_path / "made", "train")} == {answer == "4"}


OTHER_KIND = [{"text": f"Question: {i}? Answer: {i}"} for i in range(5)]


@pytest.mark.parametrize("by", ["split", "file"])
def test_rows_of_another_kind_than_those_that_train_do_not_validate(
    tmp_path: Path, by: str
) -> None:
    """In its own form a text would have its loss on everything."""
    splits = {"train": sums(20)} | ({"dev": OTHER_KIND} if by == "split" else {})
    message = r"given \((dev|file)\): expected rows of the kind that trains, question, found text: "
    with pytest.raises(InputError, match=message):
        made(tmp_path / "out", splits, OTHER_KIND if by == "file" else None)
    assert not (tmp_path / "out").exists()


def test_a_test_split_of_another_kind_is_left_out(tmp_path: Path) -> None:
    found = made(tmp_path / "out", {"train": sums(20), "test": OTHER_KIND})
    assert not (tmp_path / "out" / "test.jsonl").exists()
    assert "found text" in found.notes["splits"]["test"]["refused"]


def test_fields_that_go_into_no_sample_are_said(tmp_path: Path) -> None:
    rows = [{"system_prompt": "Be brief.", **row, "id": 1} for row in sums(20)]
    found = made(tmp_path / "out", rows)
    assert "train: not used: the fields system_prompt, id" in found.summary
    assert found.notes["splits"]["train"]["fields_not_used"] == ["system_prompt", "id"]
    bare = made(tmp_path / "bare", sums(20))
    assert not any("not used" in line for line in bare.summary)


def test_shown_samples_end_where_those_of_training_do(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    tokenizer.chat_template = CHAT.replace("</s>", "<end>")
    stops = [tokenizer.convert_tokens_to_ids("<end>")]
    rows = {"train": Rows.of("given", sums(20))}
    found = prepare(rows, None, None, DataSettings(), tokenizer, tmp_path / "out", stops)
    split = load_split(tmp_path / "out" / "train.jsonl", tokenizer, 100, stops)
    answers = [tokenizer.decode(sample.completion_ids) for sample in split.samples[:3]]
    shown_answers = [line for line in found.lines(terminal=False) if line.startswith("answer |")]
    assert shown_answers == [f"answer | {answer}" for answer in answers]
