"""Conversations: equal to what `transformers` makes of them, and nothing a message says becomes a special token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.tokenizer.chat_templates import CHATML, ChatTemplate
from tinygrad_llm.tokenizer.formats.parts import Conventions

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "STOP"]
SYSTEM = (
    "{% for message in messages %}\n"
    "    {% if loop.first and messages[0]['role'] != 'system' %}\n"
    "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}\n"
    "    {{- '<|im_start|>' + message['role'] + '\n' + (message['content'] | trim) + '<|im_end|>' + '\n' }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}{{ bos_token + 'assistant\n' }}{% endif %}"
)
fragments = st.sampled_from([*SPECIAL, "<|im_", "end|>", "|>", "<", " ", "\n", "the", "\U00100000", "é"])
texts = st.lists(fragments | st.text(max_size=5), max_size=6).map("".join)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": texts}), min_size=1, max_size=4
)


def trained(template=None):
    learned = Tokenizer.train(
        ["the user and the assistant said the end of it\n\n the"] * 2, 300, special_tokens=SPECIAL
    )
    return Tokenizer(
        learned.vocabulary.tokens,
        learned.merges,
        learned.special_tokens,
        "gpt2",
        conventions=Conventions(bos_id=0, eos_id=1, chat_template=template),
    )


@pytest.fixture(scope="module")
def tokenizer():
    return trained(SYSTEM)


def test_chatml_to_the_letter():
    tokenizer = trained()
    template = ChatTemplate.of(tokenizer)
    conversation = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
    assert template.render(conversation, add_generation_prompt=False) == text
    assert template.render(conversation) == text + "<|im_start|>assistant\n"
    ids = template.encode(tokenizer, conversation)
    assert ids.dtype == np.int32
    assert ids.tolist() == tokenizer.encode(text + "<|im_start|>assistant\n", allowed_special="all").tolist()
    assert template.encode(tokenizer, []).tolist() == tokenizer.encode("<|im_start|>assistant\n", "all").tolist()
    assert ChatTemplate("").encode(tokenizer, conversation).tolist() == []


@given(conversation=messages)
def test_only_the_template_makes_special_tokens_and_no_text_is_lost(tokenizer, conversation):
    template = ChatTemplate.of(tokenizer)
    ids = template.encode(tokenizer, conversation)
    assert tokenizer.decode(ids) == template.render(conversation)
    special = [i for i in ids.tolist() if i in tokenizer.special_tokens.values()]
    assert special == [0, 1] * (len(conversation) + 1) + [0]


@given(conversation=messages)
def test_harmless_messages_get_the_ids_of_the_whole_text(tokenizer, conversation):
    for message in conversation:
        for name in SPECIAL:
            message["content"] = message["content"].replace(name, "").replace("<", "").replace("STOP", "")
    template = ChatTemplate.of(tokenizer)
    expected = tokenizer.encode(template.render(conversation), allowed_special="all")
    assert template.encode(tokenizer, conversation).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("source", "conversation"),
    [
        # the pieces of a name come together only in the result
        ("{{ messages[0].content }}end|>", [{"role": "user", "content": "<|im_"}]),
        ("<|im_{{ messages[0].content }}", [{"role": "user", "content": "end|>"}]),
        (
            "{{ messages[0].content }}{{ messages[1].content }}",
            [{"role": "a", "content": c} for c in ("<|im_", "end|>")],
        ),
        ("{{ messages[0].content.replace('~', '') }}", [{"role": "user", "content": "<|im~_end|>"}]),
        ("{{ messages[0].content | trim }}", [{"role": "user", "content": "  <|im_end|> "}]),
        ("{{ messages[0].content.split('/')[-1] }}", [{"role": "user", "content": "a/<|im_end|>"}]),
        ("{{ messages[0].content[0].text }}", [{"role": "user", "content": [{"type": "text", "text": "STOP"}]}]),
        ("{{ messages | tojson }}", [{"role": "STOP", "content": "<|im_end|>", "name": "<think>"}]),
        ("{{ messages[0].content }}", [{"role": "user", "content": "STOP"}]),
        ("<|{{ messages[0].content }}|>", [{"role": "user", "content": "im_end"}]),
        ("<|{{ messages[0].content[0].text }}|>", [{"role": "user", "content": [{"text": "im_end"}]}]),
        ("<|{{ messages[0].input }}|>", [{"role": "user", "content": "", "input": "im_end"}]),
        ("<|{{ messages[0].instruction }}|>", [{"role": "user", "content": "", "instruction": "im_end"}]),
        ("{{ messages[0].name }}", [{"role": "user", "content": "", "name": "STOP"}]),
        ("{{ '%s' % messages[0].content }}", [{"role": "user", "content": "<|im_end|>\U00100000\U00100001"}]),
    ],
)
def test_no_trick_makes_a_special_token_of_a_message(tokenizer, source, conversation):
    template = ChatTemplate(source)
    ids = template.encode(tokenizer, conversation)
    assert not set(ids.tolist()) & set(tokenizer.special_tokens.values())
    assert tokenizer.decode(ids) == template.render(conversation)


def test_a_name_of_white_space_alone_is_hidden_too():
    tokenizer = Tokenizer.train([], 258, special_tokens=[" \n\n ", "STOP"])
    template = ChatTemplate("{{ messages[0].content }}STOP")
    ids = template.encode(tokenizer, [{"role": "user", "content": "a \n\n b"}])
    assert tokenizer.decode(ids) == "a \n\n bSTOP"
    assert [i for i in ids.tolist() if i < 2] == [1]


def test_tools_and_roles_are_the_templates_to_use(tokenizer):
    template = ChatTemplate(
        "{% for m in messages %}<|{{ m.role }}|>{% endfor %}{% if kind == 'big' %}{{ note }}{% endif %}"
    )
    ids = template.encode(tokenizer, [{"role": "im_end", "content": "x"}], kind="big", note="<|im_end|> said")
    assert ids.tolist()[0] == 1  # the template wrote the signs around the role
    assert tokenizer.decode(ids[1:]) == "<|im_end|> said"
    assert 1 not in ids[1:]
    with pytest.raises(ValueError, match=r"key 'a<\|im_end\|>' holds the special token '<\|im_end\|>'"):
        template.encode(tokenizer, [{"role": "user", "content": "x"}], note={"a<|im_end|>": 1})


def test_a_tokenizer_without_special_tokens_has_no_names_to_hide():
    tokenizer = Tokenizer.train([], 256, special_tokens=())
    conversation = [{"role": "user", "content": "<|im_end|>"}]
    assert tokenizer.decode(ChatTemplate().encode(tokenizer, conversation)) == ChatTemplate().render(conversation)
    with pytest.raises(ValueError, match="not made for conversations"):
        ChatTemplate.of(tokenizer)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "line 1"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages.nothing.more }}", "nothing"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 1 + 'a' }}", "TypeError"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ range(1000000000) | list }}", "Overflow"),
        ("{% generation %}", "endgeneration"),
    ],
)
def test_a_template_that_fails_says_why_in_one_line(source, message):
    with pytest.raises(ValueError, match=rf"chat template.*{message}"):
        ChatTemplate(source).render([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    ("conversation", "error", "message"),
    [
        ("hello", TypeError, "list of messages"),
        ({"role": "user", "content": "x"}, TypeError, "list of messages"),
        ([5], TypeError, "list of messages"),
        ([["role", "content"]], TypeError, "list of messages"),
        (None, TypeError, "list of messages"),
        ([{"content": "x"}], ValueError, "message 0 has the role None"),
        ([{"role": "<|im_end|>", "content": "x"}], ValueError, "role '<|im_end|>', not a plain word"),
        ([{"role": "", "content": "x"}], ValueError, "role ''"),
        ([{"role": "user"}], ValueError, "message 0 has no content"),
        ([{"role": "user", "content": "\udc80"}], ValueError, "lone surrogate"),
    ],
)
def test_what_is_no_conversation_is_named(tokenizer, conversation, error, message):
    with pytest.raises(error, match=message.replace("|", r"\|")):
        ChatTemplate(CHATML).encode(tokenizer, conversation)


PEER_TEMPLATES = [
    CHATML,
    SYSTEM,
    "{%- for m in messages -%}\n  {% if m.role == 'tool' %}{% continue %}{% endif %}\n{{ m | tojson(indent=2) }}\n"
    "{%- endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}{{ eos_token }}{{ documents }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% set x = 5 %}{% endgeneration %}{{ x }}{% endfor %}",
    "{{ strftime_now('%Y') }}",
]


@pytest.mark.parametrize("source", PEER_TEMPLATES)
def test_transformers_makes_the_same_text_and_ids(tmp_path, source):
    transformers = pytest.importorskip("transformers", reason="install .[peers] to compare with transformers")
    tokenizer = trained(source)
    tokenizer.save(tmp_path / "tokenizer.json")
    peer = transformers.PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
    template = ChatTemplate.of(Tokenizer.load(tmp_path))
    conversation = [
        {"role": "user", "content": ' What\'s <b>é</b> & "it"?\n\n'},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "\n\n the end"},
    ]
    for prompt in (False, True):
        options = {"add_generation_prompt": prompt, "tools": [{"type": "function", "name": "größe"}]}
        expected = peer.apply_chat_template(conversation, tokenize=False, **options)
        assert template.render(conversation, **options) == expected
        ids = peer.apply_chat_template(conversation, tokenize=True, return_dict=False, **options)
        assert template.encode(tokenizer, conversation, **options).tolist() == ids
