"""Hessians that were never built, against Hessians that were: written out, by PyTorch, by curvlinops, by SciPy."""

from __future__ import annotations

import importlib.util
import itertools
import math

import pytest
import reference
import torch
import torch.nn.functional as F
from cases import SmoothNet, TanhNet, classification, draw, moved, relative_error, seeded, setting
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn

from sharp_maml_core import MLP, Conv4, UserError
from sharp_maml_core.landscape.spectrum import (
    Quadrature,
    density,
    eigenpairs,
    expand,
    flat,
    lanczos,
    quadrature,
    signs,
    top_eigenpairs,
    trace,
    unflat,
)
from sharp_maml_core.landscape.surfaces import erm_surface, maml_surface, plain_maml
from sharp_maml_core.params import add_scaled

SPECTRUM = torch.tensor([7.0, 3.0, 3.0, 1.0, 0.5, -0.2, -4.0], dtype=torch.float64)


def quadratic(eigenvalues=SPECTRUM, seed=0):
    """The surface <b, theta> + 1/2 <theta, A theta> of two tensors, a point, and A, which has these eigenvalues."""
    n = len(eigenvalues)
    turn = torch.linalg.qr(draw(n, n, seed=seed))[0]
    A, b = turn @ torch.diag(eigenvalues) @ turn.T, draw(n, seed=seed + 1)

    def surface(params):
        theta = torch.cat([params["a"].flatten(), params["b"]])
        return b @ theta + 0.5 * theta @ A @ theta

    return surface, {"a": draw(1, 2, seed=seed + 2), "b": draw(n - 2, seed=seed + 3)}, A


def built(expansion):
    """H [k, k] from its products."""
    return torch.stack([expansion.hvp(v) for v in torch.eye(len(expansion.gradient), dtype=torch.float64)])


def small_task(shape=(5,), **changes):
    return classification(shape, n_tasks=1, **changes)


def of(model, **settings):
    learner = plain_maml(setting("maml", **settings), model)
    return learner, moved(learner.init(seeded(0)))


# --- products -----------------------------------------------------------------------------------------------------


def reference_loss(method, episode, adapted):
    """The same losses by `reference`, as a function of one vector."""

    def loss(vector, like):
        theta = {name: part.view(like[name].shape) for name, part in split(vector, like)}
        x, y = episode.support_x[0], episode.support_y[0]
        if not adapted:
            return F.cross_entropy(method.forward(theta, x), y)
        phi, _ = reference.fine_tune(method, theta, x, y)
        return F.cross_entropy(method.forward(phi, episode.query_x[0]), episode.query_y[0])

    return loss


def split(vector, like):
    return zip(like, vector.split([value.numel() for value in like.values()]), strict=True)


@pytest.mark.parametrize("adapted", [False, True], ids=["erm", "maml"])
def test_products_with_conv4_equal_those_of_the_naive_loop_with_batch_norm_written_out(adapted) -> None:
    """Second derivatives, and in the MAML loss third ones, of PyTorch's elementary operations alone."""
    learner, params = of(Conv4((1, 16, 16), 3, 2), inner_steps=2)
    episode = small_task((1, 16, 16))
    method = reference.Method(reference.conv4, F.cross_entropy, tuple(params), inner_lr=0.3, inner_steps=2)
    loss = reference_loss(method, episode, adapted)
    found = expand((maml_surface if adapted else erm_surface)(learner, episode), params)
    for seed in range(2):
        v = draw(len(found.gradient), seed=seed)
        _, expected = torch.autograd.functional.vhp(lambda vector: loss(vector, params), flat(params), v)
        product = found.hvp(v)
        assert float((product - expected).norm() / expected.norm()) < 1e-12


@pytest.mark.parametrize("adapted", [False, True], ids=["erm", "maml"])
def test_products_are_central_differences_of_the_gradient(adapted) -> None:
    """A smooth network with EpisodeNorm: there is no kink that differences could step over."""
    learner, params = of(SmoothNet())
    surface = (maml_surface if adapted else erm_surface)(learner, small_task((1, 8, 8)))
    v = {name: draw(*value.shape, seed=30 + i) for i, (name, value) in enumerate(params.items())}
    step = 1e-4

    def gradient(scale):
        return expand(surface, add_scaled(params, v, scale)).gradient

    # Five points: the error is step^4 times a sixth derivative, and rounding 1e-16 / step.
    differences = (8 * (gradient(step) - gradient(-step)) - gradient(2 * step) + gradient(-2 * step)) / (12 * step)
    product = expand(surface, params).hvp(flat(v))
    assert float((product - differences).norm() / product.norm()) < 1e-9


