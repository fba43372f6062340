"""lm-eval's tasks on local files: lm-eval's own numbers, from lm-eval's own answers."""

import dataclasses
import gzip
import importlib.util
import json
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import evaluator
from lm_eval.api import metrics
from lm_eval.api.model import LM
from lm_eval.models.utils import postprocess_generated_text

from fnsft.artifacts.storage import write_jsonl
from fnsft.cli.main import main
from fnsft.config.stages.evaluation import AnswerSettings, Benchmark, ScoreSettings
from fnsft.data.tokens import Encoder, load_tokenizer, positions_of
from fnsft.errors import InputError
from fnsft.evaluation import gsm8k, harness
from fnsft.evaluation.benchmarks import kind_of
from fnsft.evaluation.benchmarks.contract import Answers, Scores, Scoring, Subject
from fnsft.evaluation.benchmarks.mmlu_pro import letter_of
from fnsft.evaluation.generators import generator_of
from fnsft.evaluation.harness_items import Item, spread
from fnsft.evaluation.loading import load_model

QUESTION = {"question": "2+2?", "choices": ["1", "2", "3", "4"], "answer": 3, "subject": "anatomy"}
LAW = {"question": "q?", "options": ["a", "b", "c"], "answer": "B", "category": "law"}
ABSTRACT = {"QUESTION": "Do they?", "CONTEXTS": ["They do."], "final_decision": "yes"}


def subject_of(folder: Path) -> Subject:
    tokenizer, model = load_tokenizer(folder), load_model(folder, "float32").cpu()
    settings = AnswerSettings(batch_size=4)
    generator = generator_of("hf", model, tokenizer, 4)
    encoder = Encoder.of(tokenizer)
    positions = positions_of(folder)
    return Subject(
        folder, model, tokenizer, encoder, generator, settings, None, positions, tuned=False
    )


@pytest.fixture(scope="module")
def subject(shared_data: Path) -> Subject:
    return subject_of(shared_data / "models" / "stories260k")


@dataclasses.dataclass
class Run:
    """Our answers and scores, and what lm-eval found itself in the same run."""

    answers: Answers
    scores: Scores
    lm_eval: dict[str, Any]

    def value(self, metric: str = "accuracy", subset: str | None = None) -> tuple[Any, Any, int]:
        (m,) = [m for m in self.scores.measurements if (m.metric, m.subset) == (metric, subset)]
        return m.value, m.stderr, m.n


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Subject, Benchmark], Run]:
    real, caught = evaluator.evaluate, []

    def evaluate(*arguments: Any, **options: Any) -> Any:
        caught.append(real(*arguments, **options))
        return caught[-1]

    monkeypatch.setattr(evaluator, "evaluate", evaluate)

    def answered(subject: Subject, benchmark: Benchmark) -> Run:
        kind = kind_of(benchmark.kind)
        answers = kind.answers(subject, benchmark)
        kept = json.loads(json.dumps(answers.rows))
        scores = kind.scores(kept, benchmark, Scoring(ScoreSettings(), "answers"))
        assert [item.item for item in scores.items] == [row["item"] for row in answers.rows]
        assert sum(item.value for item in scores.items) == pytest.approx(
            scores.measurements[0].value * len(scores.items)
        )
        return Run(answers, scores, caught[-1])

    return answered


def rows_of(path: Path) -> list[dict[str, Any]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.decode().splitlines()]


@pytest.fixture
def mmlu(shared_data: Path, tmp_path: Path) -> Benchmark:
    """Three subjects, of 5, 3 and 4 items, two shots."""
    rows = rows_of(shared_data / "mmlu" / "test.jsonl.gz")
    chosen = []
    for name, n in (("machine_learning", 5), ("anatomy", 3), ("marketing", 4)):
        chosen += [row for row in rows if row["subject"] == name][:n]
    write_jsonl(tmp_path / "test.jsonl", chosen)
    dev = str(shared_data / "mmlu" / "dev.jsonl")
    return Benchmark("mmlu", str(tmp_path / "test.jsonl"), examples=dev, shots=2)


