"""Rows of anyone's files: JSON, JSON lines, CSV, Parquet, plain text, and folders of these.

A row is an object: names of fields and their values. Of a ``.txt`` each line that is not blank
is a row with the field ``text``. All but ``.json``, which is in memory whole, are streams: a
line, or a few hundred rows of Parquet, at a time. Text may be in UTF-8, or in UTF-16 with a
byte order mark, and ``.json``, ``.jsonl``, ``.csv``, ``.tsv`` and ``.txt`` also gzipped.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fnsft.artifacts.storage import existing
from fnsft.data.row_readers import cells, json_lines, json_value, parquet_rows, texts
from fnsft.data.text_lines import whole_text
from fnsft.errors import InputError

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    "test": "test",
}
SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt")
# What lies beside models and data and holds no rows, by the names that programs give it.
NO_ROWS = re.compile(
    r"(.*\.)?(manifest|index)\.json|(.*_)?config\.json|(trainer_)?state\.json"
    r"|(dataset_infos?|tokenizer|special_tokens_map|vocab|metrics|training|prompt_format|package)\.json"
    r"|(vocab|merges|requirements|licen[cs]e|readme)\.txt"
)


@dataclass(frozen=True)
class Rows:
    """Rows that are read anew each time they are iterated over, numbered from 1.

    ``where`` names them in messages; ``read`` yields numbers (of JSON lines: those of the
    lines) and rows; ``said`` are lines that tell the user how they were found.
    """

    where: str
    read: Callable[[], Iterable[tuple[int, Any]]]
    said: tuple[str, ...] = ()

    @classmethod
    def of(cls, where: str, rows: Iterable[Any]) -> "Rows":
        """Return rows that are in memory, numbered."""
        held = list(rows)
        return cls(where, lambda: enumerate(held, start=1))

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield numbers and rows; no row at all, and one that is no object, are refused."""
        number = 0
        for number, row in self.read():
            if not isinstance(row, dict):
                raise InputError(
                    f"{self.where} row {number}: expected an object, found {row!r:.60}"
                )
            yield number, row
        if not number:
            raise InputError(f"{self.where}: expected at least one row, found none")


def read_rows(path: Path, split: str = "train") -> Rows:
    """Return the rows of a file or folder; of several splits, those of ``split``."""
    found = read_rows_by_split(path)
    if len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        raise InputError(f"{path}: expected a split {split!r}, found {', '.join(found)}")
    return found[split]


def read_rows_by_split(path: Path) -> dict[str, Rows]:
    """Find the rows of a file or a folder by the split that they belong to.

    A file is ``train``, unless it is a JSON object of lists that are named as splits. In a
    folder a file belongs to the split that is a word of its name, or is its folder's name
    (``train-00000-of-00002.parquet``, ``gsm8k_test.jsonl``, ``dev/0.csv``), and shards join in
    the order of their names; where no name says a split, all files are ``train``.

    Raises
    ------
    InputError
        For a path that is missing, or holds no data, or another kind of file. What stands in
        the files is checked while rows are read, but for ``.json``.
    """
    if not existing(path).is_dir():
        return _rows_of_file(path)
    files, passed_over = _files_of(path)
    found: dict[str, list[Rows]] = {}
    for split, file in files:
        for name, rows in _rows_of_file(file).items():
            found.setdefault(name if split is None else split, []).append(rows)
    joined = {split: _joined(parts) for split, parts in found.items()}
    if passed_over:
        teller = "train" if "train" in joined else next(iter(joined))
        said = f"{path}: passed over {', '.join(passed_over)}"
        joined[teller] = replace(joined[teller], said=(*joined[teller].said, said))
    return joined


def _files_of(folder: Path) -> tuple[list[tuple[str | None, Path]], list[str]]:
    """Return the data files of a folder with their splits, and the names of other files."""
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    files = [p for p in entries if p.is_file()]
    data = [p for p in files if _suffix(p) in SUFFIXES and not NO_ROWS.fullmatch(p.name.lower())]
    if not data:
        return _files_of_folders(folder, [p for p in entries if p.is_dir()], files)
    found = [(_split_of(p.name), p) for p in data]
    if any(split for split, _ in found):
        found = [(split, p) for split, p in found if split]
    used = {p for _, p in found}
    return found, [p.name for p in files if p not in used]


