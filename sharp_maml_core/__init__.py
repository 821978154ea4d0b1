"""Sharp-MAML: Sharpness-Aware Model-Agnostic Meta Learning (ICML 2022), exact and fast."""

from .config import Config
from .episode import Episode
from .learners import build_learner

__all__ = ["Config", "Episode", "build_learner"]
