"""One fine-tuning run, from a model folder and its splits to a model folder and its record."""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from fnsft.architectures import MLPMatrix
from fnsft.artifacts.clusters import Clusters
from fnsft.artifacts.forward_masks import ForwardMask
from fnsft.artifacts.manifest import StageRun
from fnsft.artifacts.prompt_formats import read_prompt_format
from fnsft.artifacts.training import Run, TrainingRecord
from fnsft.config.stages import NEURON_METHODS, RANKED_METHODS, ForwardMode, TrainSettings
from fnsft.data.audit import audit
from fnsft.data.tokens import Encoded, load_split, load_tokenizer, positions_of, stop_ids_of
from fnsft.errors import InputError
from fnsft.masks.adapters import zero_outside
from fnsft.masks.forward import attach, forward_mask
from fnsft.masks.masker import GradientMasker
from fnsft.masks.policies import Collab, PackedMask
from fnsft.training import drawn_masks, drawn_sets, networks, quantisation
from fnsft.training.allocator import give_back_large_blocks
from fnsft.training.arguments import (
    accumulation,
    epoch_steps,
    lora_config,
    samples_a_step,
    trainer_arguments,
)
from fnsft.training.compact import CompactDPOTrainer, CompactTrainer
from fnsft.training.completion_loss import completion_loss
from fnsft.training.curve import ValidationCurve
from fnsft.training.files import RunFiles
from fnsft.training.interruption import train_until_told
from fnsft.training.loading import load_base
from fnsft.training.masking import (
    Graph,
    Structure,
    build_masker,
    choose_trainable,
    masked_matrices,
    require_shape,
    trained_of,
)
from fnsft.training.networks import ColumnChoice, NeuronChoice
from fnsft.training.preferences import (
    as_pairs,
    pair_losses,
    preference_point,
    reference_losses,
)
from fnsft.training.processes import Processes
from fnsft.training.replay import with_replay
from fnsft.training.run_table import run_lines, stage_in_words
from fnsft.training.saving import average_best, record_of, require_room, save_best, write_run
from fnsft.training.stages import Lineage, drawing_settings, stage_seed, structure_identity
from fnsft.training.trainer import (
    MaskedDPOTrainer,
    MaskedSteps,
    MaskedTrainer,
    WhenPrepared,
    only_a_bar,
)


