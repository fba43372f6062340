"""Activated neurons packed to words on an accelerator, and written while it goes on.

A device that waits for the host at every layer is idle for most of a pass: so bits are packed
where they are made, whole blocks of a dump go to pinned memory behind the device's work, and
threads write them.

Shapes: n tokens of a call, N neurons, W words of 64 tokens, S sampled tokens.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np
import torch
from torch import Tensor

from fnsft.artifacts.activations import WORD_TOKENS, DumpWriter

WRITERS = 4  # threads: one copies slower to the system's page cache than a GPU packs (assumed)
UNWRITTEN_BYTES = 1 << 30  # of pinned memory that wait to be written


def packed_words(bits: Tensor) -> Tensor:
    """Pack bool [64 W, N] into neuron-major words, int64 [N, W], token 0 the least bit."""
    octets = bits.view(torch.uint8).unflatten(0, (-1, 8, 8))  # [W, 8, 8, N]
    packed = octets[:, :, 0].clone()
    for bit in range(1, 8):
        packed |= octets[:, :, bit] << bit
    return packed.permute(2, 0, 1).contiguous().view(torch.int64).squeeze(2)


class DevicePacker:
    """Takes the values of a pass and gives a dump's writer its blocks; a context manager.

    Notes
    -----
    Memory of the device: one block of every layer, as much as the writer holds of it on the
    CPU, and 2 bytes for each of a call's n · N values. Of the host: ``UNWRITTEN_BYTES``, or a
    block if that is more, pinned.
    """

    def __init__(self, writer: DumpWriter) -> None:
        self._writer = writer
        n_layers = writer.shape.n_layers
        self._bits: list[list[Tensor]] = [[] for _ in range(n_layers)]  # less than a word
        self._words: list[list[Tensor]] = [[] for _ in range(n_layers)]  # less than a block
        self._threads = [ThreadPoolExecutor(1) for _ in range(WRITERS)]
        self._unwritten: deque[tuple[int, Future[None]]] = deque()
        self._unwritten_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while kind is None and self._unwritten:
                self._await_oldest()
        finally:
            # The files are closed next: nobody may write to them after that.
            for thread in self._threads:
                thread.shutdown(cancel_futures=True)

    def see(self, layer: int, tokens: slice, values: Tensor) -> None:
        """Take a layer's values [n, N] of the tokens that come next."""
        shape = self._writer.shape
        if shape.n_sampled:
            sampled = shape.sampled_tokens
            inside = sampled[(sampled >= tokens.start) & (sampled < tokens.stop)] - tokens.start
            if len(inside):
                rows = torch.from_numpy(inside).to(values.device)
                self._send(layer, values.index_select(0, rows).float(), self._writer.append_sampled)
        self._pack(layer, values > 0, last=tokens.stop == shape.n_tokens)

    def _pack(self, layer: int, bits: Tensor, last: bool) -> None:
        bits = torch.cat([*self._bits[layer], bits])
        if last:
            bits = torch.nn.functional.pad(bits, (0, 0, 0, -len(bits) % WORD_TOKENS))
        n_whole = len(bits) // WORD_TOKENS * WORD_TOKENS
        self._bits[layer] = [bits[n_whole:].clone()]
        words = self._words[layer]
        if n_whole:
            words.append(packed_words(bits[:n_whole]))
        length = self._writer.shape.block_tokens // WORD_TOKENS
        if not last and sum(part.shape[1] for part in words) < length:
            return
        for block in torch.cat(words, dim=1).split(length, dim=1):
            if block.shape[1] == length or last:
                self._send(layer, block.contiguous(), self._append_block)
                words.clear()
            else:
                words[:] = [block.clone()]

    def _append_block(self, layer: int, words: np.ndarray) -> None:
        self._writer.append_block(layer, words.view(np.uint64))

    def _send(self, layer: int, tensor: Tensor, receive: Callable[[int, np.ndarray], None]) -> None:
        """Have ``receive(layer, array)`` called in a thread, for each layer in order."""
        on_cuda = tensor.is_cuda
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_cuda)
        host.copy_(tensor, non_blocking=on_cuda)
        arrived = torch.cuda.Event() if on_cuda else None
        if arrived is not None:
            arrived.record()

        def hand_over() -> None:
            if arrived is not None:
                arrived.synchronize()
            receive(layer, host.numpy())

        self._unwritten.append((host.nbytes, self._threads[layer % WRITERS].submit(hand_over)))
        self._unwritten_bytes += host.nbytes
        while self._unwritten_bytes > UNWRITTEN_BYTES:
            self._await_oldest()

    def _await_oldest(self) -> None:
        n_bytes, written = self._unwritten.popleft()
        self._unwritten_bytes -= n_bytes
        written.result()
