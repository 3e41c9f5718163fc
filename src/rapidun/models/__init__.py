"""Models and tokenizers: loading, LoRA, fingerprints, the answer loss."""

from rapidun.models.borrowed import borrowed, check_trainable
from rapidun.models.fingerprints import adapter_fingerprint, model_fingerprint, tokenizer_fingerprint
from rapidun.models.loading import LoadedModel, load_model, save_model
from rapidun.models.lora import (
    adapter_disabled,
    adapter_merged,
    attach_lora,
    beyond_low_rank,
    enable_gradient_checkpointing,
    is_adapted,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from rapidun.models.losses import (
    answer_logits,
    answer_token_logits,
    answer_token_losses,
    mean_answer_loss,
    sum_answer_loss,
)
from rapidun.models.modes import evaluating
from rapidun.models.placement import choose_device, choose_dtype, cpu_computes_in_bfloat16
from rapidun.models.row_losses import RowLosses, row_losses
from rapidun.models.targets import adapted_layers, linear_layers

__all__ = [
    "LoadedModel",
    "RowLosses",
    "adapted_layers",
    "adapter_disabled",
    "adapter_fingerprint",
    "adapter_merged",
    "answer_logits",
    "answer_token_logits",
    "answer_token_losses",
    "attach_lora",
    "beyond_low_rank",
    "borrowed",
    "check_trainable",
    "choose_device",
    "choose_dtype",
    "cpu_computes_in_bfloat16",
    "enable_gradient_checkpointing",
    "evaluating",
    "is_adapted",
    "linear_layers",
    "load_adapter",
    "load_model",
    "mean_answer_loss",
    "merge_adapter",
    "model_fingerprint",
    "row_losses",
    "save_adapter",
    "save_model",
    "sum_answer_loss",
    "tokenizer_fingerprint",
]
