"""The path of newer GPUs, without one: its kernel and its recording stand here as what they are documented to do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.attention import varlen
from transformers import PreTrainedModel

from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.sequence import Sequence
from colab_llm_chat.models import choose
from colab_llm_chat.models.choose import check_flat
from colab_llm_chat.models.runners.attention import visible
from colab_llm_chat.models.runners.flat import FlatRunner
from colab_llm_chat.models.runners.graphs import GraphRunner, Playable
from tests.test_engine import greedy, run
from tests.tiny_models import tiny_model

CONTEXT = 1024
LONG = {"max_position_embeddings": CONTEXT}
PROMPTS = [[1 + i % 5] * length for i, length in enumerate([3, 250, 300, 9, 600, 40, 513])]


def kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: None,
    max_q: int, max_k: int, *, scale: float, window_size: tuple[int, int], enable_gqa: bool,
    seqused_k: torch.Tensor, block_table: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """What torch.nn.attention.varlen.varlen_attn says that it computes, sequence by sequence."""
    assert all(one.dtype == torch.int32 and one.is_contiguous() for one in (cu_seq_q, seqused_k, block_table))
    outputs = []
    for i, used in enumerate(seqused_k.tolist()):
        assert used <= max_k
        q = query[cu_seq_q[i] : cu_seq_q[i + 1]].transpose(0, 1)[None]
        assert q.shape[2] <= max_q
        k, v = (one[block_table[i].long()].flatten(0, 1)[:used].transpose(0, 1)[None] for one in (key, value))
        last = torch.arange(used - q.shape[2], used)[:, None]
        mask = visible(last, used, window_size[0] + 1 if window_size[0] >= 0 else None)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


class Again:
    """A recording that computes again from the tensors that it was recorded with."""

    def __init__(self, compute: Callable[[], torch.Tensor]) -> None:
        self.compute, self.logits, self.times = compute, compute(), 0

    def replay(self) -> None:
        self.logits.copy_(self.compute())
        self.times += 1


class Recording(GraphRunner):
    """Records by `Again`, and with the state of the time of recording."""

    recordings: list[Again]

    def capture(self, compute: Callable[[], torch.Tensor]) -> tuple[Playable, torch.Tensor]:
        where, layout = self.arena.where, self.attention.layout

        def as_recorded() -> torch.Tensor:
            self.arena.where, self.attention.layout = where, layout
            return compute()

        self.__dict__.setdefault("recordings", []).append(Again(as_recorded))
        return self.recordings[-1], self.recordings[-1].logits


@pytest.fixture(autouse=True)
def as_on_a_newer_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(choose, "batched_kinds", lambda model: [Recording, FlatRunner])


def replies(runner: FlatRunner, late: int = 0) -> dict[int, Any]:
    runner.chunk_size = 100
    engine = Engine(runner, max_rows=5, context_length=CONTEXT)
    return run(engine, [Sequence(i, list(ids), greedy(30 + i)) for i, ids in enumerate(PROMPTS)], late=late)


def model_of(family: str, **options: Any) -> PreTrainedModel:
    return tiny_model(family, scale=7.0, **LONG, **options)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
@pytest.mark.parametrize("late", [0, 4])
def test_recorded_steps_say_what_computed_ones_say(family: str, late: int) -> None:
    model = model_of(family)
    runner = check_flat(model, context_length=CONTEXT)
    assert isinstance(runner, Recording)
    assert replies(runner, late) == replies(FlatRunner(copy.deepcopy(model)), late)
    assert sum(one.times for one in runner.recordings) > 20


def test_a_recording_is_made_once_for_each_size() -> None:
    runner = check_flat(model_of("llama"), context_length=CONTEXT)
    assert isinstance(runner, Recording)
    checked = len(runner.recordings)
    for _ in range(2):
        replies(runner)
    # Up to 64 rows and drafts, of 1, 2 or 4 pages.
    assert set(runner._recorded) <= {(2**rows, pages) for rows in range(7) for pages in (1, 2, 4)}
    assert len(runner.recordings) <= checked + len(runner._recorded)


def test_layers_that_the_kernel_lacks_get_the_other_attention() -> None:
    runner = check_flat(model_of("gemma2"), context_length=CONTEXT)
    assert type(runner) is FlatRunner


def test_a_model_that_cannot_be_recorded_runs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Recording, compute: Callable[[], torch.Tensor]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Recording, "capture", refuse)
    model = model_of("llama")
    runner = check_flat(model, context_length=CONTEXT)
    assert isinstance(runner, Recording)
    assert replies(runner) == replies(FlatRunner(copy.deepcopy(model)))


def test_without_the_kernel_the_other_attention_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any, **kwargs: Any) -> None:
        raise TypeError("varlen_attn() got an unexpected keyword argument 'block_table'")

    monkeypatch.setattr(varlen, "varlen_attn", missing)
    assert type(check_flat(model_of("llama"), context_length=CONTEXT)) is FlatRunner


def test_a_reply_may_fill_all_the_room_although_recordings_need_a_page() -> None:
    model = model_of("llama")
    runner = check_flat(model, context_length=CONTEXT)
    assert runner is not None
    asked = [Sequence(1, [1] * 200, greedy(560))]
    found = run(Engine(runner, max_rows=1, context_length=768), [*asked, Sequence(2, [2] * 700, greedy(99))])
    assert isinstance(found[1], list)
    assert len(found[1]) == 560
    assert isinstance(found[2], list)
    assert len(found[2]) == 68


def test_recordings_go_when_any_layer_moves_for_memory_may_run_out_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = check_flat(model_of("llama"), context_length=CONTEXT)
    assert isinstance(runner, Recording)
    replies(runner)
    last = max(runner.arena.values)
    runner.arena.values[last] = runner.arena.values[last].clone()
    checked = len(runner.recordings)
    replies(runner)
    assert len(runner.recordings) == checked + len(runner._recorded)
