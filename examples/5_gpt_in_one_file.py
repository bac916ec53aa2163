"""A whole GPT in one file, from text to sample, on nothing but Tensor and its operations.

It learns how words are spelt (those of the Python documentation that comes with the interpreter) and then invents some.
Everything is here: the data, the tokenizer, the parameters, the transformer, the loss, Adam, the sampling. Only the
gradients are not: those are the tape's (see 1_derivative_by_hand.py).

About 10 s on one thread of a 2-core machine, 60,000 tokens/s; final loss 2.0167 (held-out words, nats per character).
"""

import re
import time
from pydoc_data.topics import topics

import numpy as np

from tinygrad_llm import Tensor, no_grad, ops

# The size of the model: its parameters' shapes are made of these.
CONTEXT = 16  # T: characters it can look back on, and so the longest word, with the sign for its beginning
CHANNELS = 32  # C: numbers that describe a position
HEADS = 4  # H: each looks for something of its own, with D = C / H of the channels
LAYERS = 1
BATCH, STEPS, RATE = 64, 1000, 0.003

generator = np.random.default_rng(0)


# ---- 1. Data: words, in a random order; a tenth is held out


words = sorted(set(re.findall(rf"\b[a-z]{{3,{CONTEXT - 1}}}\b", " ".join(topics.values()))))
generator.shuffle(words)
held_out, training = words[: len(words) // 10], words[len(words) // 10 :]


# ---- 2. Tokenizer: a character is its place in the alphabet. Token 0 stands for both ends of a word.

ALPHABET = "." + "".join(sorted(set("".join(words))))
NOTHING = -100  # fills up the rows of short words; the loss leaves these targets out


def encode(some_words):
    """(inputs, targets), both (B, T): ".cat" and "cat.". At every position, the target is the token that follows."""
    rows = np.full((len(some_words), CONTEXT + 1), NOTHING)
    for row, word in zip(rows, some_words, strict=True):
        row[: len(word) + 2] = [ALPHABET.index(c) for c in f".{word}."]
    return np.maximum(rows[:, :-1], 0), rows[:, 1:]


# ---- 3. Parameters: a name and a Tensor each. Normal, and small enough that no activation starts out large.


def matrix(rows, columns, std):
    return Tensor(generator.normal(0, std, (rows, columns)).astype(np.float32), requires_grad=True)


def gain():
    return Tensor(np.ones(CHANNELS, np.float32), requires_grad=True)


parameters = {
    "token": matrix(len(ALPHABET), CHANNELS, 0.1),
    "position": matrix(CONTEXT, CHANNELS, 0.1),
    "final_gain": gain(),
    "head": matrix(CHANNELS, len(ALPHABET), 0.1),
}
for layer in range(LAYERS):
    parameters |= {
        f"{layer}.attention_gain": gain(),
        f"{layer}.query": matrix(CHANNELS, CHANNELS, 0.1),
        f"{layer}.key": matrix(CHANNELS, CHANNELS, 0.1),
        f"{layer}.value": matrix(CHANNELS, CHANNELS, 0.1),
        f"{layer}.attention_out": matrix(CHANNELS, CHANNELS, 0.1),
        f"{layer}.mlp_gain": gain(),
        f"{layer}.mlp_up": matrix(CHANNELS, 4 * CHANNELS, 0.1),
        f"{layer}.mlp_down": matrix(4 * CHANNELS, CHANNELS, 0.1),
    }


# ---- 4. The transformer


def split_heads(x):
    """(B, T, C) to (B, H, T, D): from here on, each head works for itself."""
    batch, length, _ = x.shape
    return x.reshape(batch, length, HEADS, CHANNELS // HEADS).transpose(0, 2, 1, 3)


def attention(x, layer):
    """Each position asks a question (query), all earlier ones offer an answer (value) under a title (key).

    What it receives is a mean of the values, weighted by how well the titles match the question.
    """
    query, key, value = (split_heads(x @ parameters[f"{layer}.{name}"]) for name in ("query", "key", "value"))
    scores = query @ key.transpose(0, 1, 3, 2) / (CHANNELS // HEADS) ** 0.5  # (B, H, T, T)
    future = np.triu(np.full(scores.shape[-2:], -np.inf, np.float32), 1)  # e^-inf = 0: what is to come is not seen
    mixed = (scores + future).softmax() @ value
    return mixed.transpose(0, 2, 1, 3).reshape(*x.shape) @ parameters[f"{layer}.attention_out"]


def mlp(x, layer):
    """Each position by itself: widen, bend, narrow."""
    return (x @ parameters[f"{layer}.mlp_up"]).relu() @ parameters[f"{layer}.mlp_down"]


def gpt(ids):
    """(B, T) tokens to (B, T, V) logits: at each position, scores for the token that follows."""
    x = ops.embedding(parameters["token"], ids) + parameters["position"][: ids.shape[1]]
    for layer in range(LAYERS):
        # What a part finds out is added to what is there: so gradients have a straight way back.
        x = x + attention(ops.rms_norm(x, parameters[f"{layer}.attention_gain"]), layer)
        x = x + mlp(ops.rms_norm(x, parameters[f"{layer}.mlp_gain"]), layer)
    return ops.rms_norm(x, parameters["final_gain"]) @ parameters["head"]


def loss_of(some_words):
    """The surprise at the character that really came, -log p, in the mean over all characters and ends."""
    inputs, targets = encode(some_words)
    return ops.cross_entropy(gpt(inputs), targets, ignore_index=NOTHING)


# ---- 5. Training, with Adam


def adam(step, rate, moments, beta1=0.9, beta2=0.95, eps=1e-8):
    """Move each number against its mean gradient, divided by that gradient's usual size.

    Both means run, forgetting old gradients, and start at zero; the divisions by 1 - beta^t make up for that.
    """
    for name, parameter in parameters.items():
        mean, square = moments.get(name, (0.0, 0.0))
        mean = beta1 * mean + (1 - beta1) * parameter.grad
        square = beta2 * square + (1 - beta2) * parameter.grad**2
        moments[name] = mean, square
        usual = np.sqrt(square / (1 - beta2**step))
        parameter.data -= rate * (mean / (1 - beta1**step)) / (usual + eps)
        parameter.zero_grad()


def train():
    """Return the number of tokens learned from, and the seconds it took."""
    moments, tokens, start = {}, 0, time.perf_counter()
    for step in range(1, STEPS + 1):
        batch = generator.choice(training, BATCH)
        loss = loss_of(batch)
        loss.backward()
        adam(step, RATE * (1 - step / STEPS), moments)
        tokens += sum(len(word) + 1 for word in batch)
        if step % 100 == 0:
            print(f"step {step:4} of {STEPS}   loss {loss.item():.4f}", flush=True)
    return tokens, time.perf_counter() - start


# ---- 6. Sampling: let the model say what follows, draw from it, append, repeat


def invent(count, temperature=0.7):
    """`count` words at once. A temperature below 1 makes likely characters more likely."""
    ids = np.zeros((count, 1), int)
    for _ in range(CONTEXT):
        with no_grad():
            logits = gpt(ids)[:, -1].numpy().astype(np.float64)  # `choice` wants probabilities that add up to 1
        probabilities = ops.softmax(logits / temperature).numpy()
        drawn = [generator.choice(len(ALPHABET), p=p) for p in probabilities]
        ids = np.column_stack([ids, drawn])
    return ["".join(ALPHABET[i] for i in row[1:]).partition(".")[0] for row in ids]


if __name__ == "__main__":
    print(f"{len(training)} words to train on, {len(held_out)} held out, {len(ALPHABET)} tokens,", end=" ")
    print(f"{sum(parameter.size for parameter in parameters.values()):,} parameters")
    tokens, seconds = train()
    print("\ninvented:", *(f"{w} (exists)" if w in words else w for w in invent(20)), sep="  ")
    with no_grad():
        training_loss, final_loss = loss_of(training).item(), loss_of(held_out).item()
    print(f"\ntraining loss {training_loss:.4f}\nfinal loss {final_loss:.4f} (held-out words)")
    print(f"{tokens:,} tokens, {tokens / seconds:,.0f} tokens/s")
