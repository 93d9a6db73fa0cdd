"""What the hardware decides: device, number format, and whether weights are made smaller."""

from __future__ import annotations

import ctypes
import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..settings import Settings

if TYPE_CHECKING:
    import torch

log = logging.getLogger("colab_llm_chat")

# Compute capability from which bf16 is native (Ampere). torch.cuda.is_bf16_supported() counts emulation on a T4.
NATIVE_BF16 = (8, 0)
# Their activations exceed the largest number of fp16 (huggingface/transformers#39972).
TOO_LARGE_FOR_FP16 = "gemma3"
# Of glibc's mallopt(3), with the bytes that are kept, and the largest block that counts among them.
M_TRIM_THRESHOLD, KEPT_BYTES = -1, 2**28
M_MMAP_THRESHOLD, LARGEST_KEPT = -3, 2**25
# A card sold with 24 GB reports a little over 22 GiB.
ROOMY_GPU_BYTES = 22 * 2**30


def choose_device(settings: Settings) -> torch.device:
    """Raises UsageError when CUDA is asked for and not there."""
    import torch

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this machine has no usable GPU.", hint="Leave --device out to use the CPU.")
    wanted = "cpu" if settings.device == "cpu" or not torch.cuda.is_available() else "cuda:0"
    return torch.device(wanted)


def choose_dtype(settings: Settings, device: torch.device, *, model_type: str = "") -> torch.dtype:
    """bf16 from Ampere on, fp16 on older GPUs, fp32 on the CPU, unless the settings say otherwise.

    Types of models that fp16 is too small for compute in bf16 on older GPUs too, where that is slower.
    """
    import torch

    if settings.dtype != "auto":
        chosen: torch.dtype = getattr(torch, settings.dtype)
        return chosen
    if device.type == "cpu":
        return torch.float32
    native = torch.cuda.get_device_capability(device) >= NATIVE_BF16
    return torch.bfloat16 if native or model_type.startswith(TOO_LARGE_FOR_FP16) else torch.float16


def choose_quantization(settings: Settings, device: torch.device) -> str:
    """none, 8bit or 4bit. `auto` is 4bit on a GPU with less than 24 GB, else none."""
    import torch

    if settings.quantization != "auto":
        if settings.quantization != "none" and device.type == "cpu":
            log.warning("%s on the CPU works, but slowly: it saves memory, not time", settings.quantization)
        return settings.quantization
    if device.type == "cpu" or torch.cuda.get_device_properties(device).total_memory >= ROOMY_GPU_BYTES:
        return "none"
    return "4bit"


def free_bytes(device: torch.device) -> int:
    """Memory that weights can still take on the device."""
    import psutil
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def keep_freed_memory() -> None:
    """Let this process keep some of what it frees. To have it back from the system page by page takes a tenth of each
    step on the CPU. Only glibc can be told so.
    """
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
            mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
