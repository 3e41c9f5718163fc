"""A model object that somebody holds already, used as `load_model` would have loaded it, and given back as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rapidun.errors import ModelError
from rapidun.models.attention import choose_attention
from rapidun.models.fingerprints import model_fingerprint
from rapidun.models.loading import LoadedModel, check_ends, check_vocabulary
from rapidun.models.lora import is_adapted, load_adapter, merge_adapter
from rapidun.models.modes import evaluating
from rapidun.models.quiet import quiet

UNLEARNED = "unlearned"
"""Name of an adapter that joins those of a PEFT model."""


@contextmanager
def borrowed(model: Any, tokenizer: Any) -> Iterator[LoadedModel]:
    """Inside, ``model`` and ``tokenizer`` as a `LoadedModel`; afterwards the model is as it was.

    What is put back: training mode, which parameters take gradients, how it attends. Its weights are not changed.

    Args:
        model: A transformers causal LM, or a PEFT model of one.
        tokenizer: Its own.

    Raises:
        ModelError: If it is something else, lies on several devices, or the tokenizer is missing or another model's.
    """
    _check_kind(model)
    source = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    if tokenizer is None:
        raise ModelError(f"{source}: give its tokenizer too.")
    check_ends(tokenizer, source)
    check_vocabulary(model, tokenizer, source)
    device = _only_device(model, source)
    took_gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    attention = model.config._attn_implementation
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    try:
        with evaluating(model):
            choose_attention(base, device, base.dtype)
            yield LoadedModel(model, tokenizer, source, device, base.dtype, model_fingerprint(model))
    finally:
        for parameter, flag in took_gradients:
            parameter.requires_grad_(flag)
        if model.config._attn_implementation != attention:
            with quiet():
                base.set_attn_implementation(attention)


def check_trainable(model: Any) -> None:
    """Refuse a model whose quantised weights pass no gradient on to an adapter.

    Raises:
        ModelError: Says how it is quantised, and what to load instead.
    """
    kinds = {type(module).__module__ for module in model.modules()}
    odd = next((kind for kind in kinds if ".nn.quantized" in kind), None)  # PyTorch's own
    quantizer = getattr(model, "hf_quantizer", None)
    if odd is None and (quantizer is None or quantizer.is_trainable):
        return
    method = getattr(getattr(quantizer, "quantization_config", None), "quant_method", "")
    how = odd or getattr(method, "value", method)
    raise ModelError(
        f"the model is quantised ({how}) in a way that no adapter can be trained on. Load it in "
        "bfloat16, or in 4 or 8 bits with bitsandbytes."
    )


def without_adapter(loaded: LoadedModel) -> LoadedModel:
    """The same without an adapter: itself, or a copy into whose weights its adapter is merged."""
    if not is_adapted(loaded.model):
        return loaded
    if not hasattr(loaded.model, "merge_and_unload"):
        raise ModelError("the model's adapter was put on without PEFT's own model class: wrap it by PeftModel first.")
    merged = merge_adapter(copy.deepcopy(loaded.model))
    return replace(loaded, model=merged, fingerprint=model_fingerprint(merged))


def with_adapter(loaded: LoadedModel, directory: Path) -> Any:
    """The model with a saved adapter on it, beside its own where it has some."""
    model = loaded.model
    if not is_adapted(model):
        return load_adapter(model, directory)
    name, taken = UNLEARNED, list(model.peft_config)
    while name in taken:
        name += "_again"
    active = list(model.active_adapters)
    model.load_adapter(str(directory), adapter_name=name)
    took_gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.base_model.set_adapter([*active, name])
    for parameter, flag in took_gradients:  # PEFT lets every adapter that it switches on take gradients
        parameter.requires_grad_(flag)
    return model


def _check_kind(model: Any) -> None:
    if not (isinstance(model, torch.nn.Module) and hasattr(model, "generate") and hasattr(model, "config")):
        raise ModelError(
            f"a {type(model).__name__} is no language model: give a transformers causal LM, a PEFT model of one, what "
            "load_model returned, or a path."
        )
    if hasattr(model, "get_base_model") and not is_adapted(model):
        raise ModelError(f"the model's PEFT adapter ({model.peft_type}) is no LoRA adapter: only those can be used.")


def _only_device(model: torch.nn.Module, source: str) -> torch.device:
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) != 1 or "meta" in {device.type for device in devices}:
        where = ", ".join(sorted(map(str, devices)))
        raise ModelError(f"{source}: its weights are on {where or 'no device'}. Put the whole model on one device.")
    return devices.pop()
