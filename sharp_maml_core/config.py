"""Every setting of an experiment, with its default, its range and where it comes from.

The command line, the notebook's guard and the documentation are generated from these fields.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import torch

from .checks import ABOVE_ZERO, Allowed, at_least, between, check, count, one_of, switch
from .errors import invalid

FAMILY = ("maml", "fomaml", "low", "up", "both", "anil", "low-anil", "e-low", "e-low-anil")
OTHERS = ("matching", "reptile", "imaml", "cavia", "llama", "bmaml", "maml++", "erm", "sam")
VARIANTS = FAMILY + OTHERS
"""The paper's own methods, which take from the radii what their names say, and the systems it compares with, which
`alpha_up` sharpens where it is given."""
SINGLE_LEVEL = ("erm", "sam")
"""Those that are trained on the classes of the whole split at once, and not on tasks."""

PAPERS_RADIUS, SAMS_RADIUS = 5e-4, 0.05
PAPERS_INNER_LR, ADAMS_INNER_LR = 0.1, 1e-3

SEED = Allowed("at least 0 and below 2**63", lambda value: 0 <= value < 2**63)
NOT_EMPTY = Allowed("a name or a path", lambda value: bool(value))
ANYTHING = Allowed("any text", lambda value: True)
EITHER = Allowed("true or false", lambda value: True)
SHARE = Allowed("at least 0 and at most 1", lambda value: 0 <= value <= 1)


def setting(default: Any, help: str, allowed: Allowed, source: str = "") -> Any:
    return field(default=default, metadata={"help": help, "allowed": allowed, "source": source})


@dataclass(frozen=True)
class Config:
    """An experiment. Invalid values raise UserError, naming the field, the value and what is allowed."""

    # The method
    variant: str = setting("both", "the meta-learner", one_of(*VARIANTS), "Section 3.2, 5.4")
    inner_lr: float = setting(
        None,
        f"step size of the inner loop, beta_low; None: {PAPERS_INNER_LR}, for reptile, whose inner steps are Adam's, "
        f"{ADAMS_INNER_LR}",
        ABOVE_ZERO,
        "Section 5.1; Nichol et al.",
    )
    inner_steps: int = setting(5, "gradient steps of the inner loop", count(1), "released README")
    eval_inner_steps: int = setting(0, "the same at validation and test time; 0: as in training", count(0))
    outer_lr: float = setting(1e-3, "learning rate of the outer loop, beta_up", ABOVE_ZERO, "Section 5.1")
    outer_optimizer: str = setting("adam", "what takes the outer steps", one_of("adam", "sgd"), "Section 5.1")
    outer_schedule: str = setting(
        "constant",
        "outer_lr over the iterations: constant, linear (to 0) or cosine (to 0)",
        one_of("constant", "linear", "cosine"),
        "linear: Reptile; cosine: MAML++",
    )
    clip: float = setting(
        0.0, "bound on the norm of the meta-gradient; 0: none", at_least(0), "Finn et al. clip each element to 10"
    )
    alpha_low: float = setting(
        None,
        f"radius of the lower perturbation; 0: off, as for {', '.join(OTHERS)}, which have none; None: {PAPERS_RADIUS}",
        at_least(0),
        "Section 5.1, README",
    )
    alpha_up: float = setting(
        None,
        f"radius of the upper perturbation, around any variant but those whose names leave it out; 0: off; None: "
        f"{PAPERS_RADIUS}, for sam {SAMS_RADIUS}, for {', '.join(OTHERS[:-1])} 0",
        at_least(0),
        "Section 5.1, README",
    )
    adaptive: bool = setting(
        False,
        "perturb in ASAM's ball, scaled by the weights; the lower perturbation of the first inner step is then zero "
        "with zero_head, and for cavia, whose context starts from zero",
        EITHER,
        "Kwon et al. 2021",
    )
    perturbation_gradient: str = setting(
        "stop",
        "stop: eps_m is a constant in Eq. 10, as in the paper; through: differentiate it, as the released code does",
        one_of("stop", "through"),
        "Eq. 10",
    )
    reuse_lower_perturbation: bool = setting(
        True,
        "use eps_m again, as a constant, in the second pass; false: compute it anew, as the released code does",
        EITHER,
        "Eq. 14",
    )
    test_perturbation: bool = setting(
        True, "perturb the inner loop at test time too", EITHER, "released code: low does"
    )
    adapt_norm: bool = setting(
        True,
        "adapt and perturb the norm layers' scale and shift in the inner loop; false: as the released code",
        EITHER,
        "not stated in the paper",
    )
    zero_head: bool = setting(
        False,
        "the head starts from zero in every task and is not learned; only for the paper's own methods, and a head that "
        "of zeros tells no samples apart",
        EITHER,
        "Kao et al. 2022",
    )
    esam_weights: float = setting(0.5, "e-low: share of weights that is perturbed, xi", between(0, 1), "Du et al. 2022")
    esam_samples: float = setting(0.5, "e-low: share of samples that is used, mu", between(0, 1), "Du et al. 2022")

    # The other systems
    matching_scale: float = setting(
        10.0, "matching: what the scale of the cosines starts from", ABOVE_ZERO, "Gidaris and Komodakis 2018"
    )
    reptile_optimizer: str = setting(
        "adam", "reptile: what takes the inner steps; adam: with beta1 = 0", one_of("adam", "sgd"), "Nichol et al. 2018"
    )
    reptile_batch: int = setting(
        10,
        "reptile: images of a mini-batch of an inner step, of support and query; 0: all",
        count(0),
        "Nichol et al.",
    )
    imaml_lambda: float = setting(
        2.0,
        "imaml: strength of the pull to the meta-parameters, lambda",
        ABOVE_ZERO,
        "Rajeswaran et al. 2019: Omniglot",
    )
    imaml_cg_steps: int = setting(
        5,
        "imaml: steps of conjugate gradients, one product with the Hessian each",
        count(1),
        "Rajeswaran et al. 2019",
    )
    imaml_damping: float = setting(
        0.0,
        "imaml: added to the diagonal of I + H / lambda",
        at_least(0),
        "0: the equation; released code: 1, and there H / (lambda + 10)",
    )
    cavia_context: int = setting(
        100, "cavia: context parameters, the numbers that a task adapts", count(0), "Zintgraf et al. 2019"
    )
    llama_eta: float = setting(
        1e-6, "llama: factor of the log-determinant beside the mean query loss, eta", at_least(0)
    )
    llama_damping: float = setting(
        1e-3, "llama: tau; its square root is added to the diagonal of each Kronecker factor", ABOVE_ZERO
    )
    bmaml_particles: int = setting(5, "bmaml: number of particles", count(1), "Yoon et al. 2018")
    bmaml_chaser_steps: int = setting(
        1, "bmaml: steps on support and query set by which the leader is ahead, s", count(1), "Yoon et al. 2018"
    )
    mamlpp_multi_step: float = setting(
        0.1,
        "maml++: share of the iterations over which the loss moves from after every inner step to after the last",
        SHARE,
        "Antoniou et al. 2019, released code: 10 of 100 epochs",
    )
    mamlpp_first_order: float = setting(
        0.3,
        "maml++: share of the iterations, the first ones, without second derivatives",
        SHARE,
        "Antoniou et al. 2019: the first 50 epochs; their released settings: none",
    )
    mamlpp_step_norms: bool = setting(
        True,
        "maml++: scales and shifts of norm layers of each inner step's own, which no inner step adapts",
        EITHER,
        "Antoniou et al. 2019",
    )
    mamlpp_ensemble: int = setting(
        5,
        "maml++: how many of the best on validation are tested as an ensemble too",
        count(1),
        "Antoniou et al. 2019",
    )

    # The tasks
    dataset: str = setting(
        "glyphs", "glyphs, omniglot, miniimagenet, cifar-fs, fc100, sinusoid, or a folder of images", NOT_EMPTY
    )
    n_way: int = setting(5, "classes of a task, N", count(2), "Section 5.1")
    train_way: int = setting(
        0,
        "classes of a training task; 0: n_way, as it must be where a head is learned that has a row for each",
        Allowed("0, or at least 2 and at most 10**9", lambda value: value == 0 or 2 <= value <= 10**9),
        "Snell et al. 2017: 60 for 20-way tests",
    )
    k_shot: int = setting(1, "support images of a class, K", count(1), "Section 5.1")
    n_query: int = setting(15, "query images of a class", count(1), "Section 5.1")
    n_tasks: int = setting(4, "tasks of a meta-iteration, M", count(1), "released README")
    rotations: bool = setting(
        False, "turned by 90, 180, 270 degrees, a training class makes three more", EITHER, "Finn"
    )
    rotations_of: str = setting(
        "classes",
        "what rotations turn: classes, each by itself; tasks, as a whole: no two classes differ by their turn alone, "
        "as in tests, which is harder",
        one_of("classes", "tasks"),
        "classes: Finn",
    )
    distortion: float = setting(
        0.0,
        "training images are seen through random affine maps, whose six numbers are off by up to this; 0: as they are",
        at_least(0),
        "Koch et al. 2015",
    )
    data_root: str = setting("", "folder of the data sets; empty: $SHARP_MAML_DATA, else the user's cache", ANYTHING)
    image_size: int = setting(
        0,
        "pixels per edge to which the images of a folder of your own are resized; 0: they all have one size",
        count(0),
    )
    download: bool = setting(False, "fetch a missing data set through Torchmeta", EITHER)
    filters: int = setting(64, "filters of each convolution", count(1), "Section 5.1")
    downsampling: str = setting(
        "pool",
        "how a block halves an image: pool, by max-pooling; stride, by its convolution, at a third of the cost",
        one_of("pool", "stride"),
        "pool: Section 5.1; stride: Finn et al. on Omniglot",
    )
    feature_length: float = setting(
        0.0,
        "what the learned length starts from to which each image's features are scaled; 0: as they come",
        at_least(0),
        "cosines of images: Vinyals et al. 2016; Gidaris and Komodakis 2018",
    )

    # The run
    iterations: int = setting(1000, "meta-iterations, T", count(1), "released README: 60000")
    eval_every: int = setting(250, "meta-iterations between validations", count(1))
    val_tasks: int = setting(200, "tasks of a validation", count(2))
    eval_tasks: int = setting(1000, "test tasks at the end", count(2), "Finn et al.: 600")
    seed: int = setting(0, "seed of the parameters and of the training tasks", SEED)
    eval_seed: int = setting(0, "seed of the validation and test tasks: equal for what is compared", SEED)
    checkpoint_every: int = setting(50, "meta-iterations between checkpoints", count(1))
    snapshots: bool = setting(False, "keep the parameters of every checkpoint, to draw the way they went", EITHER)
    tensorboard: bool = setting(False, "write TensorBoard event files to the run folder", EITHER)

    # The machine
    device: str = setting("auto", "auto (a GPU where there is one), cpu, cuda, cuda:1, ...", NOT_EMPTY)
    dtype: str = setting("float32", "floating-point type", one_of("float32", "float64"))
    query_precision: str = setting(
        "full",
        "full, or bfloat16 in the query pass only: faster, and the inner loop stays exact",
        one_of("full", "bfloat16"),
    )
    record: bool = setting(
        True, "on a GPU, record the meta-gradient as a CUDA graph and replay it; false: launch each kernel anew", EITHER
    )
    task_map: str = setting(
        "auto",
        "go over tasks by loop or by vmap; auto: loop on CPU and for large images, else vmap",
        one_of("auto", "loop", "vmap"),
    )
    task_chunk: int = setting(0, "tasks that vmap takes at once, which bounds the memory; 0: all", count(0))

    def __post_init__(self) -> None:
        own = _own_settings(self.variant)
        for f in dataclasses.fields(self):
            given = getattr(self, f.name)
            value = own[f.name] if given is None and f.name in own else _typed(f.name, given)
            object.__setattr__(self, f.name, value)
            check(f.name, value, f.metadata["allowed"])
        if self.query_precision == "bfloat16" and self.dtype == "float64":
            raise invalid("query_precision", "bfloat16", "full with dtype float64, which autocast leaves alone")
        if self.downsampling == "stride" and self.variant == "cavia":
            raise invalid("downsampling", "stride", "pool with variant cavia, whose block with a context pools")
        if self.zero_head and self.variant not in FAMILY:
            raise invalid("zero_head", True, f"false with variant {self.variant}: it is for {', '.join(FAMILY)}")
        if self.train_way and not (self.zero_head or self.variant == "matching"):
            raise invalid(
                "train_way",
                self.train_way,
                f"0 with variant {self.variant}, whose head is learned and has a row for each of n_way classes",
                "Set zero_head, or choose matching.",
            )
        self.torch_device  # noqa: B018  a device that is not there is an error now, not after the data are loaded

    @property
    def way_of_training(self) -> int:
        return self.train_way or self.n_way

    @property
    def steps_of_test(self) -> int:
        return self.eval_inner_steps or self.inner_steps

    @property
    def torch_dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "float64": torch.float64}[self.dtype]

    @property
    def torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            device = None
        if device is None or device.type not in ("cpu", "cuda"):  # nothing here was ever run on another type
            raise invalid("device", self.device, "auto, cpu, cuda, cuda:1, ...")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise invalid(
                "device",
                self.device,
                f"a device of this machine, which has {torch.cuda.device_count()} CUDA devices",
                "Use device=auto.",
            )
        return device

    def replace(self, **changes: Any) -> Config:
        """A copy with some fields changed, checked like a new one.

        Where the variant changes, a setting that is the old one's own becomes the new one's, unless it is given.
        """
        check_names(changes, FIELDS)
        if changes.get("variant", self.variant) != self.variant:
            own = _own_settings(self.variant).items()
            changes = {name: None for name, value in own if getattr(self, name) == value} | changes
        return dataclasses.replace(self, **changes)

    def with_radii(self, radii: dict[str, torch.Tensor]) -> Config:
        """A copy with tensors for `alpha_low`, `alpha_up` or both, over which `vmap` maps; they are not checked."""
        changed = copy.copy(self)
        for name, value in radii.items():
            object.__setattr__(changed, name, value)
        return changed

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


FIELDS = {f.name: f for f in dataclasses.fields(Config)}
TYPES = get_type_hints(Config)


def config_from(values: dict[str, Any]) -> Config:
    """A Config from a dict; an unknown name raises UserError with the nearest known ones."""
    check_names(values, FIELDS)
    return Config(**values)


def check_names(given: Any, known: Any) -> None:
    """Raise UserError for the first name that is not known."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=3)
            raise invalid(
                "parameter", name, "one of " + ", ".join(known), f"Did you mean {' or '.join(near)}?" if near else ""
            )


def _own_settings(variant: str) -> dict[str, float]:
    """The radii and the inner rate of a variant for which none are given."""
    inner_lr = ADAMS_INNER_LR if variant == "reptile" else PAPERS_INNER_LR
    if variant in OTHERS:
        return {"alpha_low": 0.0, "alpha_up": SAMS_RADIUS if variant == "sam" else 0.0, "inner_lr": inner_lr}
    return {"alpha_low": PAPERS_RADIUS, "alpha_up": PAPERS_RADIUS, "inner_lr": inner_lr}


def _typed(name: str, value: Any) -> Any:
    """The value in its field's type: papermill and the command line give text, YAML an int for a float."""
    kind = TYPES[name]
    if kind is bool:
        return switch(name, value)
    if kind is str:
        if isinstance(value, str):
            return value
        raise invalid(name, value, "text")
    try:
        if isinstance(value, bool):
            raise ValueError
        number = kind(value)
        if kind is int and not isinstance(value, str) and number != value:
            raise ValueError
        return number
    except (TypeError, ValueError, OverflowError):
        raise invalid(name, value, "a whole number" if kind is int else "a number") from None
