"""A bigram model of words: the next character from this one alone. Counted, then learned: the same model twice.

The words are those of the Python documentation that comes with the interpreter. Counting gives the best possible bigram
model at once: p(b after a) = count(a b) / count(a). Gradient descent has to find it, step by step, from logits that
start at zero. That it ends at the same loss is a check of the whole chain: loss, gradient, optimiser.

About 4 s on one thread of a 2-core machine; final loss 2.4011.
"""

import re
import string
from pydoc_data.topics import topics

import numpy as np

from tinygrad_llm import nn, ops, optim

CHARACTERS = "." + string.ascii_lowercase  # "." stands before and after each word
STEPS, RATE = 300, 0.1


def read_pairs():
    """All pairs of neighbouring characters in the words, as two arrays of numbers: what comes first, what follows."""
    words = sorted(set(re.findall(r"\b[a-z]{3,14}\b", " ".join(topics.values()))))
    ids = [[CHARACTERS.index(c) for c in f".{word}."] for word in words]
    firsts = np.array([a for word in ids for a in word[:-1]])
    seconds = np.array([b for word in ids for b in word[1:]])
    print(f"{len(words)} words, {len(firsts)} pairs; five of the words: {', '.join(words[:: len(words) // 5][:5])}")
    return firsts, seconds


def count(firsts, seconds):
    """The closed form. counts[a, b] is how often b follows a; each row divided by its sum is p(b after a)."""
    counts = np.zeros((len(CHARACTERS), len(CHARACTERS)))
    np.add.at(counts, (firsts, seconds), 1)
    return counts / counts.sum(1, keepdims=True)


def learn(firsts, seconds):
    """The same table by gradient descent: a row of logits for each first character, all zero at the start.

    Adam, because it divides each gradient by its usual size. A character that is rare has little part in the mean loss,
    so its gradients are small, and plain steps move its row slowly: 300 of them, at a rate of 50, ended at 2.4088.
    """
    table = nn.Parameter(np.zeros((len(CHARACTERS), len(CHARACTERS))))
    optimizer = optim.Adam([("table", table)], lr=RATE, betas=(0.9, 0.95))
    for step in range(STEPS + 1):
        loss = ops.cross_entropy(ops.embedding(table, firsts), seconds)
        if step % 50 == 0:
            print(f"  step {step:3}   loss {loss.item():.4f}")
        if step < STEPS:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return table.softmax().numpy(), loss.item()


def sample(probabilities, generator):
    """One word: start at ".", draw what follows, until "." comes again."""
    word, character = "", 0
    while True:
        character = generator.choice(len(CHARACTERS), p=probabilities[character])
        if character == 0:
            return word
        word += CHARACTERS[character]


def show(title, probabilities):
    generator = np.random.default_rng(1)
    print(f"  {title:8}", " ".join(sample(probabilities, generator) for _ in range(10)))


def main():
    firsts, seconds = read_pairs()
    print(f"loss of guessing evenly: ln {len(CHARACTERS)} = {np.log(len(CHARACTERS)):.4f}\n\nby gradient descent:")
    learned, learned_loss = learn(firsts, seconds)
    counted = count(firsts, seconds)
    counted_loss = -np.log(counted[firsts, seconds]).mean()
    print(f"by counting:\n             loss {counted_loss:.4f}\n")

    # Why there is nothing better than counting: at a row's logits log p(b after a), the gradient of the loss is, for
    # each pair, p(b after a) - (how often b really followed a), and that difference is zero.
    a = CHARACTERS.index("q")
    likeliest = counted[a].argmax()
    print(f'after "q" comes "{CHARACTERS[likeliest]}": {counted[a, likeliest]:.3f} counted, ', end="")
    print(f"{learned[a, likeliest]:.3f} learned; largest difference in the table {abs(learned - counted).max():.3f}\n")
    print("ten words of each, from the same random numbers:")
    show("counted", counted)
    show("learned", learned)
    print(f"\ncounted loss {counted_loss:.4f}\nfinal loss {learned_loss:.4f}")


if __name__ == "__main__":
    main()
