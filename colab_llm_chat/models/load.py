"""A folder's model onto the hardware, or one clear error saying why not.

Knows nothing of the Hub and of who uses the model. Only `load_model` imports torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from ..errors import BrokenModel, ChatError, LoadError, ModelTooLarge, UnsupportedModel
from ..settings import Settings
from .hardware import choose_device, choose_dtype, choose_quantization, free_bytes
from .tokenizer import load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["LoadedModel", "ModelFacts", "context_length_of", "load_model", "load_tokenizer"]

log = logging.getLogger("colab_llm_chat")

OnProgress = Callable[[float, str], None]
UNKNOWN_CONTEXT_LENGTH = 2048
CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")
# What loading raises when files, not we, are at fault.
LOADING_ERRORS = (
    OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, AssertionError,
    EOFError, IndexError, MemoryError, UnpicklingError, SafetensorError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the rest of the program needs to know of a loaded model; all of it fits into JSON."""

    model_id: str
    architecture: str
    context_length: int
    eos_token_ids: list[int]
    vocab_size: int
    device: str
    dtype: str
    quantization: str
    parameters: int
    weight_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The network, ready to run, and the facts about it."""

    model: PreTrainedModel
    facts: ModelFacts


def load_model(
    folder: Path, *, settings: Settings, on_progress: OnProgress = lambda fraction, detail: None
) -> LoadedModel:
    """The folder's causal language model on the chosen device, in eval mode.

    Raises a LoadError: files broken, kind of model not supported, or too large for the memory.
    """
    from transformers import AutoModelForCausalLM

    config = _load_config(folder, settings)
    device = choose_device(settings)
    dtype = choose_dtype(settings, device)
    options, quantization = _quantized(config, settings, device, dtype)
    _check_size(folder, config, quantization, dtype, device)
    try:
        with _progress_bars(on_progress):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(folder),
                config=config,
                dtype=dtype,
                trust_remote_code=settings.trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
            model, info = loaded
            if not options:
                model.to(device)
    except LOADING_ERRORS as error:
        raise _loading_error(error, folder) from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise BrokenModel(f"{folder.name} lacks {len(missing)} of the model's weights, the first is {missing[0]}.")
    model.eval()
    return LoadedModel(model, _facts(model, settings, str(device), quantization))


def context_length_of(config: PretrainedConfig) -> int:
    """Tokens the model was made for; an assumed 2,048 where its config does not say."""
    text_config = config.get_text_config()
    for name in CONTEXT_FIELDS:
        length = getattr(text_config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return UNKNOWN_CONTEXT_LENGTH


def _load_config(folder: Path, settings: Settings) -> PretrainedConfig:
    from transformers import AutoConfig

    if not (folder / "config.json").exists():
        raise BrokenModel(f"{folder.name} holds no config.json.")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            str(folder), trust_remote_code=settings.trust_remote_code, local_files_only=True
        )
    except LOADING_ERRORS as error:
        raise _loading_error(error, folder) from error
    if config.is_encoder_decoder:
        raise UnsupportedModel(
            f"{config.model_type} is an encoder-decoder model; only causal language models run here."
        )
    return config


def _quantized(
    config: PretrainedConfig, settings: Settings, device: torch.device, dtype: torch.dtype
) -> tuple[dict[str, Any], str]:
    """Options for from_pretrained, and the name of the quantisation that results."""
    given = getattr(config, "quantization_config", None)
    place = {"device_map": {"": 0 if device.type == "cuda" else "cpu"}}
    if given is not None:
        method = given.get("quant_method") if isinstance(given, dict) else getattr(given, "quant_method", None)
        name = str(getattr(method, "value", method) or "quantised")
        if settings.quantization in ("4bit", "8bit"):
            log.warning("the model is already quantised (%s); --quantization is not applied again", name)
        return place, name
    chosen = choose_quantization(settings, device)
    if chosen == "none":
        return (place if device.type == "cuda" else {}), chosen
    from transformers import BitsAndBytesConfig

    quantization = (
        BitsAndBytesConfig(load_in_8bit=True)
        if chosen == "8bit"
        else BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    )
    return {**place, "quantization_config": quantization}, chosen


def _check_size(
    folder: Path, config: PretrainedConfig, quantization: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Refuse a model that cannot fit before minutes are spent on loading it."""
    stored = sum(file.stat().st_size for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))
    stored_width = int(getattr(getattr(config, "dtype", None), "itemsize", dtype.itemsize))
    width = {"4bit": 0.6, "8bit": 1.1, "none": dtype.itemsize}.get(quantization, stored_width)
    needed, free = int(stored * width / stored_width), free_bytes(device)
    if needed > free:
        raise ModelTooLarge(
            f"{folder.name} needs about {needed / 1e9:.1f} GB for its weights, "
            f"but {device} has {free / 1e9:.1f} GB free."
        )


