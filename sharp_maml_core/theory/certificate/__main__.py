"""Train, fit and certify a learner on glyphs: python -m sharp_maml_core.theory.certificate OUT.json."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ...config import Config
from ...errors import UserError
from ...files import write_json
from ...memory import keep_freed_memory
from ...results import provenance
from ..generalization import repaired, theorem2
from . import Trained, certify_trained

NEAR_ALPHA = 0.05  # the largest radius of Section 5.1, which makes the paper's bound smallest


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sharp_maml_core.theory.certificate", description=__doc__)
    parser.add_argument("out", type=Path, help="the JSON file to write")
    for name, default, about in (
        ("iterations", 600, "meta-iterations of the prior's training"),
        ("filters", 32, "filters of each convolution"),
        ("tasks", 2000, "M, tasks that the posterior is fitted to and the bound is computed from"),
        ("fresh", 2000, "tasks of each kind to compare with"),
        ("seed", 0, "of everything"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{about} (default {default})")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    before, start = provenance(torch.device("cpu")), time.perf_counter()
    try:
        config = Config(
            variant="maml",
            inner_steps=1,
            filters=given.filters,
            iterations=given.iterations,
            checkpoint_every=max(1, given.iterations // 60),
            seed=given.seed,
            device="cpu",
        )
        trained = certify_trained(config, n_tasks=given.tasks, n_fresh=given.fresh, progress=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    record = report(trained, config, given.tasks) | before | {"seconds": time.perf_counter() - start}
    write_json(given.out, record)
    for certificate in trained.certificates:
        print(f"{certificate.unit}: at most {certificate.bound:.4f}, measured {certificate.measured:.4f}")
    return 0


def report(trained: Trained, config: Config, n_tasks: int) -> dict[str, Any]:
    """What the page shows, as JSON can say it; with the paper's bounds for the same learner."""
    delta = trained.certificates[0].delta
    images_of_a_task = config.n_way * (config.k_shot + config.n_query)
    size = {"n_params": trained.n_params, "delta": delta, "norm": trained.norm}
    return {
        "certificates": [dataclasses.asdict(certificate) for certificate in trained.certificates],
        "posteriors": {
            unit: {"mean": posterior.mean.tolist(), "std": posterior.std.tolist()}
            for unit, posterior in trained.posteriors.items()
        },
        "errors": trained.errors,
        "classes": trained.classes,
        "n_params": trained.n_params,
        "norm": trained.norm,
        "paper": {
            "alpha": NEAR_ALPHA,
            "theorem2": float(theorem2(NEAR_ALPHA, n_samples=images_of_a_task, n_tasks=n_tasks, **size).total),
            "repaired": float(repaired(NEAR_ALPHA, n_tasks=n_tasks, **size).total),
        },
        "config": config.to_dict(),
    }


if __name__ == "__main__":
    sys.exit(main())
