"""A linear layer as two narrow ones in a row."""

from torch import Tensor, nn

from labkit.model.linear import KernelLayer


class LowRank(nn.Module):
    """y = up(down(x)): from `in` to `rank` to `out`. Both are plain linear layers, so quantization finds them."""

    def __init__(self, down: KernelLayer, up: KernelLayer) -> None:
        super().__init__()
        self.down, self.up = down, up

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        return self.up(self.down(x))  # type: ignore[no-any-return]
