"""What the engine notices and survives; that its ids are those of `generate` is told family by family elsewhere."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
import torch
from transformers import PreTrainedModel

from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.sequence import Chunk, Sequence, Slot, Step
from colab_llm_chat.errors import ChatError
from colab_llm_chat.models.choose import check_flat
from colab_llm_chat.models.runners import attention
from colab_llm_chat.models.runners.arena import Arena
from colab_llm_chat.models.runners.attention import groups
from colab_llm_chat.models.runners.flat import FlatRunner
from colab_llm_chat.models.runners.sequential import SequentialRunner
from colab_llm_chat.settings import SamplingParams
from tests.tiny_models import generated, tiny_model

# Rotary positions, learnt ones, and windows with soft caps; all families are in test_families.py.
FAMILIES = ("llama", "gpt2", "gemma2")
CONTEXT = 128
PROMPT_LENGTHS = (3, 40, 17, 5, 60, 9, 25)
REPLY_LENGTHS = (20, 12, 30, 8, 15, 25, 10)


def prompts(vocab: int = 100) -> list[list[int]]:
    chosen = random.Random(7)
    return [[chosen.randrange(1, vocab) for _ in range(length)] for length in PROMPT_LENGTHS]


def greedy(max_new_tokens: int, **fields: object) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_new_tokens=max_new_tokens, **fields)


def expected_ids(model: PreTrainedModel, **options: object) -> list[list[int]]:
    """What `generate` says for each prompt alone, by the model's own eager attention."""
    model.set_attn_implementation("eager")
    return [generated(model, *asked, **options) for asked in zip(prompts(), REPLY_LENGTHS, strict=True)]


def run(engine: Engine, sequences: Iterable[Sequence], *, late: int = 0) -> dict[int, list[int] | ChatError]:
    """Ids or error by sequence; the last `late` sequences join one by one, every third step."""
    waiting = list(sequences)
    results: dict[int, list[int] | ChatError] = {sequence.sequence_id: [] for sequence in waiting}
    for sequence in waiting[: len(waiting) - late]:
        engine.submit(sequence)
    waiting = waiting[len(waiting) - late :]
    steps = 0
    while engine.busy or waiting:
        if waiting and (steps % 3 == 2 or not engine.busy):
            engine.submit(waiting.pop(0))
        report, steps = engine.step(), steps + 1
        for sequence_id, token_id in report.tokens:
            results.setdefault(sequence_id, []).append(token_id)
        results.update(dict(report.failed))
    return results


def batched_ids(model: PreTrainedModel, **fields: object) -> list[list[int]]:
    """The same prompts in one batch of at most five rows, prompts in chunks of 16, three of them joining late."""
    runner = FlatRunner(model)
    runner.chunk_size = 16
    sequences = [
        Sequence(i, list(prompt), greedy(length, **fields))
        for i, (prompt, length) in enumerate(zip(prompts(), REPLY_LENGTHS, strict=True))
    ]
    results = run(Engine(runner, max_rows=5, context_length=CONTEXT), sequences, late=3)
    return [results[i] for i in range(len(sequences))]


def scaled(family: str) -> PreTrainedModel:
    return tiny_model(family, scale=7.0, tie_word_embeddings=False)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_penalties_equal_generate(family: str) -> None:
    model = scaled(family)
    expected = expected_ids(model, repetition_penalty=1.3, no_repeat_ngram_size=3)
    assert batched_ids(model, repetition_penalty=1.3, no_repeat_ngram_size=3) == expected


def off_by_one(last: torch.Tensor, length: int, window: int | None) -> torch.Tensor:
    return CORRECT_MASK(last - 1, length, window).index_fill(1, torch.tensor([0]), True)


def padding_visible(last: torch.Tensor, length: int, window: int | None) -> torch.Tensor:
    return CORRECT_MASK(torch.full_like(last, length - 1), length, window)


