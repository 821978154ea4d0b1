"""What all tests share."""

import os

import torch
from hypothesis import settings

# The tensors here are small: more threads gain nothing, and on a busy machine they made the tests six times slower.
# The commands that tests start have as many, by the environment: with more, sums are rounded otherwise.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# The same examples in every run, and time is not what Hypothesis judges.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")
