"""Am I in Colab, and what do its secrets say? With drive.py the only importer of `google.colab`.

Secrets travel through the notebook's own channel: read them in the cell, before any server thread starts.
Does not know what a secret is for, and never logs a value.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..errors import ColabError, SecretMissing, SecretNotGranted, SecretUnreadable

OVERRIDE = "COLAB_LLM_CHAT_IN_COLAB"
PROXY_SECONDS = 20
FRAME_HEIGHT = "720"


def in_colab() -> bool:
    """True in a cell of a Colab notebook; the environment variable in `OVERRIDE` (1 or 0) decides when set."""
    # COLAB_RELEASE_TAG is no sign: Kaggle's images set it too.
    override = os.environ.get(OVERRIDE)
    if override:
        return override != "0"
    return _shell_module().startswith("google.colab") and _has_colab_package()


def _shell_module() -> str:
    ipython: Any = sys.modules.get("IPython")
    return type(ipython.get_ipython()).__module__ if ipython is not None else ""


def _has_colab_package() -> bool:
    try:
        return find_spec("google.colab") is not None
    except ModuleNotFoundError:
        return False


def read_secret(name: str, *, environment_name: str | None = None) -> str:
    """The Colab secret `name`, else the environment variable (`environment_name`, or `name`), without white space.

    Call it from the cell's own thread. Raises SecretMissing, SecretNotGranted or SecretUnreadable.
    """
    variable = environment_name or name
    missing: SecretMissing | None = None
    if in_colab():
        try:
            value = _colab_secret(name).strip()
        except SecretMissing as error:
            value, missing = "", error
        if value:
            return value
    value = os.environ.get(variable, "").strip()
    if value:
        return value
    raise missing or _missing(name, variable)


def _colab_secret(name: str) -> str:
    userdata: Any = import_module("google.colab.userdata")
    message: Any = import_module("google.colab._message")
    try:
        value: str | None = userdata.get(name)
    except userdata.SecretNotFoundError:
        value = None
    # The next one derives from plain Exception, unlike its siblings.
    except userdata.NotebookAccessError:
        raise _not_granted(name) from None
    except userdata.TimeoutException:
        raise _unreadable(name, "no answer came from the browser", "ブラウザから応答がありませんでした") from None
    except message.MessageError:
        raise _unreadable(name, "the browser answered with an error", "ブラウザがエラーを返しました") from None
    except ValueError:
        raise SecretMissing(
            f"{name!r} is no name of a secret: it is empty or has white space.",
            hint="Give the name as it stands in Colab's key panel on the left, such as NGROK_AUTHTOKEN.",
            japanese=f"{name!r} はシークレットの名前として使えません(空か、空白を含んでいます)。"
            "左の鍵アイコンのパネルにある名前(例: NGROK_AUTHTOKEN)をそのまま入力してください。",
        ) from None
    return value or ""


def has_gpu() -> bool:
    """Whether the runtime has an NVIDIA GPU, told without loading torch."""
    return shutil.which("nvidia-smi") is not None


def proxy_link(port: int) -> str:
    """Colab's own address of a port of this machine: it opens in the browser of the notebook's owner alone.

    Call it from the cell's own thread. Raises ColabError.
    """
    if not in_colab():
        raise ColabError(
            "Only a Colab notebook has a link of its own.",
            hint="Open a tunnel by ngrok instead, or use the local address.",
            japanese="この方法は Colab でだけ使えます。ngrok を使うか、ローカルのアドレスを開いてください。",
        )
    output: Any = import_module("google.colab.output")
    message: Any = import_module("google.colab._message")
    try:
        url = output.eval_js(f"google.colab.kernel.proxyPort({port})", timeout_sec=PROXY_SECONDS)
    except (message.MessageError, TimeoutError) as error:
        raise ColabError(
            f"Colab gave no link for port {port}: {error}",
            hint="Keep the notebook open in the browser, and run the cell again.",
            japanese=f"Colab がポート {port} のリンクを返しませんでした。"
            "ノートブックをブラウザで開いたまま、セルをもう一度実行してください。",
        ) from error
    return str(url).rstrip("/")


def show_in_frame(port: int, path: str) -> None:
    """Show a port's page in a frame below the cell."""
    output: Any = import_module("google.colab.output")
    output.serve_kernel_port_as_iframe(port, path=path, height=FRAME_HEIGHT)


def _missing(name: str, variable: str) -> SecretMissing:
    return SecretMissing(
        f"There is no secret {name}, or it is empty.",
        hint=f"Click the key icon on the left, add a secret named {name} with its value, switch on notebook access, "
        f"and run this cell again (outside Colab: set the environment variable {variable}).",
        japanese=f"シークレット {name} がないか、空です。左の鍵アイコンを開き、名前 {name} と値を追加して"
        "「ノートブックからのアクセス」をオンにし、このセルをもう一度実行してください"
        f"(Colab 以外では環境変数 {variable} を設定してください)。",
    )


def _not_granted(name: str) -> SecretNotGranted:
    return SecretNotGranted(
        f"This notebook has no access to the secret {name}.",
        hint=f'Click the key icon on the left, switch on "Notebook access" beside {name}, and run this cell again.',
        japanese=f"このノートブックにはシークレット {name} へのアクセスが許可されていません。左の鍵アイコンを開き、"
        f"{name} の「ノートブックからのアクセス」をオンにして、このセルをもう一度実行してください。",
    )


def _unreadable(name: str, why: str, why_japanese: str) -> SecretUnreadable:
    return SecretUnreadable(
        f"The secret {name} could not be read: {why}.",
        hint="Keep the notebook open in the browser, and run this cell again.",
        japanese=f"シークレット {name} を読み取れませんでした({why_japanese})。"
        "ノートブックをブラウザで開いたまま、このセルをもう一度実行してください。",
    )
