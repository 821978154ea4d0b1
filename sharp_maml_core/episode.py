"""A batch of tasks, the only thing that learners ever see of the data."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Episode(NamedTuple):
    """T tasks of N ways, K shots, Q queries a class, already on the device.

    support_x  [T, N*K, C, H, W] float in [0, 1] (regression: [T, K, d_in]);  support_y  [T, N*K] int64 ([T, K, d_out])
    query_x    [T, N*Q, C, H, W];                                             query_y    [T, N*Q]

    Within a task the images are ordered by class, class 0 first.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor

    @property
    def n_tasks(self) -> int:
        return len(self.support_x)
