"""Conjugate gradients on parameter dicts against NumPy, and where they have to end early."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import draw, equal

from sharp_maml_core.solvers import conjugate_gradient

N = 5
FACTOR = draw(N, N, seed=1)
POSITIVE = FACTOR @ FACTOR.T + torch.eye(N)
B = {"u": draw(2, seed=2), "v": draw(3, seed=3)}


def flat(x):
    return torch.cat([x["u"], x["v"]])


def operator(matrix):
    def product(x):
        image = matrix @ flat(x)
        return {"u": image[:2], "v": image[2:]}

    return product


def test_as_many_steps_as_dimensions_solve_the_system():
    solution = conjugate_gradient(operator(POSITIVE), B, N)
    np.testing.assert_allclose(flat(solution.x), np.linalg.solve(POSITIVE, flat(B)), rtol=1e-11)
    assert solution.residual < 1e-11
    assert solution.stopped == 0


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_fewer_steps_are_best_in_the_krylov_space(steps):
    """They minimise 1/2 x^T A x - b^T x over span{b, A b, ...}, solved here by its normal equations."""
    a, b = POSITIVE.numpy(), flat(B).numpy()
    basis = np.stack([np.linalg.matrix_power(a, k) @ b for k in range(steps)], axis=1)
    best = basis @ np.linalg.solve(basis.T @ a @ basis, basis.T @ b)
    solution = conjugate_gradient(operator(POSITIVE), B, steps)
    np.testing.assert_allclose(flat(solution.x), best, rtol=1e-9)  # the normal equations' condition is ~1e5
    expected = np.linalg.norm(b - a @ best) / np.linalg.norm(b)
    assert float(solution.residual) == pytest.approx(expected, rel=1e-8)


def test_steps_after_the_solution_change_nothing():
    done, more = (conjugate_gradient(operator(2 * torch.eye(N, dtype=torch.float64)), B, steps) for steps in (1, 9))
    assert equal(more.x, done.x)
    assert equal(done.x, {name: value / 2 for name, value in B.items()})


def test_zero_has_the_solution_zero():
    zero = {name: torch.zeros_like(value) for name, value in B.items()}
    solution = conjugate_gradient(operator(POSITIVE), zero, 3)
    assert equal(solution.x, zero)
    assert solution.residual == solution.stopped == 0


def test_negative_curvature_at_once_leaves_the_right_hand_side():
    solution = conjugate_gradient(operator(-POSITIVE), B, 3)
    assert equal(solution.x, B)
    b = flat(B)
    assert float(solution.residual) == pytest.approx(float((b + POSITIVE @ b).norm() / b.norm()), rel=1e-14)
    assert solution.stopped == 1


def test_negative_curvature_later_keeps_what_was_found():
    """In diag(4, 1, 1, 1, -1) the first direction has positive curvature, the second has not: one step is kept."""
    matrix = torch.diag(torch.tensor([4.0, 1, 1, 1, -1], dtype=torch.float64))
    b = {"u": torch.ones(2, dtype=torch.float64), "v": torch.ones(3, dtype=torch.float64)}
    once, often = (conjugate_gradient(operator(matrix), b, steps) for steps in (1, 8))
    assert equal(often.x, once.x)
    assert (once.stopped, often.stopped) == (0, 1)
    assert 0 < once.residual == often.residual


def test_each_system_of_a_batch_ends_on_its_own():
    matrices = torch.stack([POSITIVE, -POSITIVE, 2 * torch.eye(N, dtype=torch.float64)])
    batch = torch.func.vmap(lambda matrix: tuple(conjugate_gradient(operator(matrix), B, N)))(matrices)
    for index, matrix in enumerate(matrices):
        alone = conjugate_gradient(operator(matrix), B, N)
        for name, value in alone.x.items():
            torch.testing.assert_close(batch[0][name][index], value, rtol=1e-10, atol=1e-14)
        # Of a system that is solved it is rounding alone.
        assert float(batch[1][index]) == pytest.approx(float(alone.residual), rel=1e-10, abs=1e-11)
        assert batch[2][index] == alone.stopped
