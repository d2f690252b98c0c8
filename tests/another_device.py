"""A device beside the CPU for machines without one; its tensors keep their numbers on the CPU.

As on a GPU, an operation takes tensors of one device (but for indices and numbers without dimensions),
and only a copy that someone asks for crosses over; copies and readings are counted. What shows on a
GPU alone is not here: its kernels, their order, memory and speed. As on Apple's there is no float64.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map


class Module(backend_registration._DummyBackendModule):
    """What PyTorch asks of a device's own module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


# an AttributeError where PyTorch is older and knows no devices in Python
backend_registration._setup_privateuseone_for_python_backend(backend_module=Module())
CPU = torch.device("cpu")
DEVICE = torch.device("privateuseone", 0)  # the name that PyTorch keeps free
CROSSINGS = {"up": 0, "down": 0}
aten = torch.ops.aten


class Afar(Tensor):
    """A tensor of the device."""

    numbers: Tensor  # what it holds, on the CPU

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "Afar":
        if numbers.dtype == torch.float64:
            raise TypeError(f"{DEVICE} has no numbers of 64 bits, as Apple's GPUs")
        sides = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset()}
        made: Afar = Tensor._make_wrapper_subclass(
            cls, numbers.size(), dtype=numbers.dtype, device=DEVICE, **sides
        )
        made.numbers = numbers
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return launch(op, *args, **(kwargs or {}))


def launch(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Do an operation of the device on the CPU's numbers."""
    if op.overloadpacket is aten.to:  # in inference mode it comes as it is asked for
        return op.decompose(*args, **kwargs)
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    afar = [x for x in tensors if isinstance(x, Afar)]
    if op is aten.copy_.default:
        CROSSINGS["up"] += len(afar) < 2 and isinstance(args[0], Afar)
        CROSSINGS["down"] += len(afar) < 2 and isinstance(args[1], Afar)
        numbers_of(args[0]).copy_(numbers_of(args[1]))
        return args[0]
    if op is aten._has_compatible_shallow_copy_type.default:
        return False
    indexes = op.overloadpacket in (aten.index, aten._index_put_impl_) and isinstance(args[0], Afar)
    if afar and not indexes and any(x.ndim for x in tensors if not isinstance(x, Afar)):
        raise RuntimeError(f"{op} takes tensors of one device, got some of {DEVICE} and of the CPU")
    copies = op is aten._to_copy.default
    comes, leaves = copies and not afar, copies and kwargs.get("device") == CPU
    if kwargs.get("device") is not None:
        kwargs["device"] = CPU
    plain = not (afar[0].is_inference() if afar else torch.is_inference_mode_enabled())
    with torch.inference_mode(not plain):
        made = op(*tree_map(numbers_of, args), **tree_map(numbers_of, kwargs))
        CROSSINGS["up"] += comes
        counts = op.overloadpacket is aten.nonzero or (  # a GPU has to tell how many there are
            indexes and any(x.dtype == torch.bool for x in afar if x is not args[0])
        )
        CROSSINGS["down"] += leaves or counts or isinstance(made, bool | int | float)
        known = {id(x.numbers): x for x in afar}  # what is changed in place stays itself
        return made if leaves else tree_map(lambda x: known.get(id(x), afar_of(x)), made)


def numbers_of(x: Any) -> Any:
    """Return the CPU's tensor of one of the device; all else as it is."""
    return x.numbers if isinstance(x, Afar) else x


def afar_of(x: Any) -> Any:
    """Return a tensor of the device with a tensor's numbers; all else as it is."""
    return Afar(x) if isinstance(x, Tensor) else x


OTHERS, MAKERS = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
OTHERS.fallback(launch, "PrivateUse1")  # type: ignore[no-untyped-call]
OTHERS.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")  # type: ignore[no-untyped-call]
for name in ("empty_strided", "empty.memory_format", "copy_", "_to_copy"):
    operation, _, overload = name.partition(".")
    call = getattr(getattr(aten, operation), overload or "default")
    MAKERS.impl(name, partial(launch, call), "PrivateUse1")
