"""What fine-tuning changed: the entries of a model that differ from its base.

A delta is a folder: ``delta.safetensors`` and of the tuned model's other files those that may be
passed on (:data:`.BESIDE`). For every changed tensor the file holds ``<name>:values``, the changed
entries' bits in the tuned model XOR those in its base as unsigned integers, and where they are:
``<name>:positions``, flat indices int32 (int64 beyond 2^31 entries) in increasing order, or
``<name>:bitmap``, one bit for each of the n entries, uint8 [ceil(n / 8)], the first bit the
highest; whichever is smaller. Its metadata ``delta`` is JSON: of both models the SHA-256 of all
tensors (:class:`.WeightsDigest`) and their types, and the base's ``config.json``.

The same file leads both ways, base ^ x = tuned and tuned ^ x = base, and the result's hash is
compared before anything appears. Where the base is stored narrower (bfloat16 or float16, tuned
in float32) its bits are widened first, which is exact, and narrowed again on the way back.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fnsft.artifacts.changes import (
    WIDENED,
    apply_changes,
    change_forms,
    changes_of,
    narrowed,
    widened,
)
from fnsft.artifacts.model_files import beside_weights, copy_tokenizer
from fnsft.artifacts.storage import MIB, require_space, size_of, written_whole
from fnsft.artifacts.tensors import Header, open_tensors
from fnsft.artifacts.weights import (
    WIDTHS,
    Form,
    ModelWeights,
    WeightsDigest,
    written_tensors,
    written_weights,
)
from fnsft.errors import InputError

KIND, SCHEMA = "weights-delta", 1
FILE = "delta.safetensors"
METADATA_KEY = "delta"
SHOWN = 12  # hex digits of a hash that stand in a message


@dataclass(frozen=True)
class Side:
    """One of the two models: the hash of all tensors, and the type of each."""

    sha256: str
    dtypes: dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """Both models, and how many entries of each tensor differ."""

    base: Side
    tuned: Side
    changed: dict[str, int]


@dataclass(frozen=True)
class DeltaSummary:
    """What a delta holds: changed entries of all, and bytes beside the tuned model's."""

    n_changed: int
    n: int
    delta_bytes: int
    tuned_bytes: int


def write_delta(output: Path, base: ModelWeights, tuned: ModelWeights) -> DeltaSummary:
    """Write the folder of what ``tuned`` changed; both models are read twice, tensor by tensor.

    Raises
    ------
    InputError
        For models with other tensors or shapes, and for a tuned model that is stored in a
        narrower type than its base.
    """
    require_comparable(base, tuned)
    found = compare(base, tuned)
    forms: dict[str, Form] = {}
    for name, count in found.changed.items():
        forms |= change_forms(name, tuned.forms[name], count)
    metadata = Header(KIND, SCHEMA, found.base.sha256[:16]).as_metadata()
    metadata[METADATA_KEY] = json.dumps(
        {
            "base": dataclasses.asdict(found.base),
            "tuned": dataclasses.asdict(found.tuned),
            "base_config": (base.folder / "config.json").read_text(),
        }
    )
    with written_whole(output) as folder:
        require_space(output, sum(form.n_bytes for form in forms.values()))
        folder.mkdir()
        for path in beside_weights(tuned.folder):
            shutil.copyfile(path, folder / path.name)
        with written_tensors(folder / FILE, forms, metadata) as put:
            for name, before, after in _pairs(base, tuned, "write", found.changed):
                for key, array in changes_of(name, before ^ after).items():
                    put(key, array)
    return DeltaSummary(
        n_changed=sum(found.changed.values()),
        n=sum(form.n for form in tuned.forms.values()),
        delta_bytes=size_of(output / FILE),
        tuned_bytes=tuned.n_bytes,
    )


def apply_delta(delta: Path, source: ModelWeights, output: Path, *, revert: bool) -> int:
    """Write the tuned model's folder from its base, or with ``revert`` the base's weights from it.

    The tensors are those of the original, bit for bit; how they lie in files may differ. Beside
    those of a base lie its own ``config.json`` and the tuned model's tokenizer. Returns how many
    entries changed.

    Raises
    ------
    InputError
        Before anything is written: for a file that is no delta or is truncated, and for a
        ``source`` that is not the model that the delta was made from. After all is written, and
        removed again: for a damaged delta.
    """
    path = delta / FILE
    with open_tensors(path, KIND, SCHEMA) as (_, file):
        base, tuned, base_config = _sides(file, path)
        start, end = (tuned, base) if revert else (base, tuned)
        _require_same(source, start.sha256, "tuned model" if revert else "base")
        forms = {name: Form(end.dtypes[name], form.shape) for name, form in source.forms.items()}
        keys, digest, n_changed = set(file.keys()), WeightsDigest(), 0
        with written_whole(output) as folder:
            require_space(output, sum(form.n_bytes for form in forms.values()))
            folder.mkdir()
            _copy_beside(delta, source.folder, folder, base_config if revert else None)
            with written_weights(folder, forms) as put:
                for name, stored in _bar(source, "revert" if revert else "apply"):
                    bits = widened(stored.bits(), stored.form.dtype, tuned.dtypes[name])
                    try:
                        n_changed += apply_changes(bits, _parts(file, keys, name))
                    except ValueError as error:
                        raise InputError(f"{path}: {name}: {error}; get it anew") from None
                    bits = narrowed(bits, tuned.dtypes[name], forms[name].dtype)
                    digest.update(name, forms[name], bits)
                    put(name, bits)
            if digest.hexdigest() != end.sha256:
                raise InputError(
                    f"{path}: expected a result with sha256 {end.sha256[:SHOWN]}, found "
                    f"{digest.hexdigest()[:SHOWN]}: the delta is damaged; get it anew"
                )
    return n_changed


