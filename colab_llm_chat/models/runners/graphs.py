"""Steps without a prompt as CUDA graphs: recorded once for so many rows and pages, then played without the interpreter.

A model of 32 layers launches a thousand kernels a step, which takes Python longer than the GPU. Knows no sampling.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ...engine.sequence import Query, Slot, Step
from .arena import PAGE
from .flat import ByRow, FlatRunner
from .paged import Layout, PagedAttention, page_list

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("colab_llm_chat")


class Playable(Protocol):
    def replay(self) -> None: ...


@dataclass(slots=True, frozen=True)
class Recorded:
    """A step of `inputs` [3, rows] (ids, positions, places in the arena) that attends by `reads` [rows * (1 + pages)]
    (positions used by each, then pages) into `logits` [rows, vocab].
    """

    graph: Playable
    inputs: torch.Tensor
    reads: torch.Tensor
    logits: torch.Tensor

    def play(self, queries: list[Query], idle: Slot) -> torch.Tensor:
        """Logits [len(queries), vocab]; what is left of the recorded rows computes the first position of `idle`."""
        most = len(self.reads) // self.inputs.shape[1] - 1
        starts = [(query.token_id, query.length, query.row.place.start) for query in queries]
        starts += [(0, 1, idle.start)] * (self.inputs.shape[1] - len(queries))
        inputs = [[one for one, _, _ in starts], [length - 1 for _, length, _ in starts]]
        inputs.append([start + length - 1 for _, length, start in starts])
        reads = [length for _, length, _ in starts]
        reads += [page for _, length, start in starts for page in page_list(start, length, most)]
        self.inputs.copy_(torch.tensor(inputs), non_blocking=True)
        self.reads.copy_(torch.tensor(reads, dtype=torch.int32), non_blocking=True)
        self.graph.replay()
        return self.logits[: len(queries)]


class GraphRunner(FlatRunner):
    """Records each size of step when it first occurs; a model that cannot be recorded runs as without."""

    def __init__(self, model: PreTrainedModel, *, rotary: SequenceOf[ByRow] = ()) -> None:
        self.attention: PagedAttention
        super().__init__(model, PagedAttention(), rotary=rotary)
        self.arena.fixed = True
        self._recorded: dict[tuple[int, int], Recorded] = {}
        self._memory: list[int] = []
        self._can_record = True
        self._pool: Any = None

    @torch.inference_mode()
    def forward(self, step: Step) -> torch.Tensor:
        if not self._can_record or step.chunk is not None:
            return super().forward(step)
        # Only for now: a conversation may need all the room.
        if (idle := self.arena.take(1, 1)) is None:
            return super().forward(step)
        try:
            return self._forward_rows(step, idle)
        finally:
            self.arena.free(idle)

    def model_changed(self) -> None:
        """What was recorded plays the model as it was."""
        self._recorded.clear()
        self._can_record = True

    def _forward_rows(self, step: Step, idle: Slot) -> torch.Tensor:
        self.arena.begin(step, device=self._model.device)
        memory = [one.data_ptr() for one in (*self.arena.keys.values(), *self.arena.values.values())]
        if memory != self._memory:
            # Graphs read and write where the arena was when they were recorded. All layers: memory may have run out
            # between one and the next.
            self._recorded.clear()
            self._memory = memory
        queries = step.queries
        key = power(len(queries)), power(max(-(-query.length // PAGE) for query in queries))
        if key not in self._recorded:
            try:
                self._recorded[key] = self._record(*key, idle)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                log.info("the model's steps cannot be recorded as CUDA graphs", exc_info=True)
                self._can_record = False
                return super().forward(step)
        for one in self.rotary:
            one.begin(step)
        return self._recorded[key].play(queries, idle)

    def _record(self, rows: int, pages: int, idle: Slot) -> Recorded:
        device = self._model.device
        inputs = torch.tensor([[0] * rows, [0] * rows, [idle.start] * rows], device=device)
        reads = torch.tensor([1] * rows + page_list(idle.start, 1, pages) * rows, device=device, dtype=torch.int32)
        ends = torch.arange(rows + 1, device=device, dtype=torch.int32)
        self.arena.where = inputs[2]
        self.attention.layout = Layout(ends, reads[:rows], reads[rows:].view(rows, pages), 1, pages * PAGE)
        graph, logits = self.capture(lambda: self.compute(inputs[:2]))
        return Recorded(graph, inputs, reads, logits)

    def capture(self, compute: Callable[[], torch.Tensor]) -> tuple[Playable, torch.Tensor]:
        """A graph of what is computed, and where its result will be."""
        # What is made ready at the first call, such as workspaces, must not be a part of it.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # One pool for all: no two play at once.
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = compute()
        return graph, logits


def power(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()
