"""What goes wrong at any moment, and that nobody else's reply tells of it: memory, numbers, exceptions, cancels."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.reports import StepReport
from colab_llm_chat.engine.sequence import Chunk, Sequence, Slot, Step
from colab_llm_chat.errors import ChatError, OutOfMemory
from colab_llm_chat.models.runners.arena import Arena
from colab_llm_chat.models.runners.flat import FlatRunner
from tests.test_engine import greedy
from tests.tiny_models import tiny_model

MODEL = tiny_model("llama", scale=7.0, num_hidden_layers=2, tie_word_embeddings=False)
NOT_FINITE, EXPLODES = 77, 66
PAGE = 4
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colab_llm_chat.models.runners.arena.KEPT_BYTES", 0)


def troubled_runner() -> FlatRunner:
    """Its model has no numbers for one id and fails at another."""
    model = copy.deepcopy(MODEL)

    def explode(_: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        if (kwargs["input_ids"] == EXPLODES).any():
            raise RuntimeError("planted")

    model.register_forward_pre_hook(explode, with_kwargs=True)
    with torch.no_grad():
        model.get_input_embeddings().weight[NOT_FINITE] = float("nan")
        # Nobody says them.
        model.get_output_embeddings().weight[[NOT_FINITE, EXPLODES]] = 0
    runner = FlatRunner(model)
    runner.arena._page = PAGE
    return runner


FRESH = troubled_runner()


@functools.cache
def alone(ids: tuple[int, ...], context_length: int) -> list[int]:
    """What a fresh engine says."""
    engine, reply = Engine(FRESH, max_rows=1, context_length=context_length), []
    engine.submit(Sequence(1, list(ids), greedy(99)))
    while engine.busy:
        reply += [token_id for _, token_id in engine.step().tokens]
    return reply


def computed(ids: list[int]) -> Iterator[torch.Tensor]:
    """Keys and values of each layer, of nothing but these."""
    FRESH.arena.limit(1, len(ids), None)
    one = Sequence(1, ids, greedy(1), slot=FRESH.arena.take(len(ids), len(ids)))
    FRESH.forward(Step([], Chunk(one, 0, ids)))
    return (arena[: len(ids)] for arena in FRESH.arena._all())


class Scarce(TorchDispatchMode):
    """Lets a share of all operations that take memory run out of it."""

    def __init__(self, chosen: random.Random, share: float) -> None:
        super().__init__()
        self.chosen, self.share = chosen, share

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = func._schema.name.endswith("_") or any(one.alias_info for one in func._schema.returns)
        if self.share and not views and self.chosen.random() < self.share:
            # As the allocators of GPUs and of the CPU tell it.
            in_words = RuntimeError("DefaultCPUAllocator: can't allocate memory: planted")
            raise self.chosen.choice([torch.OutOfMemoryError("planted"), in_words])
        return func(*args, **(kwargs or {}))


class Trial:
    """An engine in all kinds of trouble, checked after each step."""

    def __init__(self, seed: int, runner: FlatRunner) -> None:
        self.chosen, self.arena = random.Random(seed), runner.arena
        self.arena.limit(1, 1, None)
        self.arena._resize(0)
        runner.chunk_size = self.chosen.choice([3, 7, 40])
        kv_bytes = self.chosen.choice([16, 24, 40, 64, 100, 200]) * self.arena.position_bytes
        context, rows = self.chosen.choice([16, 30, 33]), self.chosen.randrange(1, 5)
        self.engine = Engine(runner, max_rows=rows, context_length=context, kv_bytes=kv_bytes)
        self.asked: dict[int, tuple[tuple[int, ...], int]] = {}
        self.replies: dict[int, list[int]] = {}
        self.ends: dict[int, object] = {}

    def event(self) -> None:
        what = self.chosen.random()
        if what < 0.35:
            self.submit()
        elif what < 0.42 and self.engine._alive:
            cancelled = self.chosen.choice(sorted(self.engine._alive))
            self.engine.cancel(cancelled)
            self.ends[cancelled] = "cancelled"
        elif self.engine.busy:
            self.note(self.engine.step())
        self.check()

    def submit(self) -> None:
        start, length, number = self.chosen.randrange(3), self.chosen.randrange(1, 28), len(self.asked)
        ids = [*range(5 + start, 5 + start + length // 2), *range(100 * start + 100, 100 * start + 100 + length)]
        if self.chosen.random() < 0.15:
            ids.insert(self.chosen.randrange(len(ids) + 1), self.chosen.choice([NOT_FINITE, EXPLODES]))
        ids = ids[: self.engine.context_length - 1]
        self.asked[number], self.replies[number] = (tuple(ids), self.chosen.randrange(1, 20)), []
        owner, background = self.chosen.choice(["", "", "other"]), self.chosen.random() < 0.2
        self.engine.submit(Sequence(number, ids, greedy(self.asked[number][1]), owner=owner, background=background))

    def note(self, report: StepReport) -> None:
        for number, token_id in report.tokens:
            self.replies[number].append(token_id)
        self.ends.update([*report.failed, *report.ended])

    def check(self) -> None:
        """Slots belong to one each and keep to the budget, sequences are in one place each."""
        scheduler, arena = self.engine._scheduler, self.arena
        owned = [one.place for one in scheduler.active] + [entry.slot for entry in scheduler.prefixes.held]
        assert sorted(map(id, owned)) == sorted(map(id, arena.taken))
        assert all(one.end <= other.start for one, other in pairwise(arena.taken))
        assert all(one.shape[0] <= arena.room for one in arena._all())
        numbers = [one.sequence_id for one in (*scheduler.active, *scheduler.waiting, *scheduler.background)]
        assert sorted(numbers) == sorted(self.engine._alive) == sorted(self.engine.stats._since)

    def check_replies(self, may_fail: type[Exception] | tuple[()]) -> None:
        for number, (ids, length) in self.asked.items():
            end, reply = self.ends[number], self.replies[number]
            if {NOT_FINITE, EXPLODES} & set(ids):
                assert end == "cancelled" or isinstance(end, ChatError)
                continue
            assert end in ("stop", "length", "cancelled") or isinstance(end, may_fail)
            expected = alone(ids, self.engine.context_length)[:length]
            assert reply == expected[: None if end in ("stop", "length") else len(reply)]

    def check_prefixes(self) -> None:
        self.arena._settle()
        for entry in self.engine._scheduler.prefixes.held:
            for arena, expected in zip(self.arena._all(), computed(entry.ids), strict=True):
                found = arena[entry.slot.start : entry.slot.start + len(entry.ids)]
                torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("scarcity", [0.0, 0.002, 0.01])
def test_whatever_fails_fails_alone_and_memory_stays_accounted_for(scarcity: float) -> None:
    runner = troubled_runner()
    runner.forward(Step([], Chunk(Sequence(0, [1], greedy(1), slot=runner.arena.take(1, 1)), 0, [1])))
    for seed in range(6):
        trial = Trial(seed, runner)
        with Scarce(trial.chosen, scarcity):
            for _ in range(60):
                trial.event()
            for _ in range(3000):
                if not trial.engine.busy:
                    break
                trial.note(trial.engine.step())
                trial.check()
        assert not trial.engine.busy
        trial.check_replies(ChatError if scarcity else ())
        trial.check_prefixes()


@torch.inference_mode()
def written(arena: Arena, number: int, positions: int) -> Sequence:
    """A sequence with its number at all its positions, in two layers."""
    one = Sequence(number, [1] * positions, greedy(9), slot=arena.take(positions, positions))
    arena.begin(Step([], Chunk(one, 0, one.ids)), device=CPU)
    for layer in range(2):
        states = torch.full((1, 1, positions, 2), float(number))
        arena.update(states, states, layer)
    return one


def numbers(arena: Arena, slot: Slot) -> set[float]:
    return {number for one in arena._all() for number in one[slot.start : slot.end].unique().tolist()}


@torch.inference_mode()
@pytest.mark.parametrize("share", [0.1, 0.3])
def test_moves_that_run_out_of_memory_are_made_later(share: float) -> None:
    for seed in range(20):
        arena = Arena(page=PAGE)
        arena.room = 10 * PAGE
        first, *rest = [written(arena, number, 2 * PAGE) for number in (1, 2, 3, 4)]
        arena.free(first.place)
        # Leaves no gaps, by less than a slot's own length each, and lets one go beyond the memory that there is.
        assert arena.grow(rest[0].place, 4 * PAGE, 4 * PAGE)
        with Scarce(random.Random(seed), share):
            for _ in range(2000):
                try:
                    arena.begin(Step([]), device=CPU)
                    break
                except RuntimeError:
                    continue
        for one in rest:
            assert numbers(arena, Slot(one.place.start, 2 * PAGE)) == {one.sequence_id}


@torch.inference_mode()
def test_what_was_to_go_beyond_memory_and_came_back_is_whole() -> None:
    arena = Arena(page=PAGE)
    arena.room = 12 * PAGE
    first, second, third = [written(arena, number, 2 * PAGE) for number in (1, 2, 3)]
    have = arena._positions
    assert arena.grow(first.place, 3 * PAGE, 3 * PAGE)
    assert first.place.end > have
    arena.free(second.place)
    arena.free(third.place)
    arena.trim()
    assert first.place.start == 0
    assert numbers(arena, Slot(0, 2 * PAGE)) == {1}


@torch.inference_mode()
def test_numbers_that_are_not_finite_stay_nowhere_when_a_slot_moves_and_goes() -> None:
    arena = Arena(page=PAGE)
    first, spoilt = written(arena, 1, PAGE), written(arena, 2, PAGE)
    arena.values[0][spoilt.place.start] = float("nan")
    arena.free(first.place)
    arena._compact()
    arena.begin(Step([]), device=CPU)
    arena.scrub(spoilt.place)
    arena.free(spoilt.place)
    arena.begin(Step([]), device=CPU)
    assert all(one.isfinite().all() for one in arena._all())


@torch.inference_mode()
def test_to_scrub_while_memory_is_short_leaves_others_alone() -> None:
    arena = Arena(page=PAGE)
    first, second, spoilt = [written(arena, number, 2 * PAGE) for number in (1, 2, 3)]
    arena.free(first.place)
    arena._compact()
    have = arena._positions
    large = arena.take(have, have)
    # Where the second one's numbers still lie.
    arena.scrub(spoilt.place)
    arena.free(spoilt.place)
    assert large is not None
    arena.free(large)
    arena.begin(Step([]), device=CPU)
    assert numbers(arena, second.place) == {2}


class Small(TorchDispatchMode):
    """A device that has memory for so many positions of all layers' keys and values."""

    def __init__(self, arena: Arena, most: int) -> None:
        super().__init__()
        self.arena, self.most = arena, most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        there = sum(one.shape[0] for one in self.arena._all())
        if func is torch.ops.aten.new_zeros.default and there + args[1][0] > self.most:
            raise torch.OutOfMemoryError("planted")
        return func(*args, **(kwargs or {}))


