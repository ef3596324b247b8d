"""Residual networks for small images. Each activation is its own module, and the names are those of the usual public weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from robench.models.layers import Act, Shape, activation_layer, he_init, named_sequence, refuse_small_images

Block = Callable[[int, int, int], nn.Module]


class PaddedShortcut(nn.Module):
    """Option A of He et al. 2016 (1512.03385): every `stride`-th pixel, with zeros in the new channels, half of them on either side."""

    def __init__(self, new: int, stride: int) -> None:
        super().__init__()
        self.before, self.after, self.stride = new // 2, new - new // 2, stride

    def forward(self, x: Tensor) -> Tensor:
        """The shortcut's images, (B, C + new, H / stride, W / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut around them (He et al. 2016, 1512.03385)."""

    def __init__(self, inputs: int, planes: int, stride: int, act: Act, shortcut: Block) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1 = conv3(inputs, planes, stride), nn.BatchNorm2d(planes), act()
        self.conv2, self.bn2, self.act2 = conv3(planes, planes, 1), nn.BatchNorm2d(planes), act()
        self.shortcut = shortcut(inputs, planes, stride) if stride != 1 or inputs != planes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, (B, planes, H / stride, W / stride)."""
        h = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(h)) + self.shortcut(x))  # type: ignore[no-any-return]


class PreActBlock(nn.Module):
    """Batch norm and activation before each convolution (He et al. 2016, 1603.05027); a projection starts from the activated input.

    `projection` holds the 1x1 convolution under its name in the state_dict, where the shape changes, else nothing.
    """

    def __init__(self, inputs: int, planes: int, stride: int, act: Act, projection: dict[str, nn.Module], dropout: float = 0.0) -> None:
        super().__init__()
        self.bn1, self.act1, self.conv1 = nn.BatchNorm2d(inputs), act(), conv3(inputs, planes, stride)
        self.bn2, self.act2, self.conv2 = nn.BatchNorm2d(planes), activation_layer(act, dropout), conv3(planes, planes, 1)
        self.projection = next(iter(projection), "")
        for name, module in projection.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, (B, planes, H / stride, W / stride)."""
        h = self.act1(self.bn1(x))
        side = self.get_submodule(self.projection)(h) if self.projection else x
        return self.conv2(self.act2(self.bn2(self.conv1(h)))) + side  # type: ignore[no-any-return]


