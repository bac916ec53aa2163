"""Packed rows: nothing leaks from one example into another, and nothing but the layout changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import no_grad
from tinygrad_llm.data import IGNORE
from tinygrad_llm.finetuning.packing import (
    best_fit,
    common_beginning,
    first_fit,
    packed_rows,
    padded_rows,
    shifted,
)
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig

I = IGNORE  # noqa: E741 - short, since targets are spelled out

V = 31
MODELS = {
    "gpt": GPTConfig(V, 16, 16, 2, 2, init_std=0.3),
    "llama": LlamaConfig(V, 16, 16, 2, 4, 2, 24, init_std=0.3),
    "window": LlamaConfig(V, 16, 16, 2, 4, 2, 24, init_std=0.3, window=3),
    "untied": LlamaConfig(V, 16, 16, 2, 4, 2, 24, init_std=0.3, tied=False, qk_norm=True),
}


def build(name, dtype):
    config = MODELS[name]
    return (GPT if isinstance(config, GPTConfig) else Llama)(config, seed=1).astype(dtype)


def examples(lengths, seed=0):
    """Inputs and targets of so many tokens each, some of them to be learned, the last always."""
    rng = np.random.default_rng(seed)
    pairs = []
    for length in lengths:
        learned = rng.random(length + 1) < 0.5
        learned[-1] = True
        pairs.append(shifted(rng.integers(0, V, length + 1), learned))
    inputs, targets = zip(*pairs, strict=True)
    return inputs, targets


def test_targets_are_what_follows_where_it_is_learned():
    ids, targets = shifted(np.array([5, 6, 7, 8]), np.array([False, False, True, True]))
    assert ids.tolist() == [5, 6, 7]
    assert targets.tolist() == [I, 7, 8]
    assert shifted(np.array([5, 6]), np.array([True, False]))[1].tolist() == [I]  # nothing predicts the first


def test_rows_by_hand():
    inputs = [np.array([1, 2, 3]), np.array([4, 5]), np.array([6])]
    targets = [np.array([I, 3, 0]), np.array([5, 8]), np.array([7])]
    rows = packed_rows(inputs, targets, 4, 999)
    assert rows.ids.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert rows.targets.tolist() == [[I, 3, 0], [5, 8, 7]]
    assert rows.positions.tolist() == [[0, 1, 2], [0, 1, 0]]
    assert rows.mask.shape == (2, 1, 3, 3)
    assert rows.mask[0, 0].all()
    assert rows.mask[1, 0].tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    assert rows.counted == 5
    rows = padded_rows(inputs, targets)
    assert rows.ids.tolist() == [[1, 2, 3], [4, 5, 0], [6, 0, 0]]
    assert rows.targets.tolist() == [[I, 3, 0], [5, 8, I], [7, I, I]]
    assert rows[2:] == (None, None)
    assert rows.counted == 5


def test_what_fills_a_row_up_sees_only_itself_and_is_no_target():
    inputs, targets = examples([4, 3, 2])
    rows = packed_rows(inputs, targets, 5, 999)
    assert rows.ids.shape == (2, 5)
    assert rows.targets[0, 4] == I
    assert rows.mask[0, 0, 4].tolist() == [False] * 4 + [True]
    assert not rows.mask[0, 0, :4, 4].any()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
@pytest.mark.parametrize("lengths", [[9, 4, 3, 3, 2, 1], [6, 5, 4], [7, 8, 2, 16]])
def test_packed_and_padded_give_the_same_loss_and_gradients(name, dtype, tolerance, lengths):
    inputs, targets = examples(lengths)
    found = []
    packed = packed_rows(inputs, targets, 16, 999)
    assert packed.mask is not None
    for rows in (padded_rows(inputs, targets), packed):
        model = build(name, dtype)
        loss = model.loss(rows.ids, rows.targets, reduction="sum", positions=rows.positions, mask=rows.mask)
        (loss * (1 / rows.counted)).backward()
        found.append((loss.item(), {key: p.grad for key, p in model.named_parameters()}))
    assert found[1][0] == pytest.approx(found[0][0], rel=tolerance)
    for key, gradient in found[0][1].items():
        np.testing.assert_allclose(found[1][1][key], gradient, rtol=tolerance, atol=tolerance, err_msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_an_example_does_not_know_of_its_neighbours(name):
    model = build(name, np.float64)
    inputs, targets = examples([4, 6, 5])
    rows = packed_rows(inputs, targets, 16, 999)
    assert len(rows.ids) == 1
    with no_grad():
        before = model.hidden(rows.ids, rows.positions, rows.mask).data
        for low, high in ((0, 6), (6, 11), (11, 15)):
            ids = (rows.ids + 1) % V
            ids[:, low:high] = rows.ids[:, low:high]
            after = model.hidden(ids, rows.positions, rows.mask).data
            np.testing.assert_array_equal(after[:, low:high], before[:, low:high])
            assert not np.isclose(after, before).all()
        alone = model.hidden(rows.ids[:, 6:11]).data
    np.testing.assert_allclose(before[:, 6:11], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_a_loss_whose_targets_are_few_is_that_of_all_logits(name):
    from tinygrad_llm import ops

    inputs, targets = examples([7, 3, 9])
    rows = padded_rows(inputs, targets)
    model, other = build(name, np.float64), build(name, np.float64)
    for reduction in ("sum", "mean"):
        model.loss(rows.ids, rows.targets, reduction=reduction).backward()
        ops.cross_entropy(other(rows.ids), rows.targets, reduction=reduction).backward()
        for (key, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
            np.testing.assert_allclose(p.grad, q.grad, rtol=1e-11, atol=1e-13, err_msg=key)
    assert model.loss(rows.ids, np.full_like(rows.targets, I), reduction="sum").item() == 0


# ---- rows


def test_first_fit_by_hand():
    assert first_fit([3, 7, 5, 2, 2, 1], 10) == [[1, 0], [2, 3, 4, 5]]
    assert first_fit([4, 4, 4], 10) == [[0, 1], [2]]
    assert first_fit([4], 4) == [[0]]
    with pytest.raises(ValueError, match="a sequence of 5 tokens does not fit into a row of 4"):
        first_fit([3, 5], 4)


def cost(bins, lengths, channels):
    width = max(sum(lengths[place] for place in some) for some in bins)
    return len(bins) * width * (1 + width / (6 * channels))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(0, 200), st.sampled_from([1, 20, 999]))
def test_each_sequence_has_its_place_and_packing_never_costs_more_than_padding(lengths, more, channels):
    most = max(lengths) + more
    bins = best_fit(lengths, most, channels)
    assert sorted(place for some in bins for place in some) == list(range(len(lengths)))
    assert all(sum(lengths[place] for place in some) <= most for some in bins)
    others = [[place] for place in range(len(lengths))], first_fit(lengths, most)
    assert cost(bins, lengths, channels) <= min(cost(other, lengths, channels) for other in others)


def test_equal_lengths_are_not_packed_where_that_saves_nothing():
    assert best_fit([60] * 8, 512, 999) == [[place] for place in range(8)]
    assert packed_rows(*examples([5] * 3), 15, 999).mask is None
    assert best_fit([100, 100, 100, 100, 60, 40], 300, 999) == [
        [0],
        [1],
        [2],
        [3],
        [4, 5],
    ]  # the narrowest of equal ones
    assert best_fit([90, 50, 50, 50, 40], 150, 999) == [[0, 1], [2, 3, 4]]


def test_long_rows_must_save_more_than_attention_costs():
    lengths = [55, 56, 57, 58, 59, 60, 61, 62]
    assert len(best_fit(lengths, 512, 576)) == 4  # 6 % fewer places, at 2 % more each; one row has 12 % more
    assert len(best_fit(lengths, 512, 100)) == 8
    mixed = [20, 30, 40, 50, 60, 70, 90, 120]
    assert len(best_fit(mixed, 512, 576)) == 4
    assert best_fit(mixed, 512, 1) == best_fit(mixed, 512, 576)  # rows are as long as the longest anyway


# ---- what examples begin with


def alike(lengths, shared, seed=0):
    """`examples` that begin with the same `shared` tokens, of which nothing is learned."""
    inputs, targets = examples(lengths, seed)
    for ids, wanted in zip(inputs, targets, strict=True):
        ids[:shared] = inputs[0][:shared]
        wanted[:shared] = I
    return inputs, targets


def test_a_common_beginning_is_what_all_begin_with_and_none_learns():
    inputs = [np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5, 6])]
    silent = [np.full(4, I), np.full(5, I)]
    assert common_beginning(inputs, silent) == 3
    assert common_beginning(inputs, [np.array([I, I, 4, I]), silent[1]]) == 2
    assert common_beginning(inputs, [silent[0], np.array([I, 3, I, I, I])]) == 1  # also where the next is the same
    assert common_beginning([np.array([1, 2]), np.array([1, 2])], [silent[0][:2]] * 2) == 1  # one token is left
    assert common_beginning([np.array([2, 1]), np.array([3, 1])], [silent[0][:2]] * 2) == 0
    assert common_beginning([np.array([1]), inputs[0]], [silent[0][:1], silent[0]]) == 0


def test_a_common_beginning_stands_in_a_row_once():
    inputs = [np.array([1, 2, 3, 4]), np.array([1, 2, 5]), np.array([1, 2, 6, 7, 8])]
    targets = [np.array([I, I, 4, 9]), np.array([I, I, 9]), np.array([I, I, 7, I, 9])]
    rows = packed_rows(inputs, targets, 6, 999, sharing=True)
    assert rows.ids.tolist() == [[1, 2, 6, 7, 8], [1, 2, 3, 4, 5]]
    assert rows.targets.tolist() == [[I, I, 7, I, 9], [I, I, 4, 9, 9]]
    assert rows.positions.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 2]]
    assert rows.mask[0, 0, 2:].all()
    assert rows.mask[1, 0, 2:4].tolist() == [[True, True, True, True, False]] * 2
    assert rows.mask[1, 0, 4].tolist() == [True, True, False, False, True]
    inputs = [np.array([1, 2, 3, 4, 5]), np.array([1, 2, 6]), np.array([1, 2, 7])]
    rows = packed_rows(inputs, [np.array([I, I, I, I, 9]), *[np.array([I, I, 9])] * 2], 5, 999, sharing=True)
    assert rows.ids.tolist() == [[1, 2, 3, 4, 5], [1, 2, 6, 7, 0]]
    assert rows.targets.tolist() == [[I, I, I, I, 9], [I, I, 9, 9, I]]
    assert not rows.mask[1, 0, :4, 4].any()


@pytest.mark.parametrize("name", [name for name in MODELS if name != "window"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
@pytest.mark.parametrize(("lengths", "shared"), [([9, 6, 5, 5, 7, 4], 3), ([6, 6, 6], 5), ([5, 3, 3, 2], 1)])
def test_a_shared_beginning_changes_no_loss_and_no_gradient(name, dtype, tolerance, lengths, shared):
    inputs, targets = alike(lengths, shared)
    packed = packed_rows(inputs, targets, 16, 999, sharing=True)
    assert packed.mask is not None
    assert packed.ids.size < sum(lengths)
    found = []
    for rows in (padded_rows(inputs, targets), packed):
        model = build(name, dtype)
        loss = model.loss(rows.ids, rows.targets, reduction="sum", positions=rows.positions, mask=rows.mask)
        (loss * (1 / rows.counted)).backward()
        found.append((loss.item(), {key: p.grad for key, p in model.named_parameters()}))
    assert found[1][0] == pytest.approx(found[0][0], rel=tolerance)
    for key, gradient in found[0][1].items():
        np.testing.assert_allclose(found[1][1][key], gradient, rtol=tolerance, atol=tolerance, err_msg=key)


def test_the_width_of_rows_counts_what_they_share():
    inputs, targets = alike([7, 6, 6, 6], 5)
    assert packed_rows(inputs, targets, 8, 999, sharing=True).ids.shape == (2, 8)
    assert packed_rows(inputs, targets, 10, 999, sharing=True).ids.shape == (1, 10)
