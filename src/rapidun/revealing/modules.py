"""Release by modules: what to keep and what to forget learnt apart, then one added and the other subtracted.

A round trains two LoRA adapters on the present model, the second held apart from the first (O-LoRA, Wang et al. 2023,
eq. 6), and does arithmetic with them (Reveal-and-Release, section 4)::

    retain:  A_r, B_r  <-  min  L(retain rows)
    forget:  A_f, B_f  <-  min  L(revealed rows) + lambda_o * sum_layers sum |A_r A_f^T|      A_r, B_r frozen
    theta    <-  theta - a * B_f A_f + b * B_r A_r

The base weights are never touched. ``theta`` is the base model and one adapter, the rounds' modules side by side
(PEFT's ``cat``): any verb can load it, and undoing a round is going back to the file of the one before.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PrinterCallback, Trainer

from rapidun.data import Example, collate
from rapidun.errors import TrainingError
from rapidun.files import atomic_directory
from rapidun.models import LoadedModel, answer_logits, attach_lora, mean_answer_loss
from rapidun.models.cards import settle_files
from rapidun.models.quiet import quiet
from rapidun.settings.reveal import ModuleOptions, ReleaseSettings
from rapidun.settings.unlearning import LoraSettings
from rapidun.unlearning.fitting import StepProgress, training_arguments

RETAIN, FORGET, STATE, COMBINED = "default", "forget", "state", "combined"
Record = Callable[[dict[str, Any]], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RoundOutcome:
    """What a round's training did.

    Args:
        overlap: See `subspace_overlap`.
        penalty: ``sum_layers sum |A_r A_f^T|`` at the end.
        losses: Mean training loss of the last tenth of the steps, by module.
    """

    overlap: float
    penalty: float
    losses: dict[str, float]


def train_round(
    loaded: LoadedModel,
    state: Path | None,
    retain: Sequence[Example],
    forget: Sequence[Example],
    settings: ReleaseSettings,
    directory: Path,
    *,
    seed: int,
    record: Record = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> RoundOutcome:
    """Train both modules and write ``retain/``, ``forget/`` and their sum with the state so far, ``adapter/``.

    Args:
        loaded: The base model, without an adapter; it is left as it was.
        state: The adapter of the rounds before, or None.
        retain: Rows to keep.
        forget: Rows that were revealed.
        settings: Options of modules, and their shape.
        directory: Of the round.
        seed: Of the factors and of the order of rows.
        record: Receives each log line.
        progress: Called with (steps done, steps of both modules).

    Raises:
        TrainingError: If a group is empty, or a module's loss is not finite.
    """
    for name, rows in (("retain", retain), ("revealed", forget)):
        if not rows:
            raise TrainingError(f"no {name} rows to train on.")
    options = settings.of_modules
    with module_stack(loaded.model, settings.lora, state, seed) as model:
        before = [STATE] if state is not None else []
        losses = {}
        stages = (("retain", RETAIN, [*before, RETAIN], retain), ("forget", FORGET, [*before, RETAIN, FORGET], forget))
        for number, (name, module, active, rows) in enumerate(stages):
            activate(model, active, train=module)
            losses[name] = _train(
                loaded,
                model,
                rows,
                options,
                seed=seed + number,
                penalty=options.orthogonality if module == FORGET else 0.0,
                record=lambda line, name=name: record({"module": name, **line}),  # type: ignore[misc]
                progress=lambda done, total, number=number: progress(number * total + done, 2 * total),  # type: ignore[misc]
            )
        outcome = RoundOutcome(subspace_overlap(model), float(orthogonality_penalty(model).detach()), losses)
        weights = [*(1.0 for _ in before), options.retain_scale, -options.forget_scale]
        with torch.random.fork_rng():
            model.base_model.add_weighted_adapter([*before, RETAIN, FORGET], weights, COMBINED, combination_type="cat")
        for adapter, folder in ((RETAIN, "retain"), (FORGET, "forget"), (COMBINED, "adapter")):
            save_named_adapter(model, adapter, directory / folder)
    return outcome


@contextmanager
def module_stack(base: Any, lora: LoraSettings, state: Path | None, seed: int) -> Iterator[PeftModel]:
    """``base`` with a retain module, a forget module and the state so far; without any of them afterwards."""
    model = attach_lora(
        base, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, seed=2 * seed
    )
    try:
        with quiet(), torch.random.fork_rng():
            torch.manual_seed(2 * seed + 1)
            model.add_adapter(FORGET, copy.deepcopy(model.peft_config[RETAIN]))
            if state is not None:
                model.load_adapter(str(state), adapter_name=STATE, is_trainable=False)
        yield model
    finally:
        model.unload()


def activate(model: PeftModel, adapters: list[str], *, train: str) -> None:
    """Let ``adapters`` take part in the forward pass and ``train`` alone take gradients."""
    model.base_model.set_adapter(adapters)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name and f".{train}." in name)


def _factors(model: torch.nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """``(A_r, A_f)``, both (rank, in), of every layer."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and RETAIN in module.lora_A and FORGET in module.lora_A:
            yield module.lora_A[RETAIN].weight, module.lora_A[FORGET].weight


