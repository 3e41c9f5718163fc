"""Any Hugging Face causal LM and its tokenizer: loaded, checked, on a device, with a fingerprint; and saved whole."""

from __future__ import annotations

import importlib.util
import io
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from rapidun.data.special import padding_id
from rapidun.errors import ModelError
from rapidun.files import atomic_directory, check_replaceable
from rapidun.models.attention import choose_attention
from rapidun.models.fingerprints import model_fingerprint
from rapidun.models.placement import choose_device, choose_dtype
from rapidun.models.quiet import quiet
from rapidun.models.sources import check_directory, check_gguf, gguf_options, hub_options, is_gguf, is_local

Quantize = Literal["4bit", "8bit"]


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM in evaluation mode and what is needed to say which one it is.

    Args:
        model: The transformers model.
        tokenizer: Its tokenizer, as it came; has an EOS.
        source: The path or hub id, as given.
        device: Where the model is.
        dtype: Of its parameters; of its arithmetic where it is quantised.
        fingerprint: Of its parameters (`model_fingerprint`).
        notes: What was decided on the user's behalf, to be shown to them.
        decoding: A mitigation that takes part in its answers (`rapidun.evaluation.mitigations.Decoding`), or None.
    """

    model: Any
    tokenizer: Any
    source: str
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    notes: tuple[str, ...] = ()
    decoding: Any = None

    @property
    def pad_token_id(self) -> int:
        """What `rapidun.data.collate` fills rows with (`padding_id`); never attended to, and never EOS."""
        return padding_id(self.tokenizer)

    @property
    def context_length(self) -> int | None:
        """Tokens the model can read at once, where its configuration says so."""
        found = getattr(self.model.config, "max_position_embeddings", None)
        return None if found is None else int(found)


def load_model(
    source: str | Path,
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    quantize: Quantize | None = None,
    dangerously_trust_remote_code: bool = False,
    dangerously_allow_pickle: bool = False,
) -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        source: A local model directory, a ``.gguf`` file (dequantised), or a hub id.
        device: ``auto`` (cuda, else mps, else cpu), or a torch device name.
        dtype: ``auto`` (see `choose_dtype`), ``float32``, ``bfloat16`` or ``float16``.
        quantize: Load the linear layers in 4 (NF4, double quantisation) or 8 bits; needs a CUDA GPU and bitsandbytes.
        dangerously_trust_remote_code: Run Python code that comes with the model.
        dangerously_allow_pickle: Read weights that are not safetensors.

    Raises:
        ModelError: If anything about the model, its tokenizer, the device or the quantisation cannot be used.

    Examples:
        >>> import rapidun
        >>> loaded = rapidun.load_model("model", dtype="bfloat16")
        >>> loaded.dtype, loaded.model.training, loaded.tokenizer.eos_token
        (torch.bfloat16, False, '</s>')
    """
    name = str(source)
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    where, of_file = _place(name, quantize, allow_pickle=dangerously_allow_pickle)
    options = _quantization(quantize, place, precision)
    of_tokenizer: dict[str, Any] = {key: of_file[key] for key in ("gguf_file", "local_files_only") if key in of_file}
    tokenizer = _load_tokenizer(where, name, trust=dangerously_trust_remote_code, options=of_tokenizer)
    notes = _padding_note(tokenizer)
    model = _load_weights(
        where,
        name,
        dtype=precision,
        trust_remote_code=dangerously_trust_remote_code,
        use_safetensors=None if dangerously_allow_pickle else True,
        device_map={"": place},  # straight to its device, without a copy in main memory
        **options,
        **of_file,
    )
    check_vocabulary(model, tokenizer, name)
    choose_attention(model, place, precision)
    return LoadedModel(model.eval(), tokenizer, name, place, precision, model_fingerprint(model), notes)


