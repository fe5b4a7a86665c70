"""Fine-tuning: a head with its own learning rate, a frozen body at the beginning."""

from typing import Any

import torch
from timm.optim import create_optimizer_v2, param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn

from dpaat.config import TrainConfig
from dpaat.errors import UserError
from dpaat.models import Classifier
from dpaat.networks import head_layers


def head_parameters(model: Classifier, num_classes: int) -> set[Tensor]:
    """Parameters of the layers that give the logits; empty where it is not known which layers do."""
    return {parameter for layer in head_layers(model.network, num_classes) for parameter in layer.parameters()}


def check_head(config: TrainConfig, model: Classifier, num_classes: int) -> None:
    """Raise UserError where head and body are to be treated differently, and cannot be told apart."""
    name = "lr_head" if config.lr_head is not None else "freeze_until"
    if (config.lr_head is not None or config.freeze_until) and not head_parameters(model, num_classes):
        raise UserError(
            f"{name}: {config.model} has no linear layer with {num_classes} outputs, so its head is not known; leave "
            "it out"
        )


def make_optimizer(model: Classifier, config: TrainConfig, num_classes: int) -> torch.optim.Optimizer:
    """Norms and biases go without weight decay; a head with a learning rate of its own makes groups of its own."""
    assert config.optimizer
    parameters: nn.Module | list[dict[str, Any]] = model
    if config.lr_head is not None:
        head = head_parameters(model, num_classes)
        parameters = [
            group | {"params": params, "lr": lr}
            for group in param_groups_weight_decay(model, config.weight_decay)
            for own, lr in ((False, config.lr), (True, config.lr_head))
            if (params := [parameter for parameter in group["params"] if (parameter in head) == own])
        ]
    decay = config.weight_decay
    return create_optimizer_v2(parameters, opt=config.optimizer, lr=config.lr, weight_decay=decay, momentum=0.9)


def freeze_body(model: Classifier, num_classes: int) -> None:
    """Drop the gradients of the body, so that the next step of the optimizer moves neither it nor its moments."""
    head = head_parameters(model, num_classes)
    for parameter in model.parameters():
        if parameter not in head:
            parameter.grad = None


def describe_tuning(config: TrainConfig) -> str:
    """How weights that are there are learned on from, such as "optimizer adamw, learning rate 0.001"."""
    head = "" if config.lr_head is None else f" (head {config.lr_head:g})"
    frozen = f", head alone in the first {config.freeze_until} epochs" if config.freeze_until else ""
    return f"optimizer {config.optimizer}, learning rate {config.lr:g}{head}{frozen}"
