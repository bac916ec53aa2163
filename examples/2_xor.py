"""XOR with a small neural network: what no single neuron can do, eight of them and one more can.

A neuron draws one straight line through the plane of its two inputs. The two points where XOR is 1 lie across a
diagonal, so no line has both on one side and the other two points on the other. The hidden layer draws eight lines.

Under 1 s on one thread of a 2-core machine; final loss 0.0010.
"""

import numpy as np

from tinygrad_llm import nn, no_grad, ops, optim, random

INPUTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
TARGETS = np.array([[0], [1], [1], [0]], np.float32)
STEPS = 300


class Network(nn.Module):
    """Two inputs, eight hidden neurons, one logit: how strongly the output is believed to be 1."""

    def __init__(self):
        # std=1: with the small weights that suit a large model, all eight neurons would start out almost equal
        self.hidden = nn.Linear(2, 8, std=1.0)
        self.output = nn.Linear(8, 1, std=1.0)

    def forward(self, x):
        return self.output(self.hidden(x).tanh())


def binary_cross_entropy(logits, targets):
    """-log p of the right answer, where p(1) = sigmoid(z), averaged over the rows.

    -log sigmoid(z) = softplus(-z) = softplus(z) - z, and -log(1 - sigmoid(z)) = softplus(z): both are
    softplus(z) - target z, in which nothing overflows.
    """
    return (ops.softplus(logits) - targets * logits).mean()


def main():
    with random.scope(0, "xor"):
        network = Network()
    optimizer = optim.SGD(network.named_parameters(), lr=0.5, momentum=0.9)
    print(network, end="\n\n")
    for step in range(STEPS + 1):
        loss = binary_cross_entropy(network(INPUTS), TARGETS)
        if step % 50 == 0:
            print(f"step {step:3}   loss {loss.item():.4f}")
        if step < STEPS:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    with no_grad():
        outputs = network(INPUTS).sigmoid().numpy()
    print("\n a  b  a xor b   network")
    for (a, b), target, output in zip(INPUTS, TARGETS, outputs, strict=True):
        print(f" {a:.0f}  {b:.0f}     {target.item():.0f}      {output.item():.4f}")
    print(f"\nfinal loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
