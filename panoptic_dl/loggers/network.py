"""The parts of a network and how many parameters they have."""

from torch import nn

DEPTH = 2  # of names such as backbone.stem


def modules(model: nn.Module) -> list[tuple[str, str, int, int]]:
    """Name, class, parameters, and how many of these are trained; the first row is all of it."""
    rows = []
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        if name.count(".") < DEPTH and parameters:
            count = sum(p.numel() for p in parameters)
            trained = sum(p.numel() for p in parameters if p.requires_grad)
            rows.append((name or "network", type(module).__name__, count, trained))
    return rows
