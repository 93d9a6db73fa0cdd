"""Each family of decoders by the runner it gets: the ids that its own `generate` gives, however rows are mixed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.runner import Runner
from colab_llm_chat.engine.sequence import Sequence
from colab_llm_chat.models import choose
from colab_llm_chat.models.choose import choose_runner
from colab_llm_chat.models.native.kernels import load_kernels
from colab_llm_chat.models.native.parts import ROTARY
from colab_llm_chat.models.native.use import use_kernels
from colab_llm_chat.models.rotary import restore_rotary, steady_rotary
from colab_llm_chat.models.runners.flat import FlatRunner
from colab_llm_chat.models.runners.native import DecoderRunner, NativeRunner
from colab_llm_chat.models.runners.sequential import SequentialRunner
from tests.test_engine import CONTEXT, REPLY_LENGTHS, greedy, prompts, run
from tests.tiny_models import generated, known_families, tiny_model

NAMED = (
    "llama", "mistral", "qwen2", "qwen2_windows", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "phi3_long",
    "phi4", "phi4_mini", "ministral3", "gpt2", "gpt_neox", "gpt_oss", "opt", "mixtral", "qwen3_moe",
)  # fmt: skip
OTHERS = [name for name in known_families() if name not in NAMED]
SYSTEM = list(range(100, 120))
# From one id on, around the window of 8, and with the end of a prompt of 17 as a chunk of one.
CHUNK_SIZES = (1, 3, 7, 8, 9, 16, 32)


@dataclass(frozen=True)
class Family:
    """A model with the runner chosen for it, and its own replies: to the prompts, and to three turns with it."""

    name: str
    runner: Runner
    replies: list[list[int]]
    turns: list[tuple[list[int], list[int]]]
    edited: tuple[list[int], list[int]]


def own(name: str) -> PreTrainedModel:
    """A model that attends as its reference, eagerly."""
    model = tiny_model(name, scale=7.0, tie_word_embeddings=False)
    model.set_attn_implementation("eager")
    return model


def called(param: tuple[str, bool]) -> str:
    name, with_kernels = param
    return f"{name}-kernels" if with_kernels else name


@contextmanager
def kernels_in(model: PreTrainedModel) -> Iterator[None]:
    """Whatever kernels can compute of a model, they do; its transformers module gets its own functions back."""
    kernels = load_kernels()
    assert kernels is not None
    with module_kept(model, ROTARY):
        use_kernels(model, kernels)
        yield


@contextmanager
def module_kept(model: PreTrainedModel, name: str) -> Iterator[None]:
    space = sys.modules[type(model).__module__]
    own = getattr(space, name, None)
    yield
    if own is not None:
        setattr(space, name, own)


@contextmanager
def without_kernels() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "kernels_for", lambda model: None)
        yield


def talk(model: PreTrainedModel, turns: int) -> list[tuple[list[int], list[int]]]:
    """Prompt and reply of each turn of a conversation."""
    told, ids = [], [*SYSTEM, 5, 6, 7]
    for turn in range(turns):
        told.append((ids, generated(model, ids, 6)))
        ids = [*ids, *told[-1][1], 40 + turn, 50, 60]
    return told


@pytest.fixture(scope="module", params=[(name, kernels) for name in NAMED for kernels in (False, True)], ids=called)
def family(request: pytest.FixtureRequest) -> Iterator[Family]:
    """Each by PyTorch alone, and with the kernels of this machine."""
    name, with_kernels = request.param
    model = own(name)
    replies = [generated(model, prompt, new) for prompt, new in zip(prompts(), REPLY_LENGTHS, strict=True)]
    turns, edited = talk(model, 3), [*SYSTEM, 5, 9, 9, 9]
    changed = edited, generated(model, edited, 6)
    with kernels_in(model) if with_kernels else without_kernels():
        yield Family(name, choose_runner(model, context_length=CONTEXT), replies, turns, changed)


def reply(engine: Engine, prompt: list[int], new: int) -> tuple[list[int], int]:
    """A reply, and how many ids of its prompt were reused."""
    one = Sequence(0, list(prompt), greedy(new))
    ids = run(engine, [one])[0]
    assert isinstance(ids, list)
    return ids, one.cached or 0


def test_the_named_families_are_batched_and_their_replies_vary(family: Family) -> None:
    assert isinstance(family.runner, FlatRunner)
    assert len({token_id for ids in family.replies for token_id in ids}) > 10


def test_layers_as_llama_has_them_run_in_one_call(family: Family, request: pytest.FixtureRequest) -> None:
    alike = family.name in ("llama", "mistral", "qwen2", "qwen2_windows", "qwen3")
    with_kernels = request.node.callspec.id.endswith("-kernels")
    assert isinstance(family.runner, NativeRunner) == with_kernels
    assert isinstance(family.runner, DecoderRunner) == (with_kernels and alike)


def test_ids_alone_equal_generate_at_any_chunk_size(family: Family) -> None:
    for prompt, expected, size in zip(prompts(), family.replies, CHUNK_SIZES, strict=True):
        family.runner.chunk_size = size
        engine = Engine(family.runner, max_rows=2, context_length=CONTEXT)
        assert reply(engine, prompt, len(expected))[0] == expected


def test_ids_in_unequal_rows_with_joins_and_leaves_equal_generate(family: Family) -> None:
    family.runner.chunk_size = 16
    engine = Engine(family.runner, max_rows=5, context_length=CONTEXT)
    for late in (3, 6):
        asked = zip(prompts(), REPLY_LENGTHS, strict=True)
        sequences = [Sequence(i, list(prompt), greedy(new)) for i, (prompt, new) in enumerate(asked)]
        results = run(engine, sequences, late=late)
        assert [results[i] for i in range(len(sequences))] == family.replies


def test_the_next_turn_computes_only_what_is_new_and_equals_generate(family: Family) -> None:
    engine, known = Engine(family.runner, max_rows=2, context_length=CONTEXT), 0
    for prompt, expected in family.turns:
        assert reply(engine, prompt, 6) == (expected, known)
        # The last id of a reply is drawn, but not computed.
        known = len(prompt) + len(expected) - 1


def test_regenerated_and_edited_turns_and_replies_side_by_side_equal_generate(family: Family) -> None:
    engine = Engine(family.runner, max_rows=3, context_length=CONTEXT)
    (first, _), (second, _), _ = family.turns
    asked = [family.turns[0], family.turns[0], family.edited, family.turns[1], family.turns[0], family.turns[1]]
    sequences = [Sequence(i, list(prompt), greedy(6)) for i, (prompt, _) in enumerate(asked)]
    results = run(engine, sequences, late=5)
    assert [results[i] for i in range(len(asked))] == [expected for _, expected in asked]
    shared = [one.cached for one in sequences]
    assert shared == [0, len(first) - 1, len(SYSTEM) + 1, shared[3], len(first) - 1, len(second) - 1]
    assert (shared[3] or 0) >= len(first)


# What importing an old model's module says in older releases of transformers.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", OTHERS)
def test_other_families_run_rightly_and_say_so_when_one_at_a_time(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = own(name)
    asked = [*zip(prompts()[:3], (8, 5, 6), strict=True)]
    expected = [generated(model, prompt, new) for prompt, new in asked]
    with caplog.at_level(logging.INFO, "colab_llm_chat"):
        runner = choose_runner(model, context_length=CONTEXT)
    assert isinstance(runner, SequentialRunner) == ("runs one sequence at a time" in caplog.text)
    runner.chunk_size = 16
    sequences = [Sequence(i, list(prompt), greedy(new)) for i, (prompt, new) in enumerate(asked)]
    results = run(Engine(runner, max_rows=2, context_length=CONTEXT), sequences, late=1)
    assert [results[i] for i in range(3)] == expected


def test_a_text_that_grows_long_changes_its_rotary_factors_and_what_it_can_go_on_from() -> None:
    model = own("phi3_long")
    new = generated(model, SYSTEM, 60)
    longer = [*SYSTEM, *new, 40]
    expected = generated(model, longer, 6)
    engine = Engine(choose_runner(model, context_length=CONTEXT), max_rows=2, context_length=CONTEXT)
    assert reply(engine, SYSTEM, 60) == (new, 0)
    assert reply(engine, longer, 6) == (expected, 79)
    assert reply(engine, SYSTEM, 60) == (new, 19)
    assert reply(engine, longer[:64], 1) == (new[44:45], 63)


def test_dynamic_rotary_factors_are_those_of_the_longest_conversation() -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
    model = tiny_model("llama", scale=7.0, max_position_embeddings=32, rope_parameters=rope)
    runner = choose_runner(model, context_length=CONTEXT)
    replies = [reply(Engine(runner, max_rows=5, context_length=CONTEXT), prompt, 9)[0] for prompt in prompts()]
    sequences = [Sequence(i, list(prompt), greedy(9)) for i, prompt in enumerate(prompts())]
    results = run(Engine(runner, max_rows=5, context_length=CONTEXT), sequences, late=3)
    assert [results[i] for i in range(7)] == replies
    model.set_attn_implementation("eager")
    assert replies == [generated(model, prompt, 9) for prompt in prompts()]


def test_a_model_that_stays_sequential_keeps_its_own_rotary_factors() -> None:
    model = own("phi3_long")
    _, changed = steady_rotary(model, CONTEXT)
    restore_rotary(changed)
    assert changed
    assert generated(model, SYSTEM, 60) == generated(own("phi3_long"), SYSTEM, 60)


class OwnCode(PreTrainedModel):
    """A model as repositories bring it along: no attention interface, its cache a tuple of tensors.

    With `broken` it forgets what its cache holds.
    """

    config_class = LlamaConfig
    main_input_name = "input_ids"
    broken = False

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(64, 16)
        self.head = nn.Linear(16, 64)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def forward(
        self, input_ids: torch.Tensor, past_key_values: tuple[torch.Tensor] | None = None, use_cache: bool = True
    ) -> CausalLMOutputWithPast:
        new = self.embeddings(input_ids)
        known = new if past_key_values is None or self.broken else torch.cat([past_key_values[0], new], 1)
        logits = self.head((new[:, -1:] @ known.transpose(1, 2)).softmax(-1) @ known)
        return CausalLMOutputWithPast(logits=logits, past_key_values=(known,))  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", [False, True])
def test_code_of_the_models_own_runs_one_at_a_time_and_a_cache_that_forgets_is_not_trusted(
    broken: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(OwnCode, "broken", broken)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = OwnCode(LlamaConfig(vocab_size=64)).eval()
    ids = [1, 2, 3, 4]
    for _ in range(6):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    engine = Engine(choose_runner(model, context_length=CONTEXT), max_rows=2, context_length=CONTEXT)
    assert reply(engine, ids[:4], 6)[0] == ids[4:]
    assert ("does not go on from its cache" in caplog.text) == broken
