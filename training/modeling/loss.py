"""The losses of partial labels, of votes and of attributes; see docs/design/partial-labels.md."""

import torch
from torch import nn

from training.partial_labels import LABELS


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


def attribute_loss(
    logits: torch.Tensor, shares: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the binary cross-entropy of the known attributes, summed over attributes.

    Rows are averaged by their weights, those that know no attribute included: an attribute counts
    the same in every row, however many of a batch know it.

    Args:
        logits: [rows, attributes].
        shares: [rows, attributes], the share of raters who saw the attribute; NaN: unknown.
        weights: [rows].
    """
    known = ~shares.isnan()
    target = shares.nan_to_num()
    loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return ((loss * known).sum(dim=-1) * weights).sum() / weights.sum()


def distillation_loss(
    logits: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor, attribute_weight: float
) -> torch.Tensor:
    """Return the cross-entropy between a teacher's probabilities and a student's (Hinton et al.
    2015, at temperature 1, so that the student is calibrated as the teacher is).

    Args:
        logits: [rows, outputs] of the student: the labels, then the attributes.
        teacher: the same of the teacher.
        weights: [rows].
        attribute_weight: of the attributes' loss beside the labels'.
    """
    labels = len(LABELS)
    log_p = nn.functional.log_softmax(logits[:, :labels].float(), dim=-1)
    loss = -(teacher[:, :labels].softmax(dim=-1) * log_p).sum(dim=-1)
    attributes = nn.functional.binary_cross_entropy_with_logits(
        logits[:, labels:].float(), teacher[:, labels:].sigmoid(), reduction="none"
    )
    loss = loss + attribute_weight * attributes.sum(dim=-1)
    return (loss * weights).sum() / weights.sum()
