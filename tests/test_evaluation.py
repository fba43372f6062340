"""Evaluation: what counts as an answer, and numbers that no batching or padding changes."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import force
from transformers import AutoModelForCausalLM, GenerationConfig

from fnsft.artifacts.records import read_records
from fnsft.artifacts.storage import write_jsonl
from fnsft.artifacts.training import Run, TrainingRecord, write_training
from fnsft.cli.main import main
from fnsft.config.stages import EvaluateSettings
from fnsft.data.formats import Example
from fnsft.data.tokens import Encoded, Encoder, encode, load_tokenizer
from fnsft.errors import InputError
from fnsft.evaluation import cloze, gsm8k
from fnsft.evaluation.generation import _cut, generate
from fnsft.evaluation.loading import load_model
from fnsft.evaluation.shares import share, shares_by
from fnsft.evaluation.suite import Benchmarks, measure
from fnsft.training.completion_loss import SampleLosses, completion_loss

GOLD = " 9 + 9 = <<9+9=18>>18\n#### 18"


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    return load_model(tiny_model_dir, "float32").cpu()


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    return load_tokenizer(tiny_model_dir)


def random_samples(n: int) -> list[Encoded]:
    numbers = random.Random(0)

    def ids() -> tuple[int, ...]:
        return tuple(numbers.randrange(3, 200) for _ in range(numbers.randrange(1, 30)))

    return [Encoded(ids(), ids()) for _ in range(n)]


@pytest.mark.parametrize(
    ("text", "decimal", "strict", "flexible"),
    [
        ("so 18\n#### 18", True, True, True),
        ("#### 18.00", True, False, False),
        ("#### $18", True, False, True),
        (r"the answer is \boxed{18}", True, False, True),
        (r"\boxed{\$18.0} of 20 eggs", True, False, False),
        ("#### 18.", True, True, True),
        ("#### 1,8", False, True, True),
        ("#### -18", False, False, False),
        ("$18\n", True, False, True),
        ("it was 20, then 18", True, False, True),
        ("18 of the 20", False, False, False),
        ("20-18", True, False, False),
        ("#### 18\n\n#### 20", True, True, False),
        ("no number", False, False, False),
        ("", False, False, False),
    ],
)
def test_three_readings_of_an_answer(
    text: str, decimal: bool, strict: bool, flexible: bool
) -> None:
    scored = gsm8k.score(text, GOLD)
    assert (scored.correct, scored.strict, scored.flexible) == (decimal, strict, flexible)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("#### 1,234", "1234"),
        ("#### $1,234,567.50", "1234567.5"),
        ("#### -$5", "-5"),
        ("#### $-5", "-5"),
        ("#### -$-5", "-5"),
        ("\\boxed{-$-5}", "-5"),
        ("-$ -5", "-5"),
        ("#### \u22125", "-5"),
        ("#### .5", "0.5"),
        ("on 3,14 of 10-4", "4"),
        ("####\n\nso 7", "7"),
    ],
)
def test_numbers_are_read_with_their_sign_separators_and_currency(text: str, value: str) -> None:
    assert gsm8k.decimal_answer(text) == gsm8k.Decimal(value)


def test_the_format_is_ok_only_with_a_number_after_the_hashes() -> None:
    texts = ("#### 5", "####$5", "5", "#### five")
    assert [gsm8k.score(text, GOLD).format_ok for text in texts] == [True, True, False, False]


def test_steps_are_annotations_or_else_lines_before_the_hashes() -> None:
    assert gsm8k.step_count(GOLD) == 1
    assert gsm8k.step_count(" a <<1+1=2>>2 b <<2+2=4>>4\n#### 4") == 2
    assert gsm8k.step_count(" first\nsecond\n\n#### 4") == 2


def test_every_real_gsm8k_answer_matches_itself_in_all_readings(shared_data: Path) -> None:
    rows = [json.loads(x) for x in (shared_data / "gsm8k/test.jsonl").read_text().splitlines()]
    scored = [gsm8k.score(row["answer"], row["answer"]) for row in rows]
    assert len(rows) == 1319
    assert all(s.correct and s.strict and s.flexible and s.format_ok for s in scored)


def test_the_standard_error_of_a_share_is_that_of_lm_eval() -> None:
    hits = [True, True, True, False]
    assert share("b", "m", hits).stderr == pytest.approx(np.std(hits, ddof=1) / math.sqrt(4))
    assert share("b", "m", [True]).stderr is None
    parts = shares_by("b", "m", hits, "steps", [2, 1, 1, 1])
    assert [(part.subset, part.value, part.n) for part in parts] == [
        ("steps=1", pytest.approx(2 / 3), 3),
        ("steps=2", 1.0, 1),
    ]


def test_the_loss_is_the_sum_of_log_probabilities_by_hand(model: Any) -> None:
    samples = random_samples(5)
    found = completion_loss(model, samples, batch_size=3)
    for place, sample in enumerate(samples):
        with torch.no_grad():
            logits = model(torch.tensor([sample.ids])).logits[0].double()
        by_hand = 0.0
        for position in range(len(sample.prompt_ids), len(sample.ids)):
            by_hand -= logits[position - 1].log_softmax(-1)[sample.ids[position]].item()
        assert found.nll[place] == pytest.approx(by_hand, rel=1e-5)
        assert found.tokens[place] == len(sample.completion_ids)
    assert found.mean_per_token == pytest.approx(found.nll.sum() / found.n_tokens)


def test_the_loss_depends_on_neither_batch_nor_order(model: Any) -> None:
    samples = random_samples(7)
    alone = completion_loss(model, samples, batch_size=1)
    reversed_ = completion_loss(model, samples[::-1], batch_size=7)
    np.testing.assert_allclose(reversed_.nll[::-1], alone.nll, rtol=1e-5)


def test_measuring_the_loss_leaves_the_model_in_its_mode(model: Any) -> None:
    for mode in (True, False):
        model.train(mode)
        completion_loss(model, random_samples(1), batch_size=1)
        assert model.training is mode


def test_the_error_of_perplexity_is_that_of_a_mean_when_completions_are_equally_long() -> None:
    nll = np.array([2.0, 3.0, 7.0])
    losses = SampleLosses(nll, np.array([2, 2, 2]))
    error_of_mean = np.std(nll / 2, ddof=1) / math.sqrt(3)
    assert losses.perplexity == pytest.approx(math.exp(2.0))
    assert losses.perplexity_stderr == pytest.approx(math.exp(2.0) * error_of_mean)
    assert SampleLosses(nll[:1], np.array([2])).perplexity_stderr is None


def test_the_error_of_perplexity_is_that_of_repeated_samples() -> None:
    draws = np.random.default_rng(0)

    def sample() -> SampleLosses:
        tokens = draws.integers(5, 60, size=200)
        return SampleLosses(tokens * draws.normal(0.5, 0.1, 200) + draws.normal(0, 2, 200), tokens)

    repeated = [sample() for _ in range(1_000)]
    spread = np.std([losses.perplexity for losses in repeated])
    stated = np.mean([losses.perplexity_stderr for losses in repeated])
    assert stated == pytest.approx(spread, rel=0.1)


def test_greedy_text_depends_on_neither_batch_padding_nor_order(model: Any, tokenizer: Any) -> None:
    prompts = [sample.prompt_ids for sample in random_samples(9)]

    def texts(prompts: list[tuple[int, ...]], batch_size: int) -> list[str]:
        options = {"batch_size": batch_size, "max_new_tokens": 24}
        return [g.text for g in generate(model, tokenizer, prompts, **options)]

    alone = texts(prompts, 1)
    assert len(set(alone)) > 1, "the texts should differ, or the order could not be seen"
    assert texts(prompts, 4) == texts(prompts, 9) == alone
    assert texts(prompts[::-1], 4) == alone[::-1]


def test_greedy_text_is_the_likeliest_token_each_step(model: Any, tokenizer: Any) -> None:
    prompt = tokenizer("Question: 1+1?\nAnswer:")["input_ids"]
    ids = list(prompt)
    for _ in range(12):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    (found,) = generate(model, tokenizer, [prompt], batch_size=1, max_new_tokens=12)
    assert found == _cut(tokenizer, ids[len(prompt) :], [tokenizer.eos_token_id], ())


def test_penalties_and_sampling_of_the_model_folder_change_nothing(
    tiny_model_dir: Path, tokenizer: Any
) -> None:
    prompts = [sample.prompt_ids for sample in random_samples(4)]

    def texts(own: GenerationConfig) -> list[str]:
        fresh = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
        fresh.generation_config = own
        found = generate(fresh, tokenizer, prompts, batch_size=4, max_new_tokens=24)
        return [generation.text for generation in found]

    wild = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, do_sample=True, temperature=9.0, repetition_penalty=5.0
    )
    assert texts(wild) == texts(GenerationConfig(eos_token_id=tokenizer.eos_token_id))


def test_an_answer_ends_at_the_end_of_sequence_or_the_next_problem(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id

    def cut(text: str, *after: int) -> tuple[str, bool]:
        ids = [*tokenizer(text)["input_ids"], *after]
        found = _cut(tokenizer, ids, [end], (gsm8k.STOP,))
        return found.text, found.finished

    assert cut(" 18", end, end) == (" 18", True)
    assert cut(" 18\nQuestion: next") == (" 18", True)
    assert cut(" the Question: is") == (" the Question: is", False)
    assert cut(" 18", end, *tokenizer("Question:")["input_ids"]) == (" 18", True)


def test_an_answer_that_begins_with_another_problem_is_none(
    tiny_model_dir: Path, tokenizer: Any
) -> None:
    model = load_model(tiny_model_dir, "float32").cpu()
    problem = Example("1", "#### 18")
    n_prompt = len(Encoder.of(tokenizer).encode(problem).prompt_ids)
    said = tokenizer("Question: 18")["input_ids"]
    force(model, said, n_prompt)
    settings = EvaluateSettings(batch_size=1, max_new_tokens=len(said))
    found = measure(model, tokenizer, Benchmarks([problem], []), settings)
    (answer,) = found.answers
    assert (answer["text"], answer["finished"], answer["extracted"]) == ("", True, None)


def test_a_merged_adapter_computes_what_the_adapter_computes(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear")).eval()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = adapted(ids).logits
        found = load_model(tmp_path / "adapter", "float32").cpu()(ids).logits
        untouched = load_model(tiny_model_dir, "float32").cpu()(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - untouched).abs().max() > 0.01


def test_an_adapter_without_its_base_says_where_it_was_sought(tmp_path: Path) -> None:
    content = {"base_model_name_or_path": f"{tmp_path}/gone/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    message = "adapter_config.json: base_model_name_or_path: .*gone/base: no such file or folder"
    with pytest.raises(InputError, match=message):
        load_model(tmp_path, "float32")


def test_cloze_takes_the_likeliest_choice(model: Any, tokenizer: Any) -> None:
    item = cloze.ClozeItem("The sky is", (" blue", " red", " green"), 0, "colour")
    (scores,) = cloze.log_probabilities(model, [item], tokenizer, batch_size=2)
    for choice, score in zip(item.choices, scores, strict=True):
        prompt = tokenizer(item.prompt)["input_ids"]
        ids = tokenizer(choice, add_special_tokens=False)["input_ids"]
        (nll,) = completion_loss(model, [Encoded(tuple(prompt), tuple(ids))], 1).nll
        assert score == pytest.approx(-nll, rel=1e-5)


def test_cloze_accuracy_counts_by_subject_and_norms_by_characters() -> None:
    items = [
        cloze.ClozeItem("p", ("abcdefgh", "x"), 0, "a"),
        cloze.ClozeItem("p", ("no", "on"), 1, "b"),
    ]
    scores = [np.array([-4.0, -2.0]), np.array([-3.0, -1.0])]
    found = {(m.metric, m.subset): m.value for m in cloze.measure(items, scores)}
    assert found == {
        ("accuracy", None): 0.5,
        ("accuracy", "subject=a"): 0.0,
        ("accuracy", "subject=b"): 1.0,
        ("accuracy_norm", None): 1.0,  # -4/8 is more than -2/1
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "choices": ["a", "b"], "answer": 0}, "'subject' is missing"),
        ({"prompt": "p", "choices": ["a", "b"], "answer": 2, "subject": "s"}, "index below 2"),
        ({"prompt": "p", "choices": ["a"], "answer": 0, "subject": "s"}, "two or more choices"),
        ({"prompt": "p", "choices": "ab", "answer": 0, "subject": "s"}, "two or more choices"),
    ],
)
def test_a_bad_cloze_row_is_named(tmp_path: Path, row: dict, message: str) -> None:
    write_jsonl(tmp_path / "facts.jsonl", [row])
    with pytest.raises(InputError, match=f"facts.jsonl line 1: .*{message}"):
        cloze.read_cloze(tmp_path / "facts.jsonl")


@pytest.fixture
def benchmarks(tmp_path: Path) -> dict[str, Path]:
    problems = [{"prompt": f"Question: {i}+9?\nAnswer:", "completion": GOLD} for i in range(3)]
    facts = [{"prompt": "Ann is", "choices": [" old", " ten"], "answer": 1, "subject": "age"}]
    write_jsonl(tmp_path / "test.jsonl", problems)
    write_jsonl(tmp_path / "facts.jsonl", facts)
    return {
        "gsm8k": tmp_path / "test.jsonl",
        "cloze": tmp_path / "facts.jsonl",
        "perplexity": tmp_path / "test.jsonl",
    }


def evaluate(model: Path, output: Path, benchmarks: dict[str, Path], *more: str) -> int:
    words = ["evaluate", "--model", str(model), "--output", str(output), "--max-new-tokens", "8"]
    for name, path in benchmarks.items():
        words += [f"--{name}", str(path)]
    return main([*words, *more])


def test_all_benchmarks_of_a_base_model_become_records_and_readable_answers(
    tiny_model_dir: Path, tmp_path: Path, benchmarks: dict[str, Path]
) -> None:
    output = tmp_path / "base.jsonl"
    names = ["--model-name", "tiny", "--task", "math"]
    assert evaluate(tiny_model_dir, output, benchmarks, *names, "--gsm8k-limit", "2") == 0
    records = read_records([output])
    assert {(r.model, r.task, r.method, r.stage, r.seed) for r in records} == {
        ("tiny", "math", "base", 0, None)
    }
    assert {(r.benchmark, r.metric, r.subset, r.n) for r in records} == {
        ("gsm8k", "accuracy", None, 2),
        ("gsm8k", "accuracy", "steps=1", 2),
        ("gsm8k", "exact_match_strict", None, 2),
        ("gsm8k", "exact_match_flexible", None, 2),
        ("gsm8k", "format_ok", None, 2),
        ("cloze", "accuracy", None, 1),
        ("cloze", "accuracy", "subject=age", 1),
        ("cloze", "accuracy_norm", None, 1),
        ("perplexity", "perplexity", None, 3),
    }
    answers = (tmp_path / "base.generations.jsonl").read_text().splitlines()
    first = json.loads(answers[0])
    assert len(answers) == 2
    assert (first["index"], first["gold"], first["prompt"]) == (0, "18", "Question: 0+9?\nAnswer:")
    assert {"text", "extracted", "correct"} <= set(first)
    manifest = json.loads((tmp_path / "base.jsonl.manifest.json").read_text())
    assert manifest["notes"]["perplexity_samples_too_long"] == 0


def test_a_fine_tuned_model_is_who_its_training_record_says(
    tiny_model_dir: Path, tmp_path: Path, benchmarks: dict[str, Path]
) -> None:
    folder = tmp_path / "tuned"
    folder.mkdir()
    for file in tiny_model_dir.iterdir():
        (folder / file.name).symlink_to(file)
    run = Run("tiny", "math", "collab", 0.5, 0.5, "knn", "gradient", None, 1, 3, 1e-3)
    write_training(folder, TrainingRecord(run, [], [], 1, 1, 1.5, 1, 0.5, 1.0, 1.0))
    only = {"cloze": benchmarks["cloze"]}
    assert evaluate(folder, tmp_path / "m.jsonl", only) == 0
    (first, *_) = read_records([tmp_path / "m.jsonl"])
    assert (first.method, first.fraction, first.affinity, first.seed) == ("collab", 0.5, "knn", 3)
    assert evaluate(folder, tmp_path / "n.jsonl", only, "--model-name", "x", "--task", "y") == 2


def test_bad_input_is_one_line_and_leaves_nothing(
    tiny_model_dir: Path,
    tmp_path: Path,
    benchmarks: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ["--model-name", "tiny", "--task", "math"]
    output = tmp_path / "out" / "m.jsonl"
    write_jsonl(tmp_path / "bad.jsonl", [{"prompt": "Question: ", "completion": " none"}])
    cases: list[tuple[dict[str, Path], list[str], str]] = [
        ({}, names, "at least one of"),
        (benchmarks, [], "give --model-name and --task"),
        ({"gsm8k": tmp_path / "bad.jsonl"}, names, "bad.jsonl line 1: completion: expected a num"),
        ({"cloze": tmp_path / "bad.jsonl"}, names, "bad.jsonl line 1: the field 'choices'"),
        ({"perplexity": tmp_path / "none.jsonl"}, names, "no such file"),
    ]
    for files, words, message in cases:
        assert evaluate(tiny_model_dir, output, files, *words) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
    assert not output.parent.exists()


def test_completions_are_tokenised_as_in_training(tokenizer: Any) -> None:
    encoded = encode(tokenizer, cloze.Example("The sky is", " blue"))
    assert encoded.completion_ids[-1] == tokenizer.eos_token_id