def _files_of_folders(
    folder: Path, folders: list[Path], files: list[Path]
) -> tuple[list[tuple[str | None, Path]], list[str]]:
    """Look one folder deeper: folders that are splits, or the only one that has data."""
    splits = [(_split_of(p.name), p) for p in folders]
    named = [(split, p) for split, p in splits if split]
    passed_over = [p.name for p in files]
    if named:
        found: list[tuple[str | None, Path]] = [
            (split, file) for split, p in named for _, file in _files_of(p)[0]
        ]
        return found, passed_over + [p.name for split, p in splits if not split]
    if len(folders) == 1:
        found_below, others = _files_of(folders[0])
        return found_below, passed_over + others
    contents = ", ".join(p.name for p in [*files, *folders][:6]) or "nothing"
    remedy = "name one of its folders" if folders else "name a file or folder that has rows"
    raise InputError(
        f"{folder}: expected files of rows ({' '.join(SUFFIXES)}), found {contents}; {remedy}"
    )


def _split_of(name: str) -> str | None:
    words = re.findall("[a-z]+", name.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix == ".gz" else path.suffix.lower()


def _joined(parts: list[Rows]) -> Rows:
    """Chain shards; their rows are numbered through."""
    if len(parts) == 1:
        return parts[0]

    def read() -> Iterator[tuple[int, Any]]:
        return enumerate((row for part in parts for _, row in part.read()), start=1)

    said = tuple(line for part in parts for line in part.said)
    return Rows(f"{parts[0].where} and {len(parts) - 1} more", read, said)


def _rows_of_file(path: Path) -> dict[str, Rows]:
    readers: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
        ".jsonl": json_lines,
        ".ndjson": json_lines,
        ".csv": functools.partial(cells, delimiter=","),
        ".tsv": functools.partial(cells, delimiter="\t"),
        ".parquet": parquet_rows,
        ".txt": texts,
    }
    suffix = _suffix(path)
    if suffix == ".json":
        return _rows_of_json(path)
    if suffix not in readers or (suffix, path.suffix) == (".parquet", ".gz"):
        raise InputError(
            f"{path}: expected a file of rows ({' '.join(SUFFIXES)}), found another kind"
        )
    return {"train": Rows(str(path), functools.partial(readers[suffix], path))}


def _rows_of_json(path: Path) -> dict[str, Rows]:
    text = whole_text(path)
    if _holds_lines(text):
        said = f"{path}: read as JSON lines"
        return {"train": Rows(str(path), functools.partial(json_lines, path), (said,))}
    found = json_value(text, str(path))
    if isinstance(found, list):
        return {"train": Rows.of(str(path), found)}
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a list of objects, found {found!r:.60}")
    lists = {name: value for name, value in found.items() if isinstance(value, list)}
    if lists and all(_split_of(name) for name in found) and len(lists) == len(found):
        return {
            str(_split_of(name)): Rows.of(f"{path} {name!r}", rows) for name, rows in lists.items()
        }
    objects = {name: rows for name, rows in lists.items() if rows and isinstance(rows[0], dict)}
    if len(objects) != 1:
        raise InputError(
            f"{path}: expected a list of objects, or an object with one such list, found an "
            f"object with {', '.join(list(found)[:8]) or 'nothing'}"
        )
    ((name, rows),) = objects.items()
    where = f"{path} {name!r}"
    return {"train": replace(Rows.of(where, rows), said=(f"{path}: rows are its {name!r}",))}


def _holds_lines(text: str) -> bool:
    """Tell JSON lines from JSON: the first line alone is an object, and more lines follow."""
    start = len(text) - len(text.lstrip())
    end = text.find("\n", start)
    if end < 0 or not text[end:].strip():
        return False
    try:
        return isinstance(json.loads(text[start:end]), dict)
    except (ValueError, RecursionError):
        return False
