"""The flags of ``fnsft train`` beside its settings."""

import argparse
from pathlib import Path

from fnsft.cli.flags import add_settings
from fnsft.config.stages import DataSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes, and the run's names in tables."""
    parser.add_argument(
        "--model", required=True, help="Hugging Face model folder, or a model of the hub, org/name"
    )
    parser.add_argument("--model-revision", default="main", help="its revision (default main)")
    parser.add_argument(
        "--data",
        help="rows in a file or a folder (.json, .jsonl, .csv, .parquet, …), a name in the "
        "registry or on the hub, or a folder of fnsft prepare; a preset may name it",
    )
    parser.add_argument("--preset", metavar="NAME|FILE", help="how the rows of a task are read")
    parser.add_argument("--validation", type=Path, help="rows that validate (default: a split)")
    parser.add_argument(
        "--registry", type=Path, help="names of local data (default: data/registry.yaml, if there)"
    )
    parser.add_argument(
        "--graph",
        type=Path,
        help="collaboration graph (collab; a dense one for affinity dense); absent: made of the "
        "training samples first",
    )
    parser.add_argument(
        "--clusters",
        type=Path,
        help="clusters (collab-static; collab with affinity cluster, cluster-shuffled); absent: "
        "made first too",
    )
    parser.add_argument(
        "--networks",
        type=Path,
        help="networks that mask_mode is about: networks.safetensors, or JSON such as "
        '{"0": [10, 50]}; absent: found in the training split first',
    )
    parser.add_argument(
        "--replay",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="prepared folders of earlier stages, of which replay_fraction is mixed in",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FOLDER",
        help="prepared folder of what is to be kept, whose training split ssu looks at (default: "
        "the run's own)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the tuned model")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        help="folder that an interrupted run resumes from; removed at success "
        "(default: beside the output)",
    )
    parser.add_argument(
        "--resume",
        choices=("auto", "never", "require"),
        default="auto",
        help="go on from a checkpoint if there is one (auto, the default), remove what is there "
        "and start anew (never), or refuse to start anew (require)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="processes, one a GPU, that share the run (default 1)",
    )
    parser.add_argument("--model-name", help="the model's name in tables (default: its folder's)")
    parser.add_argument("--task", help="the task's name in tables (default: the data's)")
    parser.add_argument("--method-name", help="the method's name in tables (default: the method)")
    add_settings(parser, DataSettings, "data that is not prepared")
