"""Optimisers against their formulas, schedules at their corners, clipping."""

import itertools
import math

import numpy as np
import pytest

from tinygrad_llm.nn import Parameter
from tinygrad_llm.optim import SCHEDULES, SGD, Adam, AdamW, Muon, clip_by_global_norm, global_norm, rate_factor
from tinygrad_llm.optim.muon import orthogonalize


def parameter(*values, decay=True):
    return Parameter(np.array(values, np.float64), decay)


def run(optimizer, p, gradients):
    for g in gradients:
        p.grad = np.array(g, np.float64)
        optimizer.step()
    return p.data


def test_sgd_with_momentum():
    p = parameter(1.0)
    run(SGD([("w", p)], lr=0.1, momentum=0.5), p, [[2.0], [4.0]])
    # v1 = 2, w = 0.8; v2 = 0.5 * 2 + 4 = 5, w = 0.3
    assert p.data == pytest.approx([0.3])


def test_sgd_nesterov_looks_one_step_ahead():
    p = parameter(1.0)
    run(SGD([("w", p)], lr=0.1, momentum=0.5, nesterov=True), p, [[2.0]])
    assert p.data == pytest.approx([1 - 0.1 * (2 + 0.5 * 2)])


def test_adams_first_step_has_the_size_of_the_rate_whatever_the_gradient():
    for g in (1e-4, 1.0, 1e4):
        p = parameter(1.0)
        run(Adam([("w", p)], lr=0.01, eps=1e-16), p, [[g]])
        assert p.data == pytest.approx([0.99])


def test_adamw_decays_apart_from_the_gradient_and_only_what_decays():
    weight, gain = parameter(2.0), parameter(2.0, decay=False)
    optimizer = AdamW([("w", weight), ("g", gain)], lr=0.1, weight_decay=0.5)
    weight.grad, gain.grad = np.zeros(1), np.zeros(1)
    optimizer.step()
    assert weight.data == pytest.approx([2 * (1 - 0.05)])
    assert gain.data == pytest.approx([2.0])


@pytest.mark.parametrize("make", [SGD, lambda n, lr: SGD(n, lr, momentum=0.9, nesterov=True), Adam, AdamW, Muon])
def test_a_parameter_without_axes_is_updated_as_one_of_one_element(make):
    values = []
    for shape in ((), (1,)):
        p = Parameter(np.full(shape, 2.0))
        optimizer = make([("w", p)], lr=0.1)
        for gradient in (0.3, -0.7):
            p.grad = np.full(shape, gradient)
            optimizer.step(scale=0.5)
        assert p.shape == shape
        values.append(p.data.item())
    assert values[0] == values[1] != 2


def test_a_parameter_without_gradient_is_left_alone():
    p = parameter(1.0)
    AdamW([("w", p)], lr=0.1).step()
    assert p.data == [1.0]


def test_the_rate_can_be_given_for_each_step():
    p = parameter(1.0)
    optimizer = SGD([("w", p)], lr=100.0)
    p.grad = np.ones(1)
    optimizer.step(lr=0.25)
    assert p.data == [0.75]


@pytest.mark.parametrize("make", [SGD, Adam, AdamW, Muon, lambda named, lr: SGD(named, lr, momentum=0.9)])
def test_saved_state_continues_bit_for_bit(make):
    rng = np.random.default_rng(0)
    start = {"w": rng.standard_normal((4, 3)), "b": rng.standard_normal(3)}
    gradients = [{name: rng.standard_normal(a.shape) for name, a in start.items()} for _ in range(6)]

    def fresh():
        return {name: Parameter(a.copy(), decay=a.ndim == 2) for name, a in start.items()}

    def advance(optimizer, parameters, some):
        for g in some:
            for name, p in parameters.items():
                p.grad = g[name].copy()
            optimizer.step()

    whole = fresh()
    advance(make(whole.items(), lr=0.01), whole, gradients)
    halves = fresh()
    first = make(halves.items(), lr=0.01)
    advance(first, halves, gradients[:3])
    second = make(halves.items(), lr=0.01)
    second.load_state_dict(first.state_dict())
    advance(second, halves, gradients[3:])
    for name in start:
        np.testing.assert_array_equal(whole[name].data, halves[name].data)


