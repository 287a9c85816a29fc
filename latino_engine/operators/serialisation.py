"""Operators as text, as JSON with arrays, and as files.

A record is a dict of JSON types. An array stands in it as `{"array": name}`, and the array itself
in a dict beside it; a number, a string and a boolean stand as they are; an operator inside another
is a record of its own. Its keys are the arguments of the operator's class, so that a record is
restored by one call and holds the parameters to the last bit.
"""

from __future__ import annotations

import inspect
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latino_engine import operators
from latino_engine.atomic import PathLike, atomic_file
from latino_engine.errors import invalid, unreadable
from latino_engine.operators import SuperResolution
from latino_engine.operators.parts.checks import Unknown
from latino_engine.operators.protocol import Operator

Arrays = dict[str, Any]  # name -> array

#: LinearOperator holds the user's own functions, which no file can.
_CLASSES: dict[str, Any] = {
    name: getattr(operators, name)
    for name in operators.__all__
    if name not in ("DataStep", "LinearOperator", "Operator")
}
_REMEDY = "write it by Posterior.save or by save_operator"


def spec_of(op: Operator, file: PathLike | None = None) -> str:
    """The operator as the string that `le.operator` and the command line understand.

    Args:
        op: one of this package's operators.
        file: name of an npz file; where the operator holds arrays, or values that the grammar has
            no words for, they are written there and the string is `saved:file=NAME`.

    Raises:
        ValueError: an operator that needs a file and was given none, or one of the user's own
            functions.
        OutputNotWritable: the file cannot be written.
    """
    words = op.words()
    if words is not None:
        return words
    if file is None:
        what = f"{type(op).__name__}, which holds arrays"
        raise invalid("file", f"a name for the arrays of {what}", None, "name an npz file")
    save_operator(op, file)
    return f"saved:file={file}"


def save_operator(op: Operator, file: PathLike) -> None:
    """Write an operator with its arrays to an npz file; nothing in it is pickled.

    Raises:
        ValueError: another extension, or a model of the user's own functions.
        OutputNotWritable: the file cannot be written.
    """
    if Path(file).suffix.lower() != ".npz":
        raise invalid("file", "a name that ends on .npz", str(file), "name it operator.npz")
    fields, arrays = record(op)
    with atomic_file(file, argument="file") as out:
        np.savez(out, operator=np.array(json.dumps(fields)), **arrays)


def load_operator(file: PathLike) -> Operator:
    """The operator that `save_operator` or `Posterior.save` wrote.

    Raises:
        ImageUnreadable: a file that is missing, damaged or of other contents.
    """
    path, expected = Path(file), "an npz file with an operator"
    try:
        with np.load(path, allow_pickle=False) as stored:  # reads the arrays that are asked for
            return restored(json.loads(str(stored["operator"])), stored)
    except FileNotFoundError as error:
        raise unreadable(path, expected, "no such file", "check the path") from error
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise unreadable(path, expected, "another or a damaged one", _REMEDY) from error


def record(op: Operator, prefix: str = "") -> tuple[dict[str, Any], Arrays]:
    """An operator as JSON types, and the arrays that they name.

    Args:
        op: one of this package's operators.
        prefix: stands before the name of every array.

    Raises:
        ValueError: a model of the user's own functions, which no file can hold.
    """
    kind = type(op).__name__
    if _CLASSES.get(kind) is not type(op):
        expected = f"one of {', '.join(sorted(_CLASSES))}"
        remedy = "keep the function that makes it, and give the operator again"
        raise invalid("operator", expected, f"{kind}, which holds functions", remedy)
    fields: dict[str, Any] = {"class": kind}
    arrays: Arrays = {}
    for name in list(inspect.signature(type(op).__init__).parameters)[1:]:
        value = getattr(op, name)
        if name == "kernel" and isinstance(op, SuperResolution) and op.kernel_name != "array":
            value = op.kernel_name
        fields[name] = _stored(value, prefix + name, arrays)
    return fields, arrays


def _stored(value: Any, name: str, arrays: Arrays) -> Any:
    if isinstance(value, Tensor):
        arrays[name] = value.detach().cpu().numpy()
        return {"array": name}
    if isinstance(value, tuple) and value and isinstance(value[0], Operator):
        return [_stored(one, f"{name}.{i}", arrays) for i, one in enumerate(value)]
    if isinstance(value, Operator):
        fields, inner = record(value, f"{name}.")
        arrays |= inner
        return fields
    if isinstance(value, Unknown):
        return "estimate"
    return list(value) if isinstance(value, tuple) else value


def restored(fields: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Operator:
    """The operator of a record.

    Raises:
        KeyError, TypeError, ValueError: fields that are no record.
    """
    values = {name: _restored(value, arrays) for name, value in fields.items()}
    kind = _CLASSES[values.pop("class")]
    if kind is SuperResolution and isinstance(values["kernel"], Tensor):
        grid, values["grid"] = values["grid"], "corner"  # where the taps have been moved to
        op = SuperResolution(**values)
        object.__setattr__(op, "grid", grid)
        return op
    return cast(Operator, kind(**values))


def _restored(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(value, dict):
        if "array" in value:
            return torch.from_numpy(np.array(arrays[value["array"]]))
        return restored(value, arrays)
    if isinstance(value, list):
        return tuple(_restored(one, arrays) for one in value)
    return value
