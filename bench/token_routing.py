"""What routing tokens saves: a block on half of the tokens, gathered, against all of them.

python bench/token_routing.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from driftwell.models.vision.token_routing import AttentionBlock, TokenRouter

_WIDTH, _HEADS, _TOKENS, _BATCH, _ROUNDS = 128, 4, 64, 32, 31


def speed_up(share: float) -> tuple[float, float, float]:
    """Dense over sparse processor time (medians), share of multiplications, largest gap."""
    draw = torch.Generator().manual_seed(0)
    router = TokenRouter(AttentionBlock(_WIDTH, _HEADS, draw), _WIDTH, draw)
    t = torch.randn(_BATCH, _TOKENS, _WIDTH, generator=draw)
    with torch.no_grad():
        logits = router.gates(t)[..., 0]
        # The same number of open gates in every sample would flatter: only the mean is set.
        router.gates.bias[0] += -torch.quantile(logits, 1.0 - share)
        dense, sparse = router(t), router(t, sparse=True)
        asked = dense.open.sum(dim=1)
        block = router.block
        cost = block.flops(_TOKENS, asked) / block.flops(_TOKENS, torch.full_like(asked, _TOKENS))
        runs: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(_ROUNDS):
            for how, spent in runs.items():
                spent.append(_seconds(lambda how=how: router(t, sparse=how)))
    gap = float((dense.tokens - sparse.tokens).abs().max())
    ratio = statistics.median(runs[False]) / statistics.median(runs[True])
    return ratio, float(cost.double().mean()), gap


def _seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


if __name__ == "__main__":
    print(f"{_BATCH} x {_TOKENS} tokens of {_WIDTH}, {torch.get_num_threads()} thread(s)")
    for share in (0.25, 0.5, 0.75, 1.0):
        ratio, cost, gap = speed_up(share)
        print(f"open {share:.2f}: {ratio:.2f} x faster, {cost:.2f} of the work, gap {gap:.1e}")
