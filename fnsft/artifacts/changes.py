"""The changed entries of one tensor as bits: where they are, and what they are XORed with.

n are a tensor's entries, held as unsigned integers of their width; c of them changed.
"""

from typing import Literal

import numpy as np

from fnsft.artifacts.weights import Form

# Pairs of types whose first widens exactly to the second.
WIDENED = {("BF16", "F32"), ("F16", "F32")}


def change_forms(name: str, form: Form, count: int) -> dict[str, Form]:
    """Return the types and shapes of what :func:`changes_of` returns for ``count`` changes."""
    kind, dtype = _places(form.n, count)
    n_places = count if kind == "positions" else -(-form.n // 8)
    values = Form(f"U{8 * form.unsigned.itemsize}", (count,))
    return {f"{name}:values": values, f"{name}:{kind}": Form(dtype, (n_places,))}


def changes_of(name: str, difference: np.ndarray) -> dict[str, np.ndarray]:
    """Return the tensors that hold what is not zero in ``difference``, unsigned [n]."""
    changed = difference != 0  # [n]
    count = int(np.count_nonzero(changed))
    kind, dtype = _places(difference.size, count)
    if kind == "bitmap":
        where = np.packbits(changed)
    else:
        where = np.flatnonzero(changed).astype(f"<i{4 if dtype == 'I32' else 8}")
    return {f"{name}:values": difference[changed], f"{name}:{kind}": where}


def apply_changes(bits: np.ndarray, parts: dict[str, np.ndarray]) -> int:
    """XOR the changed entries of ``bits``, unsigned [n], in place; return how many there are.

    ``parts`` are a tensor's values and its positions or bitmap; none changes nothing.

    Raises
    ------
    ValueError
        For parts that do not fit each other or the tensor.
    """
    if not parts:
        return 0
    values, n = parts.get("values"), bits.size
    if values is None or len(parts) != 2 or values.dtype != bits.dtype or values.ndim != 1:
        raise ValueError("damaged: expected values of the tensor's width, and their places")
    if "bitmap" in parts:
        bitmap = parts["bitmap"]
        if bitmap.dtype != np.uint8 or bitmap.shape != (-(-n // 8),):
            raise ValueError(f"damaged: expected a bitmap of {n} bits, found {bitmap.size} bytes")
        places = np.unpackbits(bitmap, count=n).view(bool)
        count = int(np.count_nonzero(places))
    else:
        places = parts.get("positions", values)
        count = places.size
        whole = places.ndim == 1 and places.dtype.kind == "i" and count > 0
        if not whole or places.min() < 0 or places.max() >= n:
            raise ValueError(f"damaged: expected positions from 0 to {n - 1}")
    if count != len(values):
        raise ValueError(f"damaged: {len(values)} values for {count} places")
    bits[places] ^= values
    return count


def widened(bits: np.ndarray, dtype: str, wide: str) -> np.ndarray:
    """Return the bits of the same numbers in the type ``wide``: itself, or float32.

    Exact, and no two patterns become one: zeros keep their sign and NaNs their payload.
    """
    if dtype == wide:
        return bits
    assert (dtype, wide) in WIDENED
    if dtype == "BF16":
        return bits.astype(np.uint32) << 16
    found = bits.view(np.float16).astype(np.float32).view(np.uint32)
    # Some processors make a signalling NaN a quiet one.
    nan = (bits & 0x7FFF) > 0x7C00
    sign, payload = bits[nan].astype(np.uint32) & 0x8000, bits[nan].astype(np.uint32) & 0x3FF
    found[nan] = sign << 16 | 0x7F800000 | payload << 13
    return found


def narrowed(bits: np.ndarray, dtype: str, narrow: str) -> np.ndarray:
    """Undo :func:`widened`; what it does not give becomes another number."""
    if dtype == narrow:
        return bits
    assert (narrow, dtype) in WIDENED
    if narrow == "BF16":
        return (bits >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        found = bits.view(np.float32).astype(np.float16).view(np.uint16)
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    found[nan] = (bits[nan] >> 16 & 0x8000 | 0x7C00 | bits[nan] >> 13 & 0x3FF).astype(np.uint16)
    return found


def _places(n: int, count: int) -> tuple[Literal["positions", "bitmap"], str]:
    """Return how the places of ``count`` of n entries are stored, and the type of that."""
    dtype, width = ("I32", 4) if n <= 1 << 31 else ("I64", 8)
    return ("positions", dtype) if count * width < -(-n // 8) else ("bitmap", "U8")
