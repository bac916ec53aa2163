"""Before the transformer: how much of the gradient is left after so many steps back, in an RNN, an LSTM and a GRU.

To learn that a word depends on one far back, a network must feel what the far one did to the loss. In a recurrent
network that message comes back step by step, and each step multiplies it by a matrix. For the RNN, whose state is
h_t = tanh(x_t Wx + h_(t-1) Wh), that matrix is written out below, and the product of them gives the tape's numbers.
Attention has one step from anywhere to anywhere: there is nothing to multiply. About 2 s with the start of Python.
"""

import numpy as np

import tinygrad_llm as tg
from tinygrad_llm import ops, random
from tinygrad_llm.nn.recurrent import GRU, LSTM, RNN

T, C = 61, 32  # positions, and channels of the inputs and of the states
DISTANCES = (0, 1, 5, 10, 20, 40, 60)

rng = np.random.default_rng(0)
x = tg.Tensor(rng.standard_normal((1, T, C)), requires_grad=True)
dy = rng.standard_normal(C)  # the gradient of a loss at the last output


def gradient_back(run):
    """The gradient of ``y_T . dy`` at each input, the last one first: row k is that of x_(T-k)."""
    x.zero_grad()
    (run(x)[0, -1] * dy).sum().backward()
    return x.grad[0, ::-1]


def by_hand(layer):
    """The same for an RNN without the tape: one matrix product for each step back."""
    h = layer(x)[0].numpy()[0]  # the state after each step
    rows, dh = [], dy
    for t in reversed(range(T)):
        da = dh * (1 - h[t] ** 2)  # back through tanh, whose slope is at most 1: this shrinks
        rows.append(da @ layer.weight_x.numpy().T)  # and out to the input x_t
        dh = da @ layer.weight_h.numpy().T  # and back to the state before: this shrinks or grows
    return np.array(rows)


def attention(x):
    """One head, without weights: each output is a mean of the inputs so far, weighted by how alike they are."""
    return ops.attention(x[:, None], x[:, None], x[:, None], causal=True)[:, 0]


with random.scope(0, "layers"):
    rnn, lstm, open_lstm, gru = (layer(C, C).astype(np.float64) for layer in (RNN, LSTM, LSTM, GRU))
open_lstm.bias.data[C : 2 * C] = 5  # of the gate that says how much of the memory stays: sigmoid(5) = 0.993 of it

tape, hand = gradient_back(lambda x: rnn(x)[0]), by_hand(rnn)
print(f"RNN: the tape's gradients and those by hand differ by {abs(tape - hand).max():.0e}\n")

print("norm of the gradient, steps back" + "".join(f"{k:>9}" for k in DISTANCES))
networks = {
    "RNN": lambda x: rnn(x)[0],
    "GRU": lambda x: gru(x)[0],
    "LSTM": lambda x: lstm(x)[0],
    "LSTM, its forget gates open": lambda x: open_lstm(x)[0],
    "attention": attention,
}
for name, run in networks.items():
    norms = np.linalg.norm(gradient_back(run), axis=1)
    print(f"{name:32}" + "".join(f"{norms[k]:9.0e}" for k in DISTANCES))

print(
    "\n60 steps back, an RNN feels almost nothing: what it could learn from there is lost in what it feels of the near."
    "\nAn LSTM or a GRU can learn gates that let the gradient pass, as those that were opened here do; at first they do"
    "\nnot. Attention feels the far as it feels the near. And where a recurrent network must wait for one step before"
    "\nit can begin the next, attention computes all positions at once: see tinygrad-llm compare."
)
