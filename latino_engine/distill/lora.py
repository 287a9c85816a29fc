"""Which weights of a network are trained: low-rank changes by peft, and layers as a whole."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from latino_engine.errors import BackendNotAvailable, invalid

TARGETS = ("attention", "all-conv", "full")
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
ADAPTER_NAME = "default"  # peft's name of the only adapter


def adapt(network: nn.Module, targets: str, rank: int, alpha: float, seed: int) -> None:
    """Make the chosen weights of `network` trainable, in place, and all others not.

    Low-rank layers compute W x + (alpha / rank) B A x with A random and B = 0, so that the network
    is unchanged at first.

    Args:
        network: of a prior.
        targets: "attention": low-rank changes of the attention projections, and the output
            convolution as a whole; "all-conv": of every other linear and convolution layer too;
            "full": every weight is trained as it is.
        rank: r >= 1 of the low-rank changes, at most the full rank of the largest layer.
        alpha: their scale times r.
        seed: of A.

    Raises:
        InvalidArgument: an unknown target, rank or alpha, or a network without attention.
        BackendNotAvailable: peft is missing.

    Source: Hu et al. (2022), arXiv:2106.09685.
    """
    if targets not in TARGETS:
        raise invalid("targets", f"one of {', '.join(TARGETS)}", repr(targets), "choose one")
    if rank < 1 or not 0.0 < alpha < math.inf:
        got = f"rank {rank}, alpha {alpha:g}"
        expected = "a rank of at least 1 and a finite alpha above 0"
        raise invalid("rank, alpha", expected, got, "change them")
    if targets == "full":
        network.requires_grad_(True)
        return
    output = output_layer(network)
    chosen = _low_rank_layers(network, targets, output)
    weights = (cast(Tensor, network.get_submodule(name).weight) for name in chosen)
    largest = max(min(weight.flatten(1).shape) for weight in weights)
    if rank > largest:
        expected = f"a rank of at most {largest}, that of the largest layer"
        raise invalid("rank", expected, rank, "choose a smaller one, or targets='full'")
    network.requires_grad_(False)
    peft = _peft()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen)
        peft.inject_adapter_in_model(config, network, adapter_name=ADAPTER_NAME)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith(f"{output}."))


def trained_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights of an adapter: lora_A.<module>, lora_B.<module>, full.<parameter>."""
    found: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if hasattr(module, "lora_A"):
            layers = cast(Any, module)
            found[f"lora_A.{name}"] = layers.lora_A[ADAPTER_NAME].weight.detach().clone()
            found[f"lora_B.{name}"] = layers.lora_B[ADAPTER_NAME].weight.detach().clone()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and "lora_" not in name:
            found[f"full.{name}"] = parameter.detach().clone()
    return found


def output_layer(network: nn.Module) -> str:
    """Name of the last convolution or linear layer in the order of registration."""
    names: list[str] = [n for n, m in network.named_modules() if isinstance(m, _LAYERS)]
    return names[-1]


def _low_rank_layers(network: nn.Module, targets: str, output: str) -> list[str]:
    layers = [name for name, module in network.named_modules() if isinstance(module, _LAYERS)]
    attentions = [n for n, m in network.named_modules() if "attention" in type(m).__name__.lower()]
    if targets == "attention":
        layers = [n for n in layers if any(n.startswith(f"{a}.") for a in attentions)]
    chosen = [name for name in layers if name != output]
    if not chosen:
        raise invalid(
            "targets", "a network with attention", "one without", "use targets='all-conv'"
        )
    return chosen


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise BackendNotAvailable(
            "distill: expected the package peft, got none installed; install it by: "
            "pip install 'latino-engine[distill]'"
        ) from error
    return peft
