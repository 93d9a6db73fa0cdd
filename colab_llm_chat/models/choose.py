"""Which runner a model gets: the batched one where it is proven right on the spot, else one sequence at a time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from ..engine.runner import Runner
from ..engine.sequence import Chunk, Sequence, Step
from ..settings import SamplingParams
from .hardware import NATIVE_BF16
from .native.decoder import built_alike
from .native.use import kernels_for
from .proof import CANNOT_RUN, PROMPTS, alike
from .rotary import restore_rotary, steady_rotary
from .runners.encoder_decoder import EncoderDecoderRunner
from .runners.flat import FlatRunner
from .runners.graphs import GraphRunner
from .runners.native import DecoderRunner, NativeRunner
from .runners.sequential import SequentialRunner

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("colab_llm_chat")


def choose_runner(model: PreTrainedModel, *, context_length: int) -> Runner:
    """The fastest runner that gives the model's own logits."""
    if model.config.is_encoder_decoder:
        return _for_encoder_decoder(model)
    flat = check_flat(model, context_length=context_length)
    if flat is not None:
        return flat
    log.info("%s runs one sequence at a time", type(model).__name__)
    sequential = SequentialRunner(model)
    if _gives(sequential, model, [_alone(sequential, prompt) for prompt in PROMPTS]):
        return sequential
    log.warning("%s does not go on from its cache: each token reads the whole text again", type(model).__name__)
    return SequentialRunner(model, cached=False)


@torch.inference_mode()
def check_flat(model: PreTrainedModel, *, context_length: int) -> FlatRunner | None:
    """The fastest batched runner, or None where the model takes none or logits differ for two unequal rows."""
    name = type(model).__name__
    if not getattr(model, "_supports_attention_backend", False):
        log.info("%s does not take the batched engine's attention", name)
        return None
    own = model.config._attn_implementation
    by_row, changed = steady_rotary(model, context_length)
    for kind in batched_kinds(model):
        refusal = ""
        try:
            runner = kind(model, rotary=by_row)
            logits = _two_rows(runner)
            refusal = _unheeded_window(model, runner, context_length) or _unheeded_position(
                model, runner, context_length
            )
            model.set_attn_implementation("eager")
            if not refusal and not _gives(runner, model, list(logits)):
                refusal = "its batched logits differ from its own"
            model.set_attn_implementation(runner.attention.name)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except CANNOT_RUN as error:
            refusal = repr(error)
        if not refusal:
            runner.arena.trim()
            return runner
        log.info("%s does not take %s: %s", kind.__name__, name, refusal)
    model.set_attn_implementation(own)
    restore_rotary(changed)
    return None


def batched_kinds(model: PreTrainedModel) -> list[type[FlatRunner]]:
    """The runners to try, the fastest first. FlashAttention's kernel needs 16 bits and a GPU from Ampere on."""
    if (kernels := kernels_for(model)) is not None:
        return [*([DecoderRunner] if built_alike(model, kernels) else []), NativeRunner, FlatRunner]
    half = model.dtype in (torch.float16, torch.bfloat16)
    if model.device.type != "cuda" or not half or torch.cuda.get_device_capability(model.device) < NATIVE_BF16:
        return [FlatRunner]
    return [GraphRunner, FlatRunner]


def _unheeded_window(model: PreTrainedModel, runner: FlatRunner, context_length: int) -> str:
    """Why layers may not see what their config says: two short prompts cannot show a window of thousands."""
    config = model.config.get_text_config()
    heeds = getattr(config, "use_sliding_window", True) is not False
    window = getattr(config, "sliding_window", None) if heeds else None
    every = "sliding_attention" if window else "full_attention"
    kinds = getattr(config, "layer_types", None)
    for layer, handed in runner.attention.windows.items():
        kind = kinds[layer] if kinds and 0 <= layer < len(kinds) else every
        if kind not in ("full_attention", "sliding_attention"):
            return f"layer {layer} is of kind {kind}"
        if kind == "sliding_attention" and not handed and (window or 0) < context_length:
            return f"layer {layer} has a window that its attention is not told"
    return ""


