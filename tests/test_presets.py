"""Presets: every file is read, writes a row of its data set's fields, and can be copied."""

from pathlib import Path
from typing import Any

import pytest

from fnsft.config.presets import FOLDER, TaskPreset, preset_names
from fnsft.data.formats import Example, basic, read_examples
from fnsft.data.row_files import Rows
from fnsft.data.samples import Sample, Turn
from fnsft.data.schemas import reader_of
from fnsft.errors import InputError

ROWS: dict[str, tuple[dict[str, Any], Example]] = {
    "gsm8k": (
        {"question": "1+1?", "answer": "<<1+1=2>>2\n#### 2"},
        Example("Question: 1+1?\nAnswer:", " <<1+1=2>>2\n#### 2"),
    ),
    "codealpaca": (
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        Example("Instruction: Add.\n1, 2\nResponse:\n", "3"),
    ),
    "medical-o1": (
        {"Question": "Why?", "Complex_CoT": "Hm.", "Response": "So."},
        Example("Question: Why?\nAnswer:", " Hm.\n\nSo."),
    ),
    "bbh/logical_deduction": (
        {"input": "Who is first?\nOptions:\n(A) x\n(B) y", "target": "(B)"},
        Example("Question: Who is first?\nOptions:\n(A) x\n(B) y\nAnswer:", " (B)"),
    ),
    "mathqa": (
        {
            "Problem": "2 + 2 = ?",
            "Rationale": "2 + 2 = 4",
            "options": "a ) 3 , b ) 4",
            "correct": "b",
            "annotated_formula": "add(n0,n0)",
            "linear_formula": "add(n0,n0)|",
            "category": "general",
        },
        Example(
            "Question: 2 + 2 = ?\nOptions: a ) 3 , b ) 4\nAnswer:",
            " 2 + 2 = 4\nThe answer is b.",
        ),
    ),
    "codenet": (
        {"description": "Print {n}.", "code": "print(n)\n"},
        Example("Instruction: Print {n}.\nResponse:\n", "print(n)\n"),
    ),
    "preferences": (
        {"question": "1+1?", "chosen": "2", "rejected": "3"},
        Example("Question: 1+1?\nAnswer:", " 2", rejected=" 3"),
    ),
    "wikitext-2": ({"text": " = Title = \n"}, Example("", " = Title = \n")),
    "ag_news": (
        {"text": "Shares fall.", "label": 2},
        Example(
            "Question: Which topic has this news item, World, Sports, Business or Sci/Tech?\n"
            "Shares fall.\nAnswer:",
            " Business",
        ),
    ),
}


def written(name: str, row: dict[str, Any]) -> Example:
    rows = Rows.of("data", [row])
    (sample,) = reader_of(rows, TaskPreset.read(name), "").samples(1, row)
    return basic(sample)