def no_window(last: torch.Tensor, length: int, window: int | None) -> torch.Tensor:
    return CORRECT_MASK(last, length, None)


def wider_window(last: torch.Tensor, length: int, window: int | None) -> torch.Tensor:
    return CORRECT_MASK(last, length, window and window + 1)


CORRECT_MASK = attention.visible


@pytest.mark.parametrize("fault", [off_by_one, padding_visible, no_window, wider_window])
def test_a_wrong_mask_is_noticed(fault: object, monkeypatch: pytest.MonkeyPatch) -> None:
    model = scaled("gemma2")
    expected = expected_ids(model)
    monkeypatch.setattr(attention, "visible", fault)
    assert batched_ids(model) != expected


def test_a_missing_soft_cap_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = scaled("gemma2")
    expected = expected_ids(model)
    correct = attention.Heads
    monkeypatch.setattr(attention, "Heads", lambda kv, scaling, softcap, sinks: correct(kv, scaling, None, sinks))
    assert batched_ids(model) != expected


@pytest.mark.parametrize("family", FAMILIES)
def test_halved_positions_are_noticed(family: str) -> None:
    model = scaled(family)
    expected = expected_ids(model)
    model.register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "position_ids": kwargs["position_ids"] // 2}), with_kwargs=True
    )
    assert batched_ids(model) != expected


def test_the_load_check_takes_a_supported_model_and_refuses_wrong_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    model = scaled("gemma2")
    assert check_flat(model, context_length=CONTEXT) is not None
    monkeypatch.setattr(attention, "visible", padding_visible)
    assert check_flat(model, context_length=CONTEXT) is None


def run_all(engine: Engine, *, late: int = 0) -> list[list[int] | ChatError]:
    """The standard prompts through an engine."""
    sequences = [Sequence(i, list(p), greedy(n)) for i, (p, n) in enumerate(zip(prompts(), REPLY_LENGTHS, strict=True))]
    results = run(engine, sequences, late=late)
    return [results[i] for i in range(len(sequences))]


@pytest.mark.parametrize("cached", [True, False])
def test_the_sequential_runner_gives_the_ids_of_generate(cached: bool) -> None:
    model = scaled("llama")
    expected = expected_ids(model)
    engine = Engine(SequentialRunner(model, cached=cached), max_rows=4, context_length=CONTEXT)
    assert run_all(engine, late=2) == expected


def test_a_transient_failure_does_not_spoil_a_cache_that_changes_in_place() -> None:
    model = scaled("mamba")
    expected = expected_ids(model)
    failures = iter([False] * 20 + [True])

    def fail_once(*_: object) -> None:
        if next(failures, False):
            raise torch.OutOfMemoryError("planted")

    model.backbone.layers[1].register_forward_pre_hook(fail_once)
    assert run_all(Engine(SequentialRunner(model), max_rows=4, context_length=CONTEXT)) == expected


def test_a_failure_while_sampling_is_told_to_its_own_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    model = scaled("llama")
    expected = expected_ids(model)
    banned = Sequence.banned_ids

    def explode(sequence: Sequence) -> set[int]:
        if sequence.sequence_id == 99:
            raise OverflowError("planted")
        return banned(sequence)

    monkeypatch.setattr(Sequence, "banned_ids", explode)
    engine = Engine(FlatRunner(model), max_rows=5, context_length=CONTEXT)
    engine.submit(Sequence(99, [1, 2, 3], greedy(5)))
    assert run_all(engine) == expected


def test_ids_that_the_model_does_not_know_are_refused() -> None:
    with pytest.raises(ChatError, match="512"):
        engine_of(SHARED_MODEL).submit(Sequence(0, [1, 512], greedy(3)))


