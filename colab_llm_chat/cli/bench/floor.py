"""`python -m colab_llm_chat.cli.bench.floor DEVICE`: how fast this machine reads memory, as JSON.

The bytes of the weights over it is the least time that a token of one stream takes. Knows no model.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping

ROUNDS = 7
MEGABYTES = {"cpu": 512, "cuda": 4096}


def measured(device: str) -> float:
    """Bytes a second: the best of some readings of a block far larger than any cache."""
    import torch

    block = torch.ones(MEGABYTES[device] * 2**20 // 4, dtype=torch.float32, device=device)
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        float(block.sum())
        times.append(time.perf_counter() - began)
    return block.numel() * 4 / min(times)


def bandwidth(device: str, environment: Mapping[str, str]) -> float:
    """The same, by a process of its own, with its number of threads; 0 where it fails."""
    command = [sys.executable, "-m", __name__, device]
    ran = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    return float(json.loads(ran.stdout)["bytes_per_second"]) if ran.returncode == 0 else 0.0


def main() -> None:
    print(json.dumps({"bytes_per_second": measured(sys.argv[1])}))


if __name__ == "__main__":
    main()
