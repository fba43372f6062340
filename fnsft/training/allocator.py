"""How the C library keeps the memory of tensors that are gone."""

import ctypes
import os

M_MMAP_THRESHOLD = -3  # malloc.h of glibc
LARGE_BYTES = 16 << 20


def give_back_large_blocks() -> None:
    """Let glibc return a large tensor's memory to the system as soon as it is gone.

    By itself it does so for fewer and fewer: the first block of up to 32 MiB that is freed
    raises the size that counts as large above its own (mallopt(3)), and the rest lies
    in a heap with holes. A threshold that is set stays; one of the environment's
    (``MALLOC_MMAP_THRESHOLD_``) goes first. Other C libraries and allocators are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
