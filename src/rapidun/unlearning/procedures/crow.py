"""CROW: fine-tuning on clean rows that asks neighbouring layers to agree, also where the embeddings are disturbed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel

from rapidun.models.lora import in_base_dtype
from rapidun.settings.base import NoOptions
from rapidun.unlearning.fitting import fit_adapter, only
from rapidun.unlearning.methods.terms import cross_entropy
from rapidun.unlearning.options import Count, NotNegative, Positive
from rapidun.unlearning.registry import Job, Method, Term, UnlearnResult, register_procedure
from rapidun.unlearning.sampling import Group
from rapidun.unlearning.state import MethodState


class DisturbedConsistency(MethodState):
    """``strength * L_cons(H_0 + epsilon sign(dL_cons/dH_0))``, added to the loss of each step.

    ``L_cons`` is one minus the cosine of a token's states after two neighbouring layers, averaged over layers and
    tokens; ``H_0`` are the embeddings. Two more forward passes a step.
    """

    def __init__(self, *, strength: NotNegative = 5.5, epsilon: Positive = 0.1) -> None:
        self.strength, self.epsilon = strength, epsilon

    def penalty(self, model: PeftModel, inputs: Mapping[str, Group]) -> torch.Tensor | None:
        """The scalar; differentiable in the adapter's factors."""
        group = inputs["forget"]  # where `only` puts the rows that are trained on
        with torch.enable_grad(), disturbed(model, None) as embeddings:
            calm = inconsistency(model, group)
        direction = torch.autograd.grad(calm, embeddings[0])[0]
        with disturbed(model, self.epsilon * direction.sign()):
            return self.strength * inconsistency(model, group)


def inconsistency(model: PeftModel, group: Group) -> torch.Tensor:
    """Mean over tokens and pairs of neighbouring layers of ``1 - cos(H_l, H_l+1)``; a float32 scalar in [0, 2]."""
    with in_base_dtype(model) as forward, forward:
        output = model(
            input_ids=group["input_ids"], attention_mask=group["attention_mask"], output_hidden_states=True,
            use_cache=False, logits_to_keep=1,
        )  # fmt: skip
    states = torch.stack([state.float() for state in output.hidden_states])  # (layers + 1, rows, tokens, width)
    apart = 1.0 - F.cosine_similarity(states[:-1], states[1:], dim=-1)
    return apart[:, group["attention_mask"].bool()].mean()


@contextmanager
def disturbed(model: PeftModel, by: torch.Tensor | None) -> Iterator[list[torch.Tensor]]:
    """Inside, ``by`` is added to the embeddings; without it they are leaves that take gradients, and are handed out."""
    seen: list[torch.Tensor] = []

    def change(_: torch.nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        own = output.detach().requires_grad_() if by is None else output + by.to(output.dtype)
        seen.append(own)
        return own

    hook = model.get_input_embeddings().register_forward_hook(change)
    try:
        yield seen
    finally:
        hook.remove()


@register_procedure(
    "crow", saves="adapter", needs_retain=True,
    source="Min et al. 2025, CROW, arXiv 2411.12768, section 4",
)  # fmt: skip
def crow(
    job: Job,
    *,
    strength: NotNegative = 5.5,
    epsilon: Positive = 0.1,
    rows: Count = 100,
    epochs: Positive = 5.0,
    rate: Positive = 1e-3,
) -> UnlearnResult:
    """Cross-entropy on clean rows plus ``strength`` times the disturbed inconsistency of the layers.

    Min et al. 2025 (arXiv 2411.12768): 100 clean rows, LoRA, learning rate 1e-3 with a cosine, 5 epochs, epsilon 0.1,
    strength 5.5 (11 for refusals). Looks at retain rows alone, and at no weight. A baseline as its paper has it:
    steps, rate and rows are its own, and the retain budget does not apply.
    """
    chosen = job.rows.retain[:rows]
    settings = job.settings.model_copy(
        update={
            "steps": max(1, round(epochs * len(chosen) / job.settings.batch_size)),
            "learning_rate": rate,
            "forget_share": 1.0,
        }
    )
    method = Method("crow", NoOptions, "", Term(cross_entropy), None, state=DisturbedConsistency)
    job = replace(job, settings=settings, reweighing=None)
    own = {"strength": strength, "epsilon": epsilon}
    return fit_adapter(job, method, own, only(chosen, np.ones(len(chosen))), job.loaded, budget=float("inf"))
