"""Sharp-MAML: Sharpness-Aware Model-Agnostic Meta Learning (ICML 2022), exact and fast."""

from .config import Config
from .data import load_split, sample_episodes
from .episode import Episode
from .errors import DeviceLost, Diverged, MissingData, UserError
from .evaluate import Evaluation, evaluate
from .learners import Learner, build_learner
from .models import MLP, Conv4
from .norm import EpisodeNorm
from .run import evaluate_run, run_experiment
from .train import TrainState, meta_train

__all__ = [
    "MLP",
    "Config",
    "Conv4",
    "DeviceLost",
    "Diverged",
    "Episode",
    "EpisodeNorm",
    "Evaluation",
    "Learner",
    "MissingData",
    "TrainState",
    "UserError",
    "build_learner",
    "evaluate",
    "evaluate_run",
    "load_split",
    "meta_train",
    "run_experiment",
    "sample_episodes",
]
