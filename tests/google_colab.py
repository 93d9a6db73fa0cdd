"""A stand-in for the package `google.colab`, written into a folder, for this process or a kernel in another.

It answers by `scenario.json` beside its files, read at each call, and keeps what was asked in `calls.jsonl`.
Classes of exceptions and the order of checks are those of the real one; the front end is the scenario.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Drive = Literal["ok", "refused", "not_colab", "enterprise", "failed", "timeout", "domain_disabled", "not_empty"]

FILES = {
    "__init__.py": '''
"""What all parts share: the scenario and the record of calls."""
import json as _json
from pathlib import Path as _Path

_FOLDER = _Path(__file__).parent


def _scenario():
    return _json.loads((_FOLDER / "scenario.json").read_text(encoding="utf-8"))


def _record(name, **arguments):
    with open(_FOLDER / "calls.jsonl", "a", encoding="utf-8") as calls:
        calls.write(_json.dumps({"call": name, **arguments}) + "\\n")
''',
    "errors.py": """
class Error(Exception):
    pass


class AuthorizationError(Error):
    pass


class RuntimeManagementError(Error):
    pass
""",
    "_message.py": """
from google.colab import _record, _scenario, errors


class MessageError(errors.Error):
    pass


def blocking_request(request_type, request="", timeout_sec=5, parent=None):
    frontend = _scenario()["frontend"]
    _record(request_type, **request)
    if frontend == "error":
        raise MessageError("TypeError: Failed to fetch")
    if frontend == "silent":
        return None
    secret = _scenario()["secrets"].get(request["key"])
    if secret is None:
        return {"exists": False, "access": False}
    return {"exists": True, "access": secret["access"], "payload": secret["value"] if secret["access"] else ""}
""",
    "userdata.py": """
import threading

from google.colab import _message, _record, errors


class NotebookAccessError(Exception):
    def __init__(self, key):
        super().__init__(f"Notebook does not have access to secret {key}")


class SecretNotFoundError(errors.Error):
    def __init__(self, key):
        super().__init__(f"Secret {key} does not exist.")


class TimeoutException(errors.Error):
    def __init__(self, key):
        super().__init__(f"Requesting secret {key} timed out. Secrets can only be fetched when running from the UI.")


def get(key):
    if not isinstance(key, str) or not key or any(letter.isspace() for letter in key):
        raise ValueError(f"Invalid key: {key!r}")
    _record("userdata.get", thread=threading.current_thread().name)
    reply = _message.blocking_request("GetSecret", request={"key": key}, timeout_sec=10)
    if reply is None:
        raise TimeoutException(key)
    if not reply.get("exists", False):
        raise SecretNotFoundError(key)
    if not reply.get("access", False):
        raise NotebookAccessError(key)
    return reply.get("payload", "")
""",
    "drive.py": """
import os

from google.colab import _message, _record, _scenario

FAILED = {
    "failed": "mount failed",
    "timeout": "mount failed: timeout during initial read of root folder",
    "domain_disabled": "The domain policy has disabled Drive File Stream: https://support.google.com/a/answer/7496409",
    "not_empty": "Mountpoint must not already contain files",
}


def mount(mountpoint, force_remount=False, timeout_ms=120000, readonly=False):
    _record("drive.mount", mountpoint=str(mountpoint), readonly=readonly)
    how = _scenario()["drive"]
    if how == "not_colab":
        raise NotImplementedError("google.colab.drive is only supported inside Colab.")
    if how == "enterprise":
        raise NotImplementedError("Mounting drive is unsupported in this environment. Use PyDrive instead.")
    if " " in mountpoint:
        raise ValueError("Mountpoint must not contain a space.")
    if os.path.isdir(os.path.join(mountpoint, "My Drive")) and not force_remount:
        print(f"Drive already mounted at {mountpoint}; to attempt to forcibly remount, ...")
        return
    if how == "refused":
        raise _message.MessageError("Error: credential propagation was unsuccessful")
    if how in FAILED:
        raise ValueError(FAILED[how])
    os.makedirs(os.path.join(mountpoint, "MyDrive"), exist_ok=True)
    os.symlink("MyDrive", os.path.join(mountpoint, "My Drive"))
    print(f"Mounted at {mountpoint}")


def flush_and_unmount(timeout_ms=24 * 60 * 60 * 1000):
    _record("drive.flush_and_unmount")
""",
    "output.py": """
import re

from google.colab import _message, _record, _scenario


def eval_js(script, ignore_result=False, timeout_sec=None):
    _record("output.eval_js", script=script)
    if _scenario()["frontend"] != "ok":
        raise _message.MessageError("Error: the front end is gone")
    port = re.search(r"proxyPort\\((\\d+)", script)
    return _scenario()["proxy_url"].format(port=port.group(1)) if port else None


def serve_kernel_port_as_iframe(port, path="/", width="100%", height="400", cache_in_notebook=False):
    _record("output.serve_kernel_port_as_iframe", port=port, path=path, width=width, height=height)


def serve_kernel_port_as_window(port, path="/", anchor_text=None):
    raise AssertionError("deprecated: browsers have broken it")
""",
    "_shell.py": """
class Shell:
    pass
""",
}


@dataclass
class Scenario:
    """How Colab's front end and Drive behave; a secret is its value, or None when access is not granted."""

    secrets: dict[str, str | None] = field(default_factory=dict)
    frontend: Literal["ok", "silent", "error"] = "ok"
    drive: Drive = "ok"
    proxy_url: str = "https://abc-{port}-colab.googleusercontent.com/"


class ColabStandIn:
    """The package in `folder`, which goes on `sys.path` (or PYTHONPATH, see `environment`)."""

    def __init__(self, folder: Path, scenario: Scenario | None = None) -> None:
        self.folder = folder
        self.package = folder / "google" / "colab"
        self.package.mkdir(parents=True)
        for name, source in FILES.items():
            (self.package / name).write_text(source.lstrip(), encoding="utf-8")
        self.behave(scenario or Scenario())

    def behave(self, scenario: Scenario) -> None:
        """From the next call on."""
        secrets = {
            name: {"value": value or "", "access": value is not None} for name, value in scenario.secrets.items()
        }
        text = json.dumps({**asdict(scenario), "secrets": secrets})
        # Renamed into place: a kernel may be reading.
        (self.package / "scenario.new").write_text(text, encoding="utf-8")
        os.replace(self.package / "scenario.new", self.package / "scenario.json")

    def calls(self, name: str) -> list[dict[str, Any]]:
        """The calls of this name so far, with their arguments."""
        path = self.package / "calls.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if call["call"] == name]

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a kernel in another process, whose shell is not Colab's own."""
        paths = [str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(paths), "COLAB_LLM_CHAT_IN_COLAB": "1"}


def forget_colab() -> None:
    """Drops the imported stand-in, so that the next test gets its own."""
    for name in [name for name in sys.modules if name.startswith("google.colab")]:
        del sys.modules[name]
