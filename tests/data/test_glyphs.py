"""The embedded data set: what is in it, that splits share no letter, that it is the same everywhere, and its cache."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from sharp_maml_core import files
from sharp_maml_core.data import glyphs, scripts
from sharp_maml_core.data.glyphs import INSTANCES, SPLITS, cache_path, load_glyphs
from sharp_maml_core.data.split import ImageSplit
from sharp_maml_core.errors import UserError

# With the pinned matplotlib and Pillow, on any machine. If a change of the drawings is meant, raise glyphs.VERSION.
IDENTITIES = {
    "train": "6ed9ccfc9e7ef53882620362dff0afe96df5bd277f38745dfa11e7da1635013d",
    "val": "0fc61df5e11fef18bb5e23d6de1ae14454fdd561d745fe7b6a370c413b5589ce",
    "test": "04bb4cf4fc29a220058721d7624fe74edcdd75088be890b4e18df9f8c47e171e",
}


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def splits(root: Path) -> dict[str, ImageSplit]:
    return {split: load_glyphs(split, data_root=root) for split in SPLITS}


def characters(split: ImageSplit) -> list[str]:
    return [unicodedata.lookup(name.split("/")[1]) for name in split.class_names]


def script_names(split: ImageSplit) -> set[str]:
    return {name.split("/")[0] for name in split.class_names}


def span(inked: torch.Tensor) -> torch.Tensor:
    """From the first to the last True along the last axis, both included: letters of dots have gaps."""
    length = inked.shape[-1]
    positions = torch.arange(length)
    first = torch.where(inked, positions, length).amin(-1)
    return torch.where(inked, positions, -1).amax(-1) - first + 1


# --- what is in it


def test_same_bytes_on_any_machine(splits: dict[str, ImageSplit]) -> None:
    assert {split: splits[split].identity for split in SPLITS} == IDENTITIES


def test_enough_letters_scripts_and_instances(splits: dict[str, ImageSplit]) -> None:
    assert sum(len(split.class_names) for split in splits.values()) >= 1200
    assert len(set().union(*map(script_names, splits.values()))) >= 10
    assert len(splits["test"].class_names) >= 150
    assert len(script_names(splits["test"])) >= 3
    assert len(script_names(splits["val"])) >= 2
    for name, split in splits.items():
        assert split.name == f"glyphs/{name}"
        assert split.images.shape == (len(split.class_names), INSTANCES, 1, 28, 28)
        assert split.images.dtype == torch.uint8
        assert (split.counts == 20).all()
        assert split.images.is_contiguous()


def test_no_script_or_letter_in_two_splits(splits: dict[str, ImageSplit]) -> None:
    for get in (script_names, lambda split: set(split.class_names)):
        train, val, test = (get(splits[name]) for name in ("train", "val", "test"))
        assert not train & val
        assert not train & test
        assert not val & test
    assert len(set().union(*(s.class_names for s in splits.values()))) == sum(len(s.images) for s in splits.values())


def test_every_image_shows_ink_on_black_that_fills_it(splits: dict[str, ImageSplit]) -> None:
    for split in splits.values():
        images = split.images[:, :, 0]
        assert (images.flatten(2).amax(2) > 100).all()  # none is blank, and ink is bright
        share = (images > 127).float().mean((2, 3))
        assert share.min() > 0.01
        assert share.max() < 0.6  # as in Omniglot, most is background
        height, width = span((images > 0).any(3)), span((images > 0).any(2))
        assert torch.maximum(height, width).min() >= 14  # at scale 0.85: 16, less what a turn takes


@pytest.mark.parametrize("shape", [(76, 76), (76, 20), (20, 76)])
def test_no_deformation_cuts_ink_off(shape: tuple[int, int]) -> None:
    """A full box keeps its area: shear and rotation preserve it, the scales are known."""
    box = Image.new("L", shape, 255)
    extremes = [(t, h, w, v, x, y) for t in (0, 210) for h in (0, 30) for w in (0, 25) for v in (0, 25) for x in (0, 8)
                for y in (0, 8)]  # fmt: skip
    for draws in extremes:
        area = (0.85 + draws[2] / 100) * (0.85 + draws[3] / 100) * shape[0] * shape[1] / 16
        assert glyphs._deform(box, *draws).sum() / 255 == pytest.approx(area, rel=0.02)


def test_instances_of_a_letter_differ(splits: dict[str, ImageSplit]) -> None:
    for split in splits.values():
        for images in split.images.flatten(2):  # [20, 784]
            assert len(torch.unique(images, dim=0)) == INSTANCES


def test_every_letter_has_a_glyph_and_is_not_the_box_for_a_missing_one(splits: dict[str, ImageSplit]) -> None:
    face = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font, missing = FT2Font(str(face)), scripts.render("\uffff", "DejaVuSans")
    assert missing is not None
    for character in (c for split in splits.values() for c in characters(split)):
        assert font.get_char_index(ord(character)) != 0
        drawn = scripts.render(character, "DejaVuSans")
        assert drawn is not None
        assert drawn.tobytes() != missing.tobytes()


# --- look-alikes, by another measure than the generator's: moments instead of boxes, overlap instead of cosines


def outline(character: str, side: int = 24) -> npt.NDArray[np.float64]:
    """The letter as a binary image [576], its centre of mass in the middle, its radius of gyration 0.3 of the side."""
    font = ImageFont.truetype(str(scripts._font_path("DejaVuSans")), 96, layout_engine=ImageFont.Layout.BASIC)
    page = Image.new("L", (400, 300))
    ImageDraw.Draw(page).text((120, 80), character, fill=255, font=font)
    ink = np.asarray(page, dtype=float)
    y, x = np.mgrid[:300, :400]
    x0, y0 = (ink * x).sum() / ink.sum(), (ink * y).sum() / ink.sum()
    step = np.sqrt((ink * ((x - x0) ** 2 + (y - y0) ** 2)).sum() / ink.sum()) / (0.3 * side)
    matrix = (step, 0, x0 - step * side / 2, 0, step, y0 - step * side / 2)
    small = page.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return (np.asarray(small) > 127).astype(float).reshape(-1)


def overlaps(a: list[str], b: list[str]) -> npt.NDArray[np.float64]:
    """Intersection over union of every outline of a with every one of b: [a, b]."""
    left, right = np.stack([outline(c) for c in a]), np.stack([outline(c) for c in b])
    shared = left @ right.T
    return shared / (left.sum(1)[:, None] + right.sum(1) - shared)


def test_the_measure_finds_known_look_alikes() -> None:
    assert overlaps(["A"], ["\N{GREEK CAPITAL LETTER ALPHA}", "\N{CYRILLIC CAPITAL LETTER A}"]).min() > 0.95
    assert overlaps(["O"], ["\N{ARMENIAN CAPITAL LETTER OH}"]).min() > 0.95
    assert overlaps(["X"], ["\N{TIFINAGH LETTER YATH}"]).min() > 0.95
    assert overlaps(["A"], ["B", "H", "V"]).max() < 0.6


def test_no_look_alikes_across_splits(splits: dict[str, ImageSplit]) -> None:
    train, val, test = (characters(splits[name]) for name in ("train", "val", "test"))
    for a, b in ((train, val), (train, test), (val, test)):
        table = overlaps(a, b)
        i, j = divmod(int(table.argmax()), len(b))
        # 0.84 is a Canadian syllable with a dot beside it and the Armenian letter without
        assert table.max() < 0.86, (unicodedata.name(a[i]), unicodedata.name(b[j]))


def test_no_class_twice_within_a_split(splits: dict[str, ImageSplit]) -> None:
    for split in splits.values():
        table = overlaps(characters(split), characters(split))
        np.fill_diagonal(table, 0)
        assert table.max() < 0.92  # a loop of two pixels more or less


@pytest.mark.parametrize(("kept", "twin"), [("A", "\N{CYRILLIC CAPITAL LETTER A}"), ("O", "o"), ("X", "x")])
def test_of_equal_letters_at_most_one_is_a_class(splits: dict[str, ImageSplit], kept: str, twin: str) -> None:
    everywhere = [c for split in splits.values() for c in characters(split)]
    assert (kept in everywhere) + (twin in everywhere) <= 1


# --- seeds


def test_the_seed_changes_the_drawings_and_nothing_else() -> None:
    letter = scripts.Letter(0x3B2, "GREEK SMALL LETTER BETA", "Greek", "train", scripts.FACES)
    first, again, other = (glyphs._draw_letter(letter, seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_the_seed_is_in_the_file_name(root: Path) -> None:
    assert cache_path(root, 0) != cache_path(root, 1)


@pytest.mark.parametrize(("split", "seed", "says"), [("valid", 0, "train, val, test"), ("train", -1, "at least 0")])
def test_wrong_arguments(root: Path, split: str, seed: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_glyphs(split, data_root=root, seed=seed)


# --- the cache


def forbid_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(seed: int) -> dict[str, ImageSplit]:
        raise AssertionError("drawn although it was kept")

    monkeypatch.setattr(glyphs, "draw_glyphs", fail)


def test_kept_and_read_again(root: Path, splits: dict[str, ImageSplit], monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_drawing(monkeypatch)
    for name, split in splits.items():
        kept = load_glyphs(name, data_root=root)
        assert torch.equal(kept.images, split.images)
        assert (kept.class_names, kept.name, kept.identity) == (split.class_names, split.name, split.identity)
    assert [path.name for path in (root / "glyphs").iterdir()] == [cache_path(root, 0).name]  # nothing temporary left


@pytest.mark.parametrize("damage", ["cut", "empty", "pixel", "name", "noise"])
def test_a_damaged_file_is_made_again(
    damage: str, tmp_path: Path, root: Path, splits: dict[str, ImageSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cache_path(root, 0).read_bytes()
    damaged = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "pixel": whole[:-1] + bytes([whole[-1] ^ 255]),
        "name": whole.replace(b"LAO LETTER", b"LOA LETTER", 1),
        "noise": np.random.default_rng(0).bytes(4096),
    }[damage]
    assert damaged != whole
    path = cache_path(tmp_path, 0)
    path.parent.mkdir()
    path.write_bytes(damaged)
    monkeypatch.setattr(glyphs, "draw_glyphs", lambda seed: splits)
    loaded = {name: load_glyphs(name, data_root=tmp_path) for name in reversed(SPLITS)}
    for name in SPLITS:
        assert loaded[name].identity == splits[name].identity
        assert loaded[name].class_names == splits[name].class_names
    # the last byte may belong to any of the splits: what is damaged is found when that split is asked for
    assert path.read_bytes() == whole


def test_where_nothing_can_be_written_it_is_drawn_in_memory(
    tmp_path: Path, splits: dict[str, ImageSplit], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(glyphs, "draw_glyphs", lambda seed: splits)
    blocked = tmp_path / "a file"  # not even root can make a folder in it
    blocked.write_text("")
    assert load_glyphs("val", data_root=blocked).identity == splits["val"].identity
    assert "cannot be written" in caplog.text


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, splits: dict[str, ImageSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    monkeypatch.setattr(glyphs, "draw_glyphs", lambda seed: splits)
    assert load_glyphs("val", data_root=tmp_path).identity == splits["val"].identity
    assert not list((tmp_path / "glyphs").iterdir())


def test_two_processes_at_once(tmp_path: Path, root: Path, splits: dict[str, ImageSplit]) -> None:
    code = (
        "import sys; from pathlib import Path; from sharp_maml_core.data.glyphs import load_glyphs;"
        "print(load_glyphs('test', data_root=Path(sys.argv[1])).identity)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL) for _ in range(2)]
    answers = [process.communicate(timeout=300)[0].strip() for process in both]
    assert answers == [splits["test"].identity] * 2
    assert cache_path(tmp_path, 0).read_bytes() == cache_path(root, 0).read_bytes()


# --- the contact sheet


def test_contact_sheet(
    tmp_path: Path, root: Path, splits: dict[str, ImageSplit], capsys: pytest.CaptureFixture
) -> None:
    glyphs.main([str(tmp_path / "sheet.png"), "--data-root", str(root), "--letters", "2"])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height >= 2 * 28 * len(set().union(*map(script_names, splits.values())))
    assert splits["test"].identity in capsys.readouterr().out