def test_state_that_does_not_fit_is_refused():
    optimizer = Adam([("w", parameter(1.0))])
    with pytest.raises(ValueError, match=r"state 'w/mean' of shape \(2,\) fits no parameter"):
        optimizer.load_state_dict({"w/updates": np.array(1), "w/mean": np.zeros(2)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD([], 0.1), "no parameters to train"),
        (lambda: SGD([("w", parameter(1.0)), ("w", parameter(2.0))]), "two parameters have the same name"),
        (lambda: SGD([("w", parameter(1.0))], -1), "lr=-1"),
        (lambda: SGD([("w", parameter(1.0))], 0.1, momentum=1), "momentum=1"),
        (lambda: Adam([("w", parameter(1.0))], betas=(0.9, 1.0)), "betas"),
        (lambda: Muon([("w", parameter(1.0))], momentum=-0.1), "momentum=-0.1"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bare_parameters_are_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"SGD: give \(name, parameter\) pairs, as model.named_parameters\(\) does"):
        SGD([parameter(1.0)])


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5)])
def test_orthogonalize_brings_all_singular_values_near_one_and_keeps_the_directions(shape):
    matrix = np.random.default_rng(0).standard_normal(shape)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    result = orthogonalize(matrix)
    # in the basis of the matrix's own singular vectors the result is diagonal
    inside = u.T @ result @ vt.T
    np.testing.assert_allclose(inside, np.diag(np.diag(inside)), atol=1e-8)
    assert np.all((np.diag(inside) > 0.6) & (np.diag(inside) < 1.25)), s
    np.testing.assert_array_equal(orthogonalize(np.zeros(shape)), np.zeros(shape))


def test_muon_moves_matrices_by_an_orthogonal_step_and_others_as_adamw():
    rng = np.random.default_rng(0)
    matrix, bias = Parameter(np.zeros((6, 4)), decay=True), Parameter(np.zeros(4))
    twin = Parameter(np.zeros(4))
    optimizer, adam = Muon([("w", matrix), ("b", bias)], lr=0.5), AdamW([("b", twin)], lr=0.5)
    matrix.grad, bias.grad = rng.standard_normal((6, 4)), rng.standard_normal(4)
    twin.grad = bias.grad.copy()
    optimizer.step()
    adam.step()
    singular = np.linalg.svd(matrix.data, compute_uv=False) / (0.5 * 0.2 * math.sqrt(6))
    assert np.all((singular > 0.6) & (singular < 1.25))
    np.testing.assert_array_equal(bias.data, twin.data)


@pytest.mark.parametrize("shape", [(2, 5), (5, 2)])
def test_two_steps_of_muon_follow_the_formula(shape):
    rng = np.random.default_rng(0)
    start, first, second = (rng.standard_normal(shape) for _ in range(3))
    p = Parameter(start.copy(), decay=True)
    optimizer = Muon([("w", p)], lr=0.1, momentum=0.9, weight_decay=0.5)
    run(optimizer, p, [first, second])
    scale, shrink = 0.1 * 0.2 * math.sqrt(5), 1 - 0.1 * 0.5
    # v1 = g1, the step is along g1 + 0.9 v1; v2 = 0.9 g1 + g2, the step is along g2 + 0.9 v2
    expected = shrink * start - scale * orthogonalize(first + 0.9 * first)
    expected = shrink * expected - scale * orthogonalize(second + 0.9 * (0.9 * first + second))
    np.testing.assert_allclose(p.data, expected, rtol=1e-12)


def test_muon_updates_a_matrix_that_does_not_decay_as_adamw():
    rng = np.random.default_rng(0)
    start, gradient = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    table, twin = Parameter(start.copy()), Parameter(start.copy())
    np.testing.assert_array_equal(
        run(Muon([("w", table)], lr=0.1), table, [gradient]), run(AdamW([("w", twin)], lr=0.1), twin, [gradient])
    )


