"""Folders that diffusers saved: a UNet2DModel and the schedule that it was trained with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from latino_engine.errors import PriorInvalid, invalid, whole_number
from latino_engine.priors.assembly import build_network, build_prior, check_weights
from latino_engine.priors.importers.checkpoint import MAX_BYTES, state_of
from latino_engine.priors.importers.weight_files import read_weights, weight_files
from latino_engine.priors.prior import Prior, PriorSpec
from latino_engine.priors.sigma_tables import cosine_sigmas, scaled_linear_sigmas
from latino_engine.schedule import linear_beta_sigmas, sigmas_of
from latino_engine.system.described import NotAsDescribed, read_json

_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_PRIVATE = ("_name_or_path",)


def import_diffusers(
    folder: str | Path,
    *,
    label: int | None = None,
    name: str | None = None,
    data_range: tuple[float, float] = (0.0, 1.0),
    scheduler: str | Path | None = None,
    max_bytes: int = MAX_BYTES,
) -> Prior:
    """A prior from a local folder of diffusers; nothing is ever downloaded.

    The folder is a pipeline (`unet/` + `scheduler/`, with or without model_index.json), or a bare
    model (`config.json` + weights) with `scheduler_config.json` beside it. Weights may be whole or
    sharded (`*.index.json`), safetensors or `.bin`, in full precision or fp16, which is taken where
    nothing else is there. Schedulers with betas
    (DDPM, DDIM, PNDM, Euler, DPM-Solver, ...) give the table of noise levels and the prediction
    (epsilon, v_prediction, sample); EDM schedulers give the preconditioning of Karras et al.
    `clip_sample` and thresholding are ignored.

    Args:
        folder: as above.
        label: the class that a class-conditional model is used for.
        name: of the prior; the folder's name by default.
        data_range: (low, high) of your images; the network itself works in [-1, 1].
        scheduler: a folder or file with scheduler_config.json, where the folder has none.
        max_bytes: largest size of the weights that is read.

    Raises:
        PriorInvalid: a folder, file, model or schedule that cannot be used; diffusers is missing.
        ValueError: a label that is missing or does not fit.
    """
    root = Path(folder)
    _check_pipeline(root)
    home = root / "unet" if (root / "unet").is_dir() else root
    config = _json(home / "config.json")
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise PriorInvalid(
            f"config.json: expected a UNet2DModel, got {config.get('_class_name')}; "
            "a network with text or latents is no pixel prior"
        )
    plan = _json(_scheduler_file(root, scheduler))
    files = weight_files(home)
    state = state_of(read_weights(files, max_bytes))
    config = {k: v for k, v in config.items() if k not in _PRIVATE}
    spec = _spec(name or root.resolve().name, config, plan, label, data_range)
    network = build_network(spec)
    weights = _as_written_today(state, network.state_dict())
    check_weights(
        network.state_dict(),
        weights,
        f"{files[0].name}: expected the weights of the model in config.json",
        "copy the folder again from its source",
    )
    return build_prior(spec, weights)


def _spec(
    name: str,
    config: Mapping[str, Any],
    plan: Mapping[str, Any],
    label: int | None,
    data_range: tuple[float, float],
) -> PriorSpec:
    for field in ("in_channels", "out_channels", "down_block_types"):
        if field not in config:
            raise PriorInvalid(
                f"config.json: expected {field}, got none; copy the file again from its source"
            )
    channels, out = int(config["in_channels"]), int(config["out_channels"])
    if out not in (channels, 2 * channels):
        raise PriorInvalid(
            f"config.json: expected out_channels {channels} or {2 * channels}, got {out}; "
            "a conditional network is no prior"
        )
    architecture: dict[str, Any] = {"name": "diffusers-unet2d", "config": dict(config)}
    chosen = _check_label(label, config)
    if chosen is not None:
        architecture["label"] = chosen
    low, high, table, preconditioning = _schedule(plan)
    return PriorSpec(
        name=name,
        channels=channels,
        size_multiple=2 ** (len(config["down_block_types"]) - 1),
        data_range=data_range,
        sigma_min=low,
        sigma_max=high,
        architecture=architecture,
        preconditioning=preconditioning,
        sigma_table=table,
    )


def _schedule(
    plan: Mapping[str, Any],
) -> tuple[float, float, tuple[float, ...] | None, dict[str, Any]]:
    """sigma_min, sigma_max, table and preconditioning of a scheduler_config.json."""
    kind = str(plan.get("_class_name"))
    prediction = plan.get("prediction_type", "epsilon")  # absent in files older than the field
    try:
        if kind in _EDM:
            if prediction not in ("epsilon", "v_prediction"):
                raise ValueError(f"prediction_type {prediction!r}")
            edm = {"name": "edm", "sigma_data": float(plan.get("sigma_data", 0.5))}
            edm |= {"sign": -1.0} if prediction == "v_prediction" else {}
            low, high = float(plan.get("sigma_min", 0.002)), float(plan.get("sigma_max", 80.0))
            return low, high, None, edm
        if prediction not in _PREDICTIONS:
            raise ValueError(f"prediction_type {prediction!r}")
        table = _table(plan)
    except (KeyError, TypeError, ValueError) as error:
        got = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise PriorInvalid(
            f"scheduler_config.json: expected a {kind} with betas and a known prediction, or an "
            f"EDM scheduler, got {got}; use the scheduler that the model was trained with"
        ) from error
    fields = {"prediction": _PREDICTIONS[prediction], "scaling": "vp", "time": "index"}
    return table[0], table[-1], table, {"name": "prediction", **fields}


def _table(plan: Mapping[str, Any]) -> tuple[float, ...]:
    if plan.get("rescale_betas_zero_snr"):
        raise ValueError("rescale_betas_zero_snr, whose last noise level is infinite")
    if plan.get("trained_betas") is not None:
        return tuple(float(s) for s in sigmas_of(plan["trained_betas"]))
    count, kind = int(plan["num_train_timesteps"]), plan["beta_schedule"]
    if kind == "squaredcos_cap_v2":
        return tuple(float(s) for s in cosine_sigmas(count))
    makers = {"linear": linear_beta_sigmas, "scaled_linear": scaled_linear_sigmas}
    if kind not in makers:
        raise ValueError(f"beta_schedule {kind!r}")
    ends = float(plan["beta_start"]), float(plan["beta_end"])
    return tuple(float(s) for s in makers[kind](count, *ends))


def _check_pipeline(root: Path) -> None:
    if not root.is_dir():
        raise PriorInvalid(
            f"folder: expected a folder that diffusers saved, got {str(root)!r}, which is none; "
            "download it first"
        )
    index = root / "model_index.json"
    if index.is_file():
        unet = _json(index).get("unet", ["diffusers", "UNet2DModel"])
        found = unet[1] if isinstance(unet, list) and len(unet) == 2 else unet
        if found != "UNet2DModel":
            raise PriorInvalid(
                f"model_index.json: expected a UNet2DModel, got {found}; a network with text or "
                "latents is no pixel prior; load_prior and compile read text-to-image pipelines"
            )


def _scheduler_file(root: Path, given: str | Path | None) -> Path:
    places = [root / "scheduler" / "scheduler_config.json", root / "scheduler_config.json"]
    if given is not None:
        path = Path(given)
        places = [path / "scheduler_config.json" if path.is_dir() else path]
    for place in places:
        if place.is_file():
            return place
    raise PriorInvalid(
        f"scheduler: expected scheduler_config.json in {root.name!r} or its folder scheduler, got "
        "none; the noise schedule cannot be told from the weights: name its file as scheduler"
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PriorInvalid(
            f"{path.name}: expected it in the folder {path.parent.name!r}, as save_pretrained "
            "writes it, got none; name the folder that holds it or its unet"
        )
    try:
        fields = read_json(path)
    except (OSError, NotAsDescribed) as error:
        raise PriorInvalid(
            f"{path.name}: expected the JSON file that diffusers writes, got {error}; "
            "copy the folder again from its source"
        ) from error
    if not isinstance(fields, dict):
        raise PriorInvalid(
            f"{path.name}: expected an object, got {type(fields).__name__}; "
            "copy the folder again from its source"
        )
    return fields


def _as_written_today(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The weights under this network's names: old files call the attention's layers otherwise."""
    out = {}
    for name, weight in state.items():
        new = f"unet.{name}"
        if new not in expected:
            new = re.sub(
                r"\.(query|key|value|proj_attn)\.(weight|bias)$",
                lambda m: f".{_OLD_ATTENTION[m.group(1)]}.{m.group(2)}",
                new,
            )
        out[new] = weight
    return out


def _check_label(label: int | None, config: Mapping[str, Any]) -> int | None:
    classes = config.get("num_class_embeds")
    if config.get("class_embed_type") in (None, "") and classes is None:
        if label is not None:
            raise invalid("label", "None for an unconditional network", label, "leave it out")
        return None
    limit = None if classes is None else int(classes)
    if label is None or whole_number("label", label) < 0 or (limit and label >= limit):
        expected = f"a class{'' if limit is None else f' in 0..{limit - 1}'} of this network"
        raise invalid("label", expected, label, "choose the class that the images belong to")
    return label
