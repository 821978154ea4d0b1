"""The cells are the paper's, all of them, and what is compared is trained alike."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from experiments import cells
from experiments.cells import Cell
from sharp_maml_core import UserError
from sharp_maml_core.__main__ import _parser
from sharp_maml_core.config import FIELDS, config_from
from sharp_maml_core.theory import paper_tables

ALL = cells.load()
GROUPS = {name: list(group) for name, group in itertools.groupby(ALL, lambda cell: cell.group)}
TINY = """
[schedule.tiny]
device = "cpu"
about = "for tests"

[[group]]
name = "g"
schedule = "tiny"
settings = { dataset = "glyphs", iterations = 7 }
cell = [{ variant = "maml" }, { variant = ["low", "both"], alpha = [0.05, 0.005] }]
"""


def load(folder: Path, text: str) -> list[Cell]:
    (folder / "cells.toml").write_text(text)
    return cells.load(folder / "cells.toml")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('name = "g"', 'name = "-g"', r"name of group -g='-g' is not allowed: it must be letters, digits and"),
        ('name = "g"', 'name = "a/b"', "it must be letters, digits and"),
        ('name = "g"', 'name = "x{y}"', "it must be letters, digits and"),
        ('name = "g"', "name = 3", "name of group 3=3 is not allowed: it must be a text"),
        ('schedule = "tiny"\nsettings', 'schedule = "tiny"\nseeds = 3\nsettings', "it must be a list of integers"),
        ('schedule = "tiny"\nsettings', 'schedule = "tiny"\ntable = [1]\nsettings', "it must be an integer"),
        ('schedule = "tiny"\nsettings', 'schedule = "tiny"\nlike = ["x"]\nsettings', "the name of a group"),
        (
            'schedule = "tiny"\nsettings',
            'schedule = "tiny"\nseeds = [1.0]\nsettings',
            "seed of group g=1.0 .* an integer",
        ),
        (
            'schedule = "tiny"\nsettings',
            'schedule = "tiny"\nseeds = ["1"]\nsettings',
            "seed of group g='1' .* an integer",
        ),
        ('{ variant = "maml" }, ', '"maml", ', "cell of group g='maml' .* a table, as"),
        ('{ variant = "maml" }, ', "3, ", "cell of group g=3 .* a table, as"),
        ('{ variant = "maml" }', "{ variant = 3 }", "variant=3 is not allowed"),
        ('{ variant = "maml" }', '{ name = "x" }', "cell g-x of group g=.* a cell with a variant"),
        ('[schedule.tiny]\ndevice = "cpu"\nabout = "for tests"', "[schedule]\ntiny = 3", "schedule tiny=3 .* a table"),
        ('device = "cpu"', 'device = "gpu"', "device of schedule tiny='gpu' .* one of cpu, cuda"),
        ("[[group]]", "[group]", r"it must be a list of tables, as \[\[group\]\]"),
        ("[schedule.tiny]", "[[schedule]]", r"it must be tables, as \[schedule.short\]"),
    ],
)
def test_what_a_file_of_cells_cannot_mean_is_named(tmp_path: Path, before: str, after: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(tmp_path, TINY.replace(before, after))


def test_a_file_of_cells_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.toml'.* a file that can be read \(No such file or directory\)"):
        cells.load(tmp_path / "nowhere.toml")
    (tmp_path / "cells.toml").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"cells\.toml is damaged \('utf-8' codec"):
        cells.load(tmp_path / "cells.toml")


def test_every_row_of_every_table_has_its_cell_with_the_printed_number() -> None:
    found = {(cell.table, cell.printed) for cell in ALL if cell.printed and cell.schedule.name in ("paper", "strong")}
    wanted = {(number, row) for number, table in paper_tables.TABLES.items() for row in table.rows if number != 3}
    assert wanted <= found
    thirds = {cell.settings["variant"] for cell in ALL if cell.table == 3 and cell.printed}
    first = {row.method for row in paper_tables.TABLES[1].rows}  # of these Table 3 repeats the accuracies
    assert thirds == {row.method for row in paper_tables.TABLES[3].rows} - first


def test_a_cell_is_of_the_setting_of_its_table() -> None:
    for cell in ALL:
        if cell.table:
            assert (
                tuple(cell.settings[name] for name in ("dataset", "n_way", "k_shot"))
                == paper_tables.TABLES[cell.table][:3]
            )


@pytest.mark.parametrize(("figure", "shots"), [(2, 1), (3, 5)])
def test_the_figures_have_all_radii_of_all_three_variants(figure: int, shots: int) -> None:
    curves = {
        (cell.settings["variant"], cell.settings["alpha_low"], cell.settings["alpha_up"])
        for cell in ALL
        if cell.figure == figure and "alpha_up" in cell.settings
    }
    assert curves == {(variant, r, r) for variant in ("low", "up", "both") for r in paper_tables.RADII}
    assert {cell.settings["k_shot"] for cell in ALL if cell.figure == figure} == {shots}


@pytest.mark.parametrize("name", [name for name in GROUPS if not name.endswith(("-others", "-inner"))])
def test_what_a_group_compares_is_trained_alike(name: str) -> None:
    """But for the variant, its radii, MAML's second length and, in cells that say so, what the paper prints."""
    printed = {"inner_lr", "outer_lr", "outer_schedule", "zero_head", "feature_length", "train_way", "rotations_of"}
    free = {"variant", "alpha_low", "alpha_up", "iterations"}
    for kind, more in ((False, set()), (True, set()), (None, printed)):
        cells = [cell for cell in GROUPS[name] if kind in (None, "as-printed" in cell.name)]
        alike = {str({k: v for k, v in cell.settings.items() if k not in free | more}) for cell in cells}
        assert len(alike) == 1 or (kind is True and not cells)
    for cell in GROUPS[name]:
        like = [other for other in GROUPS[name] if other.settings["inner_lr"] == cell.settings["inner_lr"]]
        once = min(other.settings["iterations"] for other in like)
        assert cell.settings["iterations"] == (2 * once if cell.name.endswith("-2x") else once)
        assert "as-printed" in cell.name or cell.settings["inner_lr"] == GROUPS[name][0].settings["inner_lr"]


