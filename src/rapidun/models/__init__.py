"""Models and tokenizers: loading, LoRA, fingerprints, the answer loss."""
