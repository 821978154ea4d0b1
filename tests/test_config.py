"""Each field refuses what it cannot be, in a sentence that names the field, the value and what is allowed."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sharp_maml_core import Config
from sharp_maml_core.config import FAMILY, FIELDS, TYPES, VARIANTS, config_from
from sharp_maml_core.errors import UserError
from sharp_maml_core.learners import BUILDERS
from sharp_maml_core.learners.maml import KINDS

OF_TYPE = {kind: [name for name in FIELDS if TYPES[name] is kind] for kind in (int, float, bool, str)}
CHOICES = {
    "variant": list(VARIANTS),
    "perturbation_gradient": ["stop", "through"],
    "outer_optimizer": ["adam", "sgd"],
    "outer_schedule": ["constant", "linear", "cosine"],
    "reptile_optimizer": ["adam", "sgd"],
    "downsampling": ["pool", "stride"],
    "dtype": ["float32", "float64"],
    "query_precision": ["full", "bfloat16"],
    "task_map": ["auto", "loop", "vmap"],
    "rotations_of": ["classes", "tasks"],
}
# The smallest value that is allowed, and the next one below it that is not.
LOWEST = {
    "inner_lr": (1e-12, 0.0), "outer_lr": (1e-12, 0.0), "clip": (0.0, -1e-12), "alpha_low": (0.0, -1e-12),
    "alpha_up": (0.0, -1e-12), "esam_weights": (1e-12, 0.0), "esam_samples": (1e-12, 0.0),
    "mamlpp_multi_step": (0.0, -1e-12), "mamlpp_first_order": (0.0, -1e-12), "mamlpp_ensemble": (1, 0),
    "imaml_lambda": (1e-12, 0.0), "imaml_cg_steps": (1, 0), "imaml_damping": (0.0, -1e-12),
    "llama_eta": (0.0, -1e-12), "llama_damping": (1e-12, 0.0), "bmaml_particles": (1, 0), "bmaml_chaser_steps": (1, 0),
    "inner_steps": (1, 0), "eval_inner_steps": (0, -1), "n_way": (2, 1), "k_shot": (1, 0), "n_query": (1, 0),
    "n_tasks": (1, 0), "filters": (1, 0), "iterations": (1, 0), "eval_every": (1, 0), "val_tasks": (2, 1),
    "eval_tasks": (2, 1), "seed": (0, -1), "eval_seed": (0, -1), "checkpoint_every": (1, 0), "task_chunk": (0, -1),
    "matching_scale": (1e-12, 0.0), "reptile_batch": (0, -1), "cavia_context": (0, -1),
    "image_size": (0, -1),
    "feature_length": (0.0, -1e-12), "train_way": (0, -1), "distortion": (0.0, -1e-12),
}  # fmt: skip


def refused(name: str, value: object) -> str:
    """The message with which `name=value` is refused; it names both."""
    with pytest.raises(UserError) as error:
        config_from({name: value})
    assert str(error.value).startswith(f"{name}={value!r} is not allowed: it must be ")
    return str(error.value)


def test_defaults_are_valid_and_every_field_says_what_it_is():
    Config()
    assert sum(map(len, OF_TYPE.values())) == len(FIELDS)
    for field in FIELDS.values():
        assert field.metadata["help"]
        assert field.metadata["allowed"].text


def test_the_papers_values_are_the_defaults():
    config = Config()
    assert (config.variant, config.perturbation_gradient, config.reuse_lower_perturbation) == ("both", "stop", True)
    assert config.alpha_low == config.alpha_up == 5e-4
    assert (config.inner_lr, config.inner_steps, config.outer_lr) == (0.1, 5, 1e-3)


def test_every_variant_has_a_learner():
    assert set(KINDS) == set(FAMILY)
    assert set(BUILDERS) == set(VARIANTS)
    assert list(BUILDERS) == list(VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_radii_of_a_variant_are_its_own_where_none_is_given(variant):
    low, up = (5e-4, 5e-4) if variant in FAMILY else (0.0, 0.05 if variant == "sam" else 0.0)
    assert (Config(variant=variant).alpha_low, Config(variant=variant).alpha_up) == (low, up)
    given = Config(variant=variant, alpha_low="0.1", alpha_up=0.2)
    assert (given.alpha_low, given.alpha_up) == (0.1, 0.2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_so_is_the_inner_rate(variant):
    assert Config(variant=variant).inner_lr == (0.001 if variant == "reptile" else 0.1)
    assert Config(variant=variant, inner_lr=0.02).replace(variant="reptile").inner_lr == 0.02


@pytest.mark.parametrize("name", LOWEST)
def test_ranges_end_where_they_say(name):
    lowest, below = LOWEST[name]
    assert getattr(Config(**{name: lowest}), name) == lowest
    assert "at least" in refused(name, below) or "above" in refused(name, below)


def test_every_number_has_a_range():
    assert set(LOWEST) == {*OF_TYPE[int], *OF_TYPE[float]}


@pytest.mark.parametrize("name", [name for name in OF_TYPE[int] if name not in ("seed", "eval_seed")])
def test_whole_numbers_end_where_no_run_would(name):
    """Beyond 2**63 PyTorch raises errors of its own, and loops over particles have no end."""
    assert FIELDS[name].metadata["allowed"].contains(10**9)
    for value in (10**9 + 1, 10**20):
        assert "at most 10**9" in refused(name, value)


@pytest.mark.parametrize("name", ["esam_weights", "esam_samples"])
def test_shares_end_at_one(name):
    assert getattr(Config(**{name: 1}), name) == 1.0
    assert "above 0 and at most 1" in refused(name, 1.0000001)


@pytest.mark.parametrize("name", ["mamlpp_multi_step", "mamlpp_first_order"])
def test_shares_of_the_iterations_go_from_none_to_all(name):
    assert getattr(Config(**{name: 1}), name) == 1.0
    assert "at least 0 and at most 1" in refused(name, 1.0000001)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", OF_TYPE[float])
def test_floats_are_finite(name, value):
    assert "finite" in refused(name, value)


@pytest.mark.parametrize("value", [None, "many", "", True, [1], float("nan"), float("inf"), 2.5, "2.5", 1j])
@pytest.mark.parametrize("name", OF_TYPE[int])
def test_integers_are_whole_numbers(name, value):
    assert "a whole number" in refused(name, value)


@pytest.mark.parametrize("value", [None, "much", "", False, [0.1], 1j])
@pytest.mark.parametrize("name", OF_TYPE[float])
def test_floats_are_numbers(name, value):
    if value is not None or FIELDS[name].default is not None:
        assert "a number" in refused(name, value)


@pytest.mark.parametrize("value", [None, "yes", "", 0, 1, 1.0, "0"])
@pytest.mark.parametrize("name", OF_TYPE[bool])
def test_truth_is_true_or_false(name, value):
    assert "true or false" in refused(name, value)


@pytest.mark.parametrize("value", [None, 3, True, 0.5, ["maml"]])
@pytest.mark.parametrize("name", OF_TYPE[str])
def test_text_is_text(name, value):
    assert "text" in refused(name, value)


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_listed_in_the_refusal(name):
    for value in CHOICES[name]:
        assert getattr(Config(**{name: value}), name) == value
    assert refused(name, "bogus").endswith(f"it must be one of {', '.join(CHOICES[name])}.")


def test_what_has_no_strides_refuses_them():
    with pytest.raises(UserError, match=r"^downsampling='stride' is not allowed: it must be pool with variant cavia"):
        Config(variant="cavia", downsampling="stride")


def test_a_head_of_zero_is_for_the_papers_methods():
    for variant in FAMILY:
        assert Config(variant=variant, zero_head=True).zero_head
    with pytest.raises(UserError, match=r"^zero_head=True is not allowed: it must be false with variant cavia"):
        Config(variant="cavia", zero_head=True)


def test_only_tasks_without_a_learned_head_may_have_other_classes_in_training():
    assert Config("maml", zero_head=True, train_way=2).way_of_training == 2
    assert Config("matching", train_way=60).way_of_training == 60
    assert Config("maml", n_way=7).way_of_training == 7
    refused("train_way", 1)
    with pytest.raises(UserError, match=r"^train_way=60 is not allowed: it must be 0 with variant both, whose head is"):
        Config("both", train_way=60)


@pytest.mark.parametrize("name", ["dataset", "device"])
def test_names_are_not_empty(name):
    refused(name, "")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("n_way", "5", 5), ("n_way", 5.0, 5), ("seed", "0", 0), ("seed", 2**62 + 1, 2**62 + 1),
        ("inner_lr", 1, 1.0), ("inner_lr", "1e-2", 0.01), ("alpha_up", "0", 0.0),
        ("adaptive", "true", True), ("adaptive", "False", False), ("rotations", "FALSE", False),
    ],
)  # fmt: skip
def test_text_and_other_numbers_are_read_without_loss(name, given, expected):
    """Papermill and the command line give text; YAML gives an int for a float."""
    value = getattr(Config(**{name: given}), name)
    assert value == expected
    assert type(value) is TYPES[name]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"^parameter='alpha_lo' is not allowed.*Did you mean alpha_low\b"):
        config_from({"alpha_lo": 0.1})
    with pytest.raises(UserError, match=r"one of variant, inner_lr, .*task_chunk\.$"):
        config_from({"zzz": 1})


def test_replace_answers_an_unknown_name_likewise():
    with pytest.raises(UserError, match="Did you mean n_way"):
        Config().replace(nway=3)


def test_a_config_is_frozen_and_replaced_by_a_checked_copy():
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.n_way = 3
    assert config.replace(n_way="3") == Config(n_way=3)
    assert config == Config()
    with pytest.raises(UserError, match="n_way=1"):
        config.replace(n_way=1)


@pytest.mark.parametrize(("old", "new"), [("erm", "sam"), ("sam", "erm"), ("both", "reptile"), ("imaml", "low")])
def test_radii_that_are_a_variants_own_change_with_it(old, new):
    assert Config(variant=old).replace(variant=new) == Config(variant=new)
    assert Config(variant=old, alpha_up=0.3).replace(variant=new) == Config(variant=new, alpha_up=0.3)
    given = {"alpha_low": 0.0, "alpha_up": 0.0}
    assert Config(variant=old).replace(variant=new, **given) == Config(variant=new, **given)
    assert Config(variant=old, **given).replace(variant=old, seed=1) == Config(variant=old, seed=1, **given)


def test_a_config_goes_through_a_dict_and_back():
    config = Config(variant="e-low", adaptive=True, inner_lr=0.05)
    assert config_from(config.to_dict()) == config
    assert all(type(value) in (int, float, bool, str) for value in config.to_dict().values())


def test_devices():
    assert Config(device="cpu").torch_device == torch.device("cpu")
    assert Config().torch_device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert "auto, cpu, cuda" in refused("device", "gpu")
    absent = f"cuda:{torch.cuda.device_count()}"
    assert refused("device", absent).endswith("Use device=auto.")


def test_dtypes():
    assert Config(dtype="float64").torch_dtype == torch.float64
    assert Config().torch_dtype == torch.float32
