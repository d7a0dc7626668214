"""The layers that compression works on."""

from labkit.model.linear import Linear
from labkit.model.transformer import Transformer


def block_linears(model: Transformer) -> dict[str, Linear]:
    """Linear layers of all blocks by their name in the model, first to last.

    Embedding and head stay out: they are often one matrix, and every token passes through them.
    """
    modules = model.layers.named_modules(prefix="layers")
    return {name: module for name, module in modules if isinstance(module, Linear)}
