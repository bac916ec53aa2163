"""Programs of several ranks whose gradients are those of one process, and can be checked by differences on all ranks.

`test_communication_ops` runs them on threads and, as a program, on MPI.
"""

import sys
from typing import NamedTuple

import numpy as np

import tinygrad_llm as tg
from tinygrad_llm import ops
from tinygrad_llm.parallel.across import across
from tinygrad_llm.parallel.communication_ops import enter, exchange, gather, reduce, scatter_sum, shift, split
from tinygrad_llm.parallel.launch import guarded, world
from tinygrad_llm.parallel.placement import R, S

F, C, V, N = 4, 3, 12, 4


def mlp(c, x, up, down, bias):
    """Linear by columns, then by rows."""
    hidden = ops.gelu(ops.matmul(enter(x, c), up))
    return reduce(ops.matmul(hidden, down), c) + bias


def mlp_dense(x, up, down, bias):
    return ops.matmul(ops.gelu(ops.matmul(x, up)), down) + bias


def sequence_parallel(c, x, gain, up, down):
    """Each rank normalizes its rows; all rows meet its columns."""
    normal = x * enter(gain, c) / ops.sqrt((x * x).mean(-1, keepdims=True) + 1)
    hidden = ops.tanh(ops.matmul(gather(normal, c), up))
    return x + scatter_sum(ops.matmul(hidden, down), c)


def sequence_parallel_dense(x, gain, up, down):
    normal = x * gain / ops.sqrt((x * x).mean(-1, keepdims=True) + 1)
    return x + ops.matmul(ops.tanh(ops.matmul(normal, up)), down)


TARGETS = np.array([3, 11, 0, 6])


def cross_entropy(c, x, head):
    """Each rank has the logits of its part of the vocabulary; they are never gathered."""
    logits = ops.matmul(enter(x, c), head)
    first = c.rank * head.shape[1]
    largest = c.max(logits.data.max(-1, keepdims=True))
    total = reduce(ops.exp(logits - largest).sum(-1), c)
    here = (first <= TARGETS) & (first + head.shape[1] > TARGETS)
    chosen = logits[np.arange(N), np.where(here, TARGETS - first, 0)]
    target = reduce(chosen * here, c)
    return (ops.log(total) + largest[:, 0] - target).mean()


def cross_entropy_dense(x, head):
    logits = ops.matmul(x, head)
    return (ops.log(ops.exp(logits).sum(-1)) - logits[np.arange(N), TARGETS]).mean()


def ring(c, x, weight):
    """Every rank sees the rows of all, one rank's after the other, and weights them by whose they are."""
    weights, block, total = enter(weight, c), x, None
    for step in range(c.size):
        term = ops.tanh(x * weights[(c.rank - step) % c.size]) * block.sum(0)
        total = term if total is None else total + term
        block = shift(block, c)
    return total


def ring_dense(x, weight):
    ranks = x.shape[0] // (N // 2)
    blocks = [x[r * (N // 2) : (r + 1) * (N // 2)] for r in range(ranks)]
    rows = []
    for rank in range(ranks):
        rows.append(sum(ops.tanh(blocks[rank] * weight[r]) * blocks[r].sum(0) for r in range(ranks)))
    return ops.concatenate(rows, axis=0)


def heads(c, x):
    """Rows are exchanged for columns, along which a softmax then sees all rows; and back."""
    columns = exchange(x, c, gathered=0, shared=1)
    return exchange(ops.softmax(columns, axis=0), c, gathered=1, shared=0) * x


def heads_dense(x):
    return ops.softmax(x, axis=0) * x


def twice(c, x, weight):
    """A replicated tensor used both ways: in parts by the ranks, and whole by all."""
    return reduce((split(x, c, dim=1) * weight).sum(-1, keepdims=True), c) * x


def twice_dense(x, weight):
    return (x * weight).sum(-1, keepdims=True) * x


class Composition(NamedTuple):
    program: object
    dense: object
    given: list
    made: object
    shapes: list


def compositions(ranks):
    return [
        Composition(mlp, mlp_dense, [R, S(1), S(0), R], R, [(3, C), (C, F), (F, C), (C,)]),
        Composition(
            sequence_parallel, sequence_parallel_dense, [S(0), R, S(1), S(0)], S(0), [(N, C), (C,), (C, F), (F, C)]
        ),
        Composition(cross_entropy, cross_entropy_dense, [R, S(1)], R, [(N, C), (C, V)]),
        Composition(ring, ring_dense, [S(0), R], S(0), [(ranks * N // 2, 2), (ranks, 2)]),
        Composition(heads, heads_dense, [S(0)], S(0), [(4, 8)]),
        Composition(twice, twice_dense, [R, S(1)], R, [(2, 8), (2, 8)]),
    ]


def check(function, composition, differences):
    """Value and gradients are those of one process to 1e-12, and, if wanted, those of differences."""
    name = composition.program.__name__
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(shape) for shape in composition.shapes]
    value, vjp = function(*arrays)
    dy = rng.standard_normal(value.shape)
    tensors = [tg.Tensor(a, requires_grad=True) for a in arrays]
    dense = composition.dense(*tensors)
    dense.backward(dy)
    np.testing.assert_allclose(value, dense.data, rtol=1e-12, atol=1e-12, err_msg=name)
    for gradient, tensor in zip(vjp(dy), tensors, strict=True):
        np.testing.assert_allclose(gradient, tensor.grad, rtol=1e-12, atol=1e-12, err_msg=name)
    if differences:
        report = tg.gradcheck(function, *arrays)
        assert report, report


def main():
    ranks = world()
    for composition in compositions(ranks.size):
        program, _, given, made, _ = composition
        check(across(program, ranks, given, made), composition, differences=program in (mlp, cross_entropy))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
