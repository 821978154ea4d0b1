"""Trained meta-parameters that come with the package, so that figures need no training.

Beside each `NAME.safetensors` (float16: a few dozen KB) lies `NAME.json`, the result of the run it is from. Another
run is added by

    python -m sharp_maml_core.pretrained runs/FOLDER NAME
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import rundir
from ..checkpoint import load_params, save_params
from ..checks import check, one_of
from ..config import Config, config_from
from ..errors import invalid
from ..files import write_json
from ..models import Conv4
from ..params import Params

HERE = Path(__file__).parent


class Pretrained(NamedTuple):
    """A trained learner: its settings, the parameters that scored best on validation, and its result.json."""

    name: str
    config: Config
    params: Params
    result: dict[str, Any]

    @property
    def model(self) -> Conv4:
        """The network that the parameters are of."""
        return conv4_of(self.params, self.config.n_way)


def names(prefix: str = "") -> tuple[str, ...]:
    """What there is, for a data set or all: `glyphs-maml-seed0`, ..."""
    return tuple(sorted(path.stem for path in HERE.glob("*.safetensors") if path.stem.startswith(prefix)))


def load(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    folder: Path = HERE,
) -> Pretrained:
    """One of `names()`. Raises UserError, with what there is, for another name, and for a device that is not there."""
    check("name", name, one_of(*(path.stem for path in sorted(folder.glob("*.safetensors")))))
    result = json.loads((folder / f"{name}.json").read_text())
    config = config_from(result["config"] | {"device": str(device)})
    params = load_params(folder / f"{name}.safetensors", device)
    return Pretrained(name, config, {key: value.to(dtype) for key, value in params.items()}, result)


def keep(run: str | Path, name: str, folder: Path = HERE) -> None:
    """Copy a finished run's best parameters, as float16, and its result.

    Raises UserError, before anything is written, for an unfinished run, for one of another network than Conv4, and for
    a name that is taken: figures rest on what there is.
    """
    run = Path(run).expanduser()
    result = rundir.read_result(run)
    if result is None:
        raise invalid("run", str(run), f"a finished run, with a {rundir.RESULT}", "Train it to the end first.")
    config = config_from(result["config"])
    check("downsampling", config.downsampling, one_of("pool"))
    if config.feature_length > 0:
        raise invalid("feature_length", config.feature_length, "0: what is kept is a plain Conv4")
    params = rundir.load_model(run)
    conv4_of(params, config.n_way)
    if any((folder / f"{name}.{suffix}").exists() for suffix in ("safetensors", "json")):
        raise invalid("name", name, "a name that is not taken yet", f"Delete both of its files in {folder} first.")
    save_params(folder / f"{name}.safetensors", {key: value.half() for key, value in params.items()})
    write_json(folder / f"{name}.json", result)


def conv4_of(params: Params, n_way: int) -> Conv4:
    """A Conv4 of these parameters' shapes. Raises UserError for parameters of another architecture."""
    try:
        filters, channels = params["features.0.conv.weight"].shape[:2]
        side = round((params["head.weight"].shape[1] / filters) ** 0.5)
        model = Conv4((channels, 16 * side, 16 * side), n_way, filters)
    except (KeyError, IndexError, ValueError):
        raise invalid("params", sorted(params), "the parameters of a Conv4 for square images") from None
    check_like(params, dict(model.named_parameters()), "a Conv4 with its filters and head")
    return model


def check_like(params: Params, like: Params, what: str) -> None:
    """Raise UserError unless both have the same names and shapes."""
    for name in [*like, *params]:
        found = tuple(params[name].shape) if name in params else "missing"
        wanted = tuple(like[name].shape) if name in like else "absent"
        if found != wanted:
            raise invalid(f"params[{name!r}]", found, f"{wanted}, as in {what}")
