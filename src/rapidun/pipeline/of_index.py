"""What an index settles for those who come to it: model, precision, quantisation, template, length of rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rapidun.attribution.store import Manifest
from rapidun.errors import FingerprintError


def settled_by_index(index: Path, manifest: Manifest, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The plain configuration with what was not given taken from the index.

    Args:
        index: Its directory.
        manifest: Its manifest; one of before precision was kept leaves it open.
        raw: As the command line gives it: an empty or no ``model.source``, a ``dtype`` or template ``auto``, no
            ``template_options``, no ``quantize`` and no ``max_length`` are not given.

    Raises:
        FingerprintError: If something that was given is not the index's; names both and the option to leave out.
    """
    model, data = {"source": "", **raw.get("model", {})}, dict(raw.get("data", {}))
    given = {
        "--dtype": (_chosen(model.get("dtype")), manifest.dtype or None),
        "--load-in-4bit, --load-in-8bit": (model.get("quantize"), manifest.quantize or "no quantisation"),
        "--template": (_chosen(data.get("template")), manifest.template),
        "--template-option": (data.get("template_options") or None, manifest.template_options),
        "--max-length": (data.get("max_length"), manifest.max_length),
    }
    for option, (ours, theirs) in given.items():
        if ours is not None and theirs is not None and ours != theirs and not _both_files(ours, theirs):
            raise FingerprintError(
                f"{index}: this index was built with {theirs or 'none'}, and {option} says {ours}. "
                f"Leave {option} out: the index knows."
            )
    model |= {
        "source": model["source"] or manifest.model,
        "dtype": manifest.dtype or model.get("dtype") or "auto",
        "quantize": manifest.quantize if manifest.dtype else model.get("quantize"),
    }
    data |= {
        "template": _chosen(data.get("template")) or manifest.template,
        "template_options": manifest.template_options,
        "max_length": manifest.max_length,
    }
    return {**raw, "model": model, "data": data}


def adapter_of(manifest: Manifest, given: Path | None) -> Path | None:
    """The adapter that was given, else the one that the index was built with."""
    return given or (Path(manifest.adapter) if manifest.adapter else None)


def _chosen(value: Any) -> Any:
    return None if value == "auto" else value


def _both_files(ours: Any, theirs: Any) -> bool:
    """Two paths of a template: whether they are the same one, its fingerprint says."""
    names = ("chat", "alpaca", "plain")
    return isinstance(ours, str) and Path(ours).is_file() and isinstance(theirs, str) and theirs not in names
