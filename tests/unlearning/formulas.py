"""Every method's loss once more, from its formula, by plain loops in float64: no torch, no shared helper.

``forget[name](rows, **options)`` and ``retain[name](rows, **options)`` give one number per row. ``rows`` is a dict of
numpy arrays; a token is a (scores, answer) pair of the position that predicts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

Rows = dict[str, Any]


def as_numpy(answers: Any) -> Rows:
    found: Rows = {}
    for name, value in vars(answers).items():
        if isinstance(value, torch.Tensor):
            found[name] = value.double().numpy() if value.is_floating_point() else value.numpy()
        elif value is not None:
            found[name] = as_numpy(value)
    return found


def places(rows: Rows, row: int) -> Iterator[tuple[int, int]]:
    for place, token in enumerate(rows["labels"][row]):
        if token != -100:
            yield place - 1, int(token)


def probabilities(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def token_losses(rows: Rows, row: int, name: str = "logits") -> np.ndarray:
    return np.array([-np.log(probabilities(rows[name][row, at])[token]) for at, token in places(rows, row)])


def each(formula: Callable[..., float]) -> Callable[..., np.ndarray]:
    def over_rows(rows: Rows, **options: Any) -> np.ndarray:
        return np.array([formula(rows, row, **options) for row in range(len(rows["labels"]))])

    return over_rows


def log_sigmoid(value: float) -> float:
    return float(-np.log1p(np.exp(-value)))


def ce(rows: Rows, row: int, **_: Any) -> float:
    return float(token_losses(rows, row).mean())


def negative_ce(rows: Rows, row: int, **_: Any) -> float:
    return -ce(rows, row)


def kl(rows: Rows, row: int, **_: Any) -> float:
    total = []
    for at, _token in places(rows, row):
        before, now = (probabilities(rows[name][row, at]) for name in ("reference_logits", "logits"))
        total.append((before * np.log(before / now)).sum())
    return float(np.mean(total))


def risen(rows: Rows, row: int) -> float:
    return float(token_losses(rows, row).sum() - token_losses(rows, row, "reference_logits").sum())


def npo(rows: Rows, row: int, *, beta: float, **_: Any) -> float:
    return -(2 / beta) * log_sigmoid(beta * risen(rows, row))


def simnpo(rows: Rows, row: int, *, beta: float, delta: float, **_: Any) -> float:
    return -(2 / beta) * log_sigmoid(beta * (ce(rows, row) - delta))


def place_in_wanted(rows: Rows, row: int) -> int | None:
    """Where the row's preferred answer is among the preferred answers."""
    if "preferred" not in rows or not rows["has_preferred"][row]:
        return None
    return int(rows["has_preferred"][:row].sum())


def dpo(rows: Rows, row: int, *, beta: float, **_: Any) -> float:
    at = place_in_wanted(rows, row)
    won = 0.0 if at is None else -risen(rows["preferred"], at)
    return -(2 / beta) * log_sigmoid(beta * (won - -risen(rows, row)))


def rmu(rows: Rows, row: int, *, c: float, direction_seed: int, **_: Any) -> float:
    width = rows["hidden"].shape[-1]
    drawn = torch.rand(width, generator=torch.Generator().manual_seed(direction_seed)).double().numpy()
    target = c * drawn / np.sqrt((drawn**2).sum())
    return float(np.mean([((rows["hidden"][row, at] - target) ** 2).sum() for at, _token in places(rows, row)]))


def rmu_retain(rows: Rows, row: int, **_: Any) -> float:
    moved = [rows["hidden"][row, at] - rows["reference_hidden"][row, at] for at, _token in places(rows, row)]
    return float(np.mean([(m**2).sum() for m in moved]))


def towards(rows: Rows, row: int, teacher: Callable[[int, int], np.ndarray]) -> float:
    total = []
    for at, token in places(rows, row):
        logs = np.log(probabilities(rows["logits"][row, at]))
        total.append(-(teacher(at, token) * logs).sum())
    return float(np.mean(total))


