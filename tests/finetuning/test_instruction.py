"""Instruction tuning: examples, batches, measurements, answers, the report."""

import io
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import tinygrad_llm.finetuning.instruction as module
import tinygrad_llm.finetuning.packing as packing_module
from tinygrad_llm import no_grad, ops
from tinygrad_llm.data import IGNORE, DataError
from tinygrad_llm.data.dialogues import Dialogue
from tinygrad_llm.finetuning.instruct_config import InstructConfig
from tinygrad_llm.finetuning.instruction import Instruction, prepare_instruction
from tinygrad_llm.finetuning.instruction_data import Examples, InstructionData, instruction_data
from tinygrad_llm.finetuning.templates import encode_dialogues, with_template
from tinygrad_llm.generation.chat import Conversation
from tinygrad_llm.generation.loading import Loaded
from tinygrad_llm.generation.sampling import Sampling
from tinygrad_llm.models import GPT, Bert, BertConfig, GPTConfig, Recurrent, RecurrentConfig
from tinygrad_llm.tokenizer import Tokenizer, WordPieceTokenizer

WORDS = ["cat", "dog", "cow", "pig", "hen", "duck", "bird", "fox", "wolf", "horse"]
TEXT = " ".join(f"Say the plural of {word} twice: {word}s and {word}s." for word in WORDS)
LEARNED = Tokenizer.train([TEXT] * 3, 320)


def pair(prompt, answer):
    return Dialogue(({"role": "user", "content": prompt}, {"role": "assistant", "content": answer}))


def some_dialogues(count, prefix="Say"):
    return [pair(f"{prefix} {WORDS[n % 10]} {n}", " ".join([WORDS[n % 10]] * (1 + n % 4))) for n in range(count)]


def quiet():
    return Console(file=io.StringIO(), soft_wrap=True, markup=False, highlight=False, width=200)


def small(kind="gpt", tokenizer=LEARNED, context=64):
    if kind == "gpt":
        return GPT(GPTConfig(tokenizer.vocab_size, context, 16, 2, 2, init_std=0.2), seed=3)
    return Recurrent(RecurrentConfig("gru", tokenizer.vocab_size, context, 16, 16, 1), seed=3)


def make_task(training=18, held_out=7, kind="gpt", **settings):
    tokenizer = with_template(LEARNED, "chatml")
    parts = [some_dialogues(training), [*some_dialogues(held_out, "Tell"), pair("Tell cat 0", "meow")]]
    encoded = [encode_dialogues(tokenizer, part) for part in parts]
    lengths = [np.array([one.prompt for part in encoded for one in part])] * 2
    data = InstructionData(*(Examples(*both) for both in zip(parts, encoded, strict=True)), *lengths, 64)
    config = InstructConfig(model="m", data="d", **{"batch_size": 4, **settings})
    return Instruction(config, small(kind, tokenizer).astype(np.float64), tokenizer, data)


def spans(rows):
    """The examples of a batch: (ids, targets) of each."""
    if rows.positions is None:
        return [(i.tolist(), t.tolist()) for i, t in zip(rows.ids, rows.targets, strict=True)]
    found = []
    for ids, targets, mask in zip(rows.ids, rows.targets, rows.mask[:, 0], strict=True):
        for row in {tuple(r) for r in mask.tolist()}:
            places = np.flatnonzero(row)
            found.append((ids[places].tolist(), targets[places].tolist()))
    return found


# ---- batches


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_each_epoch_has_each_example_once(packing, accumulate, monkeypatch):
    monkeypatch.setattr(packing_module, "AS_MUCH", 100)  # so few channels are not worth packing
    task = make_task(packing=packing, accumulate=accumulate)
    assert any(task.batch(step, 0).arrays.mask is not None for step in range(5)) == packing
    assert task.training_examples == 18
    parts = [(step, part) for step in range(15) for part in range(accumulate)][:15]
    epochs = []
    for low in (0, 5, 10):
        answers = []
        for each in parts[low : low + 5]:
            batch = task.batch(*each)
            rows = batch.arrays
            assert batch.targets == (rows.targets != IGNORE).sum() > 0
            for _, targets in spans(rows):
                answer = [t for t in targets if t != IGNORE]
                if answer:
                    answers.append(task.tokenizer.decode(answer))
        epochs.append(answers)
    expected = Counter(f"{d.answer}<|im_end|>" for d in task.data.training.dialogues)
    assert [Counter(answers) for answers in epochs] == [expected] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_is_the_same_whenever_it_is_asked_for():
    task, other = make_task(), make_task()
    first = [task.batch(step, 0).arrays.ids for step in range(12)]
    for step in (11, 3, 0, 3):
        np.testing.assert_array_equal(other.batch(step, 0).arrays.ids, first[step])


