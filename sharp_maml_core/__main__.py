"""The command line: `python -m sharp_maml_core train ...`, `... stack ...` and `... evaluate RUN_DIR`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable

from .config import FIELDS, Config, config_from
from .data import SPLITS
from .distributed import PeerFailed, first, together
from .errors import UserError, status
from .output import complain, say
from .run import default_folder, evaluate_run, run_experiment
from .stacked import grid, run_stack


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 on success, 2 for what the user can mend, 3 where training diverged, 75 to be tried again, 130
    when interrupted.

    Of several processes that torchrun started on one run, 1 for those that ended because another one failed.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        with together():
            return options.run(options)
    except PeerFailed:
        return 1
    except UserError as error:
        complain(f"{parser.prog}: {error}")
        return status(error)
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sharp_maml_core", description="Train and test Sharp-MAML and its family.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train and test a learner",
        description="Train and test a learner. Over several GPUs or machines: "
        "torchrun --nproc-per-node 2 -m sharp_maml_core train ... splits the tasks over the processes.",
    )
    train.set_defaults(run=_train)
    train.add_argument("--run-dir", metavar="FOLDER", help="where the run lives; started again, it goes on")
    _add_settings(train, FIELDS)

    stack = commands.add_parser(
        "stack",
        help="train and test several seeds and radii of one learner at once",
        description="Train and test several seeds and radii of one learner at once, on one GPU: parameters stacked, "
        "each run in its own folder under --runs-dir. Every seed goes with every radius.",
    )
    stack.set_defaults(run=_stack)
    stack.add_argument("--seeds", type=int, nargs="+", required=True, metavar="INT", help="seed of each run")
    radii = {"alphas": "alpha_low and alpha_up, equal", "alphas_low": "alpha_low", "alphas_up": "alpha_up"}
    for name, about in radii.items():
        flag = "--" + name.replace("_", "-")
        stack.add_argument(flag, type=float, nargs="+", metavar="FLOAT", help=f"values of {about}")
    stack.add_argument(
        "--runs-dir", default="runs", metavar="FOLDER", help="where the runs' folders are (default runs)"
    )
    stack.add_argument("--at-once", type=int, default=0, metavar="INT", help="runs that vmap takes at once; 0: all")
    _add_settings(stack, [name for name in FIELDS if name != "seed"])

    test = commands.add_parser("evaluate", help="test a trained learner again", description="Test a run's best model.")
    test.set_defaults(run=_evaluate)
    test.add_argument("run_dir", metavar="RUN_DIR")
    test.add_argument("--eval-tasks", type=int, metavar="INT", help="number of tasks (default: the run's)")
    test.add_argument("--eval-seed", type=int, metavar="INT", help="other tasks than the run's (default: the same)")
    test.add_argument("--split", choices=SPLITS, default="test", help="which classes (default test)")
    test.add_argument("--dataset", metavar="FOLDER", help="where its images are now (default: where they were)")
    test.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default auto)")
    test.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def _add_settings(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    parser.add_argument("--overwrite", action="store_true", help="throw away what the folder holds and begin again")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    for name in names:
        field = FIELDS[name]
        about = field.metadata
        source = f"; {about['source']}" if about["source"] else ""
        parser.add_argument(
            "--" + name.replace("_", "-"),
            dest=name,
            metavar=str(field.type).upper(),
            default=argparse.SUPPRESS,
            help=f"{about['help']} (default {field.default!r}; {about['allowed'].text}{source})".replace("%", "%%"),
        )


def _settings(options: argparse.Namespace) -> Config:
    return config_from({name: value for name, value in vars(options).items() if name in FIELDS})


def _train(options: argparse.Namespace) -> int:
    config = _settings(options)
    folder = options.run_dir or default_folder(config)
    result = run_experiment(config, folder, overwrite=options.overwrite, progress=not options.quiet)
    if not first():
        return 0
    for which in ("best", "last"):
        figures = result[which]
        say(
            f"{which}: {result['metric']} {figures['mean']:.4f} +- {figures['interval_95']:.4f} "
            f"on {result['eval_tasks']} tasks (iteration {figures['iteration']})"
        )
    if "ensemble" in result:
        figures = result["ensemble"]
        say(
            f"ensemble: {result['metric']} {figures['mean']:.4f} +- {figures['interval_95']:.4f} "
            f"of the {len(figures['iterations'])} best on validation"
        )
    say(f"{result['seconds']:.1f} s of training; everything is in {folder}")
    return 0


def _stack(options: argparse.Namespace) -> int:
    configs = grid(_settings(options), options.seeds, options.alphas, options.alphas_low, options.alphas_up)
    results = run_stack(
        configs, options.runs_dir, at_once=options.at_once, overwrite=options.overwrite, progress=not options.quiet
    )
    for folder, result in results.items():
        best, settings = result["best"], result["config"]
        say(
            f"seed {settings['seed']}, alpha_low {settings['alpha_low']}, alpha_up {settings['alpha_up']}: "
            f"{result['metric']} {best['mean']:.4f} +- {best['interval_95']:.4f} "
            f"(iteration {best['iteration']}), {result['seconds']:.1f} s, in {folder}"
        )
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    result = evaluate_run(
        options.run_dir,
        n_tasks=options.eval_tasks,
        seed=options.eval_seed,
        split=options.split,
        progress=not options.quiet,
        data=options.dataset,
        device=options.device,
    )
    figures = {"metric": result.metric, "mean": result.mean, "interval_95": result.interval}
    if first():
        say(json.dumps(figures | {"tasks": len(result.scores), "split": options.split}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