def orthogonality_penalty(model: torch.nn.Module) -> torch.Tensor:
    """``sum_layers sum |A_r A_f^T|``, (): zero when every row of each ``A_f`` is orthogonal to every row of ``A_r``."""
    return torch.stack([(kept.detach() @ forgotten.T).abs().sum() for kept, forgotten in _factors(model)]).sum()


@torch.no_grad()
def subspace_overlap(model: torch.nn.Module) -> float:
    """Mean over layers of ``|Q_r Q_f^T|_F^2 / rank``, ``Q`` orthonormal rows that span those of ``A``: in [0, 1].

    1 where both modules read the same directions of a layer's input, 0 where they read orthogonal ones; unlike the
    penalty it does not depend on the length of the rows.
    """
    found = []
    for kept, forgotten in _factors(model):
        one, other = (torch.linalg.qr(each.float().T.cpu())[0] for each in (kept, forgotten))
        found.append(float((one.T @ other).pow(2).sum()) / min(one.shape[1], other.shape[1]))
    return float(np.mean(found))


def save_named_adapter(model: PeftModel, name: str, directory: Path) -> None:
    """Write one of several adapters in PEFT's format beside ``directory``, then rename it into place."""
    with atomic_directory(directory) as place:
        with quiet():
            model.save_pretrained(place, selected_adapters=[name], safe_serialization=True, save_embedding_layers=False)
        if name != "default":
            _lift(place, name)
        settle_files(place)


def _lift(place: Path, name: str) -> None:
    """PEFT puts any adapter but "default" one directory down, beside a card of its own: take both away."""
    for card in place.glob("*.md"):
        card.unlink()
    for file in (place / name).iterdir():
        file.rename(place / file.name)
    (place / name).rmdir()


class _ModuleTrainer(Trainer):
    """Mean answer loss of the rows, plus the penalty."""

    def __init__(self, *args: Any, penalty: float, record: Record, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.penalty, self.record = penalty, record
        self.model_accepts_loss_kwargs = False
        self.losses: list[float] = []

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """(), with the graph."""
        logits, labels = answer_logits(model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        loss = mean_answer_loss(logits, labels).mean()
        self.losses.append(float(loss.detach()))
        if self.penalty:
            loss = loss + self.penalty * orthogonality_penalty(model)
        return (loss, {}) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Record the loss with the penalty in it, and the rate."""
        if "loss" in logs:
            line = {"step": self.state.global_step, "loss": logs["loss"], "learning_rate": logs.get("learning_rate")}
            self.record(line)
        super().log(logs, *args, **kwargs)


def _train(
    loaded: LoadedModel,
    model: PeftModel,
    rows: Sequence[Example],
    options: ModuleOptions,
    *,
    seed: int,
    penalty: float,
    record: Record,
    progress: Progress,
) -> float:
    with tempfile.TemporaryDirectory() as scratch:  # nothing is written there: a module that was cut off is begun anew
        trainer = _ModuleTrainer(
            model=model,
            args=training_arguments(
                Path(scratch),
                loaded.device,
                seed,
                max_steps=options.steps,
                per_device_train_batch_size=options.batch_size,
                learning_rate=options.learning_rate,
                save_strategy="no",
            ),
            train_dataset=_rounds(rows, options.steps * options.batch_size, seed),
            data_collator=lambda examples: vars(collate(examples, loaded.pad_token_id)),
            penalty=penalty,
            record=record,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(StepProgress(progress))
        trainer.train()
    model.eval()
    last = float(np.mean(trainer.losses[-max(options.steps // 10, 1) :]))
    if not np.isfinite(last):
        raise TrainingError(f"a module's loss is {last}: training diverged. Lower release.modules.learning_rate.")
    return last


def _rounds(rows: Sequence[Example], count: int, seed: int) -> list[Example]:
    """``count`` rows in shuffled rounds: none is seen twice before every other was seen once."""
    rng = np.random.default_rng([seed, 65])
    order = [index for _ in range(-(-count // len(rows))) for index in rng.permutation(len(rows)).tolist()]
    return [rows[index] for index in order[:count]]
