"""Where the settings of the presets are from, and what differs from there.

What differs from every source stands in docs/fidelity.md once: held-out images, the mode of the network under attack, first weights, random
numbers. A preset without an entry is ours.
"""

from __future__ import annotations

from typing import NamedTuple

NOT_READ = "could not be read again: the numbers are from notes on it, and momentum without nesterov is our choice"
TRAINING_MODE = "the adversary calls the network in evaluation mode, there in training mode"
IGD_SOURCE = "fhdnskfbeuv/Inuput-Gradient-Distillation (2305.09305)"
EMR_SOURCE = "ziquanliu/Effective_Margin_Reg"
ARR_SOURCE = "notes on the paper"
ARR_DIFFERS = "neither paper nor code could be found again; the weight, the distance and momentum without nesterov are our choice"
MAIL_SOURCE = "QizhouWang/MAIL, train.py and mail_loss.py"
MAIL_DIFFERS = (
    "it goes on at epoch 75 from the weights of epoch 70, with new momentum, and stops after epoch 100; here 120 epochs in one run"
)


class PresetSource(NamedTuple):
    """Where the settings of a preset are from.

    Attributes:
        source: a repository with its file, or a paper; "ours".
        differs: what is otherwise than there; "" where nothing but what differs from every source.
    """

    source: str
    differs: str = ""


OURS = PresetSource("ours")
PRESET_SOURCES: dict[str, PresetSource] = {
    "hoffman2019": PresetSource(
        "facebookresearch/jacobian_regularizer, examples/mnist.py",
        "its weight 0.1 is 0.009493 here, because we differentiate by pixels in [0, 1]; first weights are torch's, there Xavier's",
    ),
    "emr-mlp": PresetSource("ours", "the paper studies an MLP; its public code holds none"),
    "standard-cifar": PresetSource("locuslab/robust_overfitting, train_cifar.py --attack none", "ResNet-18, there PreAct ResNet-18"),
    "sagr-cifar": PresetSource("ours", "only the abstract of Li et al. 2023 (10.1109/TIFS.2023.3289000) could be read"),
    "igd-cifar10": PresetSource(IGD_SOURCE, f"its train.py {NOT_READ}"),
    "igd-cifar100": PresetSource(IGD_SOURCE, "as igd-cifar10"),
    "igd-tinyimagenet": PresetSource(IGD_SOURCE, "as igd-cifar10"),
    "igd-imagenet100": PresetSource(IGD_SOURCE, "as igd-cifar10; torchvision's network is our choice"),
    "emr-at": PresetSource(
        f"{EMR_SOURCE}, main-AT-EMR.py and train-AT-EMR.sh",
        "its weight 3 is 3/128 here, whatever the batch size; the mode of the network under its PGD could not be read",
    ),
    "emr-trades": PresetSource(f"{EMR_SOURCE}, main-TRADES-EMR.py and train-TRADES-EMR.sh", "its weight 1 is 1/128 here; else as emr-at"),
    "emr-mail": PresetSource(
        f"{EMR_SOURCE}, main-AT-MAIL-EMR.py and train-MAIL-AT-EMR.sh",
        "its weight 1 is 1/128 here; from epoch 75 on its PGD has eps 0.031, steps of 0.007 and starts at x plus 0.001 N(0, 1)",
    ),
    "emr-mart": PresetSource("ours", "the public code of EMR has no MART"),
    "arr-cifar10": PresetSource(ARR_SOURCE, ARR_DIFFERS),
    "arr-cifar100": PresetSource(ARR_SOURCE, ARR_DIFFERS),
    "rice2020": PresetSource("locuslab/robust_overfitting, train_cifar.py", TRAINING_MODE),
    "pang2021": PresetSource(
        "P2333/Bag-of-Tricks-for-AT, train_cifar.py --BNeval",
        "the network is its script's default; the baseline of its README is WRN-34-10",
    ),
    "pang2021-wa-ls": PresetSource(
        "P2333/Bag-of-Tricks-for-AT, train_cifar.py --BNeval",
        "it averages no weights and advises smoothing of about 0.2, spread over the wrong classes alone; here over all",
    ),
    "trades2019": PresetSource("yaodongyu/TRADES, train_trades_cifar10.py"),
    "mart2020": PresetSource("YisenWang/MART, train_resnet.py", "PGD starts evenly in the threat, there at x plus 0.001 N(0, 1)"),
    "mail2021-at": PresetSource(MAIL_SOURCE, f"PGD starts evenly in the threat, there at x plus 0.001 N(0, 1); {MAIL_DIFFERS}"),
    "mail2021-trades": PresetSource(MAIL_SOURCE, MAIL_DIFFERS),
    "awp2020": PresetSource(
        "csdongxian/AWP, README: on the code of robust_overfitting",
        f"its train_cifar10.py could not be read: 0.01 from the first epoch on is from notes; {TRAINING_MODE}",
    ),
    "awp2020-trades": PresetSource("csdongxian/AWP, trades_AWP/train_trades_cifar.py"),
    "hat2022": PresetSource(
        "imrahulr/hat, README, core/utils/parser.py and core/utils/train.py",
        "momentum stays 0.9, where torch's OneCycleLR moves it from 0.95 to 0.85 and back; helper images are clipped to [0, 1]",
    ),
    "wong2020": PresetSource(
        "locuslab/fast_adversarial, CIFAR10/train_fgsm.py",
        f"fp32, there apex O2; 30 epochs are the schedule of later papers (n-fgsm2022); {TRAINING_MODE}",
    ),
    "wong2020-free": PresetSource("locuslab/fast_adversarial, CIFAR10/train_free.py", "fp32, there apex O2"),
    "n-fgsm2022": PresetSource("pdejorge/N-FGSM, train.py", TRAINING_MODE),
    "gradalign2020": PresetSource(
        "tml-epfl/understanding-fast-adv-training, train.py and sh/exps_diff_eps_cifar10.sh", f"fp32, there apex O1; {TRAINING_MODE}"
    ),
    "free2019": PresetSource(
        "ashafahi/free_adv_train, config.py, free_train.py and free_model.py",
        "its 80,000 steps are 25.6 epochs; each image is normalised by itself, ReLU leaks, shortcuts pool, kernels alone decay",
    ),
}


def source_of(preset: str) -> PresetSource:
    """Where the settings of a preset are from.

    Args:
        preset: its name; one that is not in PRESET_SOURCES is ours.

    Example:
        >>> source_of("trades2019").source
        'yaodongyu/TRADES, train_trades_cifar10.py'
    """
    return PRESET_SOURCES.get(preset, OURS)


def source_text(its: PresetSource) -> str:
    """A source and what differs from it, as one line.

    Args:
        its: from `source_of`.

    Example:
        >>> source_text(PresetSource("paper", "two epochs"))
        'from paper; differs: two epochs'
    """
    if its.source == OURS.source:
        return "; ".join(filter(None, its))
    return f"from {its.source}" + (f"; differs: {its.differs}" if its.differs else "")