def _unheeded_position(model: PreTrainedModel, runner: FlatRunner, context_length: int) -> str:
    """Why what a model does far on in a text may be lost: two short prompts cannot show it."""
    if not isinstance(runner, DecoderRunner):
        return ""
    ids = PROMPTS[0]
    for last in (context_length // 2, context_length - 1):
        first = max(0, last - len(ids) + 1)
        positions = list(range(first, first + len(ids)))
        if not alike(*runner.far_logits(ids, positions), model=model):
            return f"its logits differ at position {last}"
    return ""


def _two_rows(runner: FlatRunner) -> torch.Tensor:
    """Logits [2, vocab] after each prompt, the last step of both computed in one forward."""
    rows = [Sequence(i, list(prompt), SamplingParams()) for i, prompt in enumerate(PROMPTS)]
    for row in rows:
        row.slot = runner.arena.take(len(row.ids), len(row.ids))
        runner.forward(Step([], Chunk(row, 0, row.ids[:-1])))
    logits = runner.forward(Step(rows))
    for row in rows:
        runner.arena.free(row.place)
    return logits


def _alone(runner: Runner, prompt: list[int]) -> torch.Tensor:
    """Logits [vocab] after a prompt whose last id is read from the cache of the others."""
    row = Sequence(len(prompt), prompt[:-1], SamplingParams())
    runner.forward(Step([], Chunk(row, 0, row.ids)))
    row.ids.append(prompt[-1])
    logits = runner.forward(Step([row]))[0]
    runner.forget(row, keep=False)
    return logits


@torch.inference_mode()
def _gives(runner: Runner, model: PreTrainedModel, found: list[torch.Tensor]) -> bool:
    """Whether these are the logits of the model itself, which reads each prompt whole."""
    for prompt, logits in zip(PROMPTS, found, strict=True):
        wanted = model(input_ids=torch.tensor([prompt], device=model.device)).logits[0, -1]
        if not alike(logits, wanted, model=model):
            log.info("%s does not give the logits of %s", type(runner).__name__, type(model).__name__)
            return False
    return True


def _for_encoder_decoder(model: PreTrainedModel) -> Runner:
    """Rows in one forward, else in turns, else each token with its whole source and reply, by no cache."""
    name = type(model).__name__
    for together, way in ((True, "its rows run side by side"), (False, "its rows take turns")):
        runner = EncoderDecoderRunner(model, together=together)
        try:
            if _gives_after_steps(runner, model):
                log.info("%s is an encoder-decoder: %s", name, way)
                return runner
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except CANNOT_RUN as error:
            log.info("%s is an encoder-decoder: not so that %s (%r)", name, way, error)
        runner.close()
    log.warning("%s is an encoder-decoder: each token reads the source and the whole reply again", name)
    return EncoderDecoderRunner(model, cached=False)


@torch.inference_mode()
def _gives_after_steps(runner: EncoderDecoderRunner, model: PreTrainedModel) -> bool:
    """Whether two unequal rows, stepped twice, have the logits of the model itself, which reads each of them whole."""
    texts = [[10 + one for one in prompt] for prompt in PROMPTS]
    pairs = list(zip(texts, reversed(texts), strict=True))
    rows = [Sequence(i, ids[:-2], SamplingParams(), source_ids=source) for i, (source, ids) in enumerate(pairs)]
    for row in rows:
        runner.own_logits(Step([], Chunk(row, 0, row.ids)))
    for at in (-2, -1):
        for row, (_, ids) in zip(rows, pairs, strict=True):
            row.ids.append(ids[at])
        found = runner.own_logits(Step(rows))
    for row in rows:
        runner.forget(row)
    device = model.device
    read = [(torch.tensor([source], device=device), torch.tensor([ids], device=device)) for source, ids in pairs]
    wanted = [model(input_ids=one, decoder_input_ids=ids, use_cache=False).logits[0, -1] for one, ids in read]
    return alike(found, torch.stack(wanted), model=model)
