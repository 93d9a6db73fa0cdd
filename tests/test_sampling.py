"""Drawing token ids: the distribution that each setting leaves, and that rows do not touch each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from colab_llm_chat.engine import sampling
from colab_llm_chat.engine.sampling import sample
from colab_llm_chat.engine.sequence import Sequence
from colab_llm_chat.settings import SamplingParams

VOCAB = 50


def logits_of(seed: int, *, rows: int = 1, vocab: int = VOCAB) -> torch.Tensor:
    return 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def allowed_by_transformers(logits: torch.Tensor, params: SamplingParams) -> set[int]:
    """The ids that generate's own warpers leave."""
    scores = TemperatureLogitsWarper(params.temperature)(None, logits)
    if params.top_k:
        scores = TopKLogitsWarper(params.top_k)(None, scores)
    if params.top_p < 1:
        scores = TopPLogitsWarper(params.top_p)(None, scores)
    if params.min_p:
        scores = MinPLogitsWarper(params.min_p)(None, scores)
    return set(torch.isfinite(scores[0]).nonzero().flatten().tolist())


def drawn_ids(logits: torch.Tensor, params: SamplingParams, draws: int) -> list[int]:
    """Each as the next token of one row, whose prompt and reply say nothing of it."""
    row, ids = Sequence(0, [1], params), []
    for _ in range(draws):
        ids.append(sample(logits, [row])[0].token_id)
        row.append(ids[-1], context_length=10**9)
    return ids


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 99),
    st.sampled_from([0, 1, 5, 49, 200]),
    st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.05, 0.5]),
    st.sampled_from([0.3, 1.0, 2.0]),
)
def test_only_ids_that_the_settings_leave_are_drawn(
    seed: int, top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    logits = logits_of(seed)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    assert set(drawn_ids(logits, params, 40)) <= allowed_by_transformers(logits, params)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (0, 0.8), (10, 1.0), (10, 0.8)])
def test_ids_are_drawn_as_often_as_their_probability_says(top_k: int, top_p: float) -> None:
    logits = logits_of(3, vocab=20)
    params = SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p, seed=5)
    kept = sorted(allowed_by_transformers(logits, params))
    want = torch.softmax(logits[0, kept], -1)
    counts = torch.bincount(torch.tensor(drawn_ids(logits, params, 4000)), minlength=20)[kept] / 4000
    assert float((counts - want).abs().max()) < 0.03


def test_top_p_that_reaches_beyond_the_candidates_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = logits_of(8)
    params = SamplingParams(temperature=2.0, top_k=0, top_p=0.95, seed=1)
    exact = drawn_ids(logits, params, 50)
    monkeypatch.setattr(sampling, "TOP_P_CANDIDATES", 3)
    assert drawn_ids(logits, params, 50) == exact
    assert len(set(exact)) > 3


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.7, 1.5]), st.sampled_from([0, 3, 50]), st.sampled_from([0.4, 1.0])),
        min_size=2,
        max_size=8,
    )
)
def test_a_row_draws_the_same_in_any_company(kinds: list[tuple[float, int, float]]) -> None:
    logits = logits_of(2, rows=len(kinds))
    params = [SamplingParams(temperature=t, top_k=k, top_p=p, seed=i) for i, (t, k, p) in enumerate(kinds)]
    together = [drawn.token_id for drawn in sample(logits, [Sequence(i, [1], p) for i, p in enumerate(params)])]
    alone = [sample(logits[i : i + 1], [Sequence(i, [1], p)])[0].token_id for i, p in enumerate(params)]
    assert together == alone


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-46, 1e-38, 1e-6, 1e-5, 1e-4])
@pytest.mark.parametrize("top_k", [0, 1, 50])
def test_temperature_near_zero_takes_the_likeliest(temperature: float, top_k: int) -> None:
    logits = logits_of(4)
    params = SamplingParams(temperature=temperature, top_k=top_k)
    assert drawn_ids(logits, params, 3) == [int(logits.argmax())] * 3


def test_unseeded_rows_differ() -> None:
    logits = torch.zeros(1, 1000)
    assert len(set(drawn_ids(logits, SamplingParams(temperature=1.0, top_k=0, top_p=1.0), 20))) > 10


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_with_numbers_that_are_not_finite_is_marked(bad: float) -> None:
    logits = logits_of(1, rows=3)
    logits[1, 4] = bad
    rows = [Sequence(i, [1], SamplingParams(seed=i)) for i in range(3)]
    assert [drawn.finite for drawn in sample(logits, rows)] == [True, False, True]


def test_logits_of_minus_infinity_are_never_drawn() -> None:
    logits = torch.full((1, VOCAB), float("-inf"))
    logits[0, 7] = 0.0
    params = SamplingParams(temperature=1.0, top_k=0, top_p=1.0)
    assert set(drawn_ids(logits, params, 10)) == {7}


def test_repeated_runs_are_banned() -> None:
    row = Sequence(0, [1, 2, 3, 1, 2], SamplingParams(no_repeat_ngram_size=3))
    assert row.banned_ids() == {3}
    logits = torch.zeros(1, VOCAB)
    logits[0, 3] = 100.0
    assert sample(logits, [row])[0].token_id != 3