def test_packing_changes_the_rows_and_nothing_else(monkeypatch):
    monkeypatch.setattr(packing_module, "AS_MUCH", 100)
    packed, padded = make_task(), make_task(packing=False)
    assert any(packed.batch(step, 0).arrays.mask is not None for step in range(5))
    for step in range(5):
        ours, theirs = packed.batch(step, 0), padded.batch(step, 0)
        assert ours.targets == theirs.targets
        assert theirs.arrays.mask is None
        losses = []
        for task, batch in ((packed, ours), (padded, theirs)):
            task.model.zero_grad()
            loss = task.loss(task.model, batch)
            loss.backward()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
        for p, q in zip(packed.model.parameters(), padded.model.parameters(), strict=True):
            np.testing.assert_allclose(p.grad, q.grad, rtol=1e-9, atol=1e-12)


def test_a_recurrent_model_is_never_given_packed_rows():
    task = make_task(kind="gru")
    assert not task.packing
    batch = task.batch(0, 0)
    assert batch.arrays.mask is None
    task.loss(task.model, batch).backward()
    assert math.isfinite(task.validate(task.model)["validation_loss"])
    assert task.sample(task.model)


def test_the_loss_is_a_sum_over_the_answers_alone():
    task = make_task(packing=False)
    ids, targets, _, _ = task.batch(0, 0).arrays
    with no_grad():
        logits = task.model(ids).data
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -sum(log_p[b, t, targets[b, t]] for b, t in np.argwhere(targets != IGNORE))
    assert task.loss(task.model, task.batch(0, 0)).item() == pytest.approx(expected)
    for row, wanted in zip(ids, targets, strict=True):
        text = task.tokenizer.decode(row[: int(np.flatnonzero(wanted != IGNORE)[0]) + 1])
        assert text.startswith("<|im_start|>user\nSay ")
        assert text.endswith("<|im_start|>assistant\n")


# ---- measurements


def test_the_held_out_loss_is_that_of_each_answer_token(monkeypatch):
    task = make_task()
    nats = []
    for one in task.data.held_out.encoded:
        with no_grad():
            losses = ops.cross_entropy(task.model(one.ids[None, :-1]), one.ids[None, 1:], reduction="none").data[0]
        nats.append(losses[one.answers[1:]])
    assert task.validate(task.model) == {"validation_loss": pytest.approx(np.concatenate(nats).mean())}
    task.model.train()
    told = []
    some = task.held_out_loss(task.model, np.array([2, 5]), lambda *done: told.append(done))
    assert told[-1] == (2, 2)
    assert some == pytest.approx(np.concatenate([nats[2], nats[5]]).mean())
    assert task.model.training
    monkeypatch.setattr(module, "MEASURED", 3)
    assert len(make_task().measured) == 3
    console = quiet()
    assert make_task(answered=0).measure_before(console)["loss"] == make_task().validate(task.model)["validation_loss"]


def test_answers_are_those_of_a_conversation():
    task = make_task(answer_tokens=6)
    places = list(range(len(task.held_out)))
    found = task.answers(task.model, places)
    for place, answer in zip(places, found, strict=True):
        chat = Conversation(task.model, task.tokenizer, Sampling(temperature=0), max_tokens=6)
        assert "".join(chat.answer(task.data.held_out.dialogues[place].asked)) == answer


def test_how_long_an_answer_may_be(monkeypatch):
    assert make_task(answer_tokens=6).answer_tokens == 6
    task = make_task()
    longest = max(len(task.tokenizer.encode(d.answer)) for d in task.data.held_out.dialogues)
    assert task.answer_tokens == 32 > longest + 1
    monkeypatch.setattr(module, "SHORTEST", 1)
    assert task.answer_tokens == longest + 1
    monkeypatch.setattr(module, "LONGEST", 3)
    assert task.answer_tokens == 3


def test_each_prompt_is_answered_once_and_may_have_several_answers():
    task = make_task()
    assert sorted(task.answered) == list(range(7))  # the eighth has the prompt of the first
    assert task._expected(0) == ["cat", "meow"]
    assert task._expected(1) == ["dog dog"]
    assert len(make_task(answered=6).answered) == 6
    assert len(make_task(answered=0).answered) == 5  # those of the samples


def test_a_sample_shows_prompts_with_what_was_expected_and_answered():
    task = make_task(answer_tokens=4)
    blocks = task.sample(task.model).split("\n\n")
    assert len(blocks) == 5
    answers = task.answers(task.model, task.answered[:5])
    for block, place, answer in zip(blocks, task.answered, answers, strict=False):
        dialogue = task.data.held_out.dialogues[place]
        lines = [f"prompt    {dialogue.asked}", f"expected  {dialogue.answer}", f"answer    {' '.join(answer.split())}"]
        assert [line.rstrip() for line in block.split("\n")] == [line.rstrip() for line in lines]


