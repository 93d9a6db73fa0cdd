"""The packages of Colab's image, as `.ci/colab-constraints.txt` names them.

`python -m tests.colab_image` says where the environment that runs it differs from them. It does not look at torch,
whose build is the machine's choice.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
# For the conditions that requirements come with, such as `python_version < "3.11"`.
MARKERS = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.13.15",
    "python_version": "3.13",
    "sys_platform": "linux",
}


def requirements(path: Path) -> list[Requirement]:
    """The requirements that a file lists, without its comments."""
    lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line]


def preinstalled() -> dict[str, Version]:
    """Version by canonical name."""
    pins = requirements(ROOT / ".ci" / "colab-constraints.txt")
    return {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins}


def installed(name: str) -> Version | None:
    """The version in this environment."""
    try:
        return Version(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def main() -> int:
    """Exit status 1 when a version differs."""
    versions = {name: version for name, version in preinstalled().items() if name != "torch"}
    differing = [name for name, version in versions.items() if installed(name) != version]
    for name in differing:
        print(f"{name} is {installed(name)} here and {versions[name]} on Colab", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