def _place(source: str, quantize: Quantize | None, *, allow_pickle: bool) -> tuple[str, dict[str, Any]]:
    """What to give ``from_pretrained``: a directory or hub id, and what a GGUF file or a hub out of reach needs."""
    if not is_gguf(source):
        local = is_local(source)
        return (str(check_directory(source, allow_pickle=allow_pickle)), {}) if local else (source, hub_options())
    path = check_gguf(source)
    if quantize is not None:
        raise ModelError(f"{source}: a GGUF file is read dequantised, so not in {quantize}. Leave one of them out.")
    return str(path.parent), gguf_options(path)


def _load_weights(where: str, source: str, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with quiet(), redirect_stderr(io.StringIO()):  # the GGUF reader's bar asks no setting
        try:
            model, report = AutoModelForCausalLM.from_pretrained(where, output_loading_info=True, **options)
        except Exception as error:  # transformers, safetensors and the hub raise a dozen unrelated types here
            raise _load_error(source, "the model", error) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{source}: {len(missing)} weights are missing, e.g. {missing[0]}; transformers would fill them with "
            "random numbers. Download or save the model again."
        )
    return model


def _load_tokenizer(where: str, source: str, *, trust: bool, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=trust, **options)
            tokenizer.decode(tokenizer("a", return_special_tokens_mask=True).input_ids)  # settings it takes may be odd
        except Exception as error:  # as above
            raise _load_error(source, "the tokenizer", error) from error
    check_ends(tokenizer, source)
    return tokenizer


def _load_error(source: str, what: str, error: Exception) -> ModelError:
    if "trust_remote_code" in str(error):
        return ModelError(
            f"{source}: {what} needs Python code of its own. Read that code, then pass "
            "--dangerously-trust-remote-code, or use a model that transformers knows."
        )
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if is_local(source):
        return ModelError(f"{source}: cannot load {what} ({reason}). Download or save it again.")
    return ModelError(
        f"{source}: no such directory, and {what} of that name cannot be had from the Hugging Face hub or its local "
        f"cache. Check the path or the id, and the network ({reason})."
    )


def _padding_note(tokenizer: Any) -> tuple[str, ...]:
    """What is said where the tokenizer has no pad token of its own."""
    if tokenizer.pad_token_id is not None:
        return ()
    return (f"The tokenizer has no pad token; token {padding_id(tokenizer)} pads, and is masked by length.",)


def check_ends(tokenizer: Any, source: str) -> None:
    """Refuse a tokenizer without an end-of-sequence token. Raises ModelError."""
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{source}: the tokenizer has no end-of-sequence token, so no answer could end. Set eos_token in its "
            "tokenizer_config.json."
        )


def check_vocabulary(model: Any, tokenizer: Any, source: str) -> None:
    """Refuse a tokenizer with more tokens than the model embeds. Raises ModelError."""
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens but the model embeds {rows}: they do not belong "
            "together. Use the tokenizer the model was trained with."
        )


def _quantization(quantize: Quantize | None, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Options of ``from_pretrained`` for 4- or 8-bit loading; none without."""
    if quantize is None:
        return {}
    if quantize not in ("4bit", "8bit"):
        raise ModelError(f"quantize={quantize!r} is unknown. Choose 4bit or 8bit.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(f"{quantize} loading needs bitsandbytes: pip install 'rapidun[quant]'.")
    if device.type != "cuda":
        raise ModelError(f"{quantize} loading needs a CUDA GPU; this would run on {device}. Leave --quantize out.")
    from transformers import BitsAndBytesConfig

    if quantize == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return {"quantization_config": config}


def save_model(model: Any, tokenizer: Any, directory: str | Path) -> Path:
    """Write ``model`` and ``tokenizer`` as a Hugging Face directory with safetensors; a saved model there is replaced.

    Raises:
        OutputError: If something else is at ``directory``, or it cannot be written.
    """
    folder = Path(directory)
    check_replaceable(folder, "config.json", "a model")
    with atomic_directory(folder) as place, quiet():
        model.save_pretrained(place, safe_serialization=True)
        tokenizer.save_pretrained(place)
    return folder
