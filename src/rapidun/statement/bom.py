"""The statement as a CycloneDX ML-BOM, for tools that keep inventories: what the model is made of, and how it measured.

Made from the predicate and from nothing else, so it says what the statement says: names, numbers and hashes, and no
text of a row. The adapter's and the base model's files have their SHA-256; groups of rows have the salted hashes of the
statement, as properties, since a salted hash is none of the file. `cyclonedx-python-lib` (the extra ``bom``) writes the
document; the model card of CycloneDX 1.6, which it does not know yet (11.12), is put into its JSON here.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rapidun.statement.content import FILE, Attack, Interval, Predicate, Ratio

if TYPE_CHECKING:
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component

MISSING = "not written: it needs cyclonedx-python-lib (pip install 'rapidun[bom]')"
MODEL, BASE = "model", "base"
"""References within the document."""
ROWS = "rows/"
OURS = "rapidun:"
"""What names of our own properties begin with."""


def bom_text(predicate: Predicate) -> str | None:
    """The document as JSON; None where the library is not installed."""
    if importlib.util.find_spec("cyclonedx") is None:
        return None
    from cyclonedx.output.json import JsonV1Dot6

    document: dict[str, Any] = json.loads(JsonV1Dot6(_bom(predicate)).output_as_string())
    document["metadata"]["component"]["modelCard"] = _model_card(predicate)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _bom(said: Predicate) -> Bom:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType

    kind = ComponentType.MACHINE_LEARNING_MODEL
    model = Component(
        name=f"{said.models.base.name}, unlearned", type=kind, bom_ref=MODEL, version=said.made.date().isoformat(),
        description=said.about, components=_files(said.models.after, MODEL), properties=_properties(_of_model(said)),
        external_references=[
            ExternalReference(type=ExternalReferenceType.ATTESTATION, url=XsUri(FILE), comment="the signed statement")
        ],
    )  # fmt: skip
    base = Component(
        name=said.models.base.name, type=kind, bom_ref=BASE, components=_files(said.models.base.files, BASE),
        properties=_properties({"dtype": said.models.base.dtype, "tensors-sha256": said.models.base.fingerprint}),
    )  # fmt: skip
    rows = [
        Component(name=f"{name} rows", type=ComponentType.DATA, bom_ref=f"{ROWS}{name}",
                  properties=_properties(_of_rows(said, name)))
        for name in sorted(said.rows.datasets)
    ]  # fmt: skip
    bom = Bom(components=[base, *rows])
    bom.metadata.timestamp = said.made
    bom.metadata.component = model
    bom.metadata.tools.components.add(
        Component(name="rapidun", type=ComponentType.APPLICATION, version=said.how.rapidun)
    )
    bom.register_dependency(model, [base, *rows])
    return bom


def _files(files: Mapping[str, str], of: str) -> list[Component]:
    """A component for each file, with its SHA-256."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    return [
        Component(name=name, type=ComponentType.FILE, bom_ref=f"{of}/{name}",
                  hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)])
        for name, digest in sorted(files.items())
    ]  # fmt: skip


def _properties(values: Mapping[str, Any]) -> list[Property]:
    from cyclonedx.model import Property

    return [Property(name=f"{OURS}{name}", value=str(value)) for name, value in values.items()]


def _of_model(said: Predicate) -> dict[str, Any]:
    """What was done, and what came of it."""
    attacks: Sequence[Attack] = [] if isinstance(said.attacks, str) else said.attacks
    return {
        "request": said.request.id,
        "method": said.how.method,
        "saved-as": "adapter" if any(name.startswith("adapter/") for name in said.models.after) else "model",
        "seed": said.how.seed,
        "ended": said.how.ended,
        "verdict": said.measured.verdict,
        "rows-unlearned": said.rows.count,
        "twin": said.twin,
        "attacks": "none were run" if not attacks else len(attacks),
        **{f"attack:{attack.name}": attack.verdict or "not decided" for attack in attacks},
        "expires": said.expires.isoformat(),
    }


def _of_rows(said: Predicate, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"hmac-sha256": said.rows.datasets[name]}
    return {"rows": said.rows.count, **found} if name == "forget" else found


def _model_card(said: Predicate) -> dict[str, Any]:
    """``modelCard`` of CycloneDX 1.6."""
    return {
        "modelParameters": {
            "task": "text generation",
            "datasets": [{"ref": f"{ROWS}{name}"} for name in sorted(said.rows.datasets)],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(said))},
        "considerations": {"technicalLimitations": [*said.residual_risk, *(f"Not tested: {text}" for text in
                                                                           said.not_tested)]},
    }  # fmt: skip


def _metrics(said: Predicate) -> Iterator[dict[str, Any]]:
    """Every number before and after, with its 95% interval; the slice says of which model, and by which judge."""
    for when, side in (("before", said.measured.before), ("after", said.measured.after)):
        for judge, rates in side.rates.items():
            for name, rate in rates.items():
                yield _metric(name, rate, f"{when} unlearning, judge {judge}, n = {rate.n}")
        for name in ("clean_perplexity", "forget_perplexity"):
            value: Interval | None = getattr(side, name)
            if value is not None:
                yield _metric(name, value, f"{when} unlearning, n = {value.n}")
    for name in ("perplexity_ratio", "forget_ratio"):
        ratio: Ratio | None = getattr(said.measured, name)
        if ratio is not None:
            yield _metric(name, ratio, "after over before unlearning")


def _metric(name: str, value: Interval | Ratio, part: str) -> dict[str, Any]:
    ends = {"lowerBound": repr(value.low), "upperBound": repr(value.high)}
    return {"type": name, "value": repr(value.value), "slice": part, "confidenceInterval": ends}
