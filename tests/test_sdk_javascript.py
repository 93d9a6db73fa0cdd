"""OpenAI's JavaScript SDK from npm under Node, against a real server over a tiny model."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests import node_packages
from tests.served_model import KEY, ServedModel

SCRIPT = Path(__file__).parent / "js_sdk" / "openai.test.mjs"


def test_every_test_of_the_sdk_passes(
    served_model: ServedModel, record_property: Callable[[str, object], None]
) -> None:
    assert node_packages.main() == 0, "npm cannot install what package.json names"
    served_model.wait_until_idle()
    variables = {"BASE_URL": f"{served_model.url}/v1", "LOCKED_URL": f"{served_model.locked_url}/v1", "ACCESS_KEY": KEY}
    ran = subprocess.run(
        [*node_packages.NODE, "--test", "--test-concurrency=1", SCRIPT],
        env=os.environ | variables,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    [passed] = re.findall(r"^\S+ pass (\d+)$", ran.stdout, re.MULTILINE)
    assert int(passed) == SCRIPT.read_text(encoding="utf-8").count("\ntest(")
    record_property("passed", passed)
    served_model.wait_until_idle()
