"""Who runs when: slots without holes, people before background work, and pauses that nobody can see in the text."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.runner import Runner
from colab_llm_chat.engine.scheduler import Scheduler
from colab_llm_chat.engine.sequence import Sequence, Slot, Step
from colab_llm_chat.models.runners.arena import Arena
from colab_llm_chat.models.runners.flat import FlatRunner
from colab_llm_chat.models.runners.sequential import SequentialRunner
from colab_llm_chat.settings import SamplingParams, TokenRules
from colab_llm_chat.text.grammar import json_grammar
from colab_llm_chat.text.matchers import Grammars
from tests.tiny_models import tiny_model
from tests.tokenizers_made_here import of_kind

RUNNERS = {"flat": FlatRunner, "sequential": SequentialRunner}
CONTEXT = 128


class Slots(Arena):
    """An arena whose only layer holds ids. Its `room` can be little."""

    def __init__(self, room: int = 10**6) -> None:
        super().__init__(page=4)
        self.room = room

    @torch.inference_mode()
    def compute(self, step: Step) -> None:
        """A step without a model: stores the ids, after checking what lies there already."""
        assert self.used <= self.room
        self.begin(step, device=torch.device("cpu"))
        ids = [row.ids[-1] for row in step.rows] + (step.chunk.ids if step.chunk else [])
        states = torch.tensor(ids, dtype=torch.float32)[None, None, :, None]
        self.update(states, states, 0)
        for row in step.rows:
            assert self.held(row.place, len(row.ids)) == row.ids
        if step.chunk:
            assert self.held(step.chunk.sequence.place, step.chunk.end) == step.chunk.sequence.ids[: step.chunk.end]

    def held(self, slot: Slot, length: int) -> list[float]:
        return self.keys[0][slot.start : slot.start + length, 0, 0].tolist()


def sequence(sequence_id: int, length: int = 3, *, background: bool = False, reply: int = 6) -> Sequence:
    sampling = SamplingParams(max_new_tokens=reply, seed=sequence_id, temperature=1.0)
    return Sequence(sequence_id, [1 + sequence_id % 3] * length, sampling, background=background)


def advance(scheduler: Scheduler, slots: Slots) -> list[int]:
    """One step; the ids of the sequences that got a token."""
    step = scheduler.schedule()
    slots.compute(step)
    scheduler.observe(step, 0.01)
    sampled = step.sampled
    scheduler.advance(step)
    for row in sampled:
        if row.append(7, context_length=10**6):
            scheduler.remove(row)
    owned = [one.place for one in scheduler.active] + [entry.slot for entry in scheduler.prefixes.held]
    assert sorted(map(id, owned)) == sorted(map(id, slots.taken))
    assert all(one.end <= other.start for one, other in pairwise(slots.taken))
    if not slots._origins and slots._move is None:
        for entry in scheduler.prefixes.held:
            assert slots.held(entry.slot, len(entry.ids)) == entry.ids
    return [row.sequence_id for row in sampled]


EVENTS = st.lists(
    st.tuples(st.sampled_from(["submit", "background", "cancel", "pause", "step"]), st.integers(0, 30)), max_size=60
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(EVENTS, st.integers(1, 4), st.sampled_from([40, 80, 200, 10**6]), st.booleans())
def test_in_any_order_of_events_all_end_and_rows_keep_their_slots(
    events: list[tuple[str, int]], rows: int, room: int, whole: bool
) -> None:
    slots, alive, ended = Slots(room), {}, set()
    scheduler = Scheduler(slots, max_rows=rows, chunk_size=4, whole_prompts=whole)
    for at, (event, number) in enumerate(events):
        if event in ("submit", "background"):
            alive[at] = sequence(at, 1 + number, background=event == "background")
            scheduler.add(alive[at])
        elif event == "step" and scheduler.busy:
            advance(scheduler, slots)
        elif alive and event in ("cancel", "pause"):
            chosen = list(alive.values())[number % len(alive)]
            active = [*scheduler.running, scheduler.prefilling]
            if event == "cancel":
                scheduler.remove(alive.pop(chosen.sequence_id))
            elif chosen in active:
                scheduler.pause(chosen)
        assert len(scheduler.running) <= rows
    for _ in range(5000):
        if not scheduler.busy:
            break
        ended.update(advance(scheduler, slots))
    assert not scheduler.busy
    assert all(one.generated == 6 for one in alive.values())


def test_short_prompts_are_read_before_the_rest_of_a_long_one_which_then_goes_on() -> None:
    slots = Slots()
    scheduler, long = Scheduler(slots, max_rows=8, chunk_size=16), sequence(1, 200)
    scheduler.add(long)
    advance(scheduler, slots)
    read, first = long.computed, []
    for number in (2, 3, 5):
        scheduler.add(sequence(number, 8))
    while long.generated == 0:
        first += [one for one in advance(scheduler, slots) if one not in first]
        assert scheduler.prefilling is not long or long.computed > read > 0
    assert first == [2, 3, 5, 1]


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_a_long_prompt_is_read_in_twice_its_time_however_many_short_ones_come(rows: int) -> None:
    slots = Slots()
    scheduler, long, chunks = Scheduler(slots, max_rows=rows, chunk_size=16), sequence(0, 200), 0
    scheduler.add(long)
    while long.generated == 0:
        chunks += scheduler.prefilling not in (None, long)
        scheduler.add(sequence(1 + len(scheduler.waiting) + chunks, 10))
        advance(scheduler, slots)
    assert long.overtaken <= 200
    assert chunks > 0 or rows == 2


def test_background_sequences_run_only_while_nobody_else_does() -> None:
    slots = Slots()
    scheduler = Scheduler(slots, max_rows=4, chunk_size=4)
    for number in (1, 2, 3):
        scheduler.add(sequence(number, background=True, reply=20))
    while len(scheduler.running) < 2:
        advance(scheduler, slots)
    scheduler.add(sequence(9, 10))
    assert not scheduler.running
    assert [one.sequence_id for one in scheduler.background] == [1, 2, 3]
    while scheduler.running or scheduler.prefilling or scheduler.waiting:
        assert set(advance(scheduler, slots)) <= {9}
    # What it had is not read again.
    assert advance(scheduler, slots) == [1]


def replies(engine: Engine, *, disturb_at: frozenset[int] = frozenset(), first: list[Sequence]) -> dict[int, list[int]]:
    """Ids of `first`; at the given steps a person comes in between."""
    ids: dict[int, list[int]] = {}
    for one in first:
        engine.submit(one)
    step = 0
    while engine.busy:
        if step in disturb_at:
            engine.submit(sequence(1000 + step, 20, reply=4))
        for sequence_id, token_id in engine.step().tokens:
            ids.setdefault(sequence_id, []).append(token_id)
        step += 1
    return ids


def seeded_pair() -> list[Sequence]:
    """Two in the background with every knob, the second under a grammar."""
    knobs = SamplingParams(
        temperature=1.2, top_p=0.95, seed=3, repetition_penalty=1.2, frequency_penalty=0.5, presence_penalty=0.3,
        no_repeat_ngram_size=3, max_new_tokens=30,
    )  # fmt: skip
    tokenizer = of_kind("byte-level BPE")
    grammar = json_grammar({"type": "array", "items": {"type": "integer"}, "minItems": 9})
    rules = TokenRules(logit_bias={5: 2.0, 9: -3.0}, min_tokens=4, top_logprobs=2)
    held = Sequence(2, [4, 5, 6], knobs, rules=rules, background=True, matcher=Grammars(tokenizer).matcher(grammar))
    return [Sequence(1, [1, 2, 3], knobs, rules=rules, background=True), held]


@pytest.mark.parametrize("kind", RUNNERS)
@pytest.mark.parametrize("steps", [{3}, {0, 1, 2}, {5, 9, 17, 30}])
def test_a_paused_reply_goes_on_with_the_same_text(kind: str, steps: set[int]) -> None:
    runner = RUNNERS[kind](tiny_model("llama", scale=2.0))
    undisturbed = replies(engine_of(runner), first=seeded_pair())
    disturbed = replies(engine_of(runner), disturb_at=frozenset(steps), first=seeded_pair())
    assert {one: disturbed[one] for one in (1, 2)} == undisturbed
    assert len(undisturbed[1]) == 30


def engine_of(runner: Runner) -> Engine:
    runner.chunk_size = 8
    return Engine(runner, max_rows=4, context_length=CONTEXT)


def test_a_paused_reply_holds_nothing_on_the_device() -> None:
    runner = SequentialRunner(tiny_model("llama"))
    scheduler = Scheduler(runner.arena, max_rows=2, chunk_size=8, whole_prompts=True, forget=runner.forget)
    row = Sequence(1, [1, 2, 3], SamplingParams(frequency_penalty=1.0))
    row.known = torch.tensor(row.ids)
    scheduler.add(row)
    runner.forward(scheduler.schedule())
    scheduler.pause(row)
    assert not runner._known
    assert row.known is None
    assert list(scheduler.waiting) == [row]
