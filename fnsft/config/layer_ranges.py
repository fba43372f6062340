"""Layers as people name them: ``0:4,7`` is 0, 1, 2, 3 and 7, as Python slices are."""

from fnsft.errors import InputError


def parse_layers(text: str, n_layers: int, where: str = "layers") -> tuple[int, ...]:
    """Return the named layers in ascending order, each once; all of them for an empty text.

    Raises
    ------
    InputError
        For anything that is no layer or range of them, for a layer that the model does not
        have, and for a range without a layer.
    """
    found: set[int] = set()
    for part in text.replace(" ", "").split(",") if text.strip() else ():
        ends = part.split(":")
        try:
            first = int(ends[0] or 0)
            end = first + 1 if len(ends) == 1 else int(ends[-1] or n_layers)
        except ValueError:
            first, end = 0, -1
        if not part or len(ends) > 2 or not 0 <= first < end:
            raise InputError(f"{where}: expected layers such as 0:4,7, found {part!r} in {text!r}")
        if end > n_layers:
            raise InputError(
                f"{where}: expected layers 0 to {n_layers - 1}, found {end - 1} in {text!r}; "
                "0:4 is 0 to 3"
            )
        found.update(range(first, end))
    return tuple(sorted(found)) or tuple(range(n_layers))