def test_every_preset_has_a_row_here() -> None:
    assert preset_names() == sorted(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_preset_writes_a_row_of_its_data_set(name: str) -> None:
    row, example = ROWS[name]
    assert written(name, row) == example
    preset = TaskPreset.read(name).preset
    assert preset.description
    assert preset.licence
    assert preset.hub_name or "--data" in (FOLDER / f"{name}.yaml").read_text()


def test_codealpaca_rows_may_lack_an_input_and_have_a_response() -> None:
    example = Example("Instruction: Add.\nResponse:\n", "3")
    assert written("codealpaca", {"instruction": "Add.", "output": "3", "input": ""}) == example
    assert written("codealpaca", {"instruction": "Add.", "response": "3", "output": "4"}) == example


def test_real_files_are_read_and_what_has_no_answer_is_said(shared_data: Path) -> None:
    expected = {
        ("gsm8k/train.jsonl", "gsm8k"): 7_473,
        ("codealpaca/new_codealpaca.json", "codealpaca"): 4_535,
        ("medical/huatuo_demo_data.json", "medical-o1"): 198,
    }
    for (file, name), n_examples in expected.items():
        read = read_examples(shared_data / file, TaskPreset.read(name))
        assert (len(read.examples), read.said) == (n_examples, ())
    alpaca = shared_data / "codealpaca/code_alpaca_2k.json"
    read = read_examples(alpaca, TaskPreset.read("codealpaca"))
    left_out = f"{alpaca}: left out 2 rows with an empty answer (the first is row 238)"
    assert (len(read.examples), read.said) == (2_015, (left_out,))


def test_labels_are_named_by_number_text_or_name_and_others_refused() -> None:
    for label in (3, "3", "Sci/Tech"):
        assert written("ag_news", {"text": "x", "label": label}).completion == " Sci/Tech"
    for label in (4, -1, "4", "sport", 2.0, True):
        with pytest.raises(InputError, match="data row 1: label: expected a label from 0 to 3"):
            written("ag_news", {"text": "x", "label": label})


def test_a_copied_file_is_a_preset_of_ones_own(tmp_path: Path) -> None:
    copy = tmp_path / "mine.yaml"
    source = (FOLDER / "gsm8k.yaml").read_text()
    copy.write_text(source.replace('"{question}"', '"{ask.0|q}"').replace("score: number\n", ""))
    row = {"ask": ["Why?"], "answer": 3}
    assert written(str(copy), row) == Example("Question: Why?\nAnswer:", " 3")
    assert TaskPreset.read(str(copy)).preset.score == "none"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("kind: question\nprompt: '{q}'\n", "expected a prompt and a completion"),
        ("kind: text\nprompt: '{q}'\ncompletion: '{a}'\n", "for kind text a completion alone"),
        ("kind: poem\nprompt: '{q}'\ncompletion: '{a}'\n", "kind: expected one of"),
        ("promt: '{q}'\ncompletion: '{a}'\n", "unknown key 'promt'"),
        ("prompt: '{q}'\ncompletion: '{a}'\nvalues: {a: [no, yes]}\n", "put quotation marks"),
        ("prompt: '{q}'\ncompletion: '{a}'\nvalues: [a]\n", "expected lists of names by field"),
        ("- a\n", "expected a mapping of settings"),
        ("a: [", "expected YAML"),
    ],
)
def test_a_file_that_is_no_preset_is_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as refused:
        TaskPreset.read(str(path))
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("template", ["{a", "a}", "{}", "{a}}", "{{a}}", "{a|}"])
def test_templates_with_stray_braces_are_refused(template: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f'prompt: "{template}"\ncompletion: "{{b}}"\n')
    with pytest.raises(InputError, match="prompt: expected fields in braces such as {question}"):
        written(str(path), {"a": "x", "b": "y"})


def test_a_name_that_no_preset_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="one of ag_news, bbh/logical_deduction, .*found 'gsm'"):
        TaskPreset.read("gsm")


@pytest.mark.parametrize(
    ("sample", "example"),
    [
        (Sample("question", "a", "q"), Example("Question: q\nAnswer:", " a")),
        (Sample("question", "a", "q", "c"), Example("Context: c\nQuestion: q\nAnswer:", " a")),
        (Sample("instruction", "a", "q"), Example("Instruction: q\nResponse:\n", "a")),
        (Sample("instruction", "a", "q", "c"), Example("Instruction: q\nc\nResponse:\n", "a")),
        (Sample("plain", "a", "q"), Example("q\n", "a")),
        (Sample("plain", "a", "q "), Example("q ", "a")),
        (Sample("plain", "\na", "q"), Example("q", "\na")),
        (Sample("plain", "a", "q", "c"), Example("c\n\nq\n", "a")),
        (Sample("text", "a"), Example("", "a")),
    ],
)
def test_plain_text_ends_a_prompt_where_generation_begins(sample: Sample, example: Example) -> None:
    assert basic(sample) == example


def test_plain_text_writes_no_conversation() -> None:
    with pytest.raises(InputError, match="use --template chatml"):
        basic(Sample("conversation", "a", "q", before=(Turn("system", "s"),)))


def test_a_prepared_row_says_only_that_special_tokens_are_already_there() -> None:
    assert Example("p", "c").row() == {"prompt": "p", "completion": "c"}
    assert Example("p", "c", False).row()["special_tokens"] is False