def undial(rows: Rows, row: int, *, beta: float, **_: Any) -> float:
    def teacher(at: int, token: int) -> np.ndarray:
        scores = rows["reference_logits"][row, at].copy()
        scores[token] -= beta
        return probabilities(scores)

    return towards(rows, row, teacher)


def ceu(rows: Rows, row: int, **_: Any) -> float:
    def teacher(at: int, token: int) -> np.ndarray:
        chances = probabilities(rows["logits"][row, at])
        chances[token] = 0
        return chances / chances.sum()

    return towards(rows, row, teacher)


def wga(rows: Rows, row: int, *, beta: float, **_: Any) -> float:
    losses = token_losses(rows, row)
    return float(-(np.exp(-losses) ** beta * losses).mean())


def satimp(rows: Rows, row: int, *, beta1: float, beta2: float, **_: Any) -> float:
    losses = token_losses(rows, row)
    chances = np.exp(-losses)
    return float(-(chances**beta1 * (1 - chances) ** beta2 * losses).mean())


def pdu(rows: Rows, row: int, **_: Any) -> float:
    spread = [rows["logits"][row, at].max() - rows["logits"][row, at].mean() for at, _token in places(rows, row)]
    return float(np.mean(np.square(spread)))


def pdu_retain(rows: Rows, row: int, *, dual: float, epsilon: float, **_: Any) -> float:
    return dual * (ce(rows, row) - epsilon)


def loreun(rows: Rows, row: int, *, normaliser: float, tau: float, direction: str, dynamic: bool, **_: Any) -> float:
    now = ce(rows, row)
    seen = now if dynamic else token_losses(rows, row, "reference_logits").mean()
    weight = np.exp(-seen / tau) if direction == "low" else np.exp(seen / tau)
    return float(weight / normaliser * -now)


def rapidun(rows: Rows, row: int, *, ascent: float, descent: float, bounded: bool, beta: float, **_: Any) -> float:
    tokens = len(token_losses(rows, row))
    away = npo(rows, row, beta=beta) / tokens if bounded else -ce(rows, row)
    at = place_in_wanted(rows, row)
    if bounded and at is None:
        away += float(np.mean(-np.log(1 - np.exp(-token_losses(rows, row)))))
    fade = 2 / (1 + np.exp(beta * risen(rows, row))) if bounded else 1.0
    return ascent * away + (0.0 if at is None else float(descent * fade * ce(rows["preferred"], at)))


def rapidun_deep(rows: Rows, row: int, *, ascent: float, descent: float, beta: float, **_: Any) -> float:
    chances = np.exp(-token_losses(rows, row)) ** beta
    at = place_in_wanted(rows, row)
    fade = float(np.mean(2 * chances / (1 + chances)))
    return float(ascent * np.mean(2 / beta * np.log(1 + chances))) + (
        0.0 if at is None else float(descent * fade * ce(rows["preferred"], at))
    )


def finetune(rows: Rows, row: int, **_: Any) -> float:
    at = place_in_wanted(rows, row)
    return 0.0 if at is None else ce(rows["preferred"], at)


FORGET = {
    "ga": each(negative_ce),
    "graddiff": each(negative_ce),
    "kl": each(negative_ce),
    "npo": each(npo),
    "simnpo": each(simnpo),
    "dpo": each(dpo),
    "idk": each(dpo),
    "rmu": each(rmu),
    "undial": each(undial),
    "ceu": each(ceu),
    "wga": each(wga),
    "satimp": each(satimp),
    "pdu": each(pdu),
    "loreun": each(loreun),
    "fisher_ewc": each(negative_ce),
    "rapidun": each(rapidun),
    "rapidun_kl": each(rapidun),
    "rapidun_deep": each(rapidun_deep),
    "finetune": each(finetune),
}
RETAIN = {
    **dict.fromkeys(["kl", "rapidun_kl", "rapidun_deep"], each(kl)),
    "rmu": each(rmu_retain),
    "pdu": each(pdu_retain),
}
"""Where the retain term is not the cross-entropy."""
PLAIN_RETAIN = each(ce)
