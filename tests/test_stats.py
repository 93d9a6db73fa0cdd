"""What the engine counts, over tiny real models: after any course of requests the numbers add up."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.sequence import Sequence
from colab_llm_chat.engine.stats import EDGES, Durations
from colab_llm_chat.models.runners.arena import PAGE
from colab_llm_chat.models.runners.flat import FlatRunner
from colab_llm_chat.models.runners.sequential import SequentialRunner
from colab_llm_chat.protocol.stats import Stats
from colab_llm_chat.settings import SamplingParams
from tests.tiny_models import tiny_model

ROWS = 3
CONTEXT = 64
MODEL = tiny_model("llama")


def engine(model: torch.nn.Module = MODEL, *, kv_bytes: int | None = None) -> Engine:
    runner = FlatRunner(model)
    runner.chunk_size = 4
    return Engine(runner, max_rows=ROWS, context_length=CONTEXT, kv_bytes=kv_bytes)


def submit(engine: Engine, sequence_id: int, *, prompt: int = 6, reply: int = 5, background: bool = False) -> None:
    sampling = SamplingParams(temperature=0.0, max_new_tokens=reply)
    engine.submit(Sequence(sequence_id, list(range(1, prompt + 1)), sampling, background=background))


def run(engine: Engine) -> int:
    """Until nothing is left to do; the tokens that were told."""
    told = 0
    while engine.busy:
        told += len(engine.step().tokens)
    return told


def told(engine: Engine) -> Stats:
    """What arrives at the other end of the pipe."""
    return Stats(**json.loads(json.dumps(engine.stats.snapshot())))


def test_nothing_done_counts_nothing() -> None:
    stats = told(engine())
    assert stats.ended == {"stop": 0, "length": 0, "failed": 0, "cancelled": 0}
    assert (stats.steps, stats.tokens_generated, stats.running, sum(stats.first_token.counts)) == (0, 0, 0, 0)
    assert stats.budget_positions == ROWS * PAGE


@pytest.mark.parametrize("number", [1, 7])
def test_finished_sequences_add_up(number: int) -> None:
    counted = engine()
    for sequence_id in range(number):
        submit(counted, sequence_id)
    assert run(counted) == 5 * number
    stats = told(counted)
    assert stats.ended["length"] == number
    assert stats.tokens_generated == 5 * number
    assert stats.prompt_tokens_computed + stats.prompt_tokens_reused == 6 * number
    assert sum(stats.first_token.counts) == number
    assert sum(stats.between_tokens.counts) == 4 * number
    assert (stats.running, stats.waiting, stats.row_positions) == (0, 0, 0)


def test_what_a_prefix_brings_is_reused_and_not_computed() -> None:
    counted = engine()
    submit(counted, 0, prompt=20)
    run(counted)
    before = told(counted)
    assert (before.prompt_tokens_computed, before.prompt_tokens_reused, before.prefix_positions) == (20, 0, 24)
    submit(counted, 1, prompt=20)
    run(counted)
    assert (told(counted).prompt_tokens_computed, told(counted).prompt_tokens_reused) == (21, 19)


def test_gauges_show_who_runs_and_who_waits() -> None:
    counted = engine()
    for sequence_id in range(ROWS + 2):
        submit(counted, sequence_id, prompt=4)
    submit(counted, 99, background=True)
    while (stats := told(counted)).running < ROWS:
        counted.step()
    assert (stats.running, stats.waiting, stats.background) == (ROWS, 2, 1)
    # Of the last prompt nothing: steps of so many rows are measured before one is read beside.
    assert stats.row_positions == 7 + 5
    assert stats.tokens_per_second > 0
    run(counted)
    assert told(counted).tokens_per_second == 0


def test_a_cancelled_sequence_is_counted_once_wherever_it_was() -> None:
    counted = engine()
    for sequence_id in range(ROWS + 1):
        submit(counted, sequence_id)
    counted.step()
    for sequence_id in (0, ROWS, 0, 4711):
        counted.cancel(sequence_id)
    run(counted)
    assert told(counted).ended == {"stop": 0, "length": ROWS - 1, "failed": 0, "cancelled": 2}


def test_an_end_of_text_is_a_stop_and_no_token() -> None:
    counted = engine()
    every_id = frozenset(range(MODEL.config.vocab_size))
    counted.submit(Sequence(0, [1, 2, 3], SamplingParams(), eos_token_ids=every_id))
    run(counted)
    stats = told(counted)
    assert (stats.ended["stop"], stats.tokens_generated, sum(stats.first_token.counts)) == (1, 0, 0)


def test_a_failed_sequence_is_counted_and_the_others_finish() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[77] = float("nan")
    counted = engine(model)
    submit(counted, 0)
    counted.submit(Sequence(1, [77, 2, 3], SamplingParams()))
    run(counted)
    ended = told(counted).ended
    assert (ended["failed"], ended["length"]) == (1, 1)


def test_a_sequence_that_gives_way_is_a_pause_and_is_read_again() -> None:
    counted = engine()
    submit(counted, 0, reply=20, background=True)
    for _ in range(4):
        counted.step()
    submit(counted, 1)
    run(counted)
    stats = told(counted)
    assert stats.pauses == 1
    assert (stats.tokens_generated, stats.ended["length"]) == (25, 2)
    assert sum(stats.first_token.counts) == 2


def test_a_model_without_an_arena_is_counted_too() -> None:
    counted = Engine(SequentialRunner(tiny_model("llama")), max_rows=ROWS, context_length=CONTEXT)
    submit(counted, 0)
    run(counted)
    stats = told(counted)
    assert (stats.tokens_generated, stats.prompt_tokens_computed, stats.budget_positions) == (5, 6, None)


def test_a_duration_falls_below_its_edge() -> None:
    durations = Durations()
    for seconds in (0.0, EDGES[0], EDGES[1], 1e6):
        durations.add(seconds)
    assert durations.counts == [2, 1, *[0] * (len(EDGES) - 2), 1]
    assert durations.total == pytest.approx(EDGES[0] + EDGES[1] + 1e6)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["submit", "background", "cancel", "step"]), st.integers(0, 9)), max_size=25
)


@given(EVENTS)
@hypothesis_settings(max_examples=25, deadline=None, database=None)
def test_whatever_happens_every_sequence_ends_once_and_every_token_is_timed(events: list[tuple[str, int]]) -> None:
    counted, submitted, tokens = engine(), 0, 0
    for what, number in events:
        if what == "cancel":
            counted.cancel(number)
        elif what == "step":
            tokens += len(counted.step().tokens) if counted.busy else 0
        else:
            submit(counted, submitted, prompt=1 + number, background=what == "background")
            submitted += 1
    stats = told(counted)
    assert sum(stats.ended.values()) + stats.running + stats.waiting + stats.background == submitted
    tokens += run(counted)
    stats = told(counted)
    assert sum(stats.ended.values()) == submitted
    assert stats.tokens_generated == tokens == sum(stats.first_token.counts) + sum(stats.between_tokens.counts)
    assert (stats.running, stats.waiting, stats.background, stats.row_positions) == (0, 0, 0, 0)