def test_an_exception_in_one_reply_is_told_there_and_the_rest_go_on() -> None:
    model = scaled("llama")
    expected = expected_ids(model)
    harmless = {token_id for ids in (*expected, *prompts()) for token_id in ids}
    poison = next(token_id for token_id in range(1, 512) if token_id not in harmless)

    def explode(_: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        if (kwargs["input_ids"] == poison).any():
            raise RuntimeError("planted")

    model.register_forward_pre_hook(explode, with_kwargs=True)
    runner = FlatRunner(model)
    sequences = [Sequence(i, list(p), greedy(n)) for i, (p, n) in enumerate(zip(prompts(), REPLY_LENGTHS, strict=True))]
    sequences.insert(2, Sequence(99, [5, 6, poison, 7], greedy(5)))
    results = run(Engine(runner, max_rows=5, context_length=CONTEXT), sequences, late=3)
    assert isinstance(results.pop(99), ChatError)
    assert [results[i] for i in range(len(expected))] == expected


def test_logits_that_are_not_finite_fail_only_their_row() -> None:
    model = scaled("llama")
    expected = expected_ids(model)
    engine = Engine(Poisoned(model), max_rows=5, context_length=CONTEXT)
    sequences = [Sequence(i, list(p), greedy(n)) for i, (p, n) in enumerate(zip(prompts(), REPLY_LENGTHS, strict=True))]
    results = run(engine, sequences)
    assert isinstance(results[3], ChatError)
    assert [results[i] for i in (0, 1, 2, 4, 5, 6)] == [expected[i] for i in (0, 1, 2, 4, 5, 6)]


class Poisoned(FlatRunner):
    """Sequence 3 computes not-a-number from its fourth token on, and leaves it in its keys."""

    @torch.inference_mode()
    def forward(self, step: Step) -> torch.Tensor:
        logits = super().forward(step).clone()
        for row, sequence in zip(logits, step.sampled, strict=True):
            if sequence.sequence_id == 3 and len(sequence.ids) > sequence.prompt_length + 3:
                row[7] = float("nan")
                slot = sequence.place
                self.arena.values[0][slot.start : slot.end] = float("nan")
        return logits


def test_cancel_frees_the_row_before_the_next_step_in_prefill_too() -> None:
    runner = FlatRunner(scaled("llama"))
    runner.chunk_size = 16
    engine = Engine(runner, max_rows=2, context_length=CONTEXT)
    engine.submit(Sequence(1, list(range(1, 90)), greedy(20)))
    engine.submit(Sequence(2, [1, 2, 3], greedy(20)))
    engine.step()
    engine.cancel(1)
    engine.step()
    assert engine.step().tokens[0][0] == 2
    engine.cancel(2)
    assert not engine.busy


def test_end_of_text_ends_a_reply_and_is_not_part_of_it() -> None:
    model = scaled("llama")
    first, second, *_ = expected_ids(model)[0]
    engine = Engine(FlatRunner(model), max_rows=2, context_length=CONTEXT)
    results = run(engine, [Sequence(1, prompts()[0], greedy(20), eos_token_ids=frozenset({second}))])
    assert results[1] == ([first] if first != second else [])


def test_a_reply_ends_where_the_context_ends() -> None:
    runner = FlatRunner(scaled("llama"))
    results = run(Engine(runner, max_rows=2, context_length=40), [Sequence(1, list(range(1, 31)), greedy(99))])
    assert len(results[1]) == 10


def test_a_seeded_reply_is_the_same_alone_and_in_a_batch() -> None:
    model = tiny_model("llama", scale=2.0)
    seeded = SamplingParams(temperature=1.0, top_p=0.9, top_k=0, max_new_tokens=20, seed=11)
    alone = run(engine_of(model), [Sequence(0, [1, 2, 3], seeded)])[0]
    others = [Sequence(i, [i, i + 1, 4], SamplingParams(temperature=1.5, max_new_tokens=15)) for i in range(1, 6)]
    together = run(engine_of(model), [*others, Sequence(0, [1, 2, 3], seeded)])[0]
    assert together == alone
    assert run(engine_of(model), [Sequence(0, [1, 2, 3], seeded.model_copy(update={"seed": 12}))])[0] != alone


def engine_of(model: PreTrainedModel) -> Engine:
    return Engine(FlatRunner(model), max_rows=4, context_length=CONTEXT)


SHARED_MODEL = tiny_model("llama", scale=2.0)


def stored(arena: Arena, slot: Slot, length: int) -> list[float]:
    return arena.keys[0][slot.start : slot.start + length, 0, 0].tolist()


@torch.inference_mode()
def test_the_arena_keeps_what_it_holds_when_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colab_llm_chat.models.runners.arena.KEPT_BYTES", 0)
    arena = Arena(page=4)
    one, other = (Sequence(i, [1, 2, 3], SamplingParams()) for i in range(2))
    for at, row in enumerate((one, other)):
        row.slot = arena.take(3, 3)
        arena.begin(Step([], Chunk(row, 0, row.ids)), device=torch.device("cpu"))
        states = torch.full((1, 2, 3, 5), float(at + 1))
        arena.update(states, states, 0)
    assert arena.grow(one.place, 40, 40)
    assert one.place.start >= other.place.end
    one.ids += [4]
    arena.begin(Step([one]), device=torch.device("cpu"))
    arena.update(torch.full((1, 2, 1, 5), 9.0), torch.zeros(1, 2, 1, 5), 0)
    assert stored(arena, one.place, 5) == [1, 1, 1, 9, 0]
    assert stored(arena, other.place, 3) == [2, 2, 2]
    arena.free(other.place)
    arena.shrink(one.place, 4)
    arena.trim()
    assert one.place.start == 0
    assert stored(arena, one.place, 4) == [1, 1, 1, 9]
    assert arena.keys[0].shape[0] == one.place.size


def test_within_its_room_the_arena_grows_without_moving_and_gives_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colab_llm_chat.models.runners.arena.KEPT_BYTES", 0)
    arena, states = Arena(page=4), torch.ones(1, 2, 3, 5)
    arena.limit(4, 64, None)
    row = Sequence(0, [1, 2, 3], greedy(1), slot=arena.take(3, 3))
    arena.begin(Step([], Chunk(row, 0, row.ids)), device=torch.device("cpu"))
    arena.update(states, states, 0)
    where = arena.keys[0].data_ptr()
    assert arena.grow(row.place, 200, 200)
    arena.begin(Step([row]), device=torch.device("cpu"))
    assert (arena.keys[0].data_ptr(), arena.keys[0].shape[0] >= 200) == (where, True)
    assert stored(arena, row.place, 5) == [1, 1, 1, 0, 0]
    arena.free(row.place)
    arena.trim()
    assert arena.keys[0].shape[0] == 0


def test_a_long_row_does_not_make_short_ones_read_as_far() -> None:
    arena = Arena(page=4)
    rows = [Sequence(i, [1] * length, SamplingParams()) for i, length in enumerate([3, 4, 90, 2, 3])]
    for row in rows:
        row.slot = arena.take(len(row.ids), len(row.ids))
    read = [(group.at.start, group.at.stop, max(group.lengths)) for group in groups(rows)]
    assert read == [(0, 2, 4), (2, 3, 90), (3, 5, 3)]


def test_layers_get_no_more_of_the_arena_than_a_step_reads() -> None:
    arena = Arena(page=4)
    states = torch.zeros(1, 1, 1, 2)
    long, short = (Sequence(i, [1], greedy(1), slot=arena.take(size, size)) for i, size in enumerate((40, 8)))
    for rows, length in (([long, short], 48), ([long], 40), ([short], 48)):
        arena.begin(Step(rows), device=torch.device("cpu"))
        assert {one.shape[2] for one in arena.update(*[states.expand(1, 1, len(rows), 2)] * 2, 0)} == {length}
    arena.fixed = True
    arena.begin(Step([long]), device=torch.device("cpu"))
    assert arena.update(states, states, 0)[0].shape[2] == arena._positions >= 48
