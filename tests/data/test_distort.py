"""Affine distortions against the maps themselves: bilinear interpolation of a ramp is exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cases import seeded
from helpers import easy_split, lines_split

from sharp_maml_core import Config, UserError, run_experiment, sample_episodes
from sharp_maml_core.data.distort import distorted

H, W = 12, 8


def coordinates() -> torch.Tensor:
    """[H, W, 2], x and y of the middle of each pixel, from -1 to 1 over the image."""
    x, y = ((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1 for n in (W, H))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def maps(n: int, most: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A [n, 2, 2] and b [n, 2] of n images, from the numbers that a generator of seed 0 gives."""
    moves = most * (2 * torch.rand(n, 2, 3, generator=seeded(0), dtype=torch.float64) - 1)
    return torch.eye(2, dtype=torch.float64) + moves[..., :2], moves[..., 2]


def test_a_pixel_shows_what_was_where_its_map_sends_it() -> None:
    """The two channels are x and y, linear in the position, so that between pixels there is no error either."""
    u = coordinates()
    images = u.expand(2, 3, 5, H, W, 2)
    shown = distorted(images, 0.3, seeded(0)).reshape(30, H, W, 2)
    a, b = maps(30, 0.3)
    expected = torch.einsum("nij,hwj->nhwi", a, u) + b[:, None, None]
    edge = torch.tensor([1 - 1 / W, 1 - 1 / H], dtype=torch.float64)  # beyond the last pixel's middle: the last pixel
    torch.testing.assert_close(shown, expected.clamp(-edge, edge), rtol=0, atol=1e-14)
    assert (expected.abs() < edge).all(-1).double().mean() > 0.5


def test_images_of_one_value_stay_and_each_image_has_its_own_map() -> None:
    constant = torch.full((4, 2, H, W, 1), 0.7)
    torch.testing.assert_close(distorted(constant, 0.5, seeded(0)), constant, rtol=1e-6, atol=0)
    alike = torch.rand((H, W, 1), generator=seeded(1)).expand(4, 2, H, W, 1)
    shown = distorted(alike, 0.1, seeded(0)).flatten(0, 1)
    assert all(not torch.equal(shown[i], shown[j]) for i in range(8) for j in range(i))


def test_tasks_are_the_same_but_for_the_distortion_and_no_number_is_drawn_without() -> None:
    split, sizes = easy_split(side=6), {"n_way": 3, "k_shot": 1, "n_query": 2, "n_tasks": 4}
    plain, slight = (sample_episodes(split, **sizes, generator=seeded(0), distortion=most) for most in (0.0, 1e-6))
    for name in ("support", "query"):
        x, y = getattr(plain, f"{name}_x"), getattr(slight, f"{name}_x")
        torch.testing.assert_close(x, y, rtol=0, atol=1e-4)
        assert not torch.equal(x, y)
        assert y[0].is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(getattr(plain, f"{name}_y"), getattr(slight, f"{name}_y"))
    generators = seeded(0), seeded(0)
    for generator, more in zip(generators, ({}, {"distortion": 0.0}), strict=True):
        sample_episodes(split, **sizes, generator=generator, **more)
    assert torch.equal(*(generator.get_state() for generator in generators))


@pytest.mark.parametrize("most", [-0.1, 0.1])
def test_what_cannot_be_distorted_is_refused(most: float) -> None:
    split = lines_split() if most > 0 else easy_split()
    with pytest.raises(UserError, match=rf"^distortion={most} is not allowed: it must be (at least )?0"):
        sample_episodes(split, n_way=2, k_shot=1, n_query=1, n_tasks=1, generator=seeded(0), distortion=most)


def test_a_run_on_functions_with_a_distortion_is_refused_before_its_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^distortion=0\.1 is not allowed: it must be 0 for sinusoid"):
        run_experiment(
            Config("maml", dataset="sinusoid", distortion=0.1, device="cpu"), tmp_path / "run", progress=False
        )
    assert not (tmp_path / "run").exists()