@pytest.mark.parametrize("adapted", [False, True], ids=["erm", "maml"])
def test_the_hessian_is_symmetric(adapted) -> None:
    learner, params = of(SmoothNet(filters=1))
    H = built(expand((maml_surface if adapted else erm_surface)(learner, small_task((1, 8, 8))), params))
    assert float((H - H.T).norm() / H.norm()) < 1e-13


def test_a_hessian_that_is_wrong_because_of_a_fused_norm_layer_is_noticed() -> None:
    """PyTorch's LayerNorm is right in the ERM loss; its third derivative, in the MAML loss, is not."""
    learner, params = of(TanhNet())
    erm, maml = erm_surface(learner, small_task()), maml_surface(learner, small_task())
    H = built(expand(maml, params))
    assert float((H - H.T).norm() / H.norm()) > 0.01  # if this fails, PyTorch has mended it
    lanczos(expand(erm, params), 10, seeded(0))
    with pytest.raises(UserError, match="a Hessian that is not symmetric"):
        lanczos(expand(maml, params), 10, seeded(0))


def test_value_and_gradient_are_the_surfaces_own() -> None:
    surface, params, A = quadratic()
    found = expand(surface, params)
    assert found.value == float(surface(params))
    torch.testing.assert_close(found.gradient - A @ flat(params), draw(7, seed=1), rtol=1e-14, atol=1e-14)


def test_parameters_that_the_loss_does_not_bend_in_have_no_curvature() -> None:
    """One enters linearly, one not at all, one squared: H is zero but for the last."""
    params = {"line": draw(2, seed=1), "absent": draw(3, seed=2), "bent": draw(2, seed=3)}
    H = built(expand(lambda p: p["line"].sum() + (p["bent"] ** 2).sum(), params))
    assert torch.equal(H, torch.diag(torch.tensor([0.0, 0, 0, 0, 0, 2, 2], dtype=torch.float64)))
    H = built(expand(lambda p: p["line"].sum(), params))
    assert torch.equal(H, torch.zeros(7, 7, dtype=torch.float64))


def test_flat_and_back_again_keeps_every_bit_and_the_type() -> None:
    params = {"a": torch.randn(2, 3, generator=seeded(0)), "b": torch.randn((), generator=seeded(1))}
    back = unflat(flat(params), params)
    assert flat(params).dtype == torch.float64
    assert all(torch.equal(back[name], value) and back[name].dtype == value.dtype for name, value in params.items())


# --- against libraries --------------------------------------------------------------------------------------------

needs_curvlinops = pytest.mark.skipif(importlib.util.find_spec("curvlinops") is None, reason="curvlinops is missing")
# PyTorch's forward mode and linear_operator, which curvlinops imports, are both written with it.
old_jit = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


def hessian_of_curvlinops(model, params, x, y):
    import curvlinops

    model = model.double()
    model.load_state_dict(params)
    return curvlinops.HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), [(x, y)])


@needs_curvlinops
@old_jit
@pytest.mark.parametrize("name", ["MLP", "convolutions"])
def test_products_equal_those_of_curvlinops(name) -> None:
    """Of networks without norm layers: with fused ones curvlinops 3.0.1 under PyTorch 2.13 is off by some percent."""
    if name == "MLP":
        model, episode = MLP(5, 3, width=8), small_task()
    else:
        layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3), nn.ReLU(), nn.Flatten()]
        model, episode = nn.Sequential(*layers, nn.Linear(2, 3)), small_task((1, 8, 8))
    learner, params = of(model)
    theirs = hessian_of_curvlinops(model, params, episode.support_x[0], episode.support_y[0])
    mine = expand(erm_surface(learner, episode), params)
    for seed in range(3):
        v = draw(len(mine.gradient), seed=seed)
        torch.testing.assert_close(mine.hvp(v), theirs @ v, rtol=1e-12, atol=1e-13)