# ---- the report


def taught(task, monkeypatch):
    """Make the model answer what is expected, but for one prompt."""

    def answers(model, places, console=None):
        dialogues = [task.data.held_out.dialogues[place] for place in places]
        return ["wrong cat" if d.asked == "Tell cow 2" else f"The {d.answer}." for d in dialogues]

    monkeypatch.setattr(task, "answers", answers)


def test_the_report_compares_with_what_was_before(tmp_path, monkeypatch):
    task, console = make_task(answer_tokens=3), quiet()
    before = json.loads(json.dumps(task.measure_before(console)))
    assert before["loss"] == pytest.approx(task.held_out_loss(task.model, np.arange(8)))
    assert task.measured.tolist() == list(range(8))
    assert len(before["answers"]) == len(before["matches"]) == 7
    taught(task, monkeypatch)
    rows = [{"step": 4, "loss": 1.0}, {"step": 4, "sample": task.sample(task.model)}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    report = task.report(tmp_path, before, console)
    json.dumps(report)
    assert report["after"]["exact_match"] == pytest.approx(6 / 7)
    assert report["after"]["token_f1"] == pytest.approx(6 / 7)
    assert report["after"]["standard_error"] == pytest.approx((6 / 7 * 1 / 7 / 7) ** 0.5)
    assert report["before"]["exact_match"] == before["exact_match"]
    counts = {name: report[name] for name in ("trained_on", "held_out", "measured", "answered")}
    assert counts == {"trained_on": 18, "held_out": 8, "measured": 8, "answered": 7}
    by_prompt = {one["prompt"]: one for one in report["answers"]}
    assert by_prompt["Tell cow 2"]["after"] == "wrong cat"
    assert by_prompt["Tell cow 2"]["expected"] == "cow cow cow"
    assert by_prompt["Tell dog 1"]["exact_match"] == 1
    assert [one["before"] for one in report["answers"]] == before["answers"]
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "answers.txt").read_text(encoding="utf-8").split("\n\n")
    assert len(text) == 7
    shown = task.data.held_out.dialogues[task.answered[0]]
    assert f"step 4    {'wrong cat' if shown.asked == 'Tell cow 2' else f'The {shown.answer}.'}\n" in text[0]
    assert "step 4" not in text[5]
    printed = console.file.getvalue()
    assert "exact match                               0.0%       85.7%" in printed
    assert "no exact match" in printed


def test_without_answers_the_loss_alone_is_reported(tmp_path):
    task, console = make_task(answered=0), quiet()
    (tmp_path / "metrics.jsonl").write_text("", encoding="utf-8")
    report = task.report(tmp_path, task.measure_before(console), console)
    assert report["before"] == report["after"]
    assert set(report["after"]) == {"loss", "perplexity"}
    assert report["after"]["perplexity"] == pytest.approx(math.exp(report["after"]["loss"]))
    assert not (tmp_path / "answers.txt").exists()
    assert "exact match" not in console.file.getvalue()


# ---- from files


def write(path, records):
    path.write_text(json.dumps(records), encoding="utf-8")
    return str(path)


def records(count, prefix="Say"):
    return [{"instruction": d.asked, "output": d.answer} for d in some_dialogues(count, prefix)]


def prepare(model=None, tokenizer=LEARNED, **settings):
    console = quiet()
    loaded = Loaded(Path("base"), model or small(), tokenizer)
    task = prepare_instruction(InstructConfig(model="base", **settings), loaded, console)
    return task, console.file.getvalue()


def test_what_is_left_out_is_told(tmp_path):
    some = records(20)
    data = [*some, some[3], {**some[4], "output": " "}, {**some[5], "instruction": f" {some[5]['instruction']} "}]
    data += [{"instruction": "long", "output": "cat " * 99}, {"instruction": "Say " * 99, "output": "x"}]
    task, printed = prepare(data=write(tmp_path / "a.json", data), template="chatml", validation_share=0.2)
    assert "data        " in printed
    assert "a.json: 25 examples with instruction and output" in printed
    assert "left out    examples whose answer is empty: 1 (line 1)" in printed
    assert "left out    repetitions of an example: 2" in printed
    assert "longer than 64 tokens: " in printed
    assert "(1 by the answer alone)" in printed
    left = 22 - len(task.data.training.dialogues) - len(task.data.held_out.dialogues)
    assert left == 2
    assert f"split       {task.training_examples} examples to train on" in printed
    assert "2 tokens are added to the model" in printed
    assert "padding would cost" in printed
    assert task.model.config.vocab_size == LEARNED.vocab_size + 2 == task.tokenizer.vocab_size
    assert max(len(one.ids) for part in task.data[:2] for one in part.encoded) <= 65
    assert len(task.data.prompt_lengths) == 22
    for part in task.data[:2]:
        for dialogue, one in zip(part.dialogues, part.encoded, strict=True):
            assert task.tokenizer.decode(one.ids[one.prompt :]) == f"{dialogue.answer}<|im_end|>"


