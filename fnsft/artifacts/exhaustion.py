"""Errors that mean a full disk or too little memory, whichever library raises them.

Safetensors and torch have none of their own for either: what they say tells them from defects.
"""

import errno
import os

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# torch's writer of archives gives no reason; its reader has another name.
_NO_ROOM_SAID = {os.strerror(number): os.strerror(number) for number in _NO_ROOM} | dict.fromkeys(
    ("PytorchStreamWriter failed", "inline_container.cc"), "torch could not write"
)
_NO_MEMORY_SAID = (os.strerror(errno.ENOMEM), "can't allocate memory", "can't start new thread")


def lack_of_room(error: BaseException) -> str | None:
    """Say why a write failed where a disk, a quota or a limit left no room; None elsewhere."""
    number = getattr(error, "errno", None)
    if number in _NO_ROOM:
        return os.strerror(number)
    found = (reason for said, reason in _NO_ROOM_SAID.items() if _says(error, said))
    return next(found, None)


def lacks_memory(error: BaseException) -> bool:
    """Tell whether memory could not be had, the processor's or an accelerator's."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(_says(error, said) for said in _NO_MEMORY_SAID)


def in_short(error: BaseException) -> str:
    """Return the first line of an error's message, or its name where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _says(error: BaseException, text: str) -> bool:
    known = isinstance(error, (RuntimeError, OSError)) or type(error).__name__ == "SafetensorError"
    return known and text in str(error)
