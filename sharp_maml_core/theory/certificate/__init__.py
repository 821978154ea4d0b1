"""A bound on the error over new tasks that is not vacuous: PAC-Bayes with tasks, or classes, as units.

python -m sharp_maml_core.theory.certificate book/results/certificate/glyphs.json
"""

from .bounds import draws, gaussian_divergence, kl, kl_inverse, log_moment, new_classes, new_tasks
from .certified import Certificate, Seen, certify_classes, certify_tasks
from .checkpoints import certify_checkpoints
from .plane import Plane, Posterior, fit, plane_of
from .simulation import Coverage, classes_coverage, tasks_coverage
from .tasks import blocks, deal, task_errors
from .trained import Trained, certify_trained

__all__ = [
    "Certificate",
    "Coverage",
    "Plane",
    "Posterior",
    "Seen",
    "Trained",
    "blocks",
    "certify_checkpoints",
    "certify_classes",
    "certify_tasks",
    "certify_trained",
    "classes_coverage",
    "deal",
    "draws",
    "fit",
    "gaussian_divergence",
    "kl",
    "kl_inverse",
    "log_moment",
    "new_classes",
    "new_tasks",
    "plane_of",
    "task_errors",
    "tasks_coverage",
]
