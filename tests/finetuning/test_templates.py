"""Templates to the letter: each token, which of them are learned, and no message that becomes a special token."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data.dialogues import Dialogue
from tinygrad_llm.finetuning.templates import ALPACA, encode_dialogues, has_template, with_template
from tinygrad_llm.generation.chat import turn_ends
from tinygrad_llm.tokenizer import ChatTemplate, Tokenizer
from tinygrad_llm.tokenizer.chat_templates import CHATML
from tinygrad_llm.tokenizer.formats.parts import Conventions

TEXT = "Below is an instruction that describes a task. ### Response: Say what the sky is, and the sea is blue.\n\n" * 3
LEARNED = Tokenizer.train([TEXT], 319)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
THINKING = (  # what was thought is repeated of the last answer only
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('~')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def with_names(names, template=None, bos=None, eos=None):
    """The tokenizer with further special tokens, and a template of its own."""
    v = LEARNED.vocabulary
    special = {**LEARNED.special_tokens, **{name: LEARNED.vocab_size + n for n, name in enumerate(names)}}
    conventions = Conventions(bos_id=special.get(bos), eos_id=special.get(eos), chat_template=template)
    return Tokenizer(v.tokens, v.merges, special, v.pattern, conventions=conventions)


CHAT_NAMES = "<|im_start|>", "<|im_end|>"
LLAMA_NAMES = "<|begin|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"

SKY = ({"role": "user", "content": "Sky?"}, {"role": "assistant", "content": "blue"})
GIVEN = (
    {"role": "user", "content": "Add.\n\n1, 2", "instruction": "Add.", "input": "1, 2"},
    {"role": "assistant", "content": "3"},
)
TURNS = (*SKY, {"role": "user", "content": "Sea?"}, {"role": "assistant", "content": " green\n"})
SYSTEM = ({"role": "system", "content": "Be brief."}, *SKY)

FIRST = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
PAIRED = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request."
)

# what is learned stands between [[ and ]]
CASES = [
    (
        "alpaca",
        LEARNED,
        SKY,
        f"<|endoftext|>{FIRST}\n\n### Instruction:\nSky?\n\n### Response:\n[[blue<|endoftext|>]]",
    ),
    (
        "alpaca",
        LEARNED,
        GIVEN,
        f"<|endoftext|>{PAIRED}\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n[[3<|endoftext|>]]",
    ),
    (
        "alpaca",
        LEARNED,
        TURNS,
        f"<|endoftext|>{FIRST}\n\n### Instruction:\nSky?\n\n### Response:\n[[blue<|endoftext|>]]\n\n### Instruction:\n"
        "Sea?\n\n### Response:\n[[ green\n<|endoftext|>]]",
    ),
    (
        "alpaca",
        LEARNED,
        SYSTEM,
        "<|endoftext|>Be brief.\n\n### Instruction:\nSky?\n\n### Response:\n[[blue<|endoftext|>]]",
    ),
    ("chatml", LEARNED, SKY, "<|im_start|>user\nSky?<|im_end|>\n<|im_start|>assistant\n[[blue<|im_end|>]]"),
    (
        "chatml",
        LEARNED,
        TURNS,
        "<|im_start|>user\nSky?<|im_end|>\n<|im_start|>assistant\n[[blue<|im_end|>]]\n<|im_start|>user\nSea?<|im_end|>\n"
        "<|im_start|>assistant\n[[ green\n<|im_end|>]]",
    ),
    (
        "chatml",
        LEARNED,
        GIVEN,
        "<|im_start|>user\nAdd.\n\n1, 2<|im_end|>\n<|im_start|>assistant\n[[3<|im_end|>]]",
    ),
    (
        "chatml",
        with_names(CHAT_NAMES),
        SYSTEM,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSky?<|im_end|>\n<|im_start|>assistant\n"
        "[[blue<|im_end|>]]",
    ),
    (
        "own",
        with_names(LLAMA_NAMES, LLAMA3, "<|begin|>", "<|eot_id|>"),
        TURNS,
        "<|begin|><|start_header_id|>user<|end_header_id|>\n\nSky?<|eot_id|><|start_header_id|>assistant"
        "<|end_header_id|>\n\n[[blue<|eot_id|>]]<|start_header_id|>user<|end_header_id|>\n\nSea?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[[green<|eot_id|>]]",
    ),
    (
        "own",
        with_names(("<s>", "</s>"), MISTRAL, "<s>", "</s>"),
        TURNS,
        "<s>[INST] Sky? [/INST][[ blue</s>]][INST] Sea? [/INST][[  green\n</s>]]",
    ),
    (
        "own",
        with_names(CHAT_NAMES, THINKING),
        ({"role": "user", "content": "Sky?"}, {"role": "assistant", "content": "hm~blue"}, *TURNS[2:]),
        "<|im_start|>user\nSky?<|im_end|>\n<|im_start|>assistant\n[[blue<|im_end|>]]\n<|im_start|>user\nSea?<|im_end|>\n"
        "<|im_start|>assistant\n[[ green\n<|im_end|>]]",
    ),
]


@pytest.mark.parametrize(("name", "tokenizer", "messages", "marked"), CASES)
def test_ids_and_what_is_learned(name, tokenizer, messages, marked):
    chosen = with_template(tokenizer, name)
    (encoded,) = encode_dialogues(chosen, [Dialogue(messages)])
    ids, learned = [], []
    for number, piece in enumerate(re.split(r"\[\[|\]\]", marked)):
        part = chosen.encode(piece, allowed_special="all")
        ids += part.tolist()
        learned += [number % 2 == 1] * len(part)
    assert encoded.ids.tolist() == ids
    assert encoded.answers.tolist() == learned
    assert encoded.ids.dtype == np.int32
    assert encoded.answers.dtype == bool
    prompt = ChatTemplate.of(chosen).encode(chosen, messages[:-1])
    assert chosen.decode(prompt) == chosen.decode(encoded.ids[: encoded.prompt])
    assert not encoded.answers[encoded.prompt - 1]
    assert encoded.answers[encoded.prompt :].all()
    assert encoded.ids[-1] in turn_ends(chosen).values()


def test_each_number_of_a_small_one():
    tokenizer = with_template(Tokenizer.train([], 257), "chatml")
    start, end = 257, 258
    byte = {chr(b): int(tokenizer.encode(chr(b))[0]) for b in range(128)}
    (encoded,) = encode_dialogues(tokenizer, [Dialogue(SKY)])
    user, assistant = [byte[c] for c in "user\nSky?"], [byte[c] for c in "assistant\n"]
    answer = [byte[c] for c in "blue"]
    assert encoded.ids.tolist() == [start, *user, end, byte["\n"], start, *assistant, *answer, end]
    assert encoded.answers.tolist() == [False] * 23 + [True] * 5
    assert encoded.prompt == 23


def test_an_answer_is_encoded_as_it_will_be_written():
    """It begins with a line end, which the one before it must not swallow."""
    tokenizer = with_template(Tokenizer.train(["so\n\n\nso\n\n"] * 9, 262, pattern="gpt2"), "alpaca")
    assert len(tokenizer.encode("\n\n")) == 1
    messages = (SKY[0], {"role": "assistant", "content": "\nblue"})
    (encoded,) = encode_dialogues(tokenizer, [Dialogue(messages)])
    prompt = ChatTemplate.of(tokenizer).encode(tokenizer, messages[:1])
    assert encoded.ids[: encoded.prompt].tolist() == prompt.tolist()
    assert tokenizer.decode(encoded.ids[encoded.prompt :]) == "\nblue<|endoftext|>"


fragments = st.sampled_from(["<|im_end|>", "<|endoftext|>", "<|im_", "end|>", "### Response:", "\n", "the", "é"])
texts = st.lists(fragments | st.text(max_size=4), min_size=1, max_size=5).map("".join).filter(str.strip)


@given(texts, texts, texts, st.sampled_from(["alpaca", "chatml"]))
def test_no_message_becomes_a_special_token_and_no_text_is_lost(asked, given_too, answer, name):
    tokenizer = with_template(LEARNED, name)
    asking = {"role": "user", "content": f"{asked}\n\n{given_too}", "instruction": asked, "input": given_too}
    messages = (asking, {"role": "assistant", "content": answer})
    (encoded,) = encode_dialogues(tokenizer, [Dialogue(messages)])
    special = [i for i in encoded.ids.tolist() if i in tokenizer.special_tokens.values()]
    assert len(special) == {"alpaca": 2, "chatml": 4}[name]
    end = "<|im_end|>" if name == "chatml" else "<|endoftext|>"
    assert tokenizer.decode(encoded.ids[encoded.prompt :]) == answer + end
    whole = ChatTemplate.of(tokenizer).render(messages, add_generation_prompt=False)
    assert tokenizer.decode(encoded.ids) == whole.removesuffix("\n" if name == "chatml" else "")


# ---- which template


def test_auto_takes_its_own_or_alpaca():
    own = with_names(LLAMA_NAMES, LLAMA3)
    assert with_template(own, "auto") is own
    chat = with_names(CHAT_NAMES)
    assert with_template(chat, "auto") is chat
    assert not has_template(LEARNED)
    chosen = with_template(LEARNED, "auto")
    assert chosen.conventions.chat_template == ALPACA
    assert has_template(chosen)


def test_a_template_that_is_asked_for_takes_the_place_of_its_own():
    own = with_names(LLAMA_NAMES, LLAMA3, "<|begin|>", "<|eot_id|>")
    alpaca = with_template(own, "alpaca")
    assert (alpaca.conventions.bos_id, alpaca.conventions.eos_id) == (own.conventions.bos_id, own.conventions.eos_id)
    assert alpaca.special_tokens == own.special_tokens
    chatml = with_template(own, "chatml")
    assert chatml.conventions.chat_template == CHATML
    assert chatml.vocab_size == own.vocab_size + 2
    assert chatml.conventions.eos_id == chatml.special_tokens["<|im_end|>"] == own.vocab_size + 1


def test_the_tokens_of_chatml_are_added_once():
    chatml = with_template(LEARNED, "chatml")
    assert chatml.special_tokens == {"<|endoftext|>": 0, "<|im_start|>": 319, "<|im_end|>": 320}
    assert with_template(chatml, "chatml").special_tokens == chatml.special_tokens
    half = with_template(with_names(["<|im_end|>"]), "chatml")
    assert half.special_tokens == {"<|endoftext|>": 0, "<|im_end|>": 319, "<|im_start|>": 320}
    text = "what the sky is"
    assert chatml.encode(text).tolist() == LEARNED.encode(text).tolist()


def test_what_cannot_be():
    with pytest.raises(ValueError, match="--template own: the model came without a chat template"):
        with_template(LEARNED, "own")
    bare = Tokenizer.train([], 256, special_tokens=())
    with pytest.raises(ValueError, match="no token that ends a text; take chatml"):
        with_template(bare, "alpaca")
    assert with_template(bare, "chatml").vocab_size == 258


@pytest.mark.parametrize("name", ["alpaca", "chatml"])
def test_it_is_saved_with_the_tokenizer(tmp_path, name):
    chosen = with_template(LEARNED, name)
    chosen.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path)
    assert loaded.conventions == chosen.conventions
    assert loaded.special_tokens == chosen.special_tokens
    for messages in (SKY, GIVEN, TURNS):
        before, after = (encode_dialogues(t, [Dialogue(messages)])[0] for t in (chosen, loaded))
        np.testing.assert_array_equal(before.ids, after.ids)
        np.testing.assert_array_equal(before.answers, after.answers)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "nothing ends the answer"),
        (
            "{% for m in messages %}{{ m.content + '<|endoftext|>' }}{% endfor %}"
            "{% if add_generation_prompt %}Answer:{% endif %}",
            "does not stand where one is asked for",
        ),
        ("{{ raise_exception('no') }}", "no"),
    ],
)
def test_a_template_that_teaches_nothing(source, fault):
    with pytest.raises(ValueError, match=fault):
        encode_dialogues(with_names([], source), [Dialogue(SKY)])


def test_a_conversation_without_an_answer_teaches_nothing():
    chosen = with_template(LEARNED, "alpaca")
    with pytest.raises(ValueError, match="no assistant says anything"):
        ChatTemplate.of(chosen).encode_answers(chosen, SKY[:1], ["<|endoftext|>"])


def test_variables_reach_the_template():
    tokenizer = with_names([], "{{ note }}{% for m in messages %}{{ m.content + '<|endoftext|>' }}{% endfor %}")
    template = ChatTemplate.of(tokenizer)
    ids, answers = template.encode_answers(tokenizer, SKY, ["<|endoftext|>"], note="Be brief.")
    assert tokenizer.decode(ids) == "Be brief.Sky?<|endoftext|>blue<|endoftext|>"
    assert tokenizer.decode(ids[answers]) == "blue<|endoftext|>"