def test_room_that_cannot_be_had_at_once_becomes_less_and_keeps_what_is_there() -> None:
    arena = Arena(page=PAGE)
    first = written(arena, 1, 2 * PAGE)
    arena.fixed, arena.room = True, 100 * PAGE
    # Four arenas: keys and values of two layers.
    with Small(arena, 4 * 60 * PAGE):
        second = written(arena, 2, 2 * PAGE)
        taken = arena.room
        assert 10 * PAGE < taken < 60 * PAGE
        assert arena.take(taken, taken) is None
        third = written(arena, 3, 10 * PAGE)
    assert arena.room == taken == {one.shape[0] for one in arena._all()}.pop()
    assert [numbers(arena, one.place) for one in (first, second, third)] == [{1}, {2}, {3}]


def test_with_less_room_than_was_meant_to_be_only_what_is_too_long_fails() -> None:
    runner = troubled_runner()
    runner.forward(Step([], Chunk(Sequence(0, [1], greedy(1), slot=runner.arena.take(1, 1)), 0, [1])))
    runner.arena.fixed = True
    engine = Engine(runner, max_rows=4, context_length=100)
    prompts = {1: (5, 6, 7), 2: (*range(100, 190),), 3: (8, 9), 4: (10, 11, 12)}
    for number, ids in prompts.items():
        engine.submit(Sequence(number, list(ids), greedy(10)))
    replies: dict[int, list[int]] = {number: [] for number in prompts}
    failed: list[tuple[int, ChatError]] = []
    with Small(runner.arena, 4 * 70):
        for _ in range(300):
            report = engine.step() if engine.busy else StepReport()
            failed += report.failed
            for number, token_id in report.tokens:
                replies[number].append(token_id)
    assert not engine.busy
    assert [(number, type(error)) for number, error in failed] == [(2, OutOfMemory)]
    assert runner.arena.room < 70
    assert all(replies[number] == alone(prompts[number], 100)[:10] for number in (1, 3, 4))
