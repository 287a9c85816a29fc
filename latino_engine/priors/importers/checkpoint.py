"""Reading a foreign checkpoint safely: tensors and plain data only, of a bounded size."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from latino_engine.errors import PriorInvalid

#: The largest published diffusion U-Net (512 x 512, float32) has 2.3 GB; an optimiser's state
#: beside the weights makes three times as much.
MAX_BYTES = 8 * 2**30

_WRAPPED = "module."  # what DistributedDataParallel puts before every name


def read_checkpoint(path: str | Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The mapping in a `.safetensors` file or in a file of `torch.save`, without running code.

    A pickled file goes through torch's weights-only reader: tensors, numbers, strings and their
    containers. Anything else in it is refused before it is built.

    Args:
        path: the file.
        max_bytes: largest size, of the file and of what it unpacks to.

    Raises:
        PriorInvalid: no such file, a larger, damaged or poisoned one, or one that holds no mapping.
    """
    file = Path(path)
    if not file.is_file():
        kind = "a folder" if file.is_dir() else "no such file"
        raise PriorInvalid(
            f"checkpoint: expected a file of weights, got {str(path)!r}, {kind}; check the path"
        )
    check_size(file, max_bytes)
    found = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickled(file)
    if not isinstance(found, Mapping):
        raise PriorInvalid(
            f"checkpoint: expected names with weights in {file.name!r}, got "
            f"{type(found).__name__}; save the network's state_dict()"
        )
    _check_tensors(file, found, max_bytes)
    return dict(found)


def state_of(checkpoint: Mapping[str, Any], key: str | None = None) -> dict[str, Tensor]:
    """The weights in a checkpoint: itself, or the mapping under `key`, as float32.

    A prefix "module." on every name is removed.

    Raises:
        PriorInvalid: no weights there, or several mappings and no key.
    """
    found: Any = checkpoint
    if key is not None:
        if not isinstance(checkpoint.get(key), Mapping):
            raise PriorInvalid(
                f"key: expected the name of a mapping in the checkpoint, got {key!r}; "
                f"it holds {_names(checkpoint)}"
            )
        found = checkpoint[key]
    elif not _is_state(checkpoint):
        inside = [name for name, value in checkpoint.items() if _is_state(value)]
        if len(inside) != 1:
            which = ", ".join(map(str, inside)) or f"none among {_names(checkpoint)}"
            raise PriorInvalid(
                f"checkpoint: expected one mapping of weights, got {which}; "
                "name the one to use as key"
            )
        found = checkpoint[inside[0]]
    if not _is_state(found):
        raise PriorInvalid(
            f"checkpoint: expected tensors, got other things ({_names(found)}); "
            "save the network's state_dict()"
        )
    wrapped = all(str(name).startswith(_WRAPPED) for name in found)
    return {
        str(name)[len(_WRAPPED) if wrapped else 0 :]: value.detach().float().contiguous()
        if value.is_floating_point()
        else value
        for name, value in found.items()
    }


def check_size(file: Path, max_bytes: int, argument: str = "checkpoint") -> None:
    """Refuses a file that is larger than max_bytes, or unpacks to more.

    Raises:
        PriorInvalid: the file is too large; the sentence begins with `argument`.
        OSError: no such file.
    """
    size = file.stat().st_size
    if zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as archive:
                size = max(size, sum(entry.file_size for entry in archive.infolist()))
        except (zipfile.BadZipFile, OSError):
            pass  # the reader tells what is wrong with it
    check_bytes(file, size, max_bytes, argument)


def check_bytes(path: Path, size: int, max_bytes: int, argument: str = "checkpoint") -> None:
    """Refuses a `size` above the limit.

    Raises:
        PriorInvalid: size > max_bytes.
    """
    if size > max_bytes:
        raise PriorInvalid(
            f"{argument}: expected at most {1e-9 * max_bytes:.3g} GB, got {path.name!r} of "
            f"{1e-9 * size:.3g} GB; raise max_bytes (--max-gb) if you trust it"
        )


def _check_tensors(file: Path, found: Any, max_bytes: int) -> None:
    """Refuses tensors that are not plain arrays, or are larger than what the file stores."""
    size, seen, left = 0, set(), [found]
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_quantized or value.is_meta:
                kind = "meta" if value.is_meta else "quantized" if value.is_quantized else "sparse"
                raise PriorInvalid(
                    f"checkpoint: expected dense tensors in {file.name!r}, got a {kind} one; "
                    "save its weights as dense float tensors"
                )
            size += value.numel() * value.element_size()
        elif isinstance(value, Mapping | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            left += value.values() if isinstance(value, Mapping) else value
    check_bytes(file, size, max_bytes)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error


def _read_pickled(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = " ".join(str(error).split())
        if "weights_only" not in text.lower() and "unsupported" not in text.lower():
            raise _damaged(file, error) from error
        raise PriorInvalid(
            f"checkpoint: expected tensors and plain data, got {file.name!r}, which holds "
            f"{_forbidden(text)}; nothing of it was run: ask its author for a state_dict in "
            "safetensors"
        ) from error
    except Exception as error:  # a crafted pickle can make the reader fail in any way
        raise _damaged(file, error) from error


def _forbidden(text: str) -> str:
    """What torch's reader refused, in few words."""
    for mark in ("GLOBAL ", "Unsupported global: "):
        if mark in text:
            return f"the code object {text.split(mark, 1)[1].split()[0].rstrip('.,')}"
    return "something else"


def _damaged(file: Path, error: BaseException) -> PriorInvalid:
    first = " ".join(str(error).split())[:120] or type(error).__name__
    return PriorInvalid(
        f"checkpoint: expected a whole file of weights, got {file.name!r}, which cannot be read "
        f"({first}); copy it again from its source"
    )


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(tensor, Tensor) for tensor in value.values())
    )


def _names(mapping: Any, most: int = 6) -> str:
    names = list(map(str, mapping))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "nothing"
