"""Each client's own momentum: the rule judges and combines means over rounds, not single rounds."""

from __future__ import annotations

import torch
from torch import Tensor

from fedtune.round.screening.spool import Spool

PREFIX = "momentum/"


def smooth(spool: Spool, state: dict[str, Tensor], part: str, *, beta: float) -> dict[str, Tensor]:
    """Put each client's mean over its rounds in the place of its row.

    The mean is the exponential one, without bias: after t rounds of a client
    (1 - beta) / (1 - beta^t) * sum_k beta^(t-k) x_k. Noise of a client's own averages out and
    small lies that agree from round to round do not, so that distances tell them apart. It costs
    a row of memory for each client, and a client that is asked seldom is judged by old rows.

    Args:
        spool: The round's rows; overwritten.
        state: The means so far, by part and client; not modified.
        part: The name of what the round trains.
        beta: How much of the past stays, in (0, 1).

    Returns:
        The means after this round, float32, and how many rounds each is made of.

    Source:
        Karimireddy, He, Jaggi 2021 (learning from history), https://arxiv.org/abs/2012.10333;
        theirs divides by nothing, and so begins with short steps.
    """
    after = dict(state)
    for client in spool.clients:
        mean_of, count_of = f"{PREFIX}{part}/{client}", f"{PREFIX}{part}/{client}/rounds"
        row = spool.row(client)
        count = int(state[count_of]) + 1 if count_of in state else 1
        before = state[mean_of].double() if mean_of in state else torch.zeros_like(row).double()
        mean = beta * before + (1 - beta) * row.double()
        after[mean_of] = mean.to(torch.float32)
        after[count_of] = torch.tensor(count)
        spool.put(client, (mean / (1 - beta**count)).to(torch.float32))
    return after