@contextmanager
def _progress_bars(on_progress: OnProgress) -> Iterator[None]:
    """Hear of transformers' own progress bars while they run."""
    from transformers.utils import logging as transformers_logging

    def listening(make: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        bar = make(*args, **options)
        total = options.get("total") or (len(args[0]) if args and hasattr(args[0], "__len__") else 0)
        return _Listening(bar, total, on_progress) if total else bar

    set_hook = getattr(transformers_logging, "set_tqdm_hook", None)
    previous = set_hook(listening) if set_hook else None
    try:
        yield
    finally:
        if set_hook:
            set_hook(previous)


class _Listening:
    """A progress bar that also tells how far it is."""

    def __init__(self, bar: Any, total: int, on_progress: OnProgress) -> None:
        self._bar, self._total, self._on_progress = bar, total, on_progress

    def __iter__(self) -> Iterator[Any]:
        told = 0
        for count, item in enumerate(self._bar, start=1):
            yield item
            if (percent := 100 * count // self._total) > told:
                told = percent
                self._on_progress(count / self._total, f"loading weights, {percent} %")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)

    def __enter__(self) -> _Listening:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()


def _facts(model: PreTrainedModel, settings: Settings, device: str, quantization: str) -> ModelFacts:
    eos: set[int] = set()
    for source in (model.generation_config, model.config.get_text_config()):
        ids = getattr(source, "eos_token_id", None)
        eos |= {ids} if isinstance(ids, int) else set(ids or ())
    return ModelFacts(
        model_id=settings.model_id,
        architecture=type(model).__name__,
        context_length=context_length_of(model.config),
        eos_token_ids=sorted(eos),
        vocab_size=int(model.config.get_text_config().vocab_size),
        device=device,
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=quantization,
        parameters=int(model.num_parameters()),
        weight_bytes=int(model.get_memory_footprint()),
    )


def _loading_error(error: BaseException, folder: Path) -> ChatError:
    """Why transformers could not load a folder, as one of our errors."""
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text:
        return ModelTooLarge(f"There is not enough memory to load {folder.name}: {_line(error)}")
    if _needs_own_code(error):
        return _own_code("model")
    if "does not recognize this architecture" in text or "Unrecognized configuration class" in text:
        return UnsupportedModel(
            f"{folder.name}: {_line(error)}", hint="Update transformers, or pick a text-generation model."
        )
    if isinstance(error, ImportError):
        return LoadError(f"{folder.name} needs a package that is not installed: {_line(error)}")
    return BrokenModel(f"The files of {folder.name} cannot be loaded: {_line(error)}")


def _needs_own_code(error: BaseException) -> bool:
    return "trust_remote_code" in str(error)


def _own_code(what: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"This {what} comes with Python code of its own, which is not run unasked.",
        hint="Read that code; if you trust it, start again with --trust-remote-code.",
    )


def _line(error: BaseException) -> str:
    """The first line of an error's text, no longer than a person reads."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
