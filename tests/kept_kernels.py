"""The kernels of this machine for tests whose engines have a cache of their own, and would build them anew."""

from __future__ import annotations

import shutil
from pathlib import Path

from colab_llm_chat.models.native.build import built_library, kernel_folder


def with_kernels(cache: Path) -> str:
    """Put them into a user's cache, which comes back; built once in all tests of a machine."""
    folder = cache / "colab-llm-chat" / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(built_library(kernel_folder()), folder)
    return str(cache)
