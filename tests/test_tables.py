"""Tables of text show each figure with what it needs to be read."""

from __future__ import annotations

import pytest
from made_results import ROOT, a_group, made

from sharp_maml_core import groups, published, tables
from sharp_maml_core.errors import UserError
from sharp_maml_core.theory.paper_tables import TABLES


def runs_of_table(seeds: int = 3, **settings: object) -> list[dict]:
    given = {"dataset": "omniglot", "n_way": 20, "k_shot": 1, "variant": "maml", **settings}
    return [made("maml", seed, 45, schedule="paper", **given) for seed in range(seeds)]


def test_a_table_of_the_paper_has_all_its_rows_and_ours_beside_them() -> None:
    rows = tables.paper_rows(runs_of_table(), 4)
    assert [row["paper"] for row in rows] == [row.accuracy for row in TABLES[4].rows]
    verdicts = {row["method"]: row["verdict"] for row in rows}
    assert verdicts.pop("MAML (reproduced)") == "differs"
    assert set(verdicts.values()) == {"not run"}
    (mine,) = [row for row in rows if row["ours"]]
    assert "±" in mine["ours"]
    assert mine[tables.DETAILS].startswith("0, 1, 2; 100; ")


def test_another_schedule_is_another_table() -> None:
    runs = runs_of_table()
    assert not any(row["ours"] for row in tables.paper_rows(runs, 4, "short"))
    short = [run | {"cell": run["cell"] | {"schedule": "short"}} for run in runs]
    (mine,) = [row for row in tables.paper_rows(short, 4, "short") if row["ours"]]
    assert mine["verdict"] == "of another length"  # which can neither agree with the paper nor differ


def test_a_single_seed_has_no_interval_and_no_verdict() -> None:
    (mine,) = [row for row in tables.paper_rows(runs_of_table(1), 4) if row["ours"]]
    assert "±" not in mine["ours"]
    assert mine["verdict"] == "too few seeds"


def test_a_trial_names_what_is_not_its_variants_default() -> None:
    def trial(variant: str, **settings: object) -> dict:
        run = made(variant, 0, 45, variant=variant, dataset="glyphs", iterations=300, eval_every=50, **settings)
        return {name: value for name, value in run.items() if name != "cell"}

    elsewhere = trial("low") | {"config": trial("low")["config"] | {"dataset": "omniglot"}}
    of_a_cell = made("up", 0, 45, variant="up", dataset="glyphs")
    runs = [trial("reptile", inner_lr=0.003, alpha_low=0.0, alpha_up=0.0), trial("maml"), elsewhere, of_a_cell]
    maml, reptile = tables.trials(runs, "glyphs")
    assert [maml["variant"], reptile["variant"]] == ["maml", "reptile"]
    assert (reptile["iterations"], reptile["minutes"], reptile["accuracy, %"]) == ("300", "2.5", "84.2 ± 1.0")
    named = {"n_query=10"}  # of every made run
    assert ({*maml["settings"].split(", ")}, {*reptile["settings"].split(", ")}) == (named, {*named, "inner_lr=0.003"})


def test_what_has_to_be_said_is_said() -> None:
    runs = [run | {"data_notes": {"train": "57 of 64 classes"}} for run in runs_of_table()]
    assert tables.notes(runs, 4) == ["57 of 64 classes"]
    assert tables.notes(runs, 1) == []


def test_times_are_multiples_of_mamls_by_the_medians_of_the_benchmark() -> None:
    seconds = {row.method: {"median": 2.0, "min": 1.5, "max": 2.5} for row in TABLES[3].rows}
    seconds["both"] = {"median": 5.0, "min": 4.0, "max": 9.0}
    rows = tables.times({"results": {"mini-ImageNet, 5-way 1-shot": {"seconds": seconds}}})
    assert [row["paper"] for row in rows] == [row.time for row in TABLES[3].rows]
    both = next(row for row in rows if row["method"] == "Sharp-MAML_both")
    assert (both["ours"], both["seconds"]) == ("2.50", "5.00 (4.00 to 9.00)")
    assert {row["ours"] for row in rows if row is not both} == {"1.00"}


def test_the_claim_is_judged_on_as_many_images() -> None:
    rows = {row["variant"]: row for row in tables.claims(a_group())}
    assert {name: row[tables.AS_MANY].partition(": ")[2] for name, row in rows.items()} == {
        "low": "no difference is seen",  # 40 right answers of MAML's 40, with as many meta-gradients
        "up": "worse",  # 41 of 42: it takes two meta-gradients, and so did MAML at twice the iterations
        "both": "worse",
    }
    assert rows["up"][tables.AS_MANY].startswith("-2.00 (")
    assert {row["radius"] for row in rows.values()} == {"0.0005"}
    assert all(row[tables.AS_MANY].endswith(": too few seeds") for row in tables.claims(a_group(seeds=2)))
    assert tables.claims([]) == []


