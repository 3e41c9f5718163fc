"""LoRA: ``W x + (alpha/rank) B A x`` with ``B = 0`` at the start (Hu et al. 2021), through PEFT.

The reference model of every objective is the same model with its adapter off (`adapter_disabled`): there is
never a second copy in memory.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rapidun.errors import ModelError
from rapidun.files import atomic_directory, check_replaceable
from rapidun.models.adapter_files import CONFIG, WEIGHTS, check_adapter_directory, read_adapter_weights
from rapidun.models.cards import settle_files
from rapidun.models.quiet import quiet
from rapidun.models.targets import choose_targets, is_conv1d, linear_layers
from rapidun.tensor_files import tensor_names

if TYPE_CHECKING:
    from peft import PeftModel

_ANOTHER_BASE = "Give the base model that it was trained on."
_PLAIN_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def attach_lora(
    model: Any,
    *,
    rank: int = 16,
    alpha: float = 16,
    dropout: float = 0.05,
    targets: str | Sequence[str] = "all-linear",
    seed: int = 0,
) -> PeftModel:
    """Put a new, trainable LoRA adapter on ``model`` and freeze everything else.

    Args:
        model: A transformers causal LM without an adapter; changed in place.
        rank: Rank of each factor pair, at least 1.
        alpha: Scale: the update is multiplied by ``alpha / rank``.
        dropout: Share of the adapter's inputs dropped in training.
        targets: ``"all-linear"`` (all that take one, but the output head) or layer names, as ``["q_proj", "v_proj"]``.
        seed: Of the factors ``A``. The same seed gives the same adapter, and the global random state stays as it was.

    Raises:
        ModelError: If a setting is out of range, a target matches nothing or takes no adapter, or there is one already.
    """
    from peft import LoraConfig, get_peft_model

    _check_settings(rank, alpha, dropout)
    if is_adapted(model):
        raise ModelError("The model has an adapter already. Merge it (merge_adapter) before attaching another.")
    names = choose_targets(model, targets)
    layers = linear_layers(model)
    transposed = [is_conv1d(layers[name]) for name in layers if any(f".{name}".endswith(f".{end}") for end in names)]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=names,
        fan_in_fan_out=all(transposed),
    )
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(f"PEFT cannot put LoRA on {', '.join(names)}: {' '.join(str(error).split())}") from error
    if _is_checkpointing(model):
        adapted.enable_input_require_grads()
    return adapted


def _check_settings(rank: int, alpha: float, dropout: float) -> None:
    if rank < 1:
        raise ModelError(f"LoRA rank {rank}: must be at least 1.")
    if alpha <= 0:
        raise ModelError(f"LoRA alpha {alpha}: must be above 0.")
    if not 0 <= dropout < 1:
        raise ModelError(f"LoRA dropout {dropout}: must be at least 0 and below 1.")


def is_adapted(model: Any) -> bool:
    """Whether ``model`` carries a PEFT adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(module, BaseTunerLayer) for module in model.modules())


def enable_gradient_checkpointing(model: Any) -> None:
    """Trade compute for memory in training, in the one way that also trains LoRA.

    With all embeddings frozen, a checkpointed block whose inputs need no gradient passes none on: the inputs are
    made to need one, and the non-reentrant form is used.
    """
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # its name from transformers 6 on
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    if not hasattr(model, "_require_grads_hook"):  # a second hook could not be taken off again
        model.enable_input_require_grads()


@contextmanager
def checkpointed(model: Any, wanted: bool = True) -> Iterator[None]:
    """Inside, activations are recomputed where that is ``wanted``; where they are anyway nothing changes."""
    if not wanted or _is_checkpointing(model):
        yield
        return
    enable_gradient_checkpointing(model)
    try:
        yield
    finally:
        stop = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
        stop()
        model.disable_input_require_grads()


def _is_checkpointing(model: Any) -> bool:
    if hasattr(model, "is_activation_checkpointing"):
        return bool(model.is_activation_checkpointing)
    return bool(getattr(model, "is_gradient_checkpointing", False))


