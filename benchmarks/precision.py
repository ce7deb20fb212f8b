"""Does half precision pay on this processor? One step of System 1's encoder in bfloat16 and in float32.

python benchmarks/precision.py
"""

import time

import torch

from vine_vla.learning.precision import bfloat16_pays
from vine_vla.system1.vine_skill.networks import CropEncoder

WINDOWS, SIDE, REPEATS = 64, 64, 7


def milliseconds(half: bool) -> float:
    """Best CPU time of a forward and backward pass."""
    torch.manual_seed(0)
    encoder, images = CropEncoder(SIDE), torch.rand(WINDOWS, 3, SIDE, SIDE)
    found = []
    for _ in range(REPEATS):
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            answer = encoder(images)
        answer.float().sum().backward()
        found.append(1000 * (time.process_time() - start))
    return min(found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    plain, half = milliseconds(False), milliseconds(True)
    kind = torch.backends.cpu.get_cpu_capability()
    print(f"{kind}: float32 {plain:.0f} ms, bfloat16 {half:.0f} ms, ratio {half / plain:.2f}")
    print(f"VINE uses {'bfloat16' if bfloat16_pays('cpu') else 'float32'} here")