def conv3(inputs: int, planes: int, stride: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (at stride 1), without bias."""
    return nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)


def conv1(inputs: int, planes: int, stride: int) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(inputs, planes, 1, stride, bias=False)


def padded_shortcut(inputs: int, planes: int, stride: int) -> nn.Module:
    """The shortcut of option A, without parameters."""
    return PaddedShortcut(planes - inputs, stride)


def projected_shortcut(inputs: int, planes: int, stride: int) -> nn.Module:
    """The shortcut of option B: a 1x1 convolution and batch norm."""
    return nn.Sequential(conv1(inputs, planes, stride), nn.BatchNorm2d(planes))


def block_sequence(block: Block, inputs: int, planes: int, count: int, stride: int) -> nn.Sequential:
    """`count` blocks, of which the first changes the width and the size."""
    return nn.Sequential(block(inputs, planes, stride), *(block(planes, planes, 1) for _ in range(count - 1)))


def head_modules(features: int, classes: int, name: str) -> dict[str, nn.Module]:
    """The mean over all places, which makes the network fit images of any size, and a linear layer under `name`."""
    return {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), name: nn.Linear(features, classes)}


def cifar_resnet(n: int, classes: int, shape: Shape, act: Act) -> nn.Sequential:
    """The CIFAR ResNet of depth 6n + 2 with shortcuts of option A (He et al. 2016, 1512.03385).

    Args:
        n: the number of blocks a stage.
        classes: K.
        shape: channels, height and width of an image, at least 4 pixels a side.
        act: makes a new activation.
    """
    refuse_small_images(4, shape, f"resnet{6 * n + 2}")
    block = partial(ResidualBlock, act=act, shortcut=padded_shortcut)
    network = named_sequence(
        conv1=conv3(shape[0], 16, 1), bn1=nn.BatchNorm2d(16), act1=act(),
        layer1=block_sequence(block, 16, 16, n, 1), layer2=block_sequence(block, 16, 32, n, 2), layer3=block_sequence(block, 32, 64, n, 2),
        **head_modules(64, classes, "linear"),
    )  # fmt: skip
    return he_init(network, "fan_out")


def resnet18(classes: int, shape: Shape, act: Act) -> nn.Sequential:
    """ResNet-18 (He et al. 2016, 1512.03385) with the 3x3 stem without pooling that is usual on CIFAR; shortcuts of option B.

    Args:
        classes: K.
        shape: channels, height and width of an image, at least 8 pixels a side.
        act: makes a new activation.
    """
    refuse_small_images(8, shape, "resnet18")
    block = partial(ResidualBlock, act=act, shortcut=projected_shortcut)
    network = named_sequence(
        conv1=conv3(shape[0], 64, 1), bn1=nn.BatchNorm2d(64), act1=act(),
        layer1=block_sequence(block, 64, 64, 2, 1), layer2=block_sequence(block, 64, 128, 2, 2),
        layer3=block_sequence(block, 128, 256, 2, 2), layer4=block_sequence(block, 256, 512, 2, 2),
        **head_modules(512, classes, "linear"),
    )  # fmt: skip
    return he_init(network, "fan_out")


def preact_resnet18(classes: int, shape: Shape, act: Act) -> nn.Sequential:
    """ResNet-18 with pre-activation (He et al. 2016, 1603.05027), batch norm before the pooling included.

    Args:
        classes: K.
        shape: channels, height and width of an image, at least 8 pixels a side.
        act: makes a new activation.
    """
    refuse_small_images(8, shape, "preact-resnet18")

    def block(inputs: int, planes: int, stride: int) -> nn.Module:
        changes = stride != 1 or inputs != planes
        return PreActBlock(inputs, planes, stride, act, {"shortcut": nn.Sequential(conv1(inputs, planes, stride))} if changes else {})

    network = named_sequence(
        conv1=conv3(shape[0], 64, 1),
        layer1=block_sequence(block, 64, 64, 2, 1), layer2=block_sequence(block, 64, 128, 2, 2),
        layer3=block_sequence(block, 128, 256, 2, 2), layer4=block_sequence(block, 256, 512, 2, 2),
        bn=nn.BatchNorm2d(512), act1=act(), **head_modules(512, classes, "linear"),
    )  # fmt: skip
    return he_init(network, "fan_out")


def wide_resnet(depth: int, width: int, classes: int, shape: Shape, act: Act, *, dropout: float = 0.0) -> nn.Sequential:
    """The wide residual network WRN-depth-width (Zagoruyko & Komodakis 2016, 1605.07146); dropout sits between a block's convolutions.

    Args:
        depth: 6 n + 4 layers, for n blocks a stage.
        width: the factor by which the 16, 32 and 64 channels are widened.
        classes: K.
        shape: channels, height and width of an image, at least 4 pixels a side.
        act: makes a new activation.
        dropout: the share that is dropped in training, at least 0 and below 1.
    """
    refuse_small_images(4, shape, f"wrn-{depth}-{width}")
    count, widths = (depth - 4) // 6, [16, 16 * width, 32 * width, 64 * width]

    def block(inputs: int, planes: int, stride: int) -> nn.Module:
        projection: dict[str, nn.Module] = {"convShortcut": conv1(inputs, planes, stride)} if inputs != planes else {}
        return PreActBlock(inputs, planes, stride, act, projection, dropout)

    network = named_sequence(
        conv1=conv3(shape[0], 16, 1),
        block1=named_sequence(layer=block_sequence(block, widths[0], widths[1], count, 1)),
        block2=named_sequence(layer=block_sequence(block, widths[1], widths[2], count, 2)),
        block3=named_sequence(layer=block_sequence(block, widths[2], widths[3], count, 2)),
        bn1=nn.BatchNorm2d(widths[3]), act1=act(), **head_modules(widths[3], classes, "fc"),
    )  # fmt: skip
    return he_init(network, "fan_out")