def save_adapter(model: PeftModel, directory: str | Path) -> Path:
    """Write the adapter in PEFT's format, safetensors, beside ``directory``, then rename it into place.

    An adapter that is there already is replaced; any other content is not touched.

    Raises:
        ModelError: If ``model`` has no adapter.
        OutputError: If something else is at ``directory``, or it cannot be written.
    """
    _need_adapter(model)
    folder = Path(directory)
    check_replaceable(folder, CONFIG, "an adapter")
    with atomic_directory(folder) as place:
        with quiet():
            model.save_pretrained(place, safe_serialization=True, save_embedding_layers=False)
        settle_files(place)
    return folder


def load_adapter(model: Any, directory: str | Path, *, trainable: bool = False) -> PeftModel:
    """Put a saved adapter on ``model``.

    Args:
        model: The base model it was trained on; changed in place.
        directory: Where `save_adapter` (or PEFT) wrote it.
        trainable: Whether the adapter's weights take gradients, e.g. to resume.

    Raises:
        ModelError: If there is no safetensors adapter, it does not fit the model, or the model has one already.
    """
    from peft import PeftModel

    folder = Path(directory)
    check_adapter_directory(folder)
    if is_adapted(model):
        raise ModelError("The model has an adapter already. Merge it (merge_adapter) before loading another.")
    with quiet(), torch.random.fork_rng():
        try:
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
        except Exception as error:  # PEFT raises whatever an odd configuration makes of it
            raise ModelError(f"{folder}: the adapter does not fit this model: {_why_not(str(error))}") from error
    _check_complete(adapted, folder)
    return adapted


def _why_not(said: str) -> str:
    """What PEFT or PyTorch said, in a sentence; of tensors of another size, the first."""
    sizes = re.search(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)", said, re.DOTALL)
    if sizes is None:
        return f"{textwrap.shorten(said, 300, placeholder=' ...').rstrip('.')}. {_ANOTHER_BASE}"
    name, saved, own = sizes.groups()
    hint = _ANOTHER_BASE
    if ".lora_A." in name and saved.split(",")[1:] == own.split(",")[1:]:
        hint = f"Its {CONFIG} gives another rank than its factors have: restore that file."
    if "embed" in name or "lm_head" in name:
        hint = "It was trained with another vocabulary: give the base model with as many token embeddings."
    return f"{name} is {saved} in the adapter and {own} here. {hint}"


def _check_complete(adapted: PeftModel, folder: Path) -> None:
    """PEFT only warns of names that fit nothing; those layers would silently stay untrained."""
    from peft import set_peft_model_state_dict

    with quiet():  # again, for what it says of names; PEFT knows the old ones of layers that have new names
        result = set_peft_model_state_dict(adapted, read_adapter_weights(folder))
    own = [name for name in result.missing_keys if re.search(r"\.default(\.|$)", name)]
    odd = sorted([*own, *result.unexpected_keys])
    if odd:
        raise ModelError(
            f"{folder}: the adapter does not fit this model: {len(odd)} tensors differ, e.g. {odd[0]}. {_ANOTHER_BASE}"
        )


def beyond_low_rank(model: PeftModel, directory: str | Path) -> list[str]:
    """What a saved adapter on ``model`` holds beside low-rank factors, a sentence each; empty for plain LoRA."""
    from peft.utils import AuxiliaryTrainingWrapper

    names = [name for name in tensor_names(Path(directory) / WEIGHTS) if ".lora_" not in name]
    wrappers = [name for name, module in model.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    copies = [name for name in names if name.startswith(tuple(f"{wrapper}." for wrapper in wrappers))]
    said = []
    if copies:
        said.append(f"the adapter holds {_such(copies)} beside its low-rank factors: no gradient of them is collected")
    if own := sorted(set(names) - set(copies)):
        said.append(f"the adapter sets {_such(own)} of the model itself: they stay where it is switched off")
    if isinstance(how := model.peft_config["default"].init_lora_weights, str) and how != "gaussian":
        said.append(f"the adapter began with {how}, which may have changed the weights it is on: also where it is off")
    return said


def _such(names: list[str]) -> str:
    example = names[0].removeprefix("base_model.model.").replace(".base_layer.", ".")
    return example if len(names) == 1 else f"{len(names)} tensors, e.g. {example},"


def merge_adapter(model: PeftModel) -> Any:
    """The base model with the adapter's update added to its weights, and no adapter left. Changes it in place.

    Raises:
        ModelError: If there is no adapter, or merged weights would not be finite.
    """
    _need_adapter(model)
    try:
        with quiet():
            return model.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"The adapter cannot be merged: {error}") from error


