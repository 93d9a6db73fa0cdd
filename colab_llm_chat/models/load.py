"""A folder's model onto the hardware, or one clear error saying why not.

Knows nothing of the Hub and of who uses the model. Imports torch only once a model is loaded.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BrokenModel, ModelTooLarge, UnsupportedModel
from ..settings import Settings
from .bars import OnProgress, loading_bars
from .facts import ModelFacts, facts_of
from .hardware import choose_device, choose_dtype, choose_quantization, free_bytes
from .kinds import check_kind, check_type
from .load_errors import loading_error, loading_errors, shown
from .tokenizer import load_tokenizer
from .weights import Weights, inspect_weights

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["LoadedModel", "ModelFacts", "load_model", "load_tokenizer"]

log = logging.getLogger("colab_llm_chat")

# bitsandbytes packs weights for the CPU by blocks of 64 inputs and 32 outputs and fails on what is left over.
CPU_PACKED_INPUTS, CPU_PACKED_OUTPUTS = 64, 32
# Bytes per parameter; a part of each model stays in 16 bits.
QUANTIZED_WIDTH = {"4bit": 0.6, "8bit": 1.1}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The network, ready to run, and the facts about it."""

    model: PreTrainedModel
    facts: ModelFacts


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where a model goes and in which form.

    `stored_as` names the quantisation that its files have already, `left_whole` the layers that get none.
    """

    device: torch.device
    dtype: torch.dtype
    quantization: str
    stored_as: str | None
    left_whole: tuple[str, ...] = ()

    def options(self) -> dict[str, Any]:
        """What `from_pretrained` must be told beside the dtype."""
        options: dict[str, Any] = {}
        if self.device.type == "cuda" or self.stored_as or self.quantization != "none":
            options["device_map"] = {"": 0 if self.device.type == "cuda" else "cpu"}
        if self.quantization != "none":
            options["quantization_config"] = _bitsandbytes(self)
        return options


def load_model(
    folder: Path, *, settings: Settings, on_progress: OnProgress = lambda fraction, detail: None
) -> LoadedModel:
    """The folder's causal or encoder-decoder language model on the chosen device, in eval mode; on the CPU with
    kernels of our own, or packed weights where there are none.

    Raises a LoadError: files broken, kind of model not supported, or too large for the memory.
    """
    from .native.use import kernels_for, use_kernels
    from .packed import pack_linears

    config = _load_config(folder, settings)
    weights = inspect_weights(folder)
    plan = _plan(config, weights, settings)
    _check_size(shown(folder), plan, _needed_bytes(config, weights, plan))
    with loading_bars(on_progress):
        model, info = _from_pretrained(folder, config, settings, plan)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise BrokenModel(f"{shown(folder)} lacks {len(missing)} of the model's weights, the first is {missing[0]}.")
    if info["unexpected_keys"]:
        log.info("%d weights of %s belong to no part of the model", len(info["unexpected_keys"]), shown(folder))
    # The compiler looks into layers, and cannot see what a kernel in them does.
    kernels = None if settings.compile else kernels_for(model)
    if kernels is None or not use_kernels(model, kernels):
        pack_linears(model)
    quantization = plan.stored_as or plan.quantization
    return LoadedModel(model, facts_of(model, model_id=settings.model_id, quantization=quantization))


def _load_config(folder: Path, settings: Settings) -> PretrainedConfig:
    from transformers import AutoConfig

    name = shown(folder)
    check_type(check_kind(folder, name=name), name=name, trust_remote_code=settings.trust_remote_code)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            str(folder), trust_remote_code=settings.trust_remote_code, local_files_only=True
        )
    except loading_errors() as error:
        raise loading_error(error, name) from error
    if config.is_encoder_decoder and not _reads_text(config):
        raise UnsupportedModel(
            f"{name} is of the type {config.model_type!r}: its encoder reads no text.",
            hint="Choose a model that reads text and writes text, such as google/flan-t5-base.",
        )
    return config


def _reads_text(config: PretrainedConfig) -> bool:
    """Whether the encoder of an encoder-decoder model does; those of Whisper and the like read sounds or pictures."""
    from transformers import AutoModelForSeq2SeqLM

    own_code = getattr(config, "auto_map", None) or {}
    return type(config) in AutoModelForSeq2SeqLM._model_mapping or "AutoModelForSeq2SeqLM" in own_code


def _auto_class(config: PretrainedConfig) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM

    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    # Models that also see, where they have no class for text alone: what is said to them here is text.
    only_seeing = type(config) not in AutoModelForCausalLM._model_mapping and not getattr(config, "auto_map", None)
    sees = only_seeing and type(config) in AutoModelForImageTextToText._model_mapping
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM


def _from_pretrained(
    folder: Path, config: PretrainedConfig, settings: Settings, plan: _Plan
) -> tuple[PreTrainedModel, dict[str, Any]]:
    try:
        loaded: Any = _auto_class(config).from_pretrained(
            str(folder),
            config=config,
            dtype=plan.dtype,
            trust_remote_code=settings.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            **plan.options(),
        )
    except loading_errors() as error:
        raise loading_error(error, shown(folder)) from error
    model, info = loaded
    return model.eval(), info


def _plan(config: PretrainedConfig, weights: Weights, settings: Settings) -> _Plan:
    device = choose_device(settings)
    dtype = choose_dtype(settings, device, model_type=config.model_type)
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        quantization = choose_quantization(settings, device)
        unfit = _unfit_layers(config, settings) if device.type == "cpu" and quantization != "none" else ()
        return _Plan(device, dtype, quantization, None, unfit)
    method = stored.get("quant_method") if isinstance(stored, dict) else getattr(stored, "quant_method", None)
    name = str(getattr(method, "value", method) or "quantised")
    if settings.quantization in ("4bit", "8bit"):
        log.warning("the model is already quantised (%s); --quantization is not applied again", name)
    return _Plan(device, dtype, "none", name)


def _unfit_layers(config: PretrainedConfig, settings: Settings) -> tuple[str, ...]:
    """Linear layers whose shape bitsandbytes cannot pack on a CPU, and the head, which stays whole as everywhere."""
    import torch

    with torch.device("meta"):
        model = _auto_class(config).from_config(config, trust_remote_code=settings.trust_remote_code)
    head = model.get_output_embeddings()
    return tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and (module is head or module.in_features % CPU_PACKED_INPUTS or module.out_features % CPU_PACKED_OUTPUTS)
    )


def _bitsandbytes(plan: _Plan) -> Any:
    from transformers import BitsAndBytesConfig

    left_whole = list(plan.left_whole) or None
    if plan.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=left_whole)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=plan.dtype,
        llm_int8_skip_modules=left_whole,
    )


def _parameters(config: PretrainedConfig, weights: Weights, dtype: torch.dtype) -> int:
    if weights.parameters is not None:
        return weights.parameters
    width = getattr(getattr(config, "dtype", None), "itemsize", dtype.itemsize)
    return int(weights.stored_bytes // width)


def _needed_bytes(config: PretrainedConfig, weights: Weights, plan: _Plan) -> int:
    """Memory for the weights alone."""
    if plan.stored_as:
        return weights.stored_bytes
    width = QUANTIZED_WIDTH.get(plan.quantization, plan.dtype.itemsize)
    return int(_parameters(config, weights, plan.dtype) * width)


def _check_size(name: str, plan: _Plan, needed: int) -> None:
    """Refuse a model that cannot fit before minutes are spent on loading it."""
    free = free_bytes(plan.device)
    if needed > free:
        raise ModelTooLarge(
            f"{name} needs about {needed / 1e9:.1f} GB for its weights, but {plan.device} has {free / 1e9:.1f} GB free."
        )
