"""``fnsft pretrain``: a corpus becomes a tiny base model and its tokenizer."""

import argparse
import dataclasses
import sys
from pathlib import Path

from fnsft.artifacts.manifest import recorded_stage
from fnsft.config.stages import PretrainSettings
from fnsft.errors import InputError

SETTINGS = PretrainSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the corpus and the folder that the stage writes."""
    parser.add_argument(
        "--corpus", type=Path, required=True, help='.jsonl file of rows with a field "text"'
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the model")


def run(arguments: argparse.Namespace, settings: PretrainSettings) -> None:
    """Train the tokenizer and the model and save them in one Hugging Face folder."""
    texts = read_texts(arguments.corpus)

    from fnsft.artifacts.storage import written_whole
    from fnsft.training.pretraining import new_model, packed_sequences, pretrain, train_tokenizer

    inputs = {"corpus": arguments.corpus}
    with recorded_stage(settings, inputs, arguments.output) as stage:
        tokenizer = train_tokenizer(texts, settings.vocab_size)
        sequences = packed_sequences(tokenizer, texts, settings.sequence_tokens)
        model = new_model(settings, tokenizer)
        curve = pretrain(model, sequences, settings)
        stage.note(
            n_parameters=model.num_parameters(),
            corpus_tokens=sequences.numel(),
            training_tokens=settings.steps * settings.batch_size * settings.sequence_tokens,
            loss=[dataclasses.asdict(point) for point in curve],
        )
        with written_whole(arguments.output) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    trained = f"loss {curve[-1].loss:.3f} after {curve[-1].step:,} steps" if curve else "untrained"
    print(f"{arguments.output}: {model.num_parameters():,} parameters, {trained}", file=sys.stderr)


def read_texts(corpus: Path) -> list[str]:
    """Read the field "text" of every row."""
    from fnsft.data.row_files import read_rows

    texts = []
    for number, row in read_rows(corpus):
        if not isinstance(row.get("text"), str):
            raise InputError(
                f'{corpus} row {number}: expected a field "text", '
                f"found {', '.join(sorted(row)) or 'no field'}"
            )
        texts.append(row["text"])
    return texts
