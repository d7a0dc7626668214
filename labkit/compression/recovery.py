"""Recovery: a short training that teaches a pruned model to speak like the whole one.

The pruned model learns the whole model's distribution over next tokens (Hinton et al. 2015, Distilling the Knowledge in
a Neural Network), which says more a token than the text alone. Weights that pruning set to zero stay zero.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.model.transformer import Transformer

BATCH = 8
"""Sequences in a step."""

_PEAK_RATE = 1e-3
_WARM_UP = 0.1  # of all steps
_MAX_NORM = 1.0  # of all gradients together


def twin(model: Transformer) -> Transformer:
    """A second model over the same tensors; it stays as it is when the first one is pruned."""
    other = Transformer(model.config, dtype=model.dtype, device="meta")
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        setattr(other.get_submodule(owner), leaf, nn.Parameter(parameter.detach(), requires_grad=False))
    return other


def recover(pruned: Transformer, whole: Transformer, tokens: Tensor) -> dict[str, Tensor]:
    """Weights of the pruned model by name, trained for as many steps as the tokens last.

    Args:
        pruned: fp32 weights, which stay as they are.
        whole: the model that it shall speak like.
        tokens: [steps · BATCH, T] int64 on the models' device.
    """
    # whoever builds may have switched gradients off, and tensors made under inference_mode can have none
    with torch.inference_mode(False), torch.enable_grad():
        learner, teacher = twin(pruned), twin(whole)
        for parameter in learner.parameters():
            parameter.data = parameter.data.clone()
            parameter.requires_grad_(True)
        _train(learner, teacher, torch.split(tokens.clone(), BATCH))
    return {name: parameter.detach() for name, parameter in learner.named_parameters()}


def _train(learner: Transformer, teacher: Transformer, batches: tuple[Tensor, ...]) -> None:
    parameters = list(learner.parameters())
    masks = [(parameter, parameter != 0) for parameter in parameters if (parameter == 0).any()]
    optimizer = torch.optim.AdamW(parameters, lr=_PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = _PEAK_RATE * rate(step, len(batches))
        divergence(learner, teacher, batch).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, _MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for parameter, mask in masks:
                parameter.mul_(mask)


def divergence(learner: Transformer, teacher: Transformer, tokens: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the learner's next token from the teacher's, in nats a token; a scalar."""
    with torch.no_grad():
        expected = F.log_softmax(teacher(tokens).flatten(0, 1), -1)
    found = F.log_softmax(learner(tokens).flatten(0, 1), -1)
    return F.kl_div(found, expected, log_target=True, reduction="batchmean")


def rate(step: int, num_steps: int) -> float:
    """Learning rate of a step over its peak: a linear warm-up, then half a cosine towards zero."""
    warm_up = max(1, round(_WARM_UP * num_steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step + 1 - warm_up) / (num_steps + 1 - warm_up)))
