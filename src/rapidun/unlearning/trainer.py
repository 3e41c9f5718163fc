"""The Hugging Face Trainer with one change: the loss is ``mean_i w_i * l_i`` of a registered method.

Checkpoints, resume, clipping, schedules and multi-device training come with the Trainer.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback

from rapidun.data.batches import IGNORE_INDEX
from rapidun.errors import InputError, TrainingError
from rapidun.files import disk_error, write_json
from rapidun.jsonl import read_log, write_jsonl
from rapidun.models.lora import checkpointed, in_base_dtype
from rapidun.models.passes import PassBytes, pass_budget
from rapidun.reading import made_from, read_object
from rapidun.unlearning.answers import Answers
from rapidun.unlearning.forward import batch_answers
from rapidun.unlearning.reference import ReferenceLosses
from rapidun.unlearning.registry import Method, Term
from rapidun.unlearning.reweighing import Reweighing
from rapidun.unlearning.sampling import Group
from rapidun.unlearning.state import MethodState

Record = Callable[[dict[str, Any]], None]
STEP_PASSES = 2.5  # a step may hold so many times what a pass over rows does, beside the model
LOGGED = ("loss", "learning_rate", "grad_norm", "forget_loss", "retain_loss")
STATE_FILE = "unlearning_state.json"
REMOVE = "Remove this checkpoint's folder and run again with --resume: what stands before it is gone on with."


class UnlearningTrainer(Trainer):
    """Trains on batches of `RoleCollator`; hands each log line to ``record``."""

    def __init__(
        self,
        *args: Any,
        method: Method,
        options: dict[str, Any],
        state: MethodState,
        reference: ReferenceLosses,
        record: Record,
        reweighing: Reweighing | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.method, self.options, self.method_state, self.record = method, options, state, record
        self.reference, self.reweighing = reference, reweighing
        self.model_accepts_loss_kwargs = False
        self._sums: dict[str, tuple[float, int]] = {}  # of what a log line gives the means of, and of how many
        self.add_callback(_Advance(self))

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> SequentialSampler:
        """The plan is already in its order."""
        return SequentialSampler(self.train_dataset)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Group], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Forward and backward; a step too large for memory recomputes its activations."""
        peft = self.accelerator.unwrap_model(self.model)
        with in_base_dtype(peft), checkpointed(peft, self._is_large(peft, inputs)):
            loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        self._add("loss", float(loss.detach()), 1)
        return loss

    def _add(self, name: str, total: float, count: int) -> None:
        before = self._sums.get(name, (0.0, 0))
        self._sums[name] = (before[0] + total, before[1] + count)

    @staticmethod
    def _is_large(model: torch.nn.Module, inputs: dict[str, Group]) -> bool:
        if not getattr(model, "supports_gradient_checkpointing", False):
            return False
        cost = PassBytes.of(model, backward=True)
        taken = 0
        for group in inputs.values():  # those that go together are padded to one length where that is next to nothing
            rows, length = group["input_ids"].shape
            taken += cost(rows, length, int((group["labels"] != IGNORE_INDEX).sum()))
        return taken > STEP_PASSES * pass_budget(model)

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Group], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Weighted mean over the forget and retain rows of the batch, and the method's penalty where it has one."""
        peft = self.accelerator.unwrap_model(self.model)
        layer = self.options.get("layer") or 0
        with in_base_dtype(peft) as forward, forward:
            rows = batch_answers(model, peft, inputs, self.method, layer, self.reference)
        losses = []
        if "forget" in rows:
            losses.append(self._weighted("forget", self.method.forget, "gamma", rows["forget"], inputs["forget"]))
        if "retain" in rows and self.method.retain is not None:
            losses.append(self._weighted("retain", self.method.retain, "alpha", rows["retain"], inputs["retain"]))
        loss = torch.cat(losses).mean()
        penalty = self.method_state.penalty(peft, inputs)
        loss = loss if penalty is None else loss + penalty
        return (loss, {}) if return_outputs else loss

    def _weighted(self, name: str, term: Term, factor: str, rows: Answers, group: Group) -> torch.Tensor:
        weights = group["weight"] if self.reweighing is None else self.reweighing.of(name, group)
        self.method_state.observe(name, rows, weights)
        losses = term(rows, **self.options, **self.method_state.values())
        self._add(f"{name}_loss", float(losses.detach().sum()), len(losses))
        return losses * weights * float(self.options.get(factor, 1.0))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Record a line: means over the steps since the last one, the groups' losses unweighted.

        The Trainer's own mean forgets the steps before a resume, so it is not taken.
        """
        if "loss" in logs:
            means = {name: total / count for name, (total, count) in self._sums.items()}
            self._sums = {}
            found = {name: means.get(name, logs.get(name)) for name in LOGGED}
            line = {
                name: float(value) if np.isfinite(value) else None for name, value in found.items() if value is not None
            }
            self.record({"step": self.state.global_step, **line, **self.method_state.logged()})
        super().log(logs, *args, **kwargs)

    def advance(self) -> None:
        """One optimiser step was made: the method's state, and weights that follow the model."""
        self.method_state.advance()
        if self.reweighing is not None:
            self.reweighing.advance(self.accelerator.unwrap_model(self.model), self.state.global_step)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Our state goes first: the Trainer writes the file that makes a checkpoint whole last."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        write_json(folder / STATE_FILE, self._own_state())
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise disk_error(error, folder) from error

    def _own_state(self) -> dict[str, Any]:
        reweighing = None if self.reweighing is None else self.reweighing.state_dict()
        return {"method": self.method_state.state_dict(), "reweighing": reweighing, "sums": self._sums}

    def resume_own_state(self, checkpoint: Path) -> None:
        """What `_save_checkpoint` wrote.

        Raises:
            TrainingError: If the checkpoint was written without it, or it is damaged.
        """
        if not (checkpoint / STATE_FILE).is_file():
            raise TrainingError(f"{checkpoint}: no {STATE_FILE}, so it cannot be continued. {REMOVE}")
        try:
            step = read_object(checkpoint / "trainer_state.json").get("global_step")
            if checkpoint.name != f"checkpoint-{step}":
                raise TrainingError(f"{checkpoint}: its trainer_state.json is of step {step}. {REMOVE}")
            state = read_object(checkpoint / STATE_FILE)
            self.method_state.load_state_dict(state["method"])
            sums = dict(state.get("sums", {}))  # an earlier version wrote none
            self._sums = {str(name): (float(total), int(count)) for name, (total, count) in sums.items() if count}
            if self.reweighing is not None:
                self.reweighing.load_state_dict(state["reweighing"])
        except InputError as error:
            raise TrainingError(f"{error} {REMOVE}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TrainingError(f"{checkpoint / STATE_FILE}: not as rapidun wrote it ({error!r}). {REMOVE}") from error


class _Advance(TrainerCallback):
    """Runs before a checkpoint of the same step is written."""

    def __init__(self, trainer: UnlearningTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.advance()


def last_checkpoint(directory: Path) -> Path | None:
    """The last whole checkpoint, or None; one that a kill cut short has no ``trainer_state.json`` yet."""
    whole = [path for path in _checkpoints(directory) if (path / "trainer_state.json").is_file()]
    return max(whole, key=_step_of, default=None)


def cut_back(log: Path, checkpoints: Path) -> None:
    """Bring a directory back to its last whole checkpoint, from which training goes on, or to its beginning.

    Half-written checkpoints and old ones that a kill left half removed go, and so do the log's lines of later steps.
    Steps only grow in what was logged before a checkpoint, so a line with a smaller one came after it.
    """
    last = last_checkpoint(checkpoints)
    for path in _checkpoints(checkpoints):
        if path != last:
            shutil.rmtree(path)
    if not log.exists():
        return
    kept: list[dict[str, Any]] = []
    end = 0 if last is None else _step_of(last)
    with made_from(log):
        for line in read_log(log) if end else []:
            if not (kept[-1]["step"] if kept else 0) <= line["step"] <= end:
                break
            kept.append(line)
    write_jsonl(log, kept)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _checkpoints(directory: Path) -> list[Path]:
    return [path for path in directory.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
