"""Where the result comes from: versions, hardware, fingerprints, seed, tracked tensors, configuration."""

from __future__ import annotations

import json
from typing import Any

from rapidun.report.formats import count
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section

SKIPPED_SHOWN = 50
_SINGLE = {
    "rapidun_version": "rapidun",
    "created": "created",
    "model": "model",
    "dtype": "dtype",
    "template": "template",
    "seed": "seed",
}
_GROUPS = {"versions": "Versions", "hardware": "Hardware", "fingerprints": "Fingerprints", "lora": "LoRA"}


def build(run: RunFiles) -> Section:
    """Everything that is needed to repeat the run."""
    manifest = run.manifest or Record("manifest.json", {})
    singles = [(title, _shown(manifest.fields[key])) for key, title in _SINGLE.items() if key in manifest.fields]
    context = {
        "groups": [("Run", singles)] * bool(singles) + _groups(manifest),
        "tracked": manifest.texts("tracked"),
        "config": run.config,
        "skipped": [_skipped(record) for record in run.skipped[:SKIPPED_SHOWN]],
        "skipped_count": "1 row was" if len(run.skipped) == 1 else f"{count(len(run.skipped))} rows were",
        "skipped_left": len(run.skipped) - SKIPPED_SHOWN,
    }
    if not any(context[key] for key in ("groups", "tracked", "config", "skipped")):
        return Section("provenance", "Provenance", note="No manifest.json or config.yaml in this run.")
    return Section("provenance", "Provenance", "provenance.html.j2", context)


def _groups(manifest: Record) -> list[tuple[str, list[tuple[str, str]]]]:
    found = []
    for key, title in _GROUPS.items():
        record = manifest.child(key)
        if record is not None and record.fields:
            found.append((title, [(name, _shown(value)) for name, value in record.fields.items()]))
    return found


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value in (None, [], {}):
        return "none"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)


def _skipped(record: Record) -> dict[str, str]:
    return {"file": record.text("file"), "line": record.text("line"), "reason": record.text("reason")}