@needs_curvlinops
@old_jit
def test_the_largest_eigenvalues_equal_those_of_eigsh_on_curvlinops_hessian() -> None:
    model = MLP(5, 3, width=8)
    episode = small_task()
    learner, params = of(model)
    theirs = hessian_of_curvlinops(model, params, episode.support_x[0], episode.support_y[0]).to_scipy()
    expected = eigsh(theirs, k=4, which="LA", return_eigenvectors=False, v0=draw(theirs.shape[0], seed=0).numpy())
    found = top_eigenpairs(erm_surface(learner, episode), params, 4, steps=60, generator=seeded(0))
    assert found.values == pytest.approx(sorted(expected, reverse=True), rel=1e-12)


def test_both_ends_of_a_maml_loss_equal_those_of_arpack() -> None:
    learner, params = of(SmoothNet(filters=2))
    expansion = expand(maml_surface(learner, small_task((1, 8, 8))), params)
    k = len(expansion.gradient)
    operator = LinearOperator((k, k), lambda v: expansion.hvp(torch.from_numpy(v).flatten()).numpy(), dtype=float)
    ends = eigsh(operator, k=6, which="BE", return_eigenvectors=False, v0=draw(k, seed=0).numpy())
    krylov = lanczos(expansion, 60, seeded(1))
    assert eigenpairs(krylov, 3, params).values == pytest.approx(sorted(ends, reverse=True)[:3], rel=1e-11)
    assert eigenpairs(krylov, 3, params, lowest=True).values == pytest.approx(sorted(ends)[:3], rel=1e-11)


# --- Lanczos ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4, 7, 100])
def test_lanczos_decomposition_holds_and_its_basis_is_orthonormal(steps) -> None:
    surface, params, A = quadratic(torch.tensor([7.0, 3.0, 2.5, 1.0, 0.5, -0.2, -4.0], dtype=torch.float64))
    krylov = lanczos(expand(surface, params), steps, seeded(0))
    m = min(steps, 7)
    assert krylov.basis.shape == (m, 7)
    torch.testing.assert_close(krylov.basis @ krylov.basis.T, torch.eye(m).double(), rtol=0, atol=1e-14)
    beyond = A @ krylov.basis.T - krylov.basis.T @ krylov.projected
    assert float(beyond[:, :-1].norm()) < 1e-13
    assert float(beyond[:, -1].norm()) == pytest.approx(krylov.residual, abs=1e-13)