def test_beside_it_stands_the_papers_rule_and_what_it_costs() -> None:
    """The paper gives MAML twice the iterations beside every variant, `low` too."""
    rows = {row["variant"]: row for row in tables.claims(a_group())}
    assert rows["low"][tables.TWICE].startswith("-4.00 (")
    assert all(row[tables.TWICE].endswith(": worse") for row in rows.values())
    assert {name: row["operations"] for name, row in rows.items()} == {
        "low": "1.2 times",  # 3 steps on 5 support images, 9 passes each, and 50 query images, 3 each; 3 more passes
        "up": "1.0 times",
        "both": "1.1 times",
    }
    alone = tables.claims([run for run in a_group() if run["cell"]["name"] != "g-maml-2x"])
    assert {row[tables.TWICE] for row in alone} == {""}


def test_what_is_known_to_be_missing_is_said_with_every_figure() -> None:
    runs = [run | {"data_notes": {"train": "57 of 64 classes"}} for run in a_group()]
    assert {row["runs"] for row in tables.claims(runs)} == {"g, 57 of 64 classes"}
    assert {row["group"] for row in tables.gaps(runs)} == {"g, 57 of 64 classes"}


def test_the_readme_says_what_the_claims_say() -> None:
    """No variant beats MAML on as many images, and each falls behind it somewhere at twice the iterations."""
    rows = tables.claims(published.load(ROOT / "book" / "results"))
    assert not [row for row in rows if row[tables.AS_MANY].endswith(": better")]
    behind = {row["variant"] for row in rows if row[tables.TWICE].endswith(": worse")}
    assert {"low", "up", "both"} <= behind


def test_the_papers_generalisation_errors_stand_beside_runs_of_its_length_alone() -> None:
    given = {"dataset": "miniimagenet", "n_way": 5, "k_shot": 1}
    runs = [
        made(variant, seed, 20, group=schedule, schedule=schedule, variant=variant, **given)
        for schedule in ("paper", "short")
        for variant in ("maml", "both", "up")
        for seed in range(3)
    ]
    rows = {(row["group"], row["cell"]): row for row in tables.gaps(runs)}
    assert {name: row["the paper"] for name, row in rows.items()} == {
        ("paper", "maml"): "37.46",
        ("paper", "both"): "34.58",
        ("paper", "up"): "",
        **{("short", variant): "" for variant in ("maml", "both", "up")},
    }
    assert rows["paper", "maml"]["gap, points"].startswith("5.00 ± ")  # `made` trains five points above its test
    assert tables.gaps([]) == []


def test_the_papers_largest_gain_is_that_of_the_groups_setting() -> None:
    runs = [made("maml", 0, 40, variant="maml", dataset="omniglot", n_way=20)]
    assert tables.printed_gain(runs, "g") == pytest.approx(93.47 - 91.77)
    assert tables.printed_gain(a_group(), "g") is None


def test_notes_of_a_group_are_those_of_its_runs() -> None:
    runs = [run | {"data_notes": {"train": "57 of 64 classes"}} for run in a_group()]
    assert tables.group_notes(groups.lines(runs, "g")) == ["57 of 64 classes"]


def test_what_was_chosen_among_several_settings_says_so() -> None:
    found = published.average(a_group()[:3])
    assert tables.details(found) == "0, 1, 2; 100; 120"
    assert tables.details(found._replace(candidates=4)).endswith("; 120; the best of 4 settings on validation")


def test_a_table_that_there_is_not() -> None:
    with pytest.raises(UserError, match="number=6 is not allowed: it must be one of 1, 2, 3, 4, 5"):
        tables.paper_rows([], 6)


def test_a_group_has_a_column_for_each_baseline_and_stars_for_what_stands() -> None:
    rows = {row["cell"]: row for row in tables.group_rows(groups.lines(a_group(), "g"))}
    assert rows["maml"]["less maml, points"] == rows["maml"]["less maml-2x, points"] == ""
    assert rows["up"]["less maml, points"].startswith("+2.00 (")
    assert rows["up"]["less maml, points"].endswith(")*")
    assert not rows["low"]["less maml, points"].endswith("*")
    assert rows["both"][tables.IMAGES] == "53"  # 240 meta-gradients of 220 images
    assert len({tuple(row) for row in rows.values()}) == 1
