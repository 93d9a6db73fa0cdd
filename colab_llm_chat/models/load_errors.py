"""What transformers, torch and their friends raise while loading a folder, as one of our errors."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

from ..errors import BrokenModel, ChatError, LoadError, ModelTooLarge, UnsupportedModel


def loading_errors() -> tuple[type[Exception], ...]:
    """What loading raises when the files, not we, are at fault."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    return (
        OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, AssertionError,
        EOFError, IndexError, MemoryError, UnpicklingError, SafetensorError, StrictDataclassError,
    )  # fmt: skip


def loading_error(error: Exception, name: str) -> ChatError:
    """Why the model in the folder `name` could not be loaded."""
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text:
        return ModelTooLarge(f"There is not enough memory to load {name}: {first_line(error)}")
    if isinstance(error, UnpicklingError):
        return BrokenModel(
            f"A pickled weight file of {name} is damaged, or holds code, which is never run.",
            hint="Use a model with safetensors weights.",
        )
    if "trust_remote_code" in text:
        return own_code(name)
    if "ignore_mismatched_sizes" in text or "size mismatch" in text:
        return BrokenModel(f"The weights of {name} do not have the shapes that its config.json asks for.")
    return _unsupported(error, name) or BrokenModel(f"The files of {name} cannot be loaded: {first_line(error)}")


def own_code(name: str) -> UnsupportedModel:
    """`name`, a model or its tokenizer, needs code that lies beside it."""
    return UnsupportedModel(
        f"{name} comes with Python code of its own, which is not run unasked.",
        hint="Read that code; if you trust it, start again with --trust-remote-code.",
    )


def _unsupported(error: Exception, name: str) -> ChatError | None:
    text = str(error)
    if "does not recognize this architecture" in text:
        return UnsupportedModel(
            f"{name}: {first_line(error)}", hint="Update transformers (pip install -U transformers), then try again."
        )
    if "Unrecognized configuration class" in text:
        return UnsupportedModel(f"{name} is no text-generation model.")
    if isinstance(error, ImportError):
        return LoadError(
            f"{name} needs a package that is not installed: {first_line(error)}",
            hint="Install the package named, or pick a model that does not need it.",
        )
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's text, no longer than a person reads."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def shown(folder: Path) -> str:
    """A model's name for people: OWNER/NAME where the folder is a commit in the Hub client's cache, else its own."""
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.name
