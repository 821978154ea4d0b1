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
from ...errors import MEND, UserError, invalid, status
from ...files import write_json
from ...memory import keep_freed_memory
from ...output import complain, say
from ...results import now, provenance
from . import Trained, certify_trained

ALPHA = 0.05  # the radii, and the largest of Section 5.1, at which the paper's bound is smallest


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 on success, 2 for what the user can mend, 3 where training diverged, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m sharp_maml_core.theory.certificate", description=__doc__)
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--variant", default="both", help="the learner (default both)")
    for name, default, about in (
        ("iterations", 600, "meta-iterations of the prior's training"),
        ("filters", 32, "filters of each convolution"),
        ("tasks", 2000, "M, tasks that the posterior is fitted to and the bound is computed from"),
        ("fresh", 2000, "tasks of each kind to compare with"),
        ("seed", 0, "of everything"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{about} (default {default})")
    given = parser.parse_args(arguments)
    try:
        _certify(given)
    except UserError as error:
        complain(f"{parser.prog}: {error}")
        return status(error)
    except OSError as error:
        complain(
            f"{parser.prog}: {given.out} could not be written ({error}). "
            "Make room or name another file, and run the command again."
        )
        return MEND
    except KeyboardInterrupt:
        return 130
    return 0


def _certify(given: argparse.Namespace) -> None:
    keep_freed_memory()
    before, start = provenance(torch.device("cpu")), time.perf_counter()
    config = Config(
        variant=given.variant,
        inner_steps=1,
        alpha_low=ALPHA,
        alpha_up=ALPHA,
        filters=given.filters,
        iterations=given.iterations,
        checkpoint_every=max(1, given.iterations // 60),
        seed=given.seed,
        device="cpu",
    )
    out = given.out.expanduser()
    if out.is_dir():
        raise invalid("out", str(out), "a file to write, and no folder")
    out.parent.mkdir(parents=True, exist_ok=True)  # before the work: where that fails, none is lost
    trained = certify_trained(config, n_tasks=given.tasks, n_fresh=given.fresh, progress=True)
    when = {"finished": now(), "seconds": time.perf_counter() - start}
    write_json(out, report(trained, config, given.tasks) | before | when)
    for certificate in trained.certificates:
        say(f"{certificate.unit}: at most {certificate.bound:.4f}, measured {certificate.measured:.4f}")


def report(trained: Trained, config: Config, n_tasks: int) -> dict[str, Any]:
    """What the page shows, as JSON can say it; with the paper's bounds for the same learner, and a loss of 0."""
    return {
        "certificates": [dataclasses.asdict(certificate) for certificate in trained.certificates],
        "posteriors": {
            unit: {"mean": posterior.mean.tolist(), "std": posterior.std.tolist()}
            for unit, posterior in trained.posteriors.items()
        },
        "errors": trained.errors,
        "held_out": trained.held_out,
        "classes": trained.classes,
        "experiment": trained.experiment._asdict(),
        "paper": {
            "alpha": ALPHA,
            "theorem2": float(trained.experiment.at(ALPHA).total),
            "repaired": float(trained.experiment.with_tasks(n_tasks, ALPHA).total),
        },
        "config": config.to_dict(),
        "data": {"train": trained.identity},
    }


if __name__ == "__main__":
    sys.exit(main())