def test_a_whole_decomposition_has_every_eigenvalue_as_often_as_it_occurs() -> None:
    surface, params, A = quadratic()
    found = top_eigenpairs(surface, params, 7, steps=7, generator=seeded(0))
    assert found.values == pytest.approx(SPECTRUM.tolist(), abs=1e-13)
    for value, vector in zip(found.values, found.vectors, strict=True):
        assert [tuple(tensor.shape) for tensor in vector.values()] == [(1, 2), (5,)]
        v = flat(vector)
        assert float(v.norm()) == pytest.approx(1, abs=1e-14)
        torch.testing.assert_close(A @ v, value * v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("c", [0.0, 2.0])
def test_a_multiple_of_the_identity_where_every_step_closes_the_space(c) -> None:
    params = {"a": draw(5, seed=0)}
    expansion = expand(lambda p: 0.5 * c * (p["a"] ** 2).sum() + p["a"].sum(), params)
    krylov = lanczos(expansion, 4, seeded(0))
    assert eigenpairs(krylov, 4, params).values == pytest.approx((c,) * 4, rel=1e-15)
    torch.testing.assert_close(krylov.basis @ krylov.basis.T, torch.eye(4).double(), rtol=0, atol=1e-14)


def test_residuals_are_those_of_the_vectors() -> None:
    learner, params = of(TanhNet())
    expansion = expand(erm_surface(learner, small_task()), params)
    found = eigenpairs(lanczos(expansion, 8, seeded(0)), 8, params)
    assert max(found.residuals) > 0.01  # eight steps are not enough for all eight
    for value, vector, residual in zip(found.values, found.vectors, found.residuals, strict=True):
        v = flat(vector)
        assert float((expansion.hvp(v) - value * v).norm()) == pytest.approx(residual, abs=1e-13)


def test_vectors_point_with_the_first_one() -> None:
    surface, params, _ = quadratic()
    expansion = expand(surface, params)
    for seed in range(5):
        krylov = lanczos(expansion, 5, seeded(seed))
        for vector in eigenpairs(krylov, 5, params).vectors:
            assert float(flat(vector) @ krylov.basis[0]) > 0


def test_the_loss_along_an_eigenvector_bends_as_its_value_says() -> None:
    learner, params = of(SmoothNet())
    surface = maml_surface(learner, small_task((1, 8, 8)))
    found = top_eigenpairs(surface, params, 2, steps=40, generator=seeded(0))
    h = 1e-3
    for value, vector in zip(found.values, found.vectors, strict=True):
        up, here, down = (float(surface(add_scaled(params, vector, s))) for s in (h, 0.0, -h))
        assert (up - 2 * here + down) / h**2 == pytest.approx(value, rel=1e-4)  # the error of differences is h^2


def test_the_same_seed_gives_the_same_bits_and_another_one_the_same_eigenvalues() -> None:
    learner, params = of(TanhNet())
    surface = erm_surface(learner, small_task())
    first, again, other = (top_eigenpairs(surface, params, 2, steps=30, generator=seeded(seed)) for seed in (0, 0, 1))
    assert first.values == again.values
    assert relative_error(first.vectors[0], again.vectors[0]) == 0
    assert other.values == pytest.approx(first.values, rel=1e-12)


def test_float32_parameters_cost_the_top_eigenvalue_no_more_than_float32s_digits() -> None:
    episode = small_task((1, 16, 16))
    found = []
    for dtype in ("float64", "float32"):
        learner, params = of(Conv4((1, 16, 16), 3, 2))
        params = {name: value.to(getattr(torch, dtype)) for name, value in params.items()}
        task = episode._replace(support_x=episode.support_x.to(getattr(torch, dtype)))
        found.append(top_eigenpairs(erm_surface(learner, task), params, 1, steps=20, generator=seeded(0)))
    assert found[1].vectors[0]["head.bias"].dtype == torch.float32
    assert found[1].values[0] == pytest.approx(found[0].values[0], rel=1e-5)


# --- trace --------------------------------------------------------------------------------------------------------


def test_hutchinson_is_exact_for_a_diagonal() -> None:
    """<z, D z> = tr D for every vector of signs."""
    d = torch.tensor([3.0, -1.0, 0.5, 8.0], dtype=torch.float64)
    found = trace(expand(lambda p: 0.5 * (d * p["a"] ** 2).sum(), {"a": draw(4, seed=0)}), 3, seeded(0))
    assert found == (10.5, 0.0)


@pytest.mark.parametrize("steps", [0, 2], ids=["plain", "with a Krylov basis"])
def test_the_mean_over_all_vectors_of_signs_is_the_trace(steps) -> None:
    """The exact expectation, from all 2^6 of them; the estimator is run on each."""
    surface, params, A = quadratic(torch.tensor([7.0, 3.0, 1.0, 0.5, -0.2, -4.0], dtype=torch.float64))
    expansion = expand(surface, params)
    krylov = lanczos(expansion, steps, seeded(3)) if steps else None
    total = 0.0
    for z in itertools.product((-1.0, 1.0), repeat=6):
        z = torch.tensor(z, dtype=torch.float64)
        projected = z if krylov is None else z - krylov.basis.T @ (krylov.basis @ z)
        total += float(projected @ A @ projected) / 64
    known = 0.0 if krylov is None else float(krylov.projected.trace())
    assert known + total == pytest.approx(7.3, rel=1e-13)
    found = trace(expansion, 400, seeded(5), krylov)
    assert abs(found.mean - 7.3) < 4 * found.standard_error


def test_the_standard_error_is_the_spread_of_the_estimates() -> None:
    surface, params, A = quadratic()
    expansion, exact = expand(surface, params), float(A.trace())
    found = [trace(expansion, 20, seeded(seed)) for seed in range(100)]
    means = torch.tensor([estimate.mean for estimate in found])
    said = torch.tensor([estimate.standard_error for estimate in found]).square().mean().sqrt()
    # Of 100 draws the spread is known to 1 / sqrt(200) = 7%: four of those.
    assert float(means.std()) == pytest.approx(float(said), rel=0.3)
    assert abs(float(means.mean()) - exact) < 4 * float(said) / 10


def test_a_krylov_basis_takes_the_outliers_out_of_the_error() -> None:
    eigenvalues = torch.cat([torch.tensor([100.0, 50.0, 20.0]), torch.linspace(-0.1, 0.1, 37)]).double()
    surface, params, _ = quadratic(eigenvalues)
    expansion = expand(surface, params)
    plain = trace(expansion, 30, seeded(0))
    better = trace(expansion, 30, seeded(0), lanczos(expansion, 10, seeded(1)))
    assert abs(better.mean - 170) < 4 * better.standard_error
    assert better.standard_error < plain.standard_error / 100


# --- density ------------------------------------------------------------------------------------------------------


def test_moments_of_the_quadrature_are_exact_up_to_twice_the_steps() -> None:
    surface, params, A = quadratic()
    expansion = expand(surface, params)
    q = signs(expansion, seeded(4)) / math.sqrt(7)
    nodes, weights = quadrature(lanczos(expansion, 3, seeded(4)))
    for power in range(6):
        expected = float(q @ torch.linalg.matrix_power(A, power) @ q)
        assert float((weights * nodes**power).sum()) == pytest.approx(expected, rel=1e-12)
    assert float((weights * nodes**6).sum()) != pytest.approx(float(q @ torch.linalg.matrix_power(A, 6) @ q), rel=1e-3)


def test_the_mean_density_has_the_moments_of_the_spectrum() -> None:
    surface, params, _ = quadratic()
    expansion = expand(surface, params)
    generator = seeded(0)
    runs = [quadrature(lanczos(expansion, 4, generator)) for _ in range(300)]
    nodes, weights = (torch.stack(values) for values in zip(*runs, strict=True))
    for power in range(1, 5):
        each = (weights * nodes**power).sum(1)
        assert abs(float(each.mean() - (SPECTRUM**power).mean())) < 4 * float(each.std()) / math.sqrt(300)


def test_the_density_is_one_gaussian_a_mass_and_integrates_to_one() -> None:
    masses = Quadrature(torch.tensor([[0.0, 2.0], [1.0, 5.0]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    grid = torch.linspace(-10, 15, 5001, dtype=torch.float64)
    found = density(masses, grid, 0.3)
    assert float(torch.trapezoid(found, grid)) == pytest.approx(1, abs=1e-12)
    assert float(torch.trapezoid(found * grid, grid)) == pytest.approx((1.5 + 3.0) / 2, abs=1e-12)
    peak = 0.5 * 0.75 / (0.3 * math.sqrt(2 * math.pi))
    at_two = density(masses, torch.tensor([2.0], dtype=torch.float64), 0.3)
    others = 0.5 * (0.25 * math.exp(-0.5 * (2 / 0.3) ** 2) + 0.5 * math.exp(-0.5 / 0.09) + 0.5 * math.exp(-50))
    assert float(at_two) == pytest.approx(peak + others / (0.3 * math.sqrt(2 * math.pi)), rel=1e-12)


# --- what cannot be used ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("surface", "sentence"),
    [
        (lambda p: p["a"] * 2, r"surface\(params\)=\(2,\) is not allowed: it must be a scalar"),
        (lambda p: p["a"].detach().sum(), "differentiable by its parameters"),
        (lambda p: (p["a"] - 1).log().sum(), "a value with NaN or infinity"),
        (lambda p: (p["a"] - 1).sqrt().sum(), "a gradient with NaN or infinity"),
    ],
    ids=["vector", "constant", "value", "gradient"],
)
def test_a_surface_that_cannot_be_expanded_is_refused(surface, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        expand(surface, {"a": torch.ones(2)})


def test_a_product_that_is_not_finite_is_refused() -> None:
    with pytest.raises(UserError, match="a Hessian-vector product with NaN or infinity"):
        lanczos(expand(lambda p: (p["a"] ** 1.5).sum(), {"a": torch.zeros(2)}), 1, seeded(0))


def test_numbers_out_of_range_are_refused() -> None:
    surface, params, _ = quadratic()
    expansion = expand(surface, params)
    krylov = lanczos(expansion, 3, seeded(0))
    with pytest.raises(UserError, match="steps=0 is not allowed: it must be at least 1"):
        lanczos(expansion, 0, seeded(0))
    with pytest.raises(UserError, match="probes=1 is not allowed: it must be at least 2"):
        trace(expansion, 1, seeded(0))
    for n in (0, 4):
        with pytest.raises(UserError, match=f"n={n} is not allowed: it must be at least 1 and at most 3"):
            eigenpairs(krylov, n, params)
    with pytest.raises(UserError, match="width=0"):
        density(quadrature(krylov), torch.zeros(1), 0)
