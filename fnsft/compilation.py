"""numba's compiler, whose work is kept for processes that come later.

The kernels of a projection take 11 seconds to compile, a small model's projection less than one.
numba's own cache lies beside the source, and is of no use to another version of that file, of
numba or of the processor. It does not notice an edited function of another file, so that a kernel
calls kernels of its own file alone.
"""

import contextlib
import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache

LOCK = "kernels.lock"


def kernel(parallel: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function without Python objects, when it is first called for some types.

    Where nothing can be written, every process compiles it.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(function, parallel=parallel)
        with contextlib.suppress(RuntimeError):  # numba's, when no folder can be written to
            dispatcher._cache = _SharedCache(function)
        return dispatcher

    return compiled


class _SharedCache(FunctionCache):
    """numba's cache of a function, for several processes, and without a word when it fails.

    Two processes that compile one function for different types at the same time would give both
    results the same name, and one type the other's code. So one at a time saves, or nobody where
    the file system has no locks.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function, or None: of a damaged file too, which is written anew."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever pickle and LLVM make of some bytes
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save a compiled function, if there is room."""
        with (
            contextlib.suppress(OSError),
            open(Path(self.cache_path, LOCK), "w") as lock,
        ):
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                super().save_overload(sig, data)
            except Exception:  # a damaged index
                self.flush()
                super().save_overload(sig, data)
