"""The state of one generation: its token ids, how they are drawn, and what a step does with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from ..settings import SamplingParams, TokenRules
from .reports import EndReason

if TYPE_CHECKING:
    import torch
    from llguidance import LLMatcher


@dataclass(slots=True, eq=False)
class Slot:
    """Consecutive positions of the arena, from `start` on; the arena may move it."""

    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass(slots=True, eq=False, weakref_slot=True)
class Sequence:
    """One generation. `ids` is the prompt and what followed; `computed` of them have keys and values in `slot`.
    `source_ids` are what an encoder reads; `ids` are then the decoder's.

    `matcher` is where the reply stands in its grammar. `known` (ids) and `bias` belong to the sampler. `cached` ids of
    the prompt were not computed, but taken from a prefix of the same `owner`; None before it was looked for. `drafts`
    are ids that the next step tries after the last one. `long` is true once it is read as a text of more than
    `switch_length` ids, for which the model has other keys; 0: none is. `cut`: an end-of-text id here is for want of
    room. So many ids of others that came later were read before its own: `overtaken`.
    """

    sequence_id: int
    ids: list[int]
    sampling: SamplingParams
    eos_token_ids: frozenset[int] = frozenset()
    rules: TokenRules = TokenRules()  # noqa: RUF009 - frozen
    background: bool = False
    owner: str = ""
    source_ids: list[int] = field(default_factory=list)
    computed: int = 0
    slot: Slot | None = None
    cached: int | None = None
    switch_length: int = 0
    matcher: LLMatcher | None = None
    prompt_length: int = field(init=False)
    random: Random = field(init=False)
    numbers: list[float] = field(init=False, default_factory=list)
    drafts: list[int] = field(init=False, default_factory=list)
    long: bool = field(init=False, default=False)
    cut: bool = field(init=False, default=False)
    overtaken: int = field(init=False, default=0)
    known: torch.Tensor | None = field(init=False, default=None)
    bias: tuple[torch.Tensor, torch.Tensor] | None = field(init=False, default=None)
    followers: dict[tuple[int, ...], set[int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.prompt_length = len(self.ids)
        self.random = Random(self.sampling.seed)
        for end in range(1, len(self.ids) + 1):
            self._remember_ngram(end)

    def append(self, token_id: int, *, context_length: int) -> EndReason | None:
        """Take a sampled id; the reason when it was the last. An end-of-text id is not kept."""
        if token_id in self.eos_token_ids:
            return "length" if self.cut else "stop"
        complete = self.matcher is not None and (not self.matcher.consume_token(token_id) or self.matcher.is_stopped())
        if complete and self.matcher is not None and self.matcher.stop_reason() == "EndOfSentence":
            return "stop"
        self.ids.append(token_id)
        del self.numbers[:1]
        self._remember_ngram(len(self.ids))
        if complete:
            return "stop"
        full = self.generated >= self.sampling.max_new_tokens or len(self.ids) >= context_length
        return "length" if full else None

    def uniform(self, ahead: int = 0) -> float:
        """What the token after so many more is drawn with: one number a token, however often its step is computed."""
        while len(self.numbers) <= ahead:
            self.numbers.append(self.random.random())
        return self.numbers[ahead]

    @property
    def generated(self) -> int:
        return len(self.ids) - self.prompt_length

    @property
    def place(self) -> Slot:
        """Where its keys and values are; asked for only while it has a slot."""
        if self.slot is None:
            raise RuntimeError(f"sequence {self.sequence_id} has no slot")
        return self.slot

    @property
    def grown_long(self) -> bool:
        return 0 < self.switch_length < len(self.ids)

    @property
    def kin(self) -> tuple[str, bool]:
        """Whose keys and values may stand for its own: those of the same owner, computed in the same way."""
        return self.owner, self.long

    @property
    def must_go_on(self) -> bool:
        """True while the reply may not end by an end-of-text id."""
        return self.rules.ignore_eos or self.generated < self.rules.min_tokens

    def rewind(self) -> None:
        """Hold nothing on the device any more: to go on, prompt and reply so far are read again."""
        self.computed = 0
        self.known = self.bias = None
        self.long = self.grown_long

    def banned_ids(self) -> set[int]:
        """Ids that would repeat a run of `no_repeat_ngram_size` ids already there."""
        size = self.sampling.no_repeat_ngram_size
        return self.followers.get(tuple(self.ids[len(self.ids) - size + 1 :]), set())

    def _remember_ngram(self, end: int) -> None:
        size = self.sampling.no_repeat_ngram_size
        if 0 < size <= end:
            self.followers.setdefault(tuple(self.ids[end - size : end - 1]), set()).add(self.ids[end - 1])


@dataclass(slots=True, frozen=True)
class Chunk:
    """A piece of one prompt: `ids` at positions `start`, `start + 1`, … of its sequence."""

    sequence: Sequence
    start: int
    ids: list[int]

    @property
    def end(self) -> int:
        return self.start + len(self.ids)

    @property
    def completes_prompt(self) -> bool:
        """True when the next token can be sampled after this piece."""
        return self.end == len(self.sequence.ids)


@dataclass(slots=True, frozen=True)
class Query:
    """An id of a row at the position `length - 1`, after which logits are asked for."""

    row: Sequence
    token_id: int
    length: int


@dataclass(slots=True, frozen=True)
class Step:
    """What one forward computes: the next token of `rows`, by their slots, those after drafts, at most one chunk."""

    rows: list[Sequence]
    chunk: Chunk | None = None

    @property
    def queries(self) -> list[Query]:
        """Of each row the last id and its drafts."""
        return [
            Query(row, one, len(row.ids) + i) for row in self.rows for i, one in enumerate([row.ids[-1], *row.drafts])
        ]

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that get a token from this step, in the order of its logits: once more for each draft."""
        rows, chunk = [query.row for query in self.queries], self.chunk
        return [*rows, chunk.sequence] if chunk is not None and chunk.completes_prompt else rows

    def split(self) -> list[Step]:
        """The same work, one sequence a step: to find the one at fault."""
        chunk = [] if self.chunk is None else [Step([], self.chunk)]
        return [*(Step([row]) for row in self.rows), *chunk]
