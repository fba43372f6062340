"""The model card of a tuned folder: what it is, how it came to be, and how to use it.

Everything is read from the files of ``fnsft train``, any of which may be absent, and stands in
the card in the same words each time. No place on the machine is written.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from fnsft.reporting.card_masks import mask_lines
from fnsft.reporting.transfer import DRIFT
from fnsft.reporting.tuned_folder import Tuned, read_tuned

METHODS = {
    "sft": "all weights",
    "lora": "low-rank adapters (LoRA; Hu et al. 2021) in place of the weights",
    "projections-only": "the matrices of the MLPs alone, whole",
    "random": "{share} of the entries of every MLP matrix, drawn anew in each step "
    "(Child-Tuning-F; Xu et al. 2021)",
    "child-tuning-d": "the {share} of the entries of every MLP matrix with the largest Fisher "
    "information of the untouched model (Child-Tuning-D; Xu et al. 2021)",
    "hft": "{share} of the MLP matrices, whole (Half Fine-Tuning; Hui et al. 2024)",
    "highest": "in each step the {share} of the entries of every MLP matrix with the largest "
    "gradient",
    "gmt": "in each step the {share} of the entries of every MLP matrix with the largest mean "
    "gradient over a window of batches (GMT; Li et al. 2025)",
    "mofo": "in each step the {share} of the entries of every MLP matrix with the largest momentum "
    "(MoFO; Chen et al. 2025)",
    "small-weights": "in each step the {share} of the entries of every MLP matrix with the "
    "smallest weight (as NanoAdam; Zhou et al. 2025)",
    "collab-static": "about {share} of the neurons of every layer: the clusters of neurons that "
    "fire together, chosen once by their gradient on the training data",
    "lift": "the {share} of the entries of every MLP matrix that are largest in its low-rank "
    "approximation before training (LIFT; Liu et al. 2025)",
    "ssu": "{share} of the columns of every MLP matrix, chosen once by what they weigh with some "
    "calibration samples (SSU; Yamaguchi et al. 2025)",
    "active-neurons": "{share} of the neurons of every layer: chosen by how active they are on the "
    "training data (after Ji et al. 2026)",
    "collab": "in each step the {share} of the entries of every MLP matrix with the largest "
    "gradient of a neuron and of those that fire together with it (CollabMask, 2026; "
    "affinity {affinity})",
}
MODES = {
    "lesion": "silent in every forward pass, in training and now",
    "preserve": "the only ones that are not silent in the forward pass, in training and now",
    "train-only": "the only ones whose weights trained",
    "freeze": "left as they were, to the bit",
}
HYPERPARAMETERS = (
    "learning_rate",
    "schedule",
    "warmup_share",
    "epochs",
    "max_steps",
    "batch_size",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "max_tokens",
    "dtype",
    "bf16_autocast",
    "seed",
)
OF_LORA = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "quantise")


def model_card(folder: Path, repo: str, base: str | None = None) -> str:
    """Return the README.md of a tuned model or adapter: YAML header and Markdown.

    Parameters
    ----------
    folder
        A folder of ``fnsft train``, or another model folder, of which less is told.
    repo
        Where it will lie on the hub, ``owner/name``.
    base
        The base model's name on the hub; an adapter's own when absent.

    Raises
    ------
    InputError
        For a folder that is not there, and for damaged files.
    """
    tuned = read_tuned(folder, repo, base)
    sections = [
        _introduction(tuned),
        _section("Data", _data(tuned)),
        _section("What could change", mask_lines(folder, tuned.training)),
        _section("Hyperparameters", _hyperparameters(tuned)),
        _section("Results", _results(tuned)),
        _section("Use", _use(tuned)),
        _section("Versions", _versions(tuned)),
        _section("Limits", _limits(tuned)),
    ]
    return f"---\n{_header(tuned)}---\n\n" + "\n\n".join(filter(None, sections)) + "\n"


def _header(tuned: Tuned) -> str:
    fields: dict[str, Any] = {}
    if tuned.base:
        fields["base_model"] = tuned.base
        fields["base_model_relation"] = "adapter" if tuned.is_adapter else "finetune"
    if tuned.data_set:
        fields["datasets"] = [tuned.data_set]
    fields["library_name"] = "peft" if tuned.is_adapter else "transformers"
    fields["pipeline_tag"] = "text-generation"
    tags = ["fnsft"]
    if tuned.training:
        tags += [tuned.settings.get("method", tuned.training.run.method)]
        tags += [tag for tag in (tuned.training.run.mask_mode,) if tag]
    fields["tags"] = list(dict.fromkeys(tags))
    return yaml.safe_dump(fields, sort_keys=False) + "# license: yours to name\n"


def _section(title: str, lines: Iterable[str]) -> str:
    body = "\n".join(lines)
    return f"## {title}\n\n{body}" if body else ""


def _introduction(tuned: Tuned) -> str:
    title = f"# {tuned.repo.split('/')[-1]}"
    if tuned.training is None:
        return f"{title}\n\nA model of `fnsft`; no record of its training lies with it."
    run = tuned.training.run
    base = f"`{tuned.base}`" if tuned.base else f"a local model named `{_name(run.model)}`"
    what = METHODS.get(tuned.settings.get("method", run.method), f"what `{run.method}` lets change")
    if run.fraction is not None:
        what = what.format(share=f"{100 * run.fraction:g}%", affinity=run.affinity)
    lines = [
        f"{title}\n",
        f"{'An adapter for' if tuned.is_adapter else 'A fine-tuned copy of'} {base}, trained on "
        f"`{_name(run.task)}` by `fnsft`, which decides what may change in a model.",
        *_objective(tuned.training.objective),
        f"\nWhat trained: {what}.",
    ]
    if run.applies_to:
        held_back = "whole update" if run.applies_to == "update" else "gradient"
        lines.append(f"\nThe mask holds back the {held_back} of the rest.")
    if run.mask_mode:
        networks = ", ".join(map(str, tuned.settings.get("component_ids", [])))
        what = f"The neurons of functional networks {networks}".rstrip()
        if tuned.settings.get("random_networks"):
            what = f"Random neurons, as many as in functional networks {networks}"
        lines.append(f"\n{what}: {MODES.get(run.mask_mode, run.mask_mode)}.")
    return "\n".join(lines)


def _objective(objective: str) -> Iterable[str]:
    if objective == "dpo":
        yield (
            "\nIt learned from pairs of answers which one is preferred, by direct preference "
            "optimisation (DPO; Rafailov et al. 2023)."
        )


def _name(text: str) -> str:
    """Return a name as it stands, and of a path its last part."""
    is_path = text.startswith(("/", "~", ".")) or "\\" in text
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1] if is_path else text


def _data(tuned: Tuned) -> Iterable[str]:
    if tuned.training:
        yield f"- task: `{_name(tuned.training.run.task)}`"
    if template := tuned.prompt.get("template"):
        yield f"- template: `{template}`" + (
            ", with a system message" * bool(tuned.prompt["system"])
        )
    if tuned.data_set:
        yield f"- data set: `{tuned.data_set}`"
    for name, source in tuned.data.get("inputs", {}).items():
        if digest := source.get("sha256"):
            yield f"- {name}: `{Path(source['path']).name}`, sha256 {digest[:16]}"
    yield from _counts(tuned.data.get("notes", {}))
    notes = tuned.manifest.get("notes", {}).items()
    yield from _counts({name: value for name, value in notes if "samples" in name})


def _counts(notes: dict[str, Any], above: str = "") -> Iterable[str]:
    """Put counts into lines; texts are left out, since they may name places on a machine."""
    for name, value in notes.items():
        words = f"{above}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            yield from _counts(value, "" if name == "splits" else f"{words}, ")
        elif type(value) in (int, float) and name != "first_row":
            yield f"- {words}: {value:,}"


def _hyperparameters(tuned: Tuned) -> Iterable[str]:
    is_lora = tuned.settings.get("method") == "lora"
    rows = {
        name.replace("_", " "): tuned.settings[name]
        for name in (*HYPERPARAMETERS, *(OF_LORA if is_lora else ()))
        if tuned.settings.get(name) is not None
    }
    if tuned.settings.get("objective") == "dpo":
        rows["beta of DPO"] = tuned.settings["dpo_beta"]
    if tuned.training:
        rows |= {"learning rate": tuned.training.run.learning_rate, "seed": tuned.training.run.seed}
        rows["optimizer steps"] = tuned.training.optimizer_steps
        rows["best epoch, which is this one"] = tuned.training.best_epoch
    return table(("setting", "value"), [(name, f"{value}") for name, value in rows.items()])


def _results(tuned: Tuned) -> Iterable[str]:
    if tuned.training is None:
        return
    rows = []
    if (points := tuned.training.validation) and points[0]["step"] == 0:
        rows.append(("validation", "perplexity, before", f"{points[0]['perplexity']:.4g}", ""))
    best = tuned.training.best_validation_perplexity
    rows.append(("validation", "perplexity", f"{best:.4g}", ""))
    if tuned.training.objective == "dpo":
        rows.append(("validation", "DPO's loss", f"{tuned.training.criterion:.4g}", ""))
    for record in tuned.records:
        error = "" if record.stderr is None else f" ± {record.stderr:.2g}"
        mask = f" (mask {record.forward_mask})" if record.forward_mask else ""
        value = f"{record.value:.4g}{error}"
        items = "" if record.benchmark == DRIFT else f"{record.n:,}"
        rows.append((record.benchmark, record.metric + mask, value, items))
    yield from table(("benchmark", "metric", "value", "items"), rows)
    if tuned.records:
        yield "\n± is one standard error over items; shares lie between 0 and 1."


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    """Return the lines of a Markdown table; none without rows."""
    if rows:
        yield from (f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def _use(tuned: Tuned) -> Iterable[str]:
    cls = "AutoPeftModelForCausalLM" if tuned.is_adapter else "AutoModelForCausalLM"
    yield "```python"
    if tuned.is_adapter:
        yield "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n"
    else:
        yield "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
    yield f'tokenizer = AutoTokenizer.from_pretrained("{tuned.repo}")'
    yield f'model = {cls}.from_pretrained("{tuned.repo}")\n```\n'
    yield "With prompts written as in training:\n"
    yield f"```sh\nfnsft generate {tuned.repo} --prompt TEXT\n```"
    if tuned.forward_mask:
        yield (
            "\nThis model was trained with a mask on its forward pass, which transformers and PEFT "
            "do not know: the code above loads another model than the one that was measured. Use "
            "`fnsft generate`, or make the mask a part of the weights first by `fnsft merge`."
        )
    if tuned.packing:
        packing = ", ".join(f"{name}={value}" for name, value in tuned.packing.items())
        yield f"\nThe base was packed in training and measured so: `BitsAndBytesConfig({packing})`."


def _versions(tuned: Tuned) -> Iterable[str]:
    if tuned.manifest:
        versions = {"fnsft": tuned.manifest.get("fnsft"), **tuned.manifest.get("packages", {})}
        yield ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _limits(tuned: Tuned) -> Iterable[str]:
    if not tuned.records:
        yield "- Its answers were not scored; a low perplexity does not make them right."
    if tuned.training:
        yield "- One run of one seed: differences to other runs may be chance."
    yield "- The limits of the base model, and the licences of base and data, hold for it too."
