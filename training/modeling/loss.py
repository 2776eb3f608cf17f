"""The loss of partial labels and of annotators' votes; docs/design/partial-labels.md says why."""

import torch
from torch import nn


def partial_label_loss(
    logits: torch.Tensor,
    allowed: torch.Tensor,
    votes: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Return the weighted mean of −log Σ_{k∈allowed} p_k; with votes, of −Σ_k v_k log p_k.

    For a row with one label the former is cross-entropy. The latter is cross-entropy with soft
    labels: how annotators disagree (Peterson et al. 2019).

    Args:
        logits: [rows, labels].
        allowed: [rows, labels], true where the row's partial label has the label.
        votes: [rows, labels], the share of annotators who gave the label, or zeros.
        weights: [rows].
    """
    log_p = nn.functional.log_softmax(logits.float(), dim=-1)
    partial = log_p.masked_fill(~allowed, -torch.inf).logsumexp(dim=-1)
    loss = -torch.where(votes.any(dim=-1), (votes * log_p).sum(dim=-1), partial)
    return (loss * weights).sum() / weights.sum()
