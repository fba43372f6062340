"""Rows of files: every format gives the same rows, and what is no such file is named."""

import codecs
import gzip
import json
import random
import string
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fnsft.data import text_lines
from fnsft.data.row_files import Rows, read_rows, read_rows_by_split
from fnsft.errors import InputError

ROWS = [
    {"question": "Größe?", "answer": 'a "b",\nc\r\n'},
    {"question": "1;2\t3", "answer": "\u2028 line\x85separators 🙂"},
]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def as_cells(rows: list[dict[str, str]], mark: str) -> str:
    """Write RFC 4180: every cell quoted, its quotation marks doubled, CRLF."""
    records = [list(rows[0]), *(row.values() for row in rows)]
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in r] for r in records]
    return "".join(mark.join(cells) + "\r\n" for cells in quoted)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=3)
    return path


LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
WRITERS: dict[str, Callable[[Path], Path]] = {
    "rows.json": lambda path: write(path, json.dumps(ROWS, indent=2, ensure_ascii=False)),
    "rows.jsonl": lambda path: write(path, LINES),
    "rows.ndjson": lambda path: write(path, LINES),
    "rows.csv": lambda path: write(path, as_cells(ROWS, ",")),
    "rows.tsv": lambda path: write(path, as_cells(ROWS, "\t")),
    "rows.parquet": lambda path: write_parquet(path, ROWS),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows_as_often_as_it_is_read(name: str, tmp_path: Path) -> None:
    rows = read_rows(WRITERS[name](tmp_path / name))
    assert list(rows) == list(enumerate(ROWS, start=1))
    assert list(rows) == list(rows)


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "rows.parquet"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be with a mark", "gzip"])
def test_text_may_have_a_byte_order_mark_be_utf_16_or_gzipped(
    name: str, encoding: str, tmp_path: Path
) -> None:
    path = WRITERS[name](tmp_path / name)
    text = path.read_bytes().decode()
    if encoding == "gzip":
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress(text.encode()))
    elif encoding == "utf-16-be with a mark":
        path.write_bytes(codecs.BOM_UTF16_BE + text.encode("utf-16-be"))
    else:
        path.write_bytes(text.encode(encoding))
    assert [row for _, row in read_rows(path)] == ROWS


def test_a_line_of_plain_text_is_a_row_and_blank_lines_are_none(tmp_path: Path) -> None:
    path = write(tmp_path / "corpus.txt", "one\r\n\n  two  \n\t\nthree")
    assert list(read_rows(path)) == [
        (1, {"text": "one"}),
        (3, {"text": "  two  "}),
        (5, {"text": "three"}),
    ]


def test_random_cells_survive_a_csv_file(tmp_path: Path) -> None:
    rng = random.Random(0)
    alphabet = string.ascii_letters + '",;\t\n\r 🙂é' + "\u2028\x0b\x1c"
    rows = [
        {name: "".join(rng.choices(alphabet, k=rng.randrange(1, 30))) for name in ("a", "b", "c")}
        for _ in range(300)
    ]
    path = write(tmp_path / "rows.csv", as_cells(rows, ","))
    assert [row for _, row in read_rows(path)] == rows


def test_json_lines_are_numbered_by_their_lines_and_a_short_record_ends_with_nulls(
    tmp_path: Path,
) -> None:
    lines = write(tmp_path / "rows.jsonl", '\n{"a": 1}\n\n{"a": 2}\n')
    assert list(read_rows(lines)) == [(2, {"a": 1}), (4, {"a": 2})]
    cells = write(tmp_path / "rows.csv", "a,b\n1\n\n3,4\n")
    assert list(read_rows(cells)) == [(1, {"a": "1", "b": None}), (2, {"a": "3", "b": "4"})]


def test_json_that_is_not_a_list_is_read_for_what_it_is(tmp_path: Path) -> None:
    lines = read_rows(write(tmp_path / "lines.json", '{"a": 1}\n{"a": 2}\n'))
    assert [row for _, row in lines] == [{"a": 1}, {"a": 2}]
    assert lines.said == (f"{tmp_path}/lines.json: read as JSON lines",)
    bbh = {"canary": "keep out", "examples": [{"input": "a", "target": "b"}]}
    wrapped = read_rows(write(tmp_path / "bbh.json", json.dumps(bbh)))
    assert [row for _, row in wrapped] == bbh["examples"]
    assert wrapped.said == (f"{tmp_path}/bbh.json: rows are its 'examples'",)
    splits = write(tmp_path / "folder" / "all.json", '{"train": [{"a": 1}], "dev": [{"a": 2}]}')
    for path in (splits, splits.parent):
        found = read_rows_by_split(path)
        assert {name: [row for _, row in rows] for name, rows in found.items()} == {
            "train": [{"a": 1}],
            "validation": [{"a": 2}],
        }