def test_no_run_is_there_twice() -> None:
    names = [run.name for run in cells.runs(ALL)]
    assert len(set(names)) == len(names)
    settings = [(cell.schedule.name, str(sorted(cell.config(0).to_dict().items()))) for cell in ALL]
    assert len(set(settings)) == len(settings)


def test_at_least_three_seeds() -> None:
    assert all(cell.seeds[:3] == (0, 1, 2) for cell in ALL)


def test_omniglot_in_reach_of_two_cores_comes_first() -> None:
    assert list(GROUPS)[:2] == ["omniglot-5way-1shot-short", "omniglot-20way-1shot-short"]
    assert ALL[0].schedule.device == "cpu"


def test_each_seed_goes_through_a_group_before_the_next(tmp_path: Path) -> None:
    names = [run.name for run in cells.runs(load(tmp_path, TINY))]
    points = ["maml", "low-alpha0.05", "low-alpha0.005", "both-alpha0.05", "both-alpha0.005"]
    assert names == [f"g-{point}-seed{seed}" for seed in (0, 1, 2) for point in points]


def test_alpha_ties_the_radii(tmp_path: Path) -> None:
    cell = load(tmp_path, TINY)[-1]
    assert (cell.settings["alpha_low"], cell.settings["alpha_up"]) == (0.005, 0.005)


@pytest.mark.parametrize("cell", [group[-1] for group in GROUPS.values()], ids=lambda cell: cell.group)
def test_the_command_of_a_run_has_its_settings(cell: Cell) -> None:
    options = vars(_parser().parse_args(["train", *cells.Run(cell, 1).arguments]))
    assert config_from({name: value for name, value in options.items() if name in FIELDS}) == cell.config(1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("iterations = 7", "iteration = 7", "iteration.* Did you mean iterations"),
        ("iterations = 7", "iterations = 0", "iterations=0"),
        ("iterations = 7", "seed = 7", "seed"),
        ('variant = "maml"', 'variant = "mamml"', "mamml"),
        ('dataset = "glyphs"', 'dataset = "sinusoid"', "dataset of group g='sinusoid'.*of images.* right answers"),
        ('variant = "maml"', 'variant = "maml", dataset = ["glyphs", "sinusoid"]', "dataset of group g='sinusoid'"),
        ('variant = "maml"', 'varient = "maml"', "Did you mean variant"),
        ('schedule = "tiny"', 'schedule = "tinny"', "Did you mean tiny"),
        ('schedule = "tiny"', 'schedul = "tiny"', "Did you mean schedule"),
        ('schedule = "tiny"', "", "a group with a schedule"),
        ('schedule = "tiny"', 'schedule = "tiny"\ntable = 6', "table of group g=6"),
        ('schedule = "tiny"', 'schedule = "tiny"\nlike = "h"', "like of group g='h'"),
        ('schedule = "tiny"', 'schedule = "tiny"\nseeds = [0, 0]', "seed of group g=0"),
        ('device = "cpu"', "", "a schedule with a device"),
        ("[[group]]", "[[groups]]", "Did you mean group"),
        ('{ variant = "maml" }, ', '{ variant = "maml" }, { variant = "maml" }, ', "there once"),
        ("settings = {", "settings = ", "cells.toml is damaged"),
    ],
)
def test_what_nobody_understands_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TINY
    with pytest.raises(UserError, match=message):
        load(tmp_path, TINY.replace(old, new))


def test_an_unknown_cell_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"omniglot-5way-1shot-shrt.* Did you mean omniglot-5way-1shot-short"):
        cells.wanted(ALL, ["omniglot-5way-1shot-shrt"])
    with pytest.raises(UserError, match=r"Did you mean .*omniglot-5way-1shot-short-up-seed[0-9]"):
        cells.find_run(ALL, "omniglot-5way-1shot-short-up-seed9")


def test_names_keep_the_order_and_a_cpu_takes_what_is_meant_for_it() -> None:
    some = cells.wanted(ALL, ["miniimagenet-5way-1shot", "omniglot-5way-1shot-short-up"])
    assert [cell.group for cell in some] == ["omniglot-5way-1shot-short"] + 6 * ["miniimagenet-5way-1shot"]
    assert {cell.schedule.name for cell in cells.wanted(ALL, ["short"])} == {"short"}
    assert {cell.schedule.device for cell in cells.wanted(ALL, [], "cpu")} == {"cpu"}


def test_cells_are_chosen_for_a_device_of_another_machine() -> None:
    assert cells.wanted(ALL, [], "cuda:99") == ALL
    assert cells.kind_of("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match=r"device='gpu' .* auto, cpu, cuda"):
        cells.wanted(ALL, [], "gpu")
