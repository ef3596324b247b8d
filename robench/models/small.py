"""Small networks without batch norm: multilayer perceptrons and plain CNNs, quick enough for a CPU."""

from __future__ import annotations

import math
from itertools import chain, pairwise

from torch import nn

from robench.core.checks import whole_option
from robench.models.layers import Act, Shape, activation_layer, he_init, named_sequence, refuse_small_images


def mlp(classes: int, shape: Shape, act: Act, *, width: int = 200, depth: int = 2, dropout: float = 0.0) -> nn.Sequential:
    """An MLP of `depth` hidden layers of `width` units; 784-200-200-10 has 199,210 parameters.

    Args:
        classes: K.
        shape: channels, height and width of an image.
        act: makes a new activation.
        width: units of a hidden layer, at least 1.
        depth: hidden layers, at least 1.
        dropout: the share that is dropped in training, at least 0 and below 1.
    """
    sizes = [math.prod(shape)] + [whole_option("width", width)] * whole_option("depth", depth)
    hidden = chain.from_iterable((nn.Linear(a, b), activation_layer(act, dropout)) for a, b in pairwise(sizes))
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, classes))


def cnn(classes: int, shape: Shape, act: Act, *, width: int = 16, dropout: float = 0.0) -> nn.Sequential:
    """Three 3x3 convolutions of width, 2 width, 4 width channels, the first and last of stride 2; pooling to 4x4; 128 units. Our layout.

    The early stride keeps it cheap: 2.6 million multiplications for a 32x32 image.

    Args:
        classes: K.
        shape: channels, height and width of an image, at least 4 pixels a side.
        act: makes a new activation.
        width: channels of the first convolution, at least 1.
        dropout: the share that is dropped in training, at least 0 and below 1.
    """
    refuse_small_images(4, shape, "cnn")
    w = whole_option("width", width)
    sides = [math.ceil(side / 4) for side in shape[1:]]
    windows = [math.ceil(side / 4) for side in sides]
    features = 4 * w * math.prod(math.ceil(side / window) for side, window in zip(sides, windows, strict=True))
    network = nn.Sequential(
        nn.Conv2d(shape[0], w, 3, 2, 1), act(),
        nn.Conv2d(w, 2 * w, 3, 1, 1), act(),
        nn.Conv2d(2 * w, 4 * w, 3, 2, 1), act(),
        # not AdaptiveAvgPool2d, whose CUDA backward pass is not deterministic
        nn.AvgPool2d((windows[0], windows[1]), ceil_mode=True), nn.Flatten(),
        nn.Linear(features, 128), activation_layer(act, dropout), nn.Linear(128, classes),
    )  # fmt: skip
    return he_init(network, "fan_in")


def two_conv(classes: int, shape: Shape, act: Act, *, dropout: float = 0.0) -> nn.Sequential:
    """Two 4x4 convolutions of stride 2 and 100 units: the MNIST network of Wong et al. 2020 (2001.03994) and others before them.

    Args:
        classes: K.
        shape: channels, height and width of an image, at least 4 pixels a side.
        act: makes a new activation.
        dropout: the share that is dropped in training, at least 0 and below 1.
    """
    refuse_small_images(4, shape, "two-conv")
    features = 32 * (shape[1] // 4) * (shape[2] // 4)
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 4, 2, 1), act(),
        nn.Conv2d(16, 32, 4, 2, 1), act(),
        nn.Flatten(), nn.Linear(features, 100), activation_layer(act, dropout), nn.Linear(100, classes),
    )  # fmt: skip


def lenet(classes: int, shape: Shape, act: Act, *, dropout: float = 0.0) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998), with maximum pooling and a dense second convolution as it is built today; 61,706 parameters on MNIST.

    Args:
        classes: K.
        shape: channels, height and width of an image, at least 12 pixels a side.
        act: makes a new activation.
        dropout: the share that is dropped in training, at least 0 and below 1.
    """
    refuse_small_images(12, shape, "lenet")
    features = 16 * math.prod((side // 2 - 4) // 2 for side in shape[1:])
    return named_sequence(
        conv1=nn.Conv2d(shape[0], 6, 5, padding=2), act1=act(), pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(6, 16, 5), act2=act(), pool2=nn.MaxPool2d(2), flatten=nn.Flatten(),
        fc1=nn.Linear(features, 120), act3=activation_layer(act, dropout),
        fc2=nn.Linear(120, 84), act4=activation_layer(act, dropout), fc3=nn.Linear(84, classes),
    )  # fmt: skip


def smallcnn(classes: int, shape: Shape, act: Act, *, dropout: float = 0.0) -> nn.Sequential:
    """Four 3x3 convolutions and three linear layers: the MNIST network of TRADES (Zhang et al. 2019, 1901.08573), 312,202 parameters.

    The names in the state_dict are those of its published weights. TRADES trained it with dropout 0.5, and with a last layer that
    starts at 0; ours does not, because all input gradients would be 0 in the first step.

    Args:
        classes: K.
        shape: channels, height and width of an image, at least 16 pixels a side.
        act: makes a new activation.
        dropout: the share that is dropped in training, at least 0 and below 1.
    """
    refuse_small_images(16, shape, "smallcnn")
    features = 64 * math.prod(((side - 4) // 2 - 4) // 2 for side in shape[1:])
    extractor = named_sequence(
        conv1=nn.Conv2d(shape[0], 32, 3), relu1=act(), conv2=nn.Conv2d(32, 32, 3), relu2=act(), maxpool1=nn.MaxPool2d(2),
        conv3=nn.Conv2d(32, 64, 3), relu3=act(), conv4=nn.Conv2d(64, 64, 3), relu4=act(), maxpool2=nn.MaxPool2d(2),
    )  # fmt: skip
    classifier = named_sequence(
        fc1=nn.Linear(features, 200),
        relu1=activation_layer(act, dropout),
        fc2=nn.Linear(200, 200),
        relu2=act(),
        fc3=nn.Linear(200, classes),
    )
    return he_init(named_sequence(feature_extractor=extractor, flatten=nn.Flatten(), classifier=classifier), "fan_in")
