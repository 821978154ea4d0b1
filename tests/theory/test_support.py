"""Stationary points of a real network's support loss, and what MAML's loss is there."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import easy_images, image_split
from torch.func import functional_call, grad, jacrev

from sharp_maml_core import UserError
from sharp_maml_core.params import norm
from sharp_maml_core.theory.lemma1 import as_vector, composed, kept
from sharp_maml_core.theory.support import (
    conv4_task,
    curvatures,
    gradient_norms,
    mlp_task,
    smoothed_cross_entropy,
    support_loss,
)


@pytest.fixture(scope="module")
def split():
    return image_split(easy_images(n_classes=8, n_instances=11, side=16))


@pytest.fixture(scope="module")
def conv4(split):
    return conv4_task(split, filters=8)


@pytest.fixture(scope="module")
def mlp(split):
    return mlp_task(split, k_shot=2)


def least_loss() -> float:
    """The entropy of a label of 5 classes that is smoothed by 0.1: 0.92 and four times 0.02."""
    return -(0.92 * math.log(0.92) + 4 * 0.02 * math.log(0.02))


def test_conv4s_head_makes_every_output_the_best_one(conv4):
    assert float(support_loss(conv4)(conv4.params)) == pytest.approx(least_loss(), rel=1e-14)
    outputs = functional_call(conv4.model, conv4.params, (conv4.episode.support_x[0],))
    assert torch.equal(outputs.argmax(1), conv4.episode.support_y[0])


def test_the_mlp_is_trained_to_the_least_loss(mlp):
    assert float(support_loss(mlp)(mlp.params)) == pytest.approx(least_loss(), rel=1e-12)
    assert float(norm(grad(support_loss(mlp))(mlp.params))) < 1e-12


def test_support_and_query_images_differ(conv4):
    support, query = conv4.episode.support_x[0], conv4.episode.query_x[0]
    assert not any(torch.equal(one, other) for one in support for other in query)


@pytest.mark.parametrize("which", ["conv4", "mlp"])
def test_a_stationary_point_of_the_support_loss_is_one_of_mamls_only_if_the_images_are_the_same(which, request):
    for found in gradient_norms(request.getfixturevalue(which), [0.01, 0.1]):
        assert found.same < 1e-10
        assert found.other > 1e-2


def test_the_learners_gradient_is_that_of_the_composed_loss(mlp):
    """Away from the stationary point, where both are not zero."""
    moved = mlp._replace(params={name: value + 0.1 for name, value in mlp.params.items()})
    loss, at = as_vector(support_loss(moved), moved.params)
    (found,) = gradient_norms(moved, [0.3])
    assert found.same == pytest.approx(float(grad(composed(loss, 0.3))(at).norm()), rel=1e-12)


def test_the_minimum_stays_a_minimum_by_inertia(mlp):
    found = kept(support_loss(mlp), mlp.params, 0.4)
    assert found.inertia_before == found.inertia_after
    assert found.inertia_before.negative == 0
    assert found.inertia_before.positive == 40  # 10 images times 4 free outputs, all that the loss depends on


def test_curvatures_are_the_positive_eigenvalues_of_the_full_hessians(mlp):
    found = curvatures(mlp, 0.4)
    loss, at = as_vector(support_loss(mlp), mlp.params)
    full = torch.linalg.eigvalsh(jacrev(grad(loss))(at))[-len(found.before) :]
    assert len(found.before) == 40
    torch.testing.assert_close(found.before, full, rtol=1e-7, atol=1e-14 * float(full[-1]))
    after = kept(support_loss(mlp), mlp.params, 0.4).after[-len(found.before) :]
    torch.testing.assert_close(found.after.sort().values, after, rtol=1e-7, atol=1e-14 * float(full[-1]))


@pytest.mark.parametrize("inner_lr", [0.01, 0.3])
def test_a_step_makes_lambda_of_conv4_into_lambda_times_one_minus_beta_lambda_squared(conv4, inner_lr):
    found = curvatures(conv4, inner_lr)
    assert len(found.before) == 20  # 5 images times 4
    expected = found.before * (1 - inner_lr * found.before) ** 2
    torch.testing.assert_close(found.after, expected, rtol=1e-8, atol=1e-10 * float(expected.max()))
    assert found.residual < 1e-10


def test_plain_cross_entropy_is_not_stationary_where_everything_is_right(conv4):
    """<grad L, head> is the mean of sum_j p_j z_j - z_y, which is below 0."""
    x, y = conv4.episode.support_x[0], conv4.episode.support_y[0]
    gradient = grad(lambda params: F.cross_entropy(functional_call(conv4.model, params, (x,)), y))(conv4.params)
    along = sum(float((gradient[name] * conv4.params[name]).sum()) for name in ("head.weight", "head.bias"))
    z = functional_call(conv4.model, conv4.params, (x,))
    expected = ((z.softmax(1) * z).sum(1) - z[torch.arange(5), y]).mean()
    assert along == pytest.approx(float(expected), rel=1e-12)
    assert along < -0.1


def test_the_loss_is_pytorchs_with_smoothed_labels():
    outputs, labels = torch.tensor([[2.0, 0, 0, 0, 0]], dtype=torch.float64), torch.tensor([0])
    logs = outputs.log_softmax(1)[0].tolist()
    assert float(smoothed_cross_entropy(outputs, labels)) == pytest.approx(
        -(0.92 * logs[0] + 0.02 * sum(logs[1:])), rel=1e-14
    )


def test_a_head_with_more_equations_than_features_is_refused(split):
    with pytest.raises(UserError, match=r"k_shot=4 .*best output.*wider network"):
        conv4_task(split, k_shot=4, filters=2)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda split: conv4_task(split, k_shot=0), "k_shot=0 .*at least 1"),
        (lambda split: mlp_task(split, seed=-1), "seed=-1 .*at least 0"),
        (lambda split: conv4_task(split, k_shot=9), "k_shot"),
    ],
)
def test_bad_input_is_named(split, call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(split)


def test_a_network_too_narrow_for_the_least_loss_is_refused(split):
    """It is stationary, but not where every output is the best one, which the Hessian's form rests on."""
    with pytest.raises(UserError, match=r"k_shot=2 .*every image its best output.*wider network"):
        mlp_task(split, k_shot=2, hidden=3)


def test_inner_lr_is_checked(mlp):
    with pytest.raises(UserError, match=r"inner_lr=0.0 .*above 0"):
        curvatures(mlp, 0.0)
    with pytest.raises(UserError, match=r"inner_lr=-1.0 .*above 0"):
        gradient_norms(mlp, [-1.0])
