import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from training.modeling.loss import attribute_loss, partial_label_loss

NO_VOTES = torch.zeros(1, 3)


def test_the_loss_of_single_labels_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, truth = torch.randn(20, 3), torch.randint(0, 3, (20,))
    allowed = one_hot(truth, 3).bool()
    weights = torch.tensor([3.0, 1.0, 0.5])
    ours = partial_label_loss(logits, allowed, NO_VOTES, weights[truth])
    assert torch.allclose(ours, cross_entropy(logits, truth, weight=weights), atol=1e-6)


def test_the_loss_of_a_partial_label_is_that_of_its_summed_probability() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0]])
    probabilities = logits.softmax(-1)[0]
    loss = partial_label_loss(logits, torch.tensor([[False, True, True]]), NO_VOTES, torch.ones(1))
    assert torch.allclose(loss, -(probabilities[1] + probabilities[2]).log())


def test_a_partial_label_with_all_labels_has_no_gradient() -> None:
    logits = torch.randn(1, 3, requires_grad=True)
    all_labels = torch.ones(1, 3, dtype=torch.bool)
    partial_label_loss(logits, all_labels, NO_VOTES, torch.ones(1)).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


def test_votes_are_the_target_of_the_rows_that_have_them() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    hate = torch.tensor([[True, False, False]] * 2)
    votes, weights = torch.tensor([[0.7, 0.3, 0.0], [0, 0, 0]]), torch.tensor([3.0, 1.0])
    partial_label_loss(logits, hate, votes, weights).backward()
    target = torch.tensor([[0.7, 0.3, 0.0], [1.0, 0.0, 0.0]])  # from even probabilities
    assert logits.grad is not None
    assert torch.allclose(logits.grad, weights[:, None] / 4 * (1 / 3 - target))


def test_only_known_attributes_count_each_by_its_rows_weight() -> None:
    nan = float("nan")
    logits = torch.randn(3, 2, requires_grad=True)
    shares = torch.tensor([[0.25, nan], [nan, nan], [1.0, 0.0]])
    weights = torch.tensor([2.0, 1.0, 0.5])
    loss = attribute_loss(logits, shares, weights)
    each = binary_cross_entropy_with_logits(logits, shares.nan_to_num(), reduction="none")
    assert torch.allclose(loss, (2 * each[0, 0] + 0.5 * (each[2, 0] + each[2, 1])) / 3.5)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[shares.isnan()] == 0).all()
    assert logits.grad[0, 0] != 0