def fine_tune(
    files: RunFiles,
    settings: TrainSettings,
    graph: Graph | None,
    run: Run,
    lineage: Lineage,
    stage: StageRun,
    processes: Processes,
) -> TrainingRecord:
    """Train, keep the best epoch, and write the model folder with its records.

    All ``processes`` call it; the main one writes. ``stage`` is noted the samples that were
    left out because of their length and those replayed, of every layer the neurons without a
    neighbour, and how many neurons the run's networks have. What is drawn of the data, networks
    and Fisher information, is drawn of the stage's own samples.

    Raises
    ------
    Interrupted
        When a signal ends it; a checkpoint of the last step is there then, and no model folder.
    """
    clock = time.perf_counter()
    replay_seed = stage_seed(settings.seed, lineage.stage)
    settings = drawing_settings(settings, lineage)
    tokenizer = load_tokenizer(files.model)
    limits = (settings.max_tokens, stop_ids_of(files.model), positions_of(files.model))
    train = load_split(files.train, tokenizer, *limits)
    validation = load_split(files.validation, tokenizer, *limits)
    pools = [load_split(folder / "train.jsonl", tokenizer, *limits) for folder in files.replay]
    fraction = settings.replay_fraction
    mixed = with_replay(train.samples, [p.samples for p in pools], fraction, replay_seed)
    n_samples = len(mixed.samples)
    arguments = trainer_arguments(settings, files.checkpoints, processes, n_samples)
    audited = audit(train, tokenizer)
    stage.note(
        processes=processes.n,
        accumulation_steps=accumulation(settings, processes),
        global_batch_size=samples_a_step(settings),
        train_samples_left_out=train.n_left_out,
        validation_samples_left_out=validation.n_left_out,
        replayed_samples=list(mixed.counts),
        replay_samples_left_out=sum(pool.n_left_out for pool in pools),
    )
    if processes.is_main:
        learned = dataclasses.replace(train, samples=mixed.samples)
        of_stage = stage_in_words(run, settings, mixed.n_replayed)
        table = run_lines(
            files, settings, processes, arguments.device, learned, validation, of_stage
        )
        print(*audited.lines(), *table, sep="\n", file=sys.stderr)
    give_back_large_blocks()
    set_seed(settings.seed)
    model = load_base(files, settings, arguments)
    if graph is not None:
        require_shape(graph, model, settings)
    of = structure_identity(settings, lineage)
    choice = chosen_neurons(model, files, train.samples, settings, arguments, of, stage)
    source = files.calibration
    split = load_split(source / "train.jsonl", tokenizer, *limits) if source else train
    if settings.method == "lift":
        drawn_masks.draw_low_rank(model, files.checkpoints, settings, arguments)
    ranked = ranked_sets(model, files, split.samples, settings, arguments, stage, graph)
    reference: dict[str, np.ndarray] = {}
    if settings.objective == "dpo":
        splits = {"train": mixed.samples, "validation": validation.samples}
        reference = reference_losses(model, files.checkpoints, splits, settings, arguments)
    of_pairs = reference.get("train")
    trainer = make_trainer(
        model, tokenizer, mixed.samples, settings, arguments, ranked or choice, of_pairs
    )
    if processes.is_main:
        require_room(files, trainer.model, settings)
    form = read_prompt_format(files.data)
    if form is not None and tokenizer.chat_template is None:
        tokenizer.chat_template = form.chat_template
    mask = apply_networks(trainer, settings, choice)
    structure: Structure | None = ranked or (choice if settings.trains_networks else graph)

    def build(model: torch.nn.Module) -> GradientMasker | None:
        if not settings.masked or settings.compact:
            return None
        draw = functools.partial(drawn, trainer, train.samples, files, processes)
        steps = epoch_steps(settings, processes, n_samples)
        return build_masker(model, settings, structure, steps, draw)

    def measure(model: torch.nn.Module) -> dict[str, float]:
        if reference:
            pairs = pair_losses(model, validation.samples, settings.micro_batch_size)
            return preference_point(pairs, reference["validation"], settings.dpo_beta)
        losses = completion_loss(model, validation.samples, settings.micro_batch_size)
        return {"loss": losses.mean_per_token, "samples": losses.n, "tokens": losses.n_tokens}

    save = functools.partial(save_best, trainer, mask, files, processes)
    trainer.add_callback(WhenPrepared(trainer, build, files.resume_from))
    trainer.add_callback(ValidationCurve(measure, settings.validations, save))
    train_until_told(trainer, processes, files.resume_from)
    record = record_of(trainer, run, lineage, clock)
    if settings.average_with_start and processes.is_main:
        record = average_best(record, files, settings, arguments, mask, measure)
    if trainer.masker and isinstance(trainer.masker.policy, Collab):
        affinities = trainer.masker.policy.affinities
        stage.note(isolated_neurons=[affinity.isolated for affinity in affinities])
    write_run(files, trainer, record, processes)
    return record


def chosen_neurons(
    model: PreTrainedModel,
    files: RunFiles,
    samples: Sequence[Encoded],
    settings: TrainSettings,
    arguments: TrainingArguments,
    identity: str,
    stage: StageRun,
) -> NeuronChoice | None:
    """Return the neurons of the run's networks, if it has any; say and note how many they are.

    Networks that are given are of the model with this ``identity``.
    """
    if settings.mask_mode is None:
        return None
    found = networks.read_or_find(model, files, samples, settings.seed, arguments, identity)
    choice = networks.choose_neurons(found, settings)
    counts = {str(epoch): n for epoch, n in enumerate(choice.counts, start=1)}
    stage.note(mask_site=choice.site, network_neurons_by_epoch=counts)
    if arguments.process_index == 0:
        for epoch, chosen in enumerate(choice.epochs, start=1):
            when = f"from epoch {epoch} on, " if epoch > 1 else ""
            for line in networks.described(chosen):
                print(f"{settings.mask_mode}: {when}{line}", file=sys.stderr)
    return choice