def assert_lm_eval_groups(run: Run, parts: dict[str, str], key: str, metric: str) -> None:
    """Compare every part, their mean over items, and the plain mean of parts."""
    theirs = {part: run.lm_eval["results"][task] for part, task in parts.items()}
    name, _, filter_ = metric.partition(",")
    for part, found in theirs.items():
        error = found[f"{name}_stderr,{filter_}"]
        expected = (found[metric], pytest.approx(error, rel=1e-12), found["sample_len"])
        assert run.value(subset=f"{key}={part}") == expected
    values = [found[metric] for found in theirs.values()]
    errors = [found[f"{name}_stderr,{filter_}"] for found in theirs.values()]
    sizes = [found["sample_len"] for found in theirs.values()]
    assert len(set(sizes)) > 1
    assert len(set(values)) > 1
    assert run.value() == (
        pytest.approx(metrics.aggregate_subtask_metrics(values, sizes), rel=1e-15),
        pytest.approx(metrics.pooled_sample_stderr(errors, sizes), rel=1e-12),
        sum(sizes),
    )
    assert run.value("accuracy_macro") == (
        pytest.approx(metrics.aggregate_subtask_metrics(values, sizes, False), rel=1e-15),
        pytest.approx(metrics.unweighted_mean_stderr(errors), rel=1e-12),
        sum(sizes),
    )


def test_mmlu_has_the_numbers_of_lm_eval(
    subject: Subject, run: Callable[[Subject, Benchmark], Run], mmlu: Benchmark
) -> None:
    found = run(subject, mmlu)
    names = ("anatomy", "machine_learning", "marketing")
    parts = {name: f"mmlu_{name}" for name in names}
    assert_lm_eval_groups(found, parts, "subject", "acc,none")
    assert found.answers.packages == found.scores.packages == ("lm-eval",)
    assert found.answers.protocol == (
        "mmlu shots=2 template=lm-eval extract=likeliest-letter backend=lm-eval dtype=float32"
    )


def test_mmlu_asks_the_loaded_model_lm_evals_question_behind_the_first_examples(
    subject: Subject, run: Callable[[Subject, Benchmark], Run], mmlu: Benchmark
) -> None:
    found = run(subject, dataclasses.replace(mmlu, limit=3, shots=1))
    rows = {row["subject"]: row for row in rows_of(Path(mmlu.file))[::-1]}
    dev = rows_of(Path(str(mmlu.examples)))
    example = next(row for row in dev if row["subject"] == "anatomy")

    def asked(row: dict[str, Any]) -> str:
        choices = "".join(
            f"{letter}. {choice}\n" for letter, choice in zip("ABCD", row["choices"], strict=True)
        )
        return f"{row['question'].strip()}\n{choices}Answer:"

    prompt = (
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        f"{asked(example)} {'ABCD'[example['answer']]}\n\n{asked(rows['anatomy'])}"
    )
    (answer,) = [row for row in found.answers.rows if row["subject"] == "anatomy"]
    tokenizer = subject.tokenizer
    ids = tokenizer(prompt)["input_ids"]
    expected = []
    for letter in "ABCD":
        whole = tokenizer(f"{prompt} {letter}")["input_ids"]
        n = len(whole) - len(ids)
        with torch.no_grad():
            logits = subject.model(torch.tensor([whole[:-1]])).logits[0].double().log_softmax(-1)
        expected.append(sum(float(logits[-n + i, whole[-n + i]]) for i in range(n)))
    assert answer["log_probabilities"] == pytest.approx(expected, rel=1e-4)
    best = max(range(4), key=lambda i: answer["log_probabilities"][i])
    assert answer["answer"] == "ABCD"[best]
    assert answer["target"] == "ABCD"[rows["anatomy"]["answer"]]
    assert found.answers.counts == {"prompts_cut_to_fit": 0}


