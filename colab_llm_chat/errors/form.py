"""The notebook's form: what it calls the settings, and how errors are told below its cells, in both languages.

Knows errors by the names of their classes, settings by the names of their flags.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Where the form's names are not the settings' own in capitals.
FORM_NAMES = {"model_id": "MODEL_NAME", "port": "FLASK_PORT", "system": "SYSTEM_PROMPT", "domain": "NGROK_DOMAIN"}
NOT_IN_FORM = frozenset({"access_key", "ngrok_token", "host"})
SECRETS = {"hf_token": "HF_TOKEN"}
SWITCHES = frozenset({"compile", "trust_remote_code", "use_google_drive_cache", "strict_model"})

# A flag, the value after it, and the environment variable that is offered in its place.
_FLAG = re.compile(r"--([a-z][a-z-]*)(?: (\d+|auto|none|[48]bit|b?float\d+|cpu|cuda|ngrok|colab)\b)?(?: or [A-Z_]+\b)?")


def form_name(field: str) -> str:
    """What the settings cell calls a field of Settings."""
    return FORM_NAMES.get(field, field.upper())


def in_form_words(text: str) -> str:
    """The text with the form's fields in place of the command's flags: `--port 0` becomes `FLASK_PORT = 0`."""
    return _FLAG.sub(_in_form, text)


def _in_form(flag: re.Match[str]) -> str:
    field = "model_id" if flag[1] == "model-name" else flag[1].replace("-", "_")
    if field in NOT_IN_FORM or field == "help":
        return flag[0]
    if field in SECRETS:
        return f"the secret {SECRETS[field]} (key icon on the left)"
    value = flag[2]
    if field in SWITCHES:
        value = "True"
    elif value and not value.isdigit():
        value = f'"{value}"'
    return f"{form_name(field)} = {value}" if value else form_name(field)


def told(message: str, hint: str, japanese: str, *, kinds: Sequence[str]) -> list[str]:
    """An error's lines below a cell; `kinds` are the names of its class and of those above, the narrowest first."""
    japanese = japanese or next((JAPANESE[kind] for kind in kinds if kind in JAPANESE), "")
    english = f"Error: {message}\n{hint}"
    where, where_japanese = WHERE if in_form_words(english) != english else ("", "")
    lines = [in_form_words(english), where, in_form_words(japanese), where_japanese]
    return [line for part in lines for line in part.splitlines()]


WHERE = (
    "Names in capitals are fields of the settings cell; one that is not there may be added as a line of its own. "
    "After a change run that cell and those below it (for a secret: from cell 4).",
    "大文字の名前は設定のセルの項目です(ないものは 1 行書き足せます)。変更したら、設定のセルから下を順に実行して"
    "ください(シークレットの場合は 4 番のセルから)。",
)
# For errors that bring no words of their own, by class.
JAPANESE = {
    "ModelNotFound": "モデルが見つかりません。MODEL_NAME のつづり(所有者/モデル名、または config.json のあるフォルダ)を"
    "確かめてください。非公開のモデルにはシークレット HF_TOKEN が必要です。",
    "ModelGated": "利用申請が必要なモデルです。Hugging Face のモデルのページで規約に同意し、そのアカウントのトークンを"
    "シークレット HF_TOKEN に入れてください。",
    "HubUnreachable": "Hugging Face に接続できません。しばらく待って、このセルをもう一度実行してください"
    "(ダウンロード済みのファイルは残ります)。",
    "ModelTooLarge": 'モデルがメモリに入りません。QUANTIZATION = "4bit" にするか、MODEL_NAME に小さいモデルを指定する'
    "か、「ランタイム」>「ランタイムのタイプを変更」で大きい GPU を選んでください。",
    "OutOfMemory": 'メモリが足りません。会話を短くするか、MAX_NEW_TOKENS を小さくするか、QUANTIZATION = "4bit" に'
    "してください。",
    "EngineFailed": "モデルのプロセスが終了しました。メモリ不足なら、小さいモデル(MODEL_NAME)か "
    'QUANTIZATION = "4bit" を選び、もう一度実行してください。',
    "BrokenModel": "モデルのファイルが壊れているか、足りません。そのフォルダを消して、もう一度ダウンロードして"
    "ください。",
    "TokenizerMissing": "このモデルにはトークナイザーがありません。MODEL_NAME に別のモデルを指定してください。",
    "UnsupportedModel": "このモデルは使えません。MODEL_NAME に文章を生成する別のモデルを指定してください。",
    "LoadError": "モデルを読み込めませんでした。原因と次の手順は上の英語の行にあります。",
    "NgrokTokenMissing": "ngrok のトークンがありません。https://dashboard.ngrok.com/get-started/your-authtoken の値を"
    "シークレット NGROK_AUTHTOKEN(左の鍵アイコン)に入れ、4 番のセルから実行してください。",
    "NgrokTokenRefused": "ngrok のトークンが正しくありません。https://dashboard.ngrok.com/get-started/your-authtoken "
    "からトークンだけをコピーしてシークレットに入れ直し、4 番のセルと最後のセルを実行してください。",
    "TooManySessions": "ngrok のアカウントで同時に使える数を超えています。https://dashboard.ngrok.com/agents で"
    "ほかの接続を終了し、このセルをもう一度実行してください。",
    "EndpointOnline": "このアドレスは別の ngrok が使用中です。https://dashboard.ngrok.com/agents でその接続"
    "(多くは以前のノートブック)を終了し、このセルをもう一度実行してください。",
    "DomainRefused": "このドメインは使えません。NGROK_DOMAIN に https://dashboard.ngrok.com/domains にあるドメインを"
    "指定するか、空にしてください。",
    "AgentMissing": "ngrok のプログラムをダウンロードできませんでした。しばらく待って、このセルをもう一度実行して"
    "ください。",
    "AgentSilent": "ngrok から応答がありません。しばらく待って、このセルをもう一度実行してください。",
    "AgentRefused": "ngrok が接続を断りました。理由と次の手順は上の英語の行にあります。",
    "TunnelError": "公開アドレスを開けませんでした。https://status.ngrok.com を確かめ、このセルをもう一度実行して"
    "ください。",
}
