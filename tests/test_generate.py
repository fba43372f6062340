"""Answers: prompts as training wrote them, draws that no batch changes, bad input in one line."""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fnsft.artifacts.forward_masks import ForwardMask, write_forward_mask
from fnsft.artifacts.prompt_formats import PromptFormat, write_prompt_format
from fnsft.artifacts.storage import write_jsonl
from fnsft.cli.main import main
from fnsft.data.samples import Sample
from fnsft.data.templates import choose_format, render
from fnsft.data.tokens import load_tokenizer
from fnsft.evaluation.generation import Sampling, _Draw, generate
from fnsft.evaluation.loading import load_model

CHAT = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
PROMPTS = ["Ada has 3 apples", "Write a function", "How many?", "return"]


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def answers(model: Path, *words: str) -> list[str]:
    output = model.parent / "answers.jsonl"
    most = () if "--max-new-tokens" in words else ("--max-new-tokens", "8")
    assert main(["generate", str(model), *words, *most, "--output", str(output)]) == 0
    return [json.loads(line)["text"] for line in output.read_text().splitlines()]


def test_answers_are_the_same_wherever_prompts_come_from(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = answers(folder, "--prompt", *PROMPTS)
    assert len(set(given)) > 1
    (tmp_path / "p.txt").write_text("\n\n".join(PROMPTS) + "\n")
    rows = [{"prompt": p, "completion": "x", "special_tokens": True} for p in PROMPTS]
    write_jsonl(tmp_path / "p.jsonl", rows)
    assert answers(folder, "--file", str(tmp_path / "p.txt")) == given
    assert answers(folder, "--file", str(tmp_path / "p.jsonl")) == given
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPTS[0] + "\n"))
    assert answers(folder) == given[:1]
    capsys.readouterr()
    assert main(["generate", str(folder), "--prompt", *PROMPTS[:2], "--max-new-tokens", "8"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{given[0]}\n\n{given[1]}\n"
    assert shown.err.splitlines()[-1].startswith(f"{folder}: 2 answers to 2 prompts")


def test_rows_name_the_prompt_and_whether_the_answer_ended(folder: Path, tmp_path: Path) -> None:
    answers(folder, "--prompt", "Ada has", "--max-new-tokens", "2")
    (row,) = [json.loads(x) for x in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert set(row) == {"prompt", "text", "finished"}
    assert (row["prompt"], row["finished"]) == ("Ada has", False)
    manifest = json.loads((tmp_path / "answers.jsonl.manifest.json").read_text())
    assert manifest["stage"] == "generate"
    assert manifest["notes"] == {"prompts": 1, "answers_cut_by_max_new_tokens": 1}


@pytest.mark.parametrize("template", ["alpaca", "chatml", "basic"])
def test_a_bare_prompt_is_written_as_training_recorded_it(folder: Path, template: str) -> None:
    tokenizer = load_tokenizer(folder)
    recorded = choose_format(template, "instruction", "", tokenizer)  # type: ignore[arg-type]
    in_training = render(recorded, tokenizer, Sample("instruction", "y", "Add two numbers")).prompt
    as_it_stands = answers(folder, "--prompt", in_training, "--template", "none")
    raw = answers(folder, "--prompt", "Add two numbers")
    write_prompt_format(folder, recorded)
    assert answers(folder, "--prompt", "Add two numbers") == as_it_stands != raw


def test_without_a_record_the_tokenizers_chat_template_is_taken(folder: Path) -> None:
    by_hand = "[system] Be brief</s>\n[user] Hi</s>\n[assistant] "
    expected = answers(folder, "--prompt", by_hand, "--template", "none")
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    assert answers(folder, "--prompt", "Hi", "--system", "Be brief") == expected
    assert answers(folder, "--prompt", "Hi") != expected
    assert answers(folder, "--prompt", by_hand, "--template", "none") == expected


def test_a_context_stands_with_the_prompt(folder: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": "How many?", "context": "3 apples"}])
    expected = answers(folder, "--prompt", "3 apples\n\nHow many?")
    assert answers(folder, "--file", str(tmp_path / "p.jsonl")) == expected
    write_prompt_format(folder, PromptFormat("basic", "question"))
    by_hand = "Context: 3 apples\nQuestion: How many?\nAnswer:"
    expected = answers(folder, "--prompt", by_hand, "--template", "none")
    assert answers(folder, "--file", str(tmp_path / "p.jsonl")) == expected


def test_draws_depend_on_seed_and_prompt_and_on_no_batch(folder: Path) -> None:
    def drawn(*prompts: str, more: tuple[str, ...] = ()) -> list[str]:
        return answers(folder, "--prompt", *prompts, "--temperature", "1", *more)

    together = drawn(*PROMPTS)
    assert together == drawn(*PROMPTS, more=("--batch-size", "1"))
    assert together[::-1] == drawn(*PROMPTS[::-1], more=("--batch-size", "3"))
    assert [drawn(prompt)[0] for prompt in PROMPTS] == together
    assert drawn(*PROMPTS, more=("--seed", "1")) != together
    assert answers(folder, "--prompt", *PROMPTS) != together, "which is greedy"


def test_samples_of_one_prompt_differ(folder: Path) -> None:
    words = ["--prompt", *PROMPTS[:2], "--temperature", "1", "--samples", "3"]
    found = answers(folder, *words)
    assert len(found) == len(set(found)) == 6
    assert [found[0], found[3]] == answers(folder, *words[:-2])


def test_a_draw_has_the_probabilities_of_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0])
    n = 20_000
    draw = _Draw(Sampling(temperature=0.7), range(n))
    found = draw(torch.zeros(n, 1), logits.repeat(n, 1)).argmax(-1)
    shares = np.bincount(found, minlength=5) / n
    expected = (logits.double() / 0.7).softmax(-1).numpy()
    assert np.abs(shares - expected).max() < 4 * np.sqrt(0.25 / n)


def test_what_lies_outside_of_top_p_is_never_drawn() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    n = 2_000
    draw = _Draw(Sampling(temperature=1.0, top_p=0.7), range(n))
    found = draw(torch.zeros(n, 1), logits.repeat(n, 1)).argmax(-1)
    shares = np.bincount(found, minlength=4) / n
    assert shares[2:].sum() == 0
    assert shares[0] == pytest.approx(0.5 / 0.8, abs=0.05)


def test_a_temperature_near_zero_is_greedy(folder: Path) -> None:
    greedy = answers(folder, "--prompt", *PROMPTS)
    assert answers(folder, "--prompt", *PROMPTS, "--temperature", "1e-39") == greedy


def test_an_answer_ends_at_a_further_stop_of_the_model(folder: Path) -> None:
    model, tokenizer = load_model(folder, "float32").cpu(), load_tokenizer(folder)
    prompt = tokenizer(PROMPTS[0])["input_ids"]
    (whole,) = generate(model, tokenizer, [prompt], batch_size=1, max_new_tokens=8)
    letter = next(c for c in whole.text if c.isascii() and c.isalpha())
    config = json.loads((folder / "generation_config.json").read_text())
    config["eos_token_id"] = [tokenizer.eos_token_id, *tokenizer(letter)["input_ids"]]
    (folder / "generation_config.json").write_text(json.dumps(config))
    assert answers(folder, "--prompt", PROMPTS[0]) == [whole.text.partition(letter)[0]]


def test_a_mask_on_the_forward_pass_is_on_unless_it_is_switched_off(folder: Path) -> None:
    untouched = answers(folder, "--prompt", *PROMPTS)
    silent = tuple(np.zeros(64, dtype=np.float32) for _ in range(2))
    write_forward_mask(folder, ForwardMask("intermediate", silent, "lesion", False))
    assert answers(folder, "--prompt", *PROMPTS) != untouched
    assert answers(folder, "--prompt", *PROMPTS, "--forward-mask", "off") == untouched


class Terminal(io.StringIO):
    """What is written, piece by piece, to what says that it is a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


def test_one_answer_on_a_terminal_comes_token_by_token(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "Ada has 3 apples"
    (expected,) = answers(folder, "--prompt", prompt, "--max-new-tokens", "40")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["generate", str(folder), "--prompt", prompt, "--max-new-tokens", "40"]) == 0
    assert terminal.getvalue() == expected + "\n"
    assert len([piece for piece in terminal.pieces if piece.strip()]) > 1


def test_bad_input_is_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blank.txt").write_text("\n\n")
    write_jsonl(tmp_path / "bad.jsonl", [{"question": "q"}])
    without_end = shutil.copytree(folder, tmp_path / "without-end")
    config = json.loads((without_end / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (without_end / "tokenizer_config.json").write_text(json.dumps(config))
    cases: list[tuple[Path, list[str], str]] = [
        (folder, ["--prompt", " "], "prompt 1: expected some text, found none"),
        (folder, ["--prompt", "a", "apples " * 600], "prompt 2: expected at most 256 tokens"),
        (folder, ["--prompt", "a", "--max-new-tokens", "600"], "prompt 1: expected at most 0 tok"),
        (folder, ["--prompt", "a", "--samples", "2"], "give --temperature"),
        (folder, ["--prompt", "a", "--top-p", ".5"], "give --temperature"),
        (folder, ["--prompt", "a", "--system", "s"], "system: a prompt as it stands has no"),
        (folder, ["--prompt", "a", "--template", "chat"], "expected a tokenizer with a chat temp"),
        (folder, ["--file", str(tmp_path / "blank.txt")], "blank.txt: expected at least one"),
        (folder, ["--file", str(tmp_path / "bad.jsonl")], "line 1: the field 'prompt' is missing"),
        (folder, ["--file", str(tmp_path / "p.csv")], "expected rows in .jsonl or lines in .txt"),
        (tmp_path / "none", ["--prompt", "a"], "no such file or folder"),
        (tmp_path, ["--prompt", "a"], "expected a tokenizer, found none"),
        (without_end, ["--prompt", "a"], "expected a tokenizer with an end of sequence"),
    ]
    output = tmp_path / "out" / "answers.jsonl"
    for model, words, message in cases:
        assert main(["generate", str(model), *words, "--output", str(output)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not output.parent.exists()
