"""The cat's side: draws replies from `replies.toml`, checks their form, tells their situation."""

import random
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parent / "replies.toml"
LONGEST = 20
ACTION_SHARE = 0.88
OWN_MOOD_SHARE = 0.85
_FORM = re.compile(r"(?P<cry>[ｦ-ﾟ]+[!?…♪]*)(?:（(?P<action>[^（）ｦ-ﾟ\s]{1,12})）)?")


def is_well_formed(reply: str) -> bool:
    """A half-width-katakana cry, perhaps one action in full-width brackets, 20 characters at most."""
    return len(reply) <= LONGEST and _FORM.fullmatch(reply) is not None


@dataclass(frozen=True)
class ReplyTable:
    """Cries by situation, and actions by situation and mood."""

    cries: dict[str, list[str]]
    actions: dict[str, dict[str, list[str]]]

    def draw(self, situation: str, mood: str, rng: random.Random) -> str:
        """A random reply that fits; its action is mostly of the same mood."""
        cry = rng.choice(self.cries[situation])
        if rng.random() > ACTION_SHARE:
            return cry
        moods = self.actions[situation]
        if rng.random() > OWN_MOOD_SHARE:
            mood = rng.choice(sorted(moods))
        return f"{cry}（{rng.choice(moods[mood])}）"

    def all_replies(self) -> list[str]:
        """Every reply that the table can make."""
        return [
            reply
            for situation, cries in self.cries.items()
            for cry in cries
            for reply in [cry, *(f"{cry}（{a}）" for mood in self.actions[situation].values() for a in mood)]
        ]

    def situation_of(self, reply: str) -> str | None:
        """The situation that `reply` belongs to; None where it has no form, is unknown or contradicts itself."""
        match = _FORM.fullmatch(reply)
        if match is None:
            return None
        cry = self._situation_of_cry().get(match["cry"])
        action = self._situation_of_action().get(match["action"] or "")
        if cry and action and cry != action:
            return None
        return action or cry

    def _situation_of_cry(self) -> dict[str, str]:
        return {cry: situation for situation, cries in self.cries.items() for cry in cries}

    def _situation_of_action(self) -> dict[str, str]:
        return {
            action: situation
            for situation, moods in self.actions.items()
            for actions in moods.values()
            for action in actions
        }


def read_replies(path: Path = TABLE) -> ReplyTable:
    """The committed table."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return ReplyTable(
        cries={situation: entry["cries"] for situation, entry in content.items()},
        actions={situation: entry["actions"] for situation, entry in content.items()},
    )