@contextmanager
def adapter_disabled(model: PeftModel) -> Iterator[Any]:
    """Inside, ``model`` computes what its base model computes; afterwards all is as it was.

    May be nested. Whether the adapter's weights take gradients is kept: PEFT alone would switch that on.

    Raises:
        ModelError: If ``model`` has no adapter.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    _need_adapter(model)
    if all(module.disable_adapters for module in model.modules() if isinstance(module, BaseTunerLayer)):
        yield model
        return
    took_gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield model
    finally:
        for parameter, flag in took_gradients:
            parameter.requires_grad_(flag)


@contextmanager
def in_base_dtype(model: Any) -> Iterator[torch.autocast]:
    """Inside, a half-precision model's adapter takes inputs as they are; its float32 factors are used rounded.

    PEFT makes a float32 copy of every layer's input, which takes as much memory and time as the rest of a layer. The
    factors stay float32 and so do their gradients, as in any mixed-precision training. The forward pass must run under
    the autocast that is given; the backward pass must lie inside too, where activations are recomputed.
    """
    from peft.helpers import disable_input_dtype_casting

    dtype, device = model.dtype, next(model.parameters()).device.type  # also of a whole model, which has no adapter
    half = dtype in (torch.bfloat16, torch.float16)
    with disable_input_dtype_casting(model, active=half):
        yield torch.autocast(device, dtype=dtype if half else None, enabled=half)


@contextmanager
def adapter_merged(model: Any) -> Iterator[Any]:
    """Inside, the adapter's update is part of the weights, rounded to their precision; afterwards all is as it was.

    Halves the time of generating on a CPU, where a small model's adapter costs as much as the model. Needs room for a
    second copy of the adapted weights. What cannot be merged and put back exactly is left as it is: a model without an
    adapter, with one that is merged or switched off already, or with adapted weights that are quantised or shared.

    Raises:
        ModelError: If merged weights would not be finite.
    """
    weights = _mergeable_weights(model)
    if not weights:
        yield model
        return
    kept = [weight.detach().clone() for weight in weights]
    try:
        with quiet():
            _merge(model)
        yield model
    finally:
        with quiet():
            model.unmerge_adapter()
        with torch.no_grad():  # taking the update away again would leave rounding behind
            for weight, values in zip(weights, kept, strict=True):
                weight.copy_(values)


def _merge(model: Any) -> None:
    try:
        model.merge_adapter(safe_merge=True)
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"The adapter cannot be merged: {error}") from error


def _mergeable_weights(model: Any) -> list[torch.nn.Parameter]:
    """The adapted weights, if merging changes them and nothing else; none otherwise."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if any(layer.merged or layer.disable_adapters or any(layer.lora_bias.values()) for layer in layers):
        return []
    weights: list[Any] = [getattr(layer.get_base_layer(), "weight", None) for layer in layers]
    owned = [parameter for module in model.modules() for parameter in module._parameters.values()]
    uses = Counter(id(parameter) for parameter in owned if parameter is not None)  # a tied weight has two owners
    plain = all(
        type(weight) is torch.nn.Parameter and weight.dtype in _PLAIN_DTYPES and uses[id(weight)] == 1
        for weight in weights
    )
    return weights if plain else []


def _need_adapter(model: Any) -> None:
    if not (hasattr(model, "peft_config") and is_adapted(model)):
        raise ModelError("The model has no adapter. Attach one with attach_lora or load_adapter.")