def ranked_sets(
    model: PreTrainedModel,
    files: RunFiles,
    samples: Sequence[Encoded],
    settings: TrainSettings,
    arguments: TrainingArguments,
    stage: StageRun,
    graph: Graph | None,
) -> NeuronChoice | ColumnChoice | None:
    """Return the neurons or columns that the method ranks highest, if it ranks any.

    How many they are, a layer or a matrix, is noted.

    Raises
    ------
    InputError
        When none would train.
    """
    if settings.method not in RANKED_METHODS:
        return None
    clusters = graph if isinstance(graph, Clusters) else None
    sets = drawn_sets.read_or_draw(model, files.checkpoints, samples, settings, arguments, clusters)
    stage.note(ranked_highest=[int(chosen.sum()) for chosen in sets])
    if not any(part.any() for part in trained_of(settings, sets)):
        what = "neurons of a layer" if settings.method in NEURON_METHODS else "columns of a matrix"
        raise InputError(
            f"fraction: expected a share that some {what} are, found p={settings.fraction:g} of "
            f"{sets[0].size}, of which none would train; raise --fraction"
        )
    if settings.method in NEURON_METHODS:
        return NeuronChoice("intermediate", [sets])
    return ColumnChoice(sets)


def make_trainer(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[Encoded],
    settings: TrainSettings,
    arguments: TrainingArguments,
    choice: NeuronChoice | ColumnChoice | None = None,
    reference: np.ndarray | None = None,
) -> MaskedSteps:
    """Freeze what the method does not train, add its adapters or slices, and return the trainer.

    ``choice`` are the neurons of the run's networks, or the neurons or columns that it ranks
    highest, of which slices are made; ``reference`` the start's losses of pairs
    (:func:`~fnsft.training.preferences.reference_losses`).
    """
    choose_trainable(model, settings)
    pairs = reference is not None
    make: Callable[..., MaskedSteps] = MaskedDPOTrainer if pairs else MaskedTrainer
    if settings.compact:
        assert choice is not None
        of_columns = isinstance(choice, ColumnChoice)
        chosen = choice.columns if isinstance(choice, ColumnChoice) else choice.epochs[0]
        of_slices = CompactDPOTrainer if pairs else CompactTrainer
        trained = trained_of(settings, chosen)
        make = functools.partial(of_slices, trained=trained, of_columns=of_columns)
    trainer = make(
        settings=settings,
        model=model,
        args=arguments,
        train_dataset=as_dataset(samples) if reference is None else as_pairs(samples, reference),
        processing_class=tokenizer,
        peft_config=lora_config(settings, model) if settings.method == "lora" else None,
    )
    if settings.method == "lora":
        quantisation.adapters_in_float32(trainer.model)
    only_a_bar(trainer)
    return trainer


def apply_networks(
    trainer: MaskedSteps, settings: TrainSettings, choice: NeuronChoice | None
) -> ForwardMask | None:
    """Mask the forward pass of a model that has its adapters, and return the mask; or ready them.

    Adapters that a mask on the update is to hold back lose the neurons that do not train.
    """
    if choice is None:
        return None
    chosen = choice.epochs[0]
    if settings.forward_mode is None:
        if settings.method == "lora":
            matrices = masked_matrices(trainer.model, settings)
            zero_outside(matrices, trained_of(settings, chosen))
        return None
    mode = cast(ForwardMode, settings.forward_mode)
    mask = forward_mask(choice.site, chosen, mode, straight_through=settings.straight_through)
    attach(trainer.model, mask)
    return mask


def drawn(
    trainer: MaskedSteps,
    samples: Sequence[Encoded],
    files: RunFiles,
    processes: Processes,
    matrices: Sequence[MLPMatrix],
) -> list[PackedMask]:
    """Return the masks that were drawn before, or draw Child-Tuning-D's of the untouched model."""
    if files.resume_from is not None or trainer.settings.method == "lift":
        return drawn_masks.read_masks(files.checkpoints, matrices)
    settings = trainer.settings
    assert settings.fraction is not None and trainer.model is not None
    chosen = samples[: settings.fisher_samples]
    masks = drawn_masks.draw_masks(
        trainer.model, matrices, chosen, settings.fraction, settings.seed
    )
    drawn_masks.write_masks(files.checkpoints, matrices, masks, processes.is_main)
    return masks


def as_dataset(samples: Sequence[Encoded]) -> Dataset:
    """Turn encoded samples into TRL's columns; labels leave the prompt out of the loss."""
    return Dataset.from_list(
        [
            {
                "input_ids": sample.ids,
                "labels": sample.labels,
            }
            for sample in samples
        ]
    )
