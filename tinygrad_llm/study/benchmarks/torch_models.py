"""The exactly equal models in PyTorch, made of its own parts as its users write them, with our initial weights."""

from __future__ import annotations

from typing import Any

from tinygrad_llm.models import Decoder, GPTConfig, LlamaConfig


def torch_model(torch: Any, model: Decoder, config: Any) -> Any:
    """The same model with copies of our weights. ``hidden(ids, caches, past)`` are the vectors before the head."""
    made = gpt(torch, config) if isinstance(config, GPTConfig) else llama(torch, config)
    own = dict(made.named_parameters())
    with torch.no_grad():
        for name, array in model.state_dict().items():
            target = own.pop(_torch_name(name))
            target.copy_(torch.from_numpy(array.T if target.ndim == 2 and "embedding" not in name else array))
    assert not own, f"no weights for {', '.join(own)}"
    return made


def _torch_name(name: str) -> str:
    """What our parameter is called in the models below."""
    name = name.replace("attention.", "").replace("mlp.", "")
    return name.replace("norm.gain", "norm.weight")


def kept(cache: Any, past: int, k: Any, v: Any) -> tuple[Any, Any]:
    """All keys and values so far, the new ones written into the cache if there is one."""
    if cache is None:
        return k, v
    keys, values = cache
    end = past + k.shape[2]
    keys[:, :, past:end], values[:, :, past:end] = k, v
    return keys[:, :, :end], values[:, :, :end]


def gpt(torch: Any, config: GPTConfig) -> Any:
    """GPT-2's architecture: fused projection of queries, keys and values, scaled_dot_product_attention, tied head."""
    nn, f = torch.nn, torch.nn.functional
    channels, heads = config.channels, config.heads

    class Block(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.attention_norm, self.mlp_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
            self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
            self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

        def forward(self, x: Any, cache: Any = None, past: int = 0) -> Any:
            b, t, c = x.shape
            parts = self.qkv(self.attention_norm(x)).split(c, dim=2)
            q, k, v = (part.view(b, t, heads, c // heads).transpose(1, 2) for part in parts)
            k, v = kept(cache, past, k, v)
            y = f.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
            x = x + self.out(y.transpose(1, 2).reshape(b, t, c))
            return x + self.down(f.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))

    class Model(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.token_embedding = nn.Embedding(config.vocab_size, channels)
            self.position_embedding = nn.Embedding(config.context, channels)
            self.blocks = nn.ModuleList(Block() for _ in range(config.layers))
            self.final_norm = nn.LayerNorm(channels)

        def hidden(self, ids: Any, caches: Any = None, past: int = 0) -> Any:
            x = self.token_embedding(ids) + self.position_embedding(torch.arange(past, past + ids.shape[1]))
            for number, block in enumerate(self.blocks):
                x = block(x, None if caches is None else caches[number], past)
            return self.final_norm(x)

        def forward(self, ids: Any) -> Any:
            return f.linear(self.hidden(ids), self.token_embedding.weight)

        def caches(self) -> list[Any]:
            shape = (1, heads, config.context, channels // heads)
            return [(torch.zeros(shape), torch.zeros(shape)) for _ in range(config.layers)]

    return Model()


def llama(torch: Any, config: LlamaConfig) -> Any:
    """Llama's architecture; the query heads that share a key head attend to it without copies of it."""
    nn, f = torch.nn, torch.nn.functional
    channels, heads, shared, size = config.channels, config.heads, config.kv_heads, config.head_size
    exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
    angles = torch.arange(config.context, dtype=torch.float64)[:, None] * config.rotary_base**-exponents
    cos, sin = (torch.cat((part, part), -1).float() for part in (angles.cos(), angles.sin()))

    def turned(x: Any, past: int) -> Any:
        first, second = x.chunk(2, -1)
        where = slice(past, past + x.shape[2])
        return x * cos[where] + torch.cat((-second, first), -1) * sin[where]

    class Block(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.attention_norm = nn.RMSNorm(channels, config.norm_eps)
            self.mlp_norm = nn.RMSNorm(channels, config.norm_eps)
            self.qkv = nn.Linear(channels, (heads + 2 * shared) * size, bias=False)
            self.out = nn.Linear(channels, channels, bias=False)
            self.gate = nn.Linear(channels, config.feed_forward, bias=False)
            self.up = nn.Linear(channels, config.feed_forward, bias=False)
            self.down = nn.Linear(config.feed_forward, channels, bias=False)

        def forward(self, x: Any, cache: Any = None, past: int = 0) -> Any:
            b, t, c = x.shape
            parts = self.qkv(self.attention_norm(x)).view(b, t, -1, size).transpose(1, 2)
            q, k, v = parts.split((heads, shared, shared), 1)
            q = turned(q, past)
            k, v = kept(cache, past, turned(k, past), v)
            if t == 1:  # the queries of a group are as rows of one query: nothing needs to be hidden
                y = f.scaled_dot_product_attention(q.reshape(b, shared, heads // shared, size), k, v)
            else:
                k, v = (part.repeat_interleave(heads // shared, 1) for part in (k, v))
                y = f.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
            x = x + self.out(y.reshape(b, t, c))
            normed = self.mlp_norm(x)
            return x + self.down(f.silu(self.gate(normed)) * self.up(normed))

    class Model(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.token_embedding = nn.Embedding(config.vocab_size, channels)
            self.blocks = nn.ModuleList(Block() for _ in range(config.layers))
            self.final_norm = nn.RMSNorm(channels, config.norm_eps)

        def hidden(self, ids: Any, caches: Any = None, past: int = 0) -> Any:
            x = self.token_embedding(ids)
            for number, block in enumerate(self.blocks):
                x = block(x, None if caches is None else caches[number], past)
            return self.final_norm(x)

        def caches(self) -> list[Any]:
            shape = (1, shared, config.context, size)
            return [(torch.zeros(shape), torch.zeros(shape)) for _ in range(config.layers)]

    return Model()