def one(path: Path, value: int) -> None:
    write(path, json.dumps({"a": value}))


def test_files_of_a_folder_belong_to_the_splits_in_their_names(tmp_path: Path) -> None:
    for i in (2, 0, 1):
        write_parquet(tmp_path / f"train-0000{i}-of-00003.parquet", [{"a": i}] * 2)
    one(tmp_path / "gsm8k_test.jsonl", 7)
    one(tmp_path / "valid.jsonl", 8)
    for other in ("README.md", "dataset_info.json", "extra.jsonl", "testimonials.jsonl"):
        one(tmp_path / other, 0)
    found = read_rows_by_split(tmp_path)
    assert list(found["train"]) == [(n, {"a": (n - 1) // 2}) for n in range(1, 7)]
    assert [row for _, row in found["test"]] == [{"a": 7}]
    assert [row for _, row in found["validation"]] == [{"a": 8}]
    assert set(found) == {"train", "validation", "test"}
    others = "README.md, dataset_info.json, extra.jsonl, testimonials.jsonl"
    assert found["train"].said == (f"{tmp_path}: passed over {others}",)
    assert found["test"].said == ()


def test_files_that_name_no_split_all_train_and_json_without_rows_is_passed_over(
    tmp_path: Path,
) -> None:
    for i, name in enumerate(["b.jsonl", "a.jsonl", "config.json", "out.manifest.json"]):
        one(tmp_path / name, i)
    found = read_rows_by_split(tmp_path)
    assert {split: [row["a"] for _, row in rows] for split, rows in found.items()} == {
        "train": [1, 0]
    }


@pytest.mark.parametrize("name", ["patient_info", "qa_index", "us_state", "train_manifest"])
def test_a_users_file_is_not_passed_over_for_the_end_of_its_name(tmp_path: Path, name: str) -> None:
    write(tmp_path / f"{name}.json", json.dumps([{"a": 3}]))
    for other in ("dataset_infos", "tokenizer_config", "model.safetensors.index", "trainer_state"):
        one(tmp_path / f"{other}.json", 0)
    (rows,) = read_rows_by_split(tmp_path).values()
    assert [row["a"] for _, row in rows] == [3]


def test_folders_may_be_splits_or_lead_to_the_data(tmp_path: Path) -> None:
    one(tmp_path / "splits" / "train" / "0.jsonl", 1)
    one(tmp_path / "splits" / "test" / "0.jsonl", 2)
    one(tmp_path / "hub" / "README.md", 0)
    one(tmp_path / "hub" / "data" / "test-00000-of-00001.jsonl", 3)
    assert set(read_rows_by_split(tmp_path / "splits")) == {"train", "test"}
    assert list(read_rows_by_split(tmp_path / "hub")) == ["test"]
    one(tmp_path / "configurations" / "main" / "train.jsonl", 4)
    one(tmp_path / "configurations" / "socratic" / "train.jsonl", 5)
    with pytest.raises(InputError, match="found main, socratic; name one of its folders"):
        read_rows_by_split(tmp_path / "configurations")


def test_a_large_file_is_read_in_little_memory(tmp_path: Path) -> None:
    row = {"text": "x" * 10_000}
    lines = write(tmp_path / "rows.jsonl", (json.dumps(row) + "\n") * 2_000)
    cells = write(tmp_path / "rows.csv", "text\n" + (row["text"] + "\n") * 2_000)
    for path in (lines, cells, write_parquet(tmp_path / "rows.parquet", [row] * 2_000)):
        tracemalloc.start()
        n_rows = sum(1 for _ in read_rows(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert n_rows == 2_000
        assert peak < 10e6 < n_rows * len(row["text"])


def test_an_endless_line_is_refused_before_it_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_lines, "MAX_LINE_MIB", 1)
    path = write(tmp_path / "rows.jsonl", '{"a": 1}\n')
    with path.open("r+b") as file:
        file.truncate(40 << 20)
    tracemalloc.start()
    with pytest.raises(InputError, match="line 2: expected at most 1 MiB, found a longer line"):
        list(read_rows(path))
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()
    whole = write(tmp_path / "rows.json", json.dumps([{"a": "x" * (2 << 20)}]))
    assert len(list(read_rows(whole))) == 1


def test_bytes_in_another_encoding_are_named_by_line_and_place(tmp_path: Path) -> None:
    good = '{"a": "Größe"}\n'
    mixed = good.encode() * 3 + good.encode("cp1252") + good.encode()
    for name in ("rows.jsonl", "rows.csv", "rows.txt", "rows.json"):
        (tmp_path / name).write_bytes(mixed)
        with pytest.raises(InputError, match="line 4: .*found the byte 0xF6 at its byte 10; if "):
            list(read_rows(tmp_path / name))
    (tmp_path / "rows.csv").write_bytes("a,b\n1,2\n".encode("utf-16")[:-1])
    with pytest.raises(InputError, match="expected UTF-16, as its first bytes say"):
        list(read_rows(tmp_path / "rows.csv"))
    (tmp_path / "rows.csv").write_bytes("a,b\n1,2\n".encode("utf-32"))
    with pytest.raises(InputError, match="found UTF-32; save it as UTF-8"):
        list(read_rows(tmp_path / "rows.csv"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.jsonl", '[{"a": 1}]', "found a JSON list; rename it to .json"),
        ("r.jsonl", '{"a": 1}\n{"a": NaN}', "line 2: .*NaN is no JSON; write null"),
        ("r.jsonl", '{"a": -Infinity}', "line 1: .*-Infinity is no JSON"),
        ("r.jsonl", '{"a": 1}\n{"a": ', "line 2: expected JSON, found '{\"a\": '"),
        ("r.jsonl", '{"a": 1}\n[1]', r"row 2: expected an object, found \[1\]"),
        ("r.jsonl", '{"a":' + "[" * 100_000, "nested too deeply"),
        ("r.jsonl", "", "expected at least one row, found none"),
        ("r.json", "", "expected JSON, found nothing"),
        ("r.json", "[]", "expected at least one row, found none"),
        ("r.json", '[{"a": 1}', "expected JSON"),
        ("r.json", '{"a": {"0": "x"}}', "found an object with a"),
        ("r.json", '{"a": [{"b": 1}], "c": [{"b": 2}]}', "found an object with a, c"),
        ("r.json", '{"a": 1}\n{"a": \n', "line 2: expected JSON"),
        ("r.csv", "", "expected at least one row, found none"),
        ("r.csv", "a,b\n", "expected at least one row, found none"),
        ("r.csv", "a,b,a\n1,2,3\n", "found 'a' twice"),
        ("r.csv", "a,b\n1,2\nx,y,z\n", r"row 2 \(it ends in line 3\): expected 2 cells.*found 3"),
        ("r.csv", "a;b\n1;2\n", "expected cells between ',', found ';' in the header"),
        ("r.tsv", "a,b\n1,2\n", "found ',' in the header"),
        ("r.csv", 'a,b\n"1,2\n3,4\n', "line 3: expected cells of CSV.*quotation mark not closed"),
        ("r.parquet", "PAR1 and nothing", "expected Parquet, found damage after row 0"),
        ("r.jsonl.gz", "no gzip", "expected a gzip file, found damage"),
        ("r.parquet.gz", "", "expected a file of rows"),
        ("r.docx", "", "expected a file of rows"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named_in_one_line(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as refused:
        list(read_rows(path))
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_truncated_parquet_and_gzip_are_named(tmp_path: Path) -> None:
    whole = write_parquet(tmp_path / "whole.parquet", [{"a": "x" * 100}] * 50).read_bytes()
    for cut in (whole[:-20], whole[:60] + bytes(200) + whole[260:]):
        (tmp_path / "cut.parquet").write_bytes(cut)
        with pytest.raises(InputError, match="cut.parquet: expected Parquet, found damage"):
            list(read_rows(tmp_path / "cut.parquet"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(LINES.encode())[:-9])
    with pytest.raises(InputError, match="expected a gzip file, found damage"):
        list(read_rows(tmp_path / "cut.jsonl.gz"))


def test_what_is_missing_or_holds_no_data_is_named_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read_rows(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="found nothing; name a file or folder that has rows"):
        read_rows(tmp_path)
    one(tmp_path / "model" / "config.json", 1)
    write(tmp_path / "model" / "model.safetensors", "")
    with pytest.raises(InputError, match="expected files of rows .*found config.json, model.safe"):
        read_rows(tmp_path / "model")
    one(tmp_path / "data" / "test.jsonl", 1)
    one(tmp_path / "data" / "dev.jsonl", 1)
    with pytest.raises(InputError, match="expected a split 'train', found validation, test"):
        read_rows(tmp_path / "data")


def test_rows_in_memory_are_numbered_from_one() -> None:
    assert list(Rows.of("here", [{"a": 1}, {"a": 2}])) == [(1, {"a": 1}), (2, {"a": 2})]


def test_space_around_the_names_of_a_header_is_no_part_of_them(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", " question , answer \nWhy?, So. \n")
    assert [row for _, row in read_rows(path)] == [{"question": "Why?", "answer": " So. "}]
