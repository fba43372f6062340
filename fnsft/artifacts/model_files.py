"""What lies beside the weights in a model folder, copied as it is."""

import shutil
from pathlib import Path

from fnsft.errors import InputError

NOT_BESIDE = (".*", "*model*.safetensors", "*.index.json", "*.bin", "*.pt", "*.gguf", "*.onnx")
TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.model",
    "*.tiktoken",
)


def beside_weights(folder: Path) -> list[Path]:
    """Return the files of a model folder that hold no weights: settings, tokenizer, records."""
    files = (path for path in folder.iterdir() if path.is_file())
    return sorted(p for p in files if not any(p.match(pattern) for pattern in NOT_BESIDE))


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files as they are, with the chat template."""
    for path in beside_weights(source):
        if any(path.match(pattern) for pattern in TOKENIZER):
            shutil.copyfile(path, target / path.name)


def require_elsewhere(output: Path, *inputs: Path) -> None:
    """Refuse an output that would take the place of what it is made from."""
    for path in inputs:
        if path.resolve().is_relative_to(output.resolve()):
            raise InputError(f"{output}: expected another folder than {path}; name another output")
