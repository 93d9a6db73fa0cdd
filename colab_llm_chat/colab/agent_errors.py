"""ngrok's error codes as sentences: what happened, and what to do next.

Knows texts only. ngrok's own texts may contain the token, so none of them is passed on unscrubbed.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import (
    AgentRefused,
    AgentSilent,
    DomainRefused,
    EndpointOnline,
    NgrokTokenMissing,
    NgrokTokenRefused,
    TooManySessions,
    TunnelError,
)

ERROR_CODE = re.compile(r"ERR_NGROK_(\d+)")
ALL_CODES = "https://ngrok.com/docs/errors"
LONGEST_REASON = 200

NOT_A_TOKEN = "The ngrok token does not look like an ngrok authtoken"
BAD_NAME = "The domain {domain} is not a name that ngrok accepts"
BARE_NAME = "Give the bare name as it stands at https://dashboard.ngrok.com/domains, such as NAME.ngrok-free.app."
PAID_NAME = "ngrok's free plan cannot use the domain {domain}"
TOO_OLD = "The ngrok agent at {program} is too old"
UPDATE = "Delete {program} and open the tunnel again: the newest agent is then downloaded."
ELSEWHERE = "Run it from another network, or use Colab's own link instead: --tunnel colab."

# Code -> (kind, what happened, next step where the kind's own would be wrong).
REASONS: dict[str, tuple[type[TunnelError], str, str | None]] = {
    "103": (AgentRefused, "ngrok has suspended this account", "Write to support@ngrok.com, or use another account."),
    "105": (NgrokTokenRefused, NOT_A_TOKEN, None),
    "106": (NgrokTokenRefused, "The ngrok token is one of the old ngrok 1", None),
    "107": (NgrokTokenRefused, "The ngrok token is no longer valid: it was reset or revoked", None),
    "108": (TooManySessions, "The ngrok account already runs as many agents as its plan allows", None),
    "116": (AgentRefused, "The ngrok token may not be used from this machine's address", ELSEWHERE),
    "120": (AgentRefused, TOO_OLD, UPDATE),
    "121": (AgentRefused, TOO_OLD, UPDATE),
    "123": (
        AgentRefused,
        "The ngrok account's e-mail address is not verified yet",
        "Verify it at https://dashboard.ngrok.com/user/settings, then open the tunnel again.",
    ),
    "313": (DomainRefused, PAID_NAME, None),
    "314": (DomainRefused, PAID_NAME, None),
    "316": (DomainRefused, "The ngrok token may not use the domain {domain}", None),
    "319": (DomainRefused, "The domain {domain} is not reserved in your ngrok account", None),
    "320": (DomainRefused, "The domain {domain} belongs to another ngrok account", None),
    "324": (TooManySessions, "The ngrok account already runs as many endpoints as its plan allows", None),
    "326": (DomainRefused, BAD_NAME, BARE_NAME),
    "327": (DomainRefused, BAD_NAME, BARE_NAME),
    "334": (EndpointOnline, "The address {domain} is already online through another ngrok agent", None),
    "347": (DomainRefused, BAD_NAME, BARE_NAME),
    "348": (TooManySessions, "The ngrok account already runs as many sessions as its plan allows", None),
    "4018": (NgrokTokenMissing, "ngrok got no authtoken", None),
    "9036": (DomainRefused, BAD_NAME, BARE_NAME),
    "9037": (DomainRefused, BAD_NAME, BARE_NAME),
    "9038": (DomainRefused, BAD_NAME, BARE_NAME),
    "9040": (AgentRefused, "ngrok takes no agents from this machine's address", ELSEWHERE),
    "15002": (
        DomainRefused,
        "The ngrok account's plan wants a domain to be named",
        "Take one from https://dashboard.ngrok.com/domains and set it by --domain.",
    ),
    "15013": (
        DomainRefused,
        "The ngrok account has no domain of its own yet",
        "Open https://dashboard.ngrok.com/domains once to get one, then open the tunnel again.",
    ),
}
_BARE_NAME_JAPANESE = (
    "ngrok が受け付けない名前です。NGROK_DOMAIN には https://dashboard.ngrok.com/domains にあるドメインを"
    "そのまま入れてください(例: NAME.ngrok-free.app)。"
)
_PAID_NAME_JAPANESE = "このドメインは ngrok の無料プランでは使えません。NGROK_DOMAIN を空にしてください。"
_TOO_OLD_JAPANESE = "ngrok のプログラムが古すぎます。{program} を消して、このセルをもう一度実行してください。"
_ELSEWHERE_JAPANESE = 'ngrok がこのマシンのアドレスを断りました。設定のセルで TUNNEL = "colab" を選んでください。'

# Where the line of the kind would be wrong or vague.
JAPANESE = {
    "103": "この ngrok アカウントは停止されています。support@ngrok.com に問い合わせるか、別のアカウントを使って"
    "ください。",
    "106": "古い ngrok 1 のトークンです。https://dashboard.ngrok.com/get-started/your-authtoken の新しいトークンを"
    "シークレットに入れ直し、4 番のセルと最後のセルを実行してください。",
    "107": "ngrok のトークンは無効になっています。https://dashboard.ngrok.com/get-started/your-authtoken のトークンを"
    "シークレットに入れ直し、4 番のセルと最後のセルを実行してください。",
    "116": _ELSEWHERE_JAPANESE,
    **dict.fromkeys(("120", "121"), _TOO_OLD_JAPANESE),
    "123": "ngrok アカウントのメールアドレスが未確認です。https://dashboard.ngrok.com/user/settings で確認を済ませ、"
    "このセルをもう一度実行してください。",
    **dict.fromkeys(("313", "314"), _PAID_NAME_JAPANESE),
    **dict.fromkeys(("326", "327", "347", "9036", "9037", "9038"), _BARE_NAME_JAPANESE),
    "9040": _ELSEWHERE_JAPANESE,
    "15002": "この ngrok プランではドメインの指定が必要です。https://dashboard.ngrok.com/domains にあるドメインを"
    "NGROK_DOMAIN に入れてください。",
    "15013": "この ngrok アカウントにはまだドメインがありません。https://dashboard.ngrok.com/domains を一度開いてから、"
    "このセルをもう一度実行してください。",
}


def explained(text: str, *, domain: str | None, program: Path) -> TunnelError:
    """The error for what the agent said, in which the token has been scrubbed already."""
    found = ERROR_CODE.search(text)
    if found is None:
        return _without_code(text, program)
    explanation = f"{ALL_CODES}/{found[0].lower()}"
    kind, message, hint = REASONS.get(found[1], (TunnelError, "ngrok refused the tunnel", f"See {explanation}."))
    # Without a domain of one's own ngrok gives the account's, whose name only ngrok knows.
    message = message.format(domain=domain or "of your ngrok account", program=program)
    unknown = "" if found[1] in REASONS else f"ngrok が接続を断りました。理由は {explanation} にあります。"
    japanese = JAPANESE.get(found[1], unknown).format(program=program)
    return kind(f"{message} ({found[0]}).", hint=hint and hint.format(program=program), japanese=japanese)


def too_old(program: Path) -> TunnelError:
    japanese = _TOO_OLD_JAPANESE.format(program=program)
    return AgentRefused(f"{TOO_OLD.format(program=program)}.", hint=UPDATE.format(program=program), japanese=japanese)


def silent(program: Path, seconds: float) -> TunnelError:
    return AgentSilent(
        f"The ngrok agent at {program} did not open a tunnel within {seconds:g} s.",
        hint=f"Check the network and https://status.ngrok.com, then open it again; if it stays silent, delete {program}"
        " so that the newest agent is downloaded.",
    )


def lost(url: str) -> TunnelError:
    return TunnelError(
        f"The ngrok agent has ended, and {url} leads nowhere any more.",
        hint="It may have been ended at https://dashboard.ngrok.com/agents. Stop the chat (Ctrl+C, or the cell's ■), "
        "and start it again to open the link anew.",
        japanese=f"ngrok のプログラムが終了し、{url} はつながらなくなりました。このセルを ■ で止めて、もう一度実行して"
        "ください。",
    )


def _without_code(text: str, program: Path) -> TunnelError:
    # The agent's log writes the ends of lines as two characters each.
    reason = " ".join(re.sub(r"\\[rn]", " ", text).split())[:LONGEST_REASON].rstrip(".")
    if reason:
        return TunnelError(f"The ngrok agent could not open a tunnel: {reason}.")
    return AgentSilent(f"The ngrok agent at {program} ended without a word.", hint=UPDATE.format(program=program))
