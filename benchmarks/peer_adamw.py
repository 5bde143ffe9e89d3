"""The peers' optimizer, as transformers' examples set it up."""

import torch


def adamw(model: torch.nn.Module, rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW, fused, that decays all but biases and LayerNorm's scales."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, fused=True)
