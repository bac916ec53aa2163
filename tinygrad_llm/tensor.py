"""The Tensor: an array that remembers how it was made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygrad_llm.tape import Array, Node, describe, sweep

registry: dict[str, Any] = {}
"""Name to operation. `operation.py` fills it; Tensor's methods look their operation up in it."""


class Tensor:
    """An array that remembers how it was made, so that gradients can be sent back through it.

    ``Tensor(data)`` wraps an array without copying it (lists and numbers are converted). Integer and boolean arrays are
    allowed as data; only floating-point Tensors can require a gradient. Gradients appear in ``.grad`` (an array) of
    every leaf made with ``requires_grad=True`` after `backward`.
    """

    __slots__ = ("__weakref__", "data", "grad", "node", "origin", "output_index", "placements", "requires_grad")
    __array_ufunc__ = None  # so that `array * tensor` asks Tensor.__rmul__ rather than looping over the elements

    data: Array
    grad: Array | None
    node: Node | None
    origin: tuple[Node, ...]
    """Of a leaf: where the last backward began that reached it, if all of its graph is remembered (see `Memory`)."""
    placements: dict[str, Any]
    """How ranks hold it, by axis of their mesh (see `parallel.placement`); not set where there is nothing to say."""

    def __init__(self, data: npt.ArrayLike | Tensor, requires_grad: bool = False) -> None:
        self.data = data.data if isinstance(data, Tensor) else np.asarray(data)
        if self.data.dtype.kind not in "fcbiu":
            raise TypeError(f"Tensor: data of dtype {self.data.dtype} is not numeric")
        if requires_grad and self.data.dtype.kind != "f":
            raise TypeError(
                f"Tensor: dtype {self.data.dtype} cannot have a gradient (a derivative needs small steps); "
                "convert it first: data.astype(np.float32)"
            )
        self.requires_grad = requires_grad
        self.grad, self.node, self.output_index, self.origin = None, None, 0, ()

    # -- reading -------------------------------------------------------------------------------------------------------
    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    def item(self) -> float:
        """The only element as a Python number."""
        if self.data.size != 1:
            raise ValueError(f"item: a Tensor of shape {self.shape} has {self.data.size} elements, not one")
        return self.data.item()

    def numpy(self) -> Array:
        """The data itself, not a copy."""
        return self.data

    def detach(self) -> Tensor:
        """The same data, outside the graph."""
        return Tensor(self.data)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.data, dtype=dtype, copy=copy)

    def __bool__(self) -> bool:
        return bool(self.data)

    def __eq__(self, other: object) -> bool:
        raise TypeError("Tensors are not compared: compare their arrays (t.data == ...), or use `is` for identity")

    __hash__ = object.__hash__

    def __len__(self) -> int:
        return len(self.data)

    def __float__(self) -> float:
        return float(self.item())

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self.data)))

    def __repr__(self) -> str:
        made_by = f", from {self.node.name}" if self.node is not None else ""
        return f"Tensor({describe(self.data)}{made_by}{', requires_grad' if self.requires_grad else ''})"

    # -- gradients -----------------------------------------------------------------------------------------------------
    def backward(self, cotangent: npt.ArrayLike | None = None) -> None:
        """Add ``cotangent . d self / d leaf`` to ``leaf.grad`` for every leaf. A scalar's cotangent is 1 by default.

        The graph is freed on the way: a second call needs a second forward pass.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: this Tensor does not depend on any Tensor with requires_grad=True")
        if cotangent is None:
            if self.data.size != 1:
                raise RuntimeError(
                    f"backward: a Tensor of shape {self.shape} is not a scalar, so its cotangent must be given: "
                    "t.backward(dy) with dy of that shape, or reduce it first, as in t.sum().backward()"
                )
            cotangent = np.ones(self.shape, self.dtype)
        given = np.asarray(cotangent, self.dtype)
        if given.shape != self.shape:
            raise ValueError(f"backward: the cotangent has shape {given.shape}, the Tensor {self.shape}")
        sweep([self], [given])

    def retain_grad(self) -> Tensor:
        """Keep the gradient of this intermediate value too, in ``.grad``."""
        if self.node is not None:
            self.node.retained[self.output_index] = self
        return self

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad, self.origin = None, ()

    # -- operations ----------------------------------------------------------------------------------------------------
    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(
            "a Tensor is not written in place: gradients recorded earlier would become wrong. "
            "Build a new one with where() or concatenate(), or write t.data[...] before the Tensor is used"
        )

    def __getitem__(self, index: Any) -> Tensor:
        return registry["getitem"](self, index)

    def __add__(self, other: Any) -> Tensor:
        return registry["add"](self, other)

    def __radd__(self, other: Any) -> Tensor:
        return registry["add"](other, self)

    def __sub__(self, other: Any) -> Tensor:
        return registry["sub"](self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return registry["sub"](other, self)

    def __mul__(self, other: Any) -> Tensor:
        return registry["mul"](self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return registry["mul"](other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return registry["div"](self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return registry["div"](other, self)

    def __pow__(self, other: Any) -> Tensor:
        return registry["power"](self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return registry["power"](other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return registry["matmul"](self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return registry["matmul"](other, self)

    def __neg__(self) -> Tensor:
        return registry["neg"](self)

    def __abs__(self) -> Tensor:
        return registry["abs"](self)

    def sum(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
        return registry["sum"](self, axis=axis, keepdims=keepdims)

    def mean(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
        return registry["mean"](self, axis=axis, keepdims=keepdims)

    def max(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
        return registry["max"](self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: Any) -> Tensor:
        return registry["reshape"](self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Tensor:
        """Permute the axes; without arguments, reverse them."""
        return registry["transpose"](self, axes[0] if len(axes) == 1 else axes or None)

    @property
    def T(self) -> Tensor:
        return self.transpose()

    def clip(self, low: float | None = None, high: float | None = None) -> Tensor:
        return registry["clip"](self, low=low, high=high)

    def softmax(self, axis: int = -1) -> Tensor:
        return registry["softmax"](self, axis=axis)

    def log_softmax(self, axis: int = -1) -> Tensor:
        return registry["log_softmax"](self, axis=axis)

    def logsumexp(self, axis: int = -1, keepdims: bool = False) -> Tensor:
        return registry["logsumexp"](self, axis=axis, keepdims=keepdims)

    def exp(self) -> Tensor:
        return registry["exp"](self)

    def log(self) -> Tensor:
        return registry["log"](self)

    def sqrt(self) -> Tensor:
        return registry["sqrt"](self)

    def abs(self) -> Tensor:
        return registry["abs"](self)

    def tanh(self) -> Tensor:
        return registry["tanh"](self)

    def sigmoid(self) -> Tensor:
        return registry["sigmoid"](self)

    def relu(self) -> Tensor:
        return registry["relu"](self)

    def gelu(self, approximate: bool = True) -> Tensor:
        return registry["gelu"](self, approximate=approximate)

    def silu(self) -> Tensor:
        return registry["silu"](self)

    def softplus(self) -> Tensor:
        return registry["softplus"](self)