def test_logits_of_a_batch_stay_within_the_memory_that_they_may_take(
    subject: Subject, mmlu: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> list[float]:
        rows = kind_of("mmlu").answers(subject, dataclasses.replace(mmlu, limit=6)).rows
        return [value for row in rows for value in row["log_probabilities"]]

    unbounded = asked()
    monkeypatch.setattr(harness, "_LOGITS_AT_MOST", 2 * 512 * 512 + 1)
    sizes = []

    def record(module: Any, inputs: Any) -> None:
        sizes.append(inputs[0].numel() * 512)

    handle = subject.model.register_forward_pre_hook(record)
    found = asked()
    handle.remove()
    assert 0 < max(sizes) <= 2 * 512 * 512
    assert found == pytest.approx(unbounded, abs=1e-3)


def test_pubmedqa_has_the_numbers_of_lm_eval_and_the_largest_classs_share_without_a_network(
    subject: Subject,
    run: Callable[[Subject, Benchmark], Run],
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("nothing is to be fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = shared_data / "pubmedqa" / "test.jsonl"
    found = run(subject, Benchmark("pubmedqa", str(path), limit=20))
    theirs = found.lm_eval["results"]["pubmedqa"]
    expected = (theirs["acc,none"], pytest.approx(theirs["acc_stderr,none"], rel=1e-12), 20)
    assert found.value() == expected
    assert 0 < found.value()[0] < 1
    prompts = [sample["arguments"][0][0] for sample in found.lm_eval["samples"]["pubmedqa"]]
    longest = subject.model.config.max_position_embeddings
    cut = sum(len(ids) > longest for ids in subject.tokenizer(prompts)["input_ids"])
    assert 0 < cut == found.answers.counts["prompts_cut_to_fit"]
    decisions = [row["final_decision"] for row in rows_of(path)[:20]]
    assert found.scores.notes == {
        "largest_class": "yes",
        "largest_class_share": decisions.count("yes") / 20,
    }
    assert list(tmp_path.iterdir()) == []


class Canned(LM):
    """Says texts that are given; ``until`` cuts them, as lm-eval's models do."""

    def __init__(self, texts: dict[str, str]) -> None:
        super().__init__()
        self.texts = texts

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        found = []
        for request in requests:
            prompt, options = request.args
            text = next(text for question, text in self.texts.items() if question in prompt)
            found.append(postprocess_generated_text(text, options["until"], None))
        return found

    def loglikelihood(self, requests: Any) -> Any:
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


PRO_TEXTS = {
    "the answer is (B).": "B",
    "The answer is B": "B",
    "answer is (C), no, the answer is (B)": "C",
    "answer is b": None,
    "so (B)": None,
    "answer is (K)": None,
    "so Question: the answer is (B)": None,
    "": None,
    "the answer is\n(B)": None,
}


def test_mmlu_pro_has_the_numbers_of_lm_eval_on_the_same_generations(
    subject: Subject,
    run: Callable[[Subject, Benchmark], Run],
    tmp_path: Path,
    shared_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = {f"<{place}>": text for place, text in enumerate(PRO_TEXTS)}
    categories = ["law"] * 3 + ["computer science"] * 4 + ["math"] * 2
    rows = [
        LAW | {"question": name, "category": category}
        for name, category in zip(texts, categories, strict=True)
    ]
    write_jsonl(tmp_path / "test.jsonl", rows)
    monkeypatch.setattr(harness, "_language_model", lambda _: Canned(texts))
    examples = str(shared_data / "mmlu_pro" / "validation.jsonl")
    found = run(subject, Benchmark("mmlu-pro", str(tmp_path / "test.jsonl"), examples=examples))
    parts = {name: f"mmlu_pro_{name.replace(' ', '_')}" for name in sorted(set(categories))}
    assert_lm_eval_groups(found, parts, "category", "exact_match,custom-extract")
    read = {row["item"]: letter_of(row["text"]) for row in found.answers.rows}
    assert read == {str(place): letter for place, letter in enumerate(PRO_TEXTS.values())}
    assert found.scores.counts == {"answers_without_letter": list(read.values()).count(None)}
    asked = found.lm_eval["samples"]["mmlu_pro_law"][0]["arguments"][0]
    assert asked[0].count("Question:") == 6
    assert asked[1]["max_gen_toks"] == 256


def test_mmlu_pro_is_generated_up_to_its_length_by_the_loaded_model(
    subject: Subject, run: Callable[[Subject, Benchmark], Run], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "test.jsonl", [LAW, LAW | {"category": "math", "question": "1?"}])
    benchmark = Benchmark("mmlu-pro", str(tmp_path / "test.jsonl"), shots=0, max_new_tokens=12)
    found = run(subject, benchmark)
    (prompt, _) = found.lm_eval["samples"]["mmlu_pro_law"][0]["arguments"][0]
    ids = subject.tokenizer(prompt)["input_ids"]
    (ours,) = subject.generator([ids], max_new_tokens=12)
    assert found.answers.rows[0]["text"] == ours.text
    assert found.answers.protocol == (
        "mmlu-pro shots=0 template=lm-eval extract=answer-is-(X) stop=eos|Question: "
        "max_new_tokens=12 backend=lm-eval dtype=float32"
    )


GOLD = "9 + 9 = <<9+9=18>>18\n#### 18"
GSM8K_TEXTS = {  # whether the decimal match finds 18
    "so 18\n#### 18": True,
    "#### 18.00": True,
    "#### $18": True,
    r"the answer is \boxed{18}": True,
    r"\boxed{\$18.0} of 20 eggs": True,
    "#### 18.": True,
    "#### 1,8": False,
    "#### 1,018": False,
    "#### -18": False,
    "-18": False,
    "$18\n": True,
    "it was 20, then 18": True,
    "18 of the 20": False,
    "#### 18\n\n#### 20": True,
    "#### 18\nQuestion: 20?\n#### 20": True,
    "18\nQuestion: what is 20": True,
    "no number": False,
    "": False,
}


def test_gsm8k_is_read_strictly_and_flexibly_as_lm_eval_reads_it(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {f"<{place}>": text for place, text in enumerate(GSM8K_TEXTS)}
    documents = [{"question": name, "answer": GOLD} for name in texts]
    items = [Item(str(i), "", document) for i, document in enumerate(documents)]
    task = harness.LocalTask("gsm8k", "gsm8k/gsm8k.yaml", items, changes={"training_split": None})
    monkeypatch.setattr(harness, "_language_model", lambda _: Canned(texts))
    found = harness.run_tasks(subject, Benchmark("mmlu", "unused", shots=0), [task])
    theirs: dict[str, list[bool]] = {"strict-match": [], "flexible-extract": []}
    for _, sample in found:
        theirs[sample["filter"]].append(sample["exact_match"] == 1)
    ours = [gsm8k.score(text.split("\nQuestion:")[0], GOLD) for text in GSM8K_TEXTS]
    assert [scored.strict for scored in ours] == theirs["strict-match"]
    assert [scored.flexible for scored in ours] == theirs["flexible-extract"]
    assert [scored.correct for scored in ours] == list(GSM8K_TEXTS.values())
    assert 0 < sum(theirs["strict-match"]) < sum(theirs["flexible-extract"])


def test_a_chat_is_asked_in_the_tokenizers_template_and_says_so(
    tiny_model_dir: Path, run: Callable[[Subject, Benchmark], Run], tmp_path: Path
) -> None:
    subject = subject_of(tiny_model_dir)
    write_jsonl(tmp_path / "test.jsonl", [QUESTION])
    write_jsonl(tmp_path / "dev.jsonl", [QUESTION | {"question": "shot?"}])
    benchmark = Benchmark(
        "mmlu", str(tmp_path / "test.jsonl"), str(tmp_path / "dev.jsonl"), shots=1, chat=True
    )
    with pytest.raises(InputError, match="chat: expected a chat template .*leave chat off"):
        run(subject, benchmark)
    subject.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    found = run(subject, benchmark)
    prompt, ending = found.lm_eval["samples"]["mmlu_anatomy"][0]["arguments"][0]
    assert prompt.count("[user]") == prompt.count("[assistant]") == 2
    assert "[assistant]D[user]2+2?" in prompt
    assert ending == "A"
    assert " template=chat " in found.answers.protocol


def test_a_limit_takes_turns_over_the_parts_and_keeps_the_order() -> None:
    parts = "bbbbaac"
    items = [Item(str(place), part, {}) for place, part in enumerate(parts)]
    taken = ["".join(item.name for item in spread(items, n)) for n in (1, 3, 4, 5, 6, 99)]
    assert taken == ["4", "046", "0456", "01456", "012456", "0123456"]
    assert spread(items, None) == items


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("mmlu", QUESTION | {"subject": "anatomie"}, "subject: .*is it 'anatomy'?"),
        ("mmlu", QUESTION | {"choices": ["1", "2"]}, "choices: expected four texts"),
        ("mmlu", QUESTION | {"answer": 4}, "answer: expected the index of a choice"),
        ("mmlu", QUESTION | {"answer": True}, "answer: expected the index of a choice"),
        ("mmlu", QUESTION | {"question": 4}, "question: expected a text"),
        ("mmlu", LAW, "expected a row of mmlu .*found one of mmlu-pro; .*another file or kind"),
        ("mmlu", without(QUESTION, "choices"), ".*found one of gsm8k; 'choices' is missing"),
        ("mmlu", {"x": 1}, ".*found x; 'question' is missing"),
        ("mmlu-pro", QUESTION, "expected a row of mmlu-pro .*found one of mmlu;"),
        ("mmlu-pro", LAW | {"answer": "D"}, "answer: expected one of ABC, found 'D'"),
        ("mmlu-pro", LAW | {"options": "abc"}, "options: expected two to ten texts"),
        ("mmlu-pro", LAW | {"category": "laws"}, "category: expected one of biology"),
        ("pubmedqa", LAW, "expected a row of pubmedqa .*found one of mmlu-pro;"),
        ("pubmedqa", ABSTRACT | {"CONTEXTS": "They do."}, "CONTEXTS: expected a list of texts"),
        ("pubmedqa", ABSTRACT | {"final_decision": "Yes"}, "final_decision: expected yes, no or"),
    ],
)
def test_a_bad_row_is_named_with_its_line(
    subject: Subject, tmp_path: Path, kind: str, row: dict[str, Any], message: str
) -> None:
    good = {"mmlu": QUESTION, "mmlu-pro": LAW, "pubmedqa": ABSTRACT}[kind]
    write_jsonl(tmp_path / "test.jsonl", [good, row])
    benchmark = Benchmark(kind, str(tmp_path / "test.jsonl"), shots=0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"test.jsonl row 2: {message}"):
        kind_of(kind).answers(subject, benchmark)


def test_too_few_examples_and_too_little_room_are_named(subject: Subject, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", [QUESTION])
    write_jsonl(tmp_path / "pro.jsonl", [LAW])
    path = str(tmp_path / "test.jsonl")
    with pytest.raises(InputError, match="expected 2 examples of 'anatomy', found 1; lower shots"):
        kind_of("mmlu").answers(subject, Benchmark("mmlu", path, path, shots=2))
    pro = str(tmp_path / "pro.jsonl")
    with pytest.raises(InputError, match="row 1: cot_content: expected a worked answer"):
        kind_of("mmlu-pro").answers(subject, Benchmark("mmlu-pro", pro, pro, shots=1))
    benchmark = Benchmark("mmlu-pro", pro, shots=0, max_new_tokens=512)
    with pytest.raises(InputError, match="less than the model's 512 positions, found 512"):
        kind_of("mmlu-pro").answers(subject, benchmark)


def test_without_lm_eval_the_extra_is_named_in_one_line(
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_jsonl(tmp_path / "test.jsonl", [QUESTION])
    found = importlib.util.find_spec

    def hidden(name: str, *more: Any) -> Any:
        return None if name == "lm_eval" else found(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    words = ["answer", "--model", str(tiny_model_dir), "--output", str(tmp_path / "answers")]
    words += ["--benchmark", "mmlu", "kind=mmlu", f"file={tmp_path}/test.jsonl", "shots=0"]
    assert main([*words, "--model-name", "tiny"]) == 2
    line = "mmlu: expected the package lm-eval, found none; pip install 'fnsft[benchmarks]'"
    assert line in capsys.readouterr().err
    assert not (tmp_path / "answers").exists()