def test_a_parameter_whose_first_gradient_comes_late_starts_as_if_it_were_new():
    early, late = parameter(1.0), parameter(1.0)
    optimizer = Adam([("early", early), ("late", late)], lr=0.01, eps=1e-16)
    for _ in range(3):
        early.grad = np.ones(1)
        optimizer.step()
    late.grad = np.array([5.0])
    optimizer.step()
    assert late.data == pytest.approx([0.99])
    counts = {key: int(a) for key, a in optimizer.state_dict().items() if key.endswith("/updates")}
    assert counts == {"early/updates": 4, "late/updates": 1}


def test_a_step_while_a_graph_still_needs_the_parameter_is_refused():
    p = parameter(1.0, 2.0)
    p.grad = np.ones(2)
    optimizer = SGD([("w", p)], lr=0.1)
    pending = (p * p).sum()
    with pytest.raises(RuntimeError, match="SGD: w cannot be updated while a graph that was not sent backward"):
        optimizer.step()
    assert p.data.tolist() == [1.0, 2.0]
    del pending
    optimizer.step()
    assert p.data == pytest.approx([0.9, 1.9])


def test_a_negative_clip_limit_is_refused():
    with pytest.raises(ValueError, match="clip_by_global_norm: limit=-1 must not be negative"):
        clip_by_global_norm([parameter(1.0)], -1)


def test_clipping_scales_all_gradients_by_one_factor():
    a, b = parameter(0.0, 0.0), parameter(0.0)
    a.grad, b.grad = np.array([3.0, 0.0]), np.array([4.0])
    assert global_norm([a, b]) == 5.0
    assert clip_by_global_norm([a, b], 10.0) == 5.0
    assert a.grad.tolist() == [3.0, 0.0]
    assert clip_by_global_norm([a, b], 1.0) == 5.0
    np.testing.assert_allclose(a.grad, [0.6, 0.0])
    np.testing.assert_allclose(b.grad, [0.8])
    assert global_norm([parameter(1.0)]) == 0.0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_rise_to_one_and_stay_within_their_bounds(schedule):
    factors = [rate_factor(schedule, step, 100, warmup=10, floor=0.1) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[9] == pytest.approx(10 / 11)
    assert factors[10] == 1.0
    assert all(left >= right for left, right in itertools.pairwise(factors[10:]))
    assert all(0.1 <= f <= 1 for f in factors[10:])


def test_schedules_at_their_middle_and_end():
    assert rate_factor("linear", 50, 100) == pytest.approx(0.5)
    assert rate_factor("cosine", 50, 100) == pytest.approx(0.5)
    assert rate_factor("cosine", 25, 100) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert rate_factor("wsd", 79, 100) == 1.0
    assert rate_factor("wsd", 90, 100) == pytest.approx(0.5)
    assert rate_factor("constant", 99, 100) == 1.0
    assert rate_factor("linear", 100, 100, floor=0.2) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="schedule 'sine' is unknown; choose one of constant"):
        rate_factor("sine", 0, 10)


def test_the_share_of_the_run_in_which_wsd_decays_can_be_chosen():
    assert rate_factor("wsd", 50, 100, decay=0.5) == 1.0
    assert rate_factor("wsd", 75, 100, decay=0.5) == pytest.approx(0.5)
    assert rate_factor("wsd", 89, 100, decay=0.1) == 1.0
    assert rate_factor("wsd", 95, 100, floor=0.2, decay=0.1) == pytest.approx(0.6)


def test_wsd_in_a_run_that_is_shorter_than_its_warm_up_never_jumps():
    factors = [rate_factor("wsd", step, 10, warmup=20) for step in range(11)]
    tail = 2
    assert factors[:8] == pytest.approx([(step + 1) / 21 for step in range(8)])
    assert all(right - left <= 1 / 21 + 1e-12 for left, right in itertools.pairwise(factors))
    assert all(left - right <= 1 / tail + 1e-12 for left, right in itertools.pairwise(factors))
    assert factors[10] == 0.0