def require_comparable(base: ModelWeights, tuned: ModelWeights) -> None:
    """Refuse two models of which one has other tensors, shapes or types than the other's.

    Types may differ where the base's widens exactly to the tuned model's.
    """
    for here, there in ((base, tuned), (tuned, base)):
        if alone := [name for name in here.forms if name not in there.forms]:
            raise InputError(
                f"{here.folder}: expected the tensors of {there.folder}, found {len(alone)} that "
                f"it has not, the first {alone[0]}; name the base that was tuned; if it is, save "
                "it anew with fnsft export, under today's names, and compare with that"
            )
    for name, form in tuned.forms.items():
        before = base.forms[name]
        if form.shape != before.shape:
            raise InputError(
                f"{tuned.folder}: {name}: expected the base's shape {list(before.shape)}, found "
                f"{list(form.shape)}; a resized model has no delta: export all weights"
            )
        if form.dtype != before.dtype and (before.dtype, form.dtype) not in WIDENED:
            raise InputError(
                f"{tuned.folder}: {name}: expected the base's {before.dtype}, or float32, found "
                f"{form.dtype}; export the base in the tuned model's type and compare with that, "
                "or export all weights"
            )


def compare(base: ModelWeights, tuned: ModelWeights) -> Comparison:
    """Hash both models and count the entries of every tensor that differ."""
    digests = {"base": WeightsDigest(), "tuned": WeightsDigest()}
    changed = {}
    for name, stored in _bar(tuned, "compare"):
        before, after = base.tensors[name].bits(), stored.bits()
        digests["base"].update(name, base.forms[name], before)
        digests["tuned"].update(name, stored.form, after)
        before = widened(before, base.forms[name].dtype, stored.form.dtype)
        if count := int(np.count_nonzero(before != after)):
            changed[name] = count
    sides = {
        key: Side(digests[key].hexdigest(), {name: f.dtype for name, f in model.forms.items()})
        for key, model in (("base", base), ("tuned", tuned))
    }
    return Comparison(changed=changed, **sides)


def _pairs(
    base: ModelWeights, tuned: ModelWeights, what: str, names: dict[str, int]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the bits of both models in the tuned one's types, of the tensors in ``names``."""
    for name, stored in _bar(tuned, what):
        if name in names:
            before = base.tensors[name]
            yield name, widened(before.bits(), before.form.dtype, stored.form.dtype), stored.bits()


def _bar(weights: ModelWeights, what: str) -> Iterator[tuple[str, Any]]:
    """Yield the tensors while a bar counts their bytes."""
    with tqdm(total=weights.n_bytes // MIB, desc=what, unit="MiB", disable=None) as bar:
        done = 0
        for name, stored in weights.tensors.items():
            yield name, stored
            done += stored.form.n_bytes
            bar.update(done // MIB - bar.n)


def _require_same(source: ModelWeights, expected: str, what: str) -> None:
    digest = WeightsDigest()
    for name, stored in _bar(source, "check"):
        digest.update(name, stored.form, stored.bits())
    if digest.hexdigest() != expected:
        raise InputError(
            f"{source.folder}: expected the {what} of this delta, sha256 {expected[:SHOWN]}, found "
            f"another model, {digest.hexdigest()[:SHOWN]}; name the one that it was made from"
        )


def _sides(file: Any, path: Path) -> tuple[Side, Side, str]:
    """Read what a delta says of its base and tuned model, and the base's configuration."""
    try:
        about = json.loads(file.metadata()[METADATA_KEY])
        base, tuned = Side(**about["base"]), Side(**about["tuned"])
        pairs = [(base.dtypes[name], dtype) for name, dtype in tuned.dtypes.items()]
        if all(b in WIDTHS and (b == t or (b, t) in WIDENED) for b, t in pairs):
            return base, tuned, str(about["base_config"])
        raise ValueError("types")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged metadata ({error}); get it anew") from None


def _parts(file: Any, keys: set[str], name: str) -> dict[str, np.ndarray]:
    """Read what the delta holds of one tensor."""
    parts = ("values", "positions", "bitmap")
    return {part: file.get_tensor(key) for part in parts if (key := f"{name}:{part}") in keys}


def _copy_beside(delta: Path, source: Path, target: Path, base_config: str | None) -> None:
    """Copy what is no weights: all of the delta's, or for the base its own configuration."""
    if base_config is None:
        for path in beside_weights(delta):
            shutil.copyfile(path, target / path.name)
        return
    (target / "config.json").write_text(base_config)
    copy_tokenizer(source, target)
