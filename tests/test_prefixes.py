"""What is not computed twice, and that nobody can tell it from the text; memory that runs short, and who gives way."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from transformers import PreTrainedModel

from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.prefixes import Prefixes, common
from colab_llm_chat.engine.reports import StepReport
from colab_llm_chat.engine.sequence import Sequence, Slot, Step
from colab_llm_chat.models.choose import check_flat
from colab_llm_chat.models.runners.flat import FlatRunner
from colab_llm_chat.settings import SamplingParams
from tests.test_engine import CONTEXT, FAMILIES, greedy, prompts, run, scaled
from tests.tiny_models import tiny_model

LLAMA = tiny_model("llama", scale=7.0)
SMALL = tiny_model("llama", scale=7.0, num_hidden_layers=1)
SYSTEM = list(range(100, 130))
PAGE = 8


class Told:
    """An engine of its own copy of a model, which notes what its reports say of reuse."""

    def __init__(self, model: PreTrainedModel, *, rows: int = 5, kv_bytes: int | None = None) -> None:
        # A runner sets its model's attention: two of them cannot share one.
        self.model = copy.deepcopy(model)
        model = self.model
        self.runner = FlatRunner(model) if kv_bytes is None else check_flat(model, context_length=CONTEXT)
        assert self.runner is not None
        self.runner.arena._page = PAGE
        self.runner.chunk_size = 16
        self.engine = Engine(self.runner, max_rows=rows, context_length=CONTEXT, kv_bytes=kv_bytes)
        self.cached: dict[int, int] = {}
        self.step = self.engine.step
        self.engine.step = self._note  # type: ignore[method-assign]
        self._next_id = 0

    def _note(self) -> StepReport:
        report = self.step()
        self.cached.update(report.cached)
        return report

    def sequence(self, ids: list[int], reply: int = 8, **fields: object) -> Sequence:
        self._next_id += 1
        return Sequence(self._next_id, list(ids), greedy(reply), **fields)

    def reply(self, ids: list[int], reply: int = 8, **fields: object) -> tuple[list[int], int]:
        """New ids of one request, and how many of its prompt were reused."""
        one = self.sequence(ids, reply, **fields)
        new = run(self.engine, [one])[one.sequence_id]
        assert isinstance(new, list)
        return new, self.cached.get(one.sequence_id, 0)

    @property
    def held(self) -> list[list[int]]:
        return [entry.ids for entry in self.engine._scheduler.prefixes.held]


@pytest.mark.parametrize("family", FAMILIES)
def test_turns_of_a_conversation_compute_only_what_is_new(family: str) -> None:
    model = scaled(family)
    told, ids = Told(model), list(range(5, 35))
    for turn in range(4):
        new, cached = told.reply(ids)
        assert new == Told(model).reply(ids)[0]
        assert cached == (0 if turn == 0 else len(ids) - 4)
        # The last id of a reply is drawn, but not computed.
        ids = [*ids, *new, 40 + turn, 50, 60]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_share_beginnings_say_what_they_say_alone(family: str) -> None:
    model = scaled(family)
    asked = [SYSTEM + prompt[:20] for prompt in prompts()]
    alone = [Told(model).reply(ids, 5 + i)[0] for i, ids in enumerate(asked)]
    told = Told(model, rows=3)
    told.runner.arena.room = 10**6
    for late in (3, 5, 6):
        sequences = [told.sequence(ids, 5 + i) for i, ids in enumerate(asked)]
        results = run(told.engine, sequences, late=late)
        assert [results[one.sequence_id] for one in sequences] == alone
    # From the second on all begin with what the first has computed, while it runs; later all know their own prompt.
    assert min(told.cached[i] for i in range(2, 8)) >= len(SYSTEM)
    assert [told.cached[one.sequence_id] for one in sequences] == [len(ids) - 1 for ids in asked]


def test_several_replies_to_one_prompt_read_it_once() -> None:
    told = Told(LLAMA)
    sequences = [told.sequence(SYSTEM) for _ in range(4)]
    results = run(told.engine, sequences)
    assert [told.cached.get(i, 0) for i in (1, 2, 3, 4)] == [0, 29, 29, 29]
    assert all(results[i] == results[1] for i in (2, 3, 4))


def test_an_edited_message_keeps_what_stands_before_it_and_the_old_branch() -> None:
    told = Told(LLAMA)
    told.reply(SYSTEM + [1] * 50)
    edited = SYSTEM + [2] * 50
    assert told.reply(edited) == (Told(LLAMA).reply(edited)[0], len(SYSTEM))
    assert told.reply([*SYSTEM, *[1] * 50, 3])[1] == len(SYSTEM) + 50


def test_nobody_reuses_what_another_owner_typed() -> None:
    told = Told(LLAMA)
    told.engine.submit(told.sequence(SYSTEM, 50, owner="phone"))
    told.engine.step()
    assert told.reply(SYSTEM, owner="laptop")[1] == 0
    assert told.reply(SYSTEM)[1] == 0
    assert told.reply(SYSTEM, owner="phone")[1] == 29


def test_a_cancelled_reply_leaves_its_prefix_in_prefill_too() -> None:
    for steps, known in ((1, 16), (4, 31)):
        told = Told(LLAMA)
        one = told.sequence([*SYSTEM, 1, 2], 50)
        told.engine.submit(one)
        for _ in range(steps):
            told.engine.step()
        told.engine.cancel(one.sequence_id)
        assert told.reply([*SYSTEM, 1, 2])[1] == known


def test_the_least_recently_used_goes_first() -> None:
    told, spare = Told(LLAMA, rows=1), 10
    told.runner.arena.room = 10**6
    for i in range(spare + 20):
        told.reply([i + 1] * 10)
        told.reply([1] * 10)
    assert len(told.held) == 17
    assert told.reply([1] * 12)[1] >= 10
    assert told.reply([5] * 12)[1] == 0
    assert told.reply([spare + 20] * 12)[1] >= 10


class Spoilt(FlatRunner):
    """Computes values that are not numbers for prompts with id 77, which shows only in its last logits."""

    @torch.inference_mode()
    def forward(self, step: Step) -> torch.Tensor:
        logits = super().forward(step).clone()
        for one in [*step.rows, *([step.chunk.sequence] if step.chunk else [])]:
            if 77 in one.ids:
                self.arena.values[0][one.place.start + 2] = float("nan")
        for i, one in enumerate(step.sampled):
            if 77 in one.ids:
                logits[i] = float("nan")
        return logits


@pytest.mark.parametrize("steps", [1, 2])
def test_numbers_that_are_not_finite_are_never_reused(steps: int) -> None:
    told = Told(LLAMA)
    runner = Spoilt(copy.deepcopy(LLAMA))
    runner.chunk_size = 16
    engine = Engine(runner, max_rows=3, context_length=CONTEXT)
    engine.submit(Sequence(1, [*SYSTEM[:-1], 77], greedy(9)))
    for _ in range(steps):
        engine.step()
    # After one step it is cancelled in prefill, after two it has failed.
    engine.cancel(1)
    others = {i: SYSTEM[: 10 * i] for i in (2, 3)}
    results = run(engine, [Sequence(i, list(ids), greedy(8)) for i, ids in others.items()])
    assert results == {i: told.reply(ids)[0] for i, ids in others.items()}


def test_short_memory_pauses_the_youngest_and_nobody_can_tell() -> None:
    asked = [[i + 1] * 20 for i in range(6)]
    expected = [Told(LLAMA).reply(ids, 30 + i)[0] for i, ids in enumerate(asked)]
    told = Told(LLAMA, kv_bytes=110 * 3 * 2 * 2 * 16 * 4)
    paused = []
    pause = told.engine._scheduler.pause
    told.engine._scheduler.pause = lambda one: (paused.append(one.sequence_id), pause(one))  # type: ignore[method-assign, assignment, return-value]
    sequences = [told.sequence(ids, 30 + i) for i, ids in enumerate(asked)]
    results = run(told.engine, sequences)
    assert [results[one.sequence_id] for one in sequences] == expected
    assert paused
    assert 1 not in paused
    assert told.runner.arena.room == 104


def test_a_reply_ends_where_memory_for_one_ends() -> None:
    told = Told(LLAMA, kv_bytes=40 * 3 * 2 * 2 * 16 * 4)
    long, short = told.sequence(SYSTEM, 50), told.sequence([1, 2, 3], 8)
    results = run(told.engine, [long, short])
    assert results[1] == Told(LLAMA).reply(SYSTEM, 50)[0][:10]
    assert told.engine.context_length == 40
    assert results[2] == Told(LLAMA).reply([1, 2, 3])[0]


@pytest.mark.parametrize("kv_bytes", [None, 300 * 2 * 2 * 16 * 4])
def test_after_two_thousand_random_requests_memory_is_free_or_accounted_to_prefixes(
    kv_bytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("colab_llm_chat.models.runners.arena.KEPT_BYTES", 0)
    chosen, told = random.Random(3), Told(SMALL, kv_bytes=kv_bytes)
    arena, alive, failed = told.runner.arena, [], 0
    spoil = told.model.register_forward_pre_hook(_explode_at_66, with_kwargs=True)
    for _ in range(2000 if kv_bytes is None else 500):
        ids = [*SYSTEM[: chosen.randrange(30)], *(chosen.randrange(1, 200) for _ in range(chosen.randrange(1, 9)))]
        alive.append(told.sequence(ids, chosen.randrange(1, 6), background=chosen.random() < 0.2))
        told.engine.submit(alive[-1])
        if chosen.random() < 0.3:
            told.engine.cancel(chosen.choice(alive[-8:]).sequence_id)
        while told.engine.busy and len(told.engine._alive) > chosen.randrange(9):
            failed += len(told.engine.step().failed)
            assert all(one.shape[0] <= arena.room for one in arena.keys.values())
    while told.engine.busy:
        told.engine.step()
    spoil.remove()
    assert failed
    assert not told.engine._alive
    assert len(told.held) <= 21
    assert arena.used == sum(-(-len(ids) // PAGE) * PAGE for ids in told.held)
    # Given back from half of it on.
    assert all(one.shape[0] <= 2 * arena.used for one in arena.keys.values())
    assert torch.stack([one.isfinite().all() for one in (*arena.keys.values(), *arena.values.values())]).all()
    ids = [*SYSTEM, 1, 2]
    assert told.reply(ids)[0] == Told(SMALL).reply(ids)[0]


def _explode_at_66(_: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
    if (kwargs["input_ids"] == 66).any():
        raise RuntimeError("planted")


def test_an_entry_that_says_no_more_than_another_is_not_held() -> None:
    prefixes = Prefixes()
    for slot, (ids, owner) in enumerate([([1, 2], ""), ([1, 2, 3], ""), ([1], ""), ([1, 2], "phone"), ([2], "")]):
        one = Sequence(slot, ids, SamplingParams(), owner=owner)
        one.computed = len(ids)
        prefixes.keep(one, Slot(slot, 1))
    assert [(one.slot.start, one.ids) for one in prefixes.held] == [(1, [1, 2, 3]), (3, [1, 2]), (4, [2])]


@pytest.mark.parametrize("shared", [0, 1, 7, 30])
def test_common_counts_the_first_ids_that_are_the_same(shared: int) -> None:
    one = list(range(30))
    other = [*one[:shared], -1, *one[shared + 1 :]]
    assert common(one, other) == common(other, one) == shared
    assert common(one, one[:shared]) == shared


def kept(*entries: list[int]) -> Prefixes:
    """Entries in slots 0, 1, …"""
    prefixes = Prefixes()
    for slot, ids in enumerate(entries):
        one = Sequence(slot, ids, SamplingParams())
        one.computed = len(ids)
        prefixes.keep(one, Slot(slot, 1))
    return prefixes


def test_an_entry_that_someone_goes_on_from_counts_as_used() -> None:
    prefixes = kept([1] * 9, [4])
    assert prefixes.find(Sequence(9, [*[1] * 8, 9, 9], SamplingParams()), []) == (prefixes.held[0], 8)
    assert prefixes.drop_oldest().start == 1


def test_a_few_ids_are_read_sooner_than_found() -> None:
    assert kept([1] * 9).find(Sequence(9, [*[1] * 6, 9, 9], SamplingParams()), []) == (None, 0)


def test_what_a_failed_sequence_may_have_gone_on_from_is_forgotten() -> None:
    prefixes = kept([1, 2, 3], [4])
    assert [slot.start for slot in prefixes.distrust(Sequence(9, [1, 5], SamplingParams()))] == [0]
    assert [entry.ids for entry in prefixes.held] == [[4]]


def test_what_fails_for_one_owner_makes_nobody_else_read_again() -> None:
    prefixes = kept([1, 2, 3])
    assert not prefixes.distrust(Sequence(9, [1, 5], SamplingParams(), owner="phone"))
