"""Which fields of a row are what: recognised, named, refused, and counted where empty."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from fnsft.config.presets import TaskPreset
from fnsft.data.row_files import Rows, read_rows
from fnsft.data.samples import Sample, Turn
from fnsft.data.schemas import reader_of
from fnsft.errors import InputError


def rows_of(*rows: dict[str, Any]) -> Rows:
    return Rows.of("data", rows)


def read(*rows: dict[str, Any], columns: str = "", turns: Any = "all") -> list[Sample]:
    held = rows_of(*rows)
    reader = reader_of(held, None, columns)
    return [s for number, row in held for s in reader.samples(number, row, turns)]


QUESTION = Sample("question", "a", question="q")
IN_CONTEXT = Sample("question", "a", question="q", context="c")
ROWS_AND_SAMPLES = [
    ({"prompt": "q", "completion": "a"}, Sample("plain", "a", question="q")),
    ({"prompt": "q", "response": "a"}, Sample("plain", "a", question="q")),
    ({"question": "q", "answer": "a"}, QUESTION),
    ({"question": "q", "response": "a"}, QUESTION),
    ({"context": "c", "question": "q", "answer": "a"}, IN_CONTEXT),
    ({"context": "c", "question": "q", "response": "a"}, IN_CONTEXT),
    ({"instruction": "q", "output": "a"}, Sample("instruction", "a", question="q")),
    ({"instruction": "q", "input": "c", "output": "a"}, Sample("instruction", "a", "q", "c")),
    ({"instruction": "q", "context": "c", "response": "a"}, Sample("instruction", "a", "q", "c")),
    ({"Question": "q", "Complex_CoT": "h", "Response": "a"}, Sample("question", "h\n\na", "q")),
    ({"input": "q", "target": "a"}, QUESTION),
    ({"text": "a"}, Sample("text", "a")),
    (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        Sample("conversation", "a", question="q"),
    ),
    (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        Sample("conversation", "a", question="q"),
    ),
]


@pytest.mark.parametrize(("row", "sample"), ROWS_AND_SAMPLES)
def test_every_schema_is_recognised_among_other_fields_in_any_case_and_order(
    row: dict[str, Any], sample: Sample
) -> None:
    shuffled = {"id": 3, **dict(reversed(row.items())), "source": "x"}
    for spell in (str, str.lower, str.upper, str.title):
        assert read({spell(name): value for name, value in shuffled.items()}) == [sample]


@pytest.mark.parametrize(("row", "sample"), ROWS_AND_SAMPLES)
def test_text_wins_only_where_nothing_else_fits(row: dict[str, Any], sample: Sample) -> None:
    assert read(row | {"text": "other"}) == (
        [sample] if sample.kind != "text" else read({"text": "other"})
    )


def test_the_schema_with_most_needed_fields_wins_then_the_exact_spelling() -> None:
    row = {"question": "no", "answer": "no", "Question": "q", "Complex_CoT": "h", "Response": "a"}
    assert read(row) == [Sample("question", "h\n\na", question="q")]
    assert read({"question": "q", "answer": "a", "Response": "no"}) == [QUESTION]


def test_two_readings_that_agree_are_one_and_two_that_differ_are_refused_with_both_flags() -> None:
    same = {"instruction": "q", "output": "a", "response": "a"}
    assert read(same) == [Sample("instruction", "a", question="q")]
    choices = (
        "data: expected one reading of its fields, found 2 that differ; say which: "
        "--columns prompt=instruction,completion=output or "
        "--columns prompt=instruction,completion=response"
    )
    differs = [same] * 150 + [same | {"response": "b"}]
    with pytest.raises(InputError) as refused:
        read(*differs)
    assert str(refused.value) == choices
    assert read(*differs, columns="prompt=instruction,completion=response")[-1] == Sample(
        "instruction", "b", question="q"
    )


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "completion": "a", "response": "b"},
        {"question": "q", "answer": "a", "response": "b", "context": "c"},
        {"messages": ROWS_AND_SAMPLES[-2][0]["messages"], "conversations": []},
        {"question": "q", "answer": "a", "input": "q", "target": "b"},
    ],
)
def test_each_flag_that_a_refusal_proposes_gives_the_reading_that_it_stands_for(
    row: dict[str, Any],
) -> None:
    with pytest.raises(InputError, match="say which: ") as refused:
        read(row)
    flags = str(refused.value).partition("say which: ")[2].split(" or ")
    readings = [reader_of(rows_of(row), None, f.removeprefix("--columns ")) for f in flags]
    assert len({reading.described for reading in readings}) == len(flags) == 2
    first = readings[0].samples(1, row)
    names = {k: v for k, v in row.items() if k not in ("response", "target", "conversations")}
    assert first[0].answer == read(names)[0].answer
    assert first != readings[1].samples(1, row)


def test_unknown_fields_are_listed_with_flags_that_work() -> None:
    squad = {"id": 5, "passage": "c", "ask": "q", "answers": {"start": [1], "text": ["a", "b"]}}
    with pytest.raises(InputError, match="found id, passage, ask, answers; say which") as refused:
        read(squad)
    columns = str(refused.value).rpartition("--columns ")[2]
    assert columns == "prompt=passage,completion=answers.text.0"
    assert read(squad, columns=columns) == [Sample("plain", "a", question="c")]
    with pytest.raises(InputError, match="such as --columns text=body"):
        read({"body": "b"})


def test_the_first_alternative_that_is_not_blank_is_read() -> None:
    row = {"instruction": "q", "input": "", "context": "c", "response": "a"}
    assert read(row) == [Sample("instruction", "a", "q", "c")]
    assert read(row | {"input": "i"}) == [Sample("instruction", "a", "q", "i")]
    assert read(row | {"context": " "}) == [Sample("instruction", "a", "q")]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "answer": {"text": ["a"], "start": [3]}},
        {"question": {"en": "q"}, "answer": "a"},
        {"context": ["c"], "question": "q", "answer": "a"},
    ],
)
def test_the_columns_that_are_proposed_for_a_field_that_is_no_text_are_taken(
    row: dict[str, Any],
) -> None:
    with pytest.raises(InputError, match="name what it is") as refused:
        read(row)
    columns = str(refused.value).rpartition("--columns ")[2]
    (sample,) = read(row, columns=columns)
    assert (sample.question, sample.answer) == ("q", "a")
    assert bool(sample.context) == ("context" in row)


def test_of_a_presets_columns_one_is_proposed() -> None:
    row, preset = {"question": "q", "answer": ["a"]}, TaskPreset.read("gsm8k")
    with pytest.raises(InputError, match="such as --columns completion=answer.0$"):
        reader_of(rows_of(row), preset, "").samples(1, row)
    assert reader_of(rows_of(row), preset, "completion=answer.0").samples(1, row) == [QUESTION]


def test_fields_that_are_not_read_are_known() -> None:
    row = {"id": 1, "system": "s", "question": "q", "answers": {"text": ["a"]}}
    columns = "prompt=question,completion=answers.text.0"
    assert reader_of(rows_of(row), None, columns).unused == ("id", "system")
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert reader_of(rows_of({"system": "s", "messages": talk}), None, "").unused == ()


def test_columns_name_nested_fields_alternatives_and_what_kind_they_are() -> None:
    row = {"ask": "q", "a.b": "dotted", "answers": {"text": ["x", "a"]}, "passage": "c"}
    nested = read(row, columns="prompt=ask, completion=answers.text.1, context=passage")
    assert nested == [IN_CONTEXT]
    assert read(row, columns="prompt=ask,completion=a.b")[0].answer == "dotted"
    either = [
        {"q": "q", "new": "1", "old": "0"},
        {"q": "q", "old": "0"},
        {"q": "q", "new": None, "old": "0"},
    ]
    answers = [s.answer for s in read(*either, columns="prompt=q,completion=new|old")]
    assert answers == ["1", "0", "0"]
    assert read({"body": "b"}, columns="text=body") == [Sample("text", "b")]
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert read({"x": {"talk": talk}}, columns="messages=x.talk")[0].kind == "conversation"


@pytest.mark.parametrize(
    "columns",
    [
        "prompt=q",
        "q",
        "prompt=",
        "prompt=q,completion=",
        "prompt=q,completion=a,text=a",
        "x=q",
        "prompt=q,prompt=q,completion=a",
        "prompt=q,completion=a,contxt=q",
    ],
)
def test_misspelt_columns_are_refused(columns: str) -> None:
    with pytest.raises(InputError, match="columns: expected prompt=FIELD,completion=FIELD"):
        read({"q": "q", "a": "a"}, columns=columns)


def test_columns_that_no_row_has_are_refused_with_those_found() -> None:
    with pytest.raises(InputError, match="data: columns: expected a field 'b', found q, a"):
        read({"q": "q", "a": "a"}, columns="prompt=q,completion=a,context=b")


def test_braces_in_columns_are_refused_and_data_is_never_a_template() -> None:
    with pytest.raises(InputError, match="columns: expected prompt=FIELD"):
        read({"a}{q": "q", "q": "x"}, columns="prompt=a}{q,completion=q")
    (sample,) = read({"question": "{answer.__class__} {0} %s", "answer": "{question}"})
    assert (sample.question, sample.answer) == ("{answer.__class__} {0} %s", "{question}")
    with pytest.raises(InputError, match="expected a field 'q.__class__', found q, a"):
        read({"q": "q", "a": "a"}, columns="prompt=q.__class__,completion=a")


def test_empty_prompts_and_answers_give_no_sample_and_are_counted_by_reason() -> None:
    rows = rows_of(
        {"question": "q", "answer": "a"},
        {"question": "q", "answer": ""},
        {"question": "q", "answer": None},
        {"question": " \n", "answer": "a"},
        {"question": "q", "answer": float("nan")},
    )
    unanswerable = [{"q": "q", "a": {"text": t}} for t in (["a"], [], None)]
    assert len(read(*unanswerable, columns="prompt=q,completion=a.text.0")) == 1
    reader = reader_of(rows, None, "")
    assert [s for number, row in rows for s in reader.samples(number, row)] == [QUESTION]
    assert reader.left_out == {"with an empty answer": (3, 2), "with an empty prompt": (1, 4)}
    assert reader.omitted() == (
        "3 rows with an empty answer (the first is row 2), "
        "1 row with an empty prompt (the first is row 4)"
    )


def test_numbers_become_text_and_white_space_stays() -> None:
    for value, text in [(3, "3"), (0, "0"), (2.5, "2.5"), (True, "true"), (" a\n", " a\n")]:
        assert read({"question": "q", "answer": value})[0].answer == text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q"}, "row 2: expected the field 'answer', found question"),
        (
            {"question": "q", "answer": ["a"]},
            r"found \['a'\]; .* --columns prompt=question,completion=answer.0$",
        ),
        (
            {"question": {"en": "q"}, "answer": "a"},
            r"prompt: expected text.*prompt=question.en,completion=answer$",
        ),
        ({"question": "q", "answer": b"a"}, "found b'a'; write text$"),
        ({"question": "q", "answer": "\ud83d"}, "answer: expected characters, found half of one"),
    ],
)
def test_a_field_that_is_missing_or_no_text_is_named_with_its_row(
    row: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as refused:
        read({"question": "q", "answer": "a"}, row)
    assert str(refused.value).startswith("data row 2: ")


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_every_answer_of_a_conversation_is_a_sample_with_all_before_it_or_the_last_one() -> None:
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    messages = [turn(role, str(i)) for i, role in enumerate(roles)]
    turns = [Turn(role, str(i)) for i, role in enumerate(roles)]  # type: ignore[arg-type]
    both = [
        Sample("conversation", turns[i].content, turns[i - 1].content, before=tuple(turns[: i - 1]))
        for i in (2, 4)
    ]
    assert read({"messages": messages}) == both
    assert read({"messages": messages}, turns="last") == both[1:]


def test_a_system_column_begins_a_conversation_that_has_no_system_message() -> None:
    talk = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    (sample,) = read({"system": "s", "conversations": talk})
    assert sample.before == (Turn("system", "s"),)
    own = [{"from": "system", "value": "own"}, *talk]
    assert read({"system": "s", "conversations": own})[0].before == (Turn("system", "own"),)
    assert read({"system": None, "conversations": talk})[0].before == ()


def test_turns_of_one_role_are_joined_and_answers_before_a_question_dropped() -> None:
    messages = [
        turn("assistant", "Welcome!"),
        turn("user", "one"),
        turn("user", [{"type": "text", "text": "two"}, {"type": "text", "text": "!"}]),
        turn("assistant", "a"),
        turn("assistant", "b"),
    ]
    assert read({"messages": messages}) == [Sample("conversation", "a\n\nb", "one\n\ntwo!")]


def test_conversations_that_cannot_be_learned_from_are_counted_by_reason() -> None:
    q, a = turn("user", "q"), turn("assistant", "a")
    rows = rows_of(
        *({"messages": m} for m in ([q, a], [q], None, [], [a], [q, turn("assistant", None)])),
        {"messages": [q, a, turn("system", "late"), q, a]},
    )
    reader = reader_of(rows, None, "")
    assert sum(len(reader.samples(number, row)) for number, row in rows) == 1
    assert reader.left_out == {
        "without an answer to a question": (4, 2),
        "with an empty turn": (1, 6),
        "with a system message after its beginning": (1, 7),
    }


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([turn("user", "q"), turn("tool", "x")], "row 1 turn 2: calls a tool"),
        ([turn("assistant", None) | {"tool_calls": [{}]}], "turn 1: calls a tool"),
        ([turn("narrator", "x")], "turn 1: role: expected system, user .* found 'narrator'"),
        ([{"content": "x"}], "turn 1: role: .* found None"),
        ([turn("user", [{"type": "image_url"}])], "turn 1: content: expected parts of text"),
        ([turn("user", 3)], "turn 1: content: expected text, found 3"),
        (["hi"], "turn 1: expected an object with role and content, found 'hi'"),
        ("hi", "row 1: messages: expected a list of turns, found 'hi'"),
    ],
)
def test_tools_unknown_roles_and_images_are_refused_where_they_stand(
    messages: Any, message: str
) -> None:
    with pytest.raises(InputError, match=f"data .*{message}"):
        read({"messages": messages})


def test_real_files_are_recognised(shared_data: Path) -> None:
    kinds = {
        "medical/huatuo_demo_data.json": ("question", 198),
        "codealpaca/new_codealpaca.json": ("instruction", 4_535),
        "codealpaca/code_alpaca_2k.json": ("instruction", 2_015),
        "gsm8k/test.jsonl": ("question", 1_319),
    }
    for name, (kind, n_samples) in kinds.items():
        rows = read_rows(shared_data / name)
        reader = reader_of(rows, None, "")
        samples = [s for number, row in rows for s in reader.samples(number, row)]
        assert {s.kind for s in samples} == {kind}
        assert len(samples) == n_samples
    medical = json.loads((shared_data / "medical/huatuo_demo_data.json").read_text())[0]
    (sample,) = read(medical)
    assert sample.answer == f"{medical['Complex_CoT']}\n\n{medical['Response']}"


def test_recognition_looks_at_no_more_rows_than_it_needs() -> None:
    taken = itertools.count()

    def endless() -> Any:
        for number in itertools.count(1):
            next(taken)
            yield number, {"question": "q", "answer": "a"}

    described = reader_of(Rows("stream", endless), None, "").described
    assert described == "question: prompt = '{question}', completion = '{answer}'"
    assert next(taken) <= 201


def test_a_preset_reads_its_templates_and_columns_replace_parts_of_it() -> None:
    preset = TaskPreset.read("gsm8k")
    row = {"question": "q", "answer": "a", "short": "b"}
    assert reader_of(rows_of(row), preset, "").samples(1, row) == [QUESTION]
    changed = reader_of(rows_of(row), preset, "completion=short")
    assert changed.samples(1, row) == [Sample("question", "b", question="q")]
    assert (
        changed.described == "preset gsm8k, question: prompt = '{question}', completion = '{short}'"
    )