def test_an_example_that_just_fits_is_kept(tmp_path):
    tokenizer = with_template(LEARNED, "chatml")
    (encoded,) = encode_dialogues(tokenizer, [some_dialogues(4)[3]])
    data = write(tmp_path / "a.json", records(4))
    length = len(encoded.ids)
    config = InstructConfig(model="m", data=data, validation_share=0.5)
    kept = instruction_data(config, tokenizer, length - 1, quiet())
    assert sum(len(part.dialogues) for part in kept[:2]) == 4
    with_less = instruction_data(config, tokenizer, length - 2, quiet())
    assert sum(len(part.dialogues) for part in with_less[:2]) < 4
    with pytest.raises(DataError, match="no example to train on is left, as all are longer than 3 tokens"):
        instruction_data(config, tokenizer, 3, quiet())


def test_held_out_prompts_of_a_file_are_not_trained_on(tmp_path):
    data, other = records(12), [*records(3), *records(4, "Tell")]
    task, printed = prepare(
        data=write(tmp_path / "a.json", data), validation_data=write(tmp_path / "b.json", other), template="chatml"
    )
    assert "left out    examples to train on that begin as one that is held out: 3" in printed
    assert (task.training_examples, len(task.held_out)) == (9, 7)
    assert not {d.asked for d in task.data.training.dialogues} & {d.asked for d in task.data.held_out.dialogues}


def test_of_both_sides_it_is_told_how_many_examples_are_too_long(tmp_path):
    long = {"instruction": "long", "output": "cat " * 99}
    data, other = [long, *records(5)], [long | {"instruction": f"{n} long"} for n in range(2)] + records(5, "Tell")
    _, printed = prepare(
        data=write(tmp_path / "a.json", data), validation_data=write(tmp_path / "b.json", other), template="chatml"
    )
    assert "longer than 64 tokens: 1 to train on, 2 held out (3 by the answer alone)" in printed
    assert "split       5 examples to train on, 5 held out" in printed


def test_the_digest_knows_all_that_is_trained_on(tmp_path):
    data = write(tmp_path / "a.json", records(12))
    digest = prepare(data=data, template="chatml")[0].data_digest
    assert prepare(data=data, template="chatml")[0].data_digest == digest
    assert prepare(data=data, template="chatml", seed=1)[0].data_digest != digest
    assert prepare(small(context=400), data=data, template="alpaca")[0].data_digest != digest


def test_what_packing_saves_is_told_of_some_batches(tmp_path, monkeypatch):
    data = write(tmp_path / "a.json", records(40))
    monkeypatch.setattr(module, "TOLD", 3)
    task, printed = prepare(data=data, template="chatml", packing=False)
    places = task.batches(0)[:3]
    real = sum(int(task.lengths[some].sum()) for some in places)
    filled = sum(len(some) * int(task.lengths[some].max()) for some in places)
    assert f"padding     {real:,} tokens of 3 batches are filled up to {filled:,}\n" in printed
    monkeypatch.setattr(module, "TOLD", 99)
    total = f"{int(task.lengths.sum()):,} tokens of an epoch"
    assert total in prepare(data=data, template="chatml", packing=False)[1]
    assert total in prepare(data=data, template="chatml")[1]


def test_a_recurrent_model_is_told_not_to_pack(tmp_path):
    data = write(tmp_path / "a.json", records(12))
    task, printed = prepare(small("gru"), data=data, template="chatml")
    assert "a recurrent model cannot pack" in printed
    assert not task.packing
    assert "cannot pack" not in prepare(small("gru"), data=data, template="chatml", packing=False)[1]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"context": 65}, "--context 65: the model takes 64 tokens"),
        ({"template": "own"}, "--template own: the model came without"),
        ({"template": "chatml", "lora": "r=2"}, "adds tokens to this model"),
        ({"template": "chatml", "blocks": 1}, "adds tokens to this model"),
        ({"template": "alpaca"}, "no example to train on is left"),
    ],
)
def test_what_cannot_be_trained(tmp_path, settings, fault):
    with pytest.raises(ValueError, match=fault):
        prepare(data=write(tmp_path / "a.json", records(12)), **settings)


def test_a_model_that_does_not_write_is_refused(tmp_path):
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    tokenizer = WordPieceTokenizer({name: number for number, name in enumerate(names)})
    bert = Bert(BertConfig(tokenizer.vocab_size, 32, 16, 1, 2, 32))
    with pytest.raises(ValueError, match="holds a Bert, which is not made to go on with a text"):
        prepare(bert, tokenizer, data=write(tmp_path / "a.json", records(12)))
