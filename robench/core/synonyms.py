"""Names that the field uses for what is called otherwise here: a refusal says ours. Hyphens and underscores are one."""

from __future__ import annotations

from collections.abc import Collection

# the field's name: ours, of whatever kind; only those that the asked table has are said
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("gradient", "gradients", "grad", "vanilla", "vanilla-gradient", "vanilla-gradients", "vanilla-grad", "simple-gradient"),
        ("saliency",),
    ),
    **dict.fromkeys(("saliency-map", "saliency-maps", "sensitivity", "sensitivity-map", "backprop"), ("saliency",)),
    **dict.fromkeys(("ig", "intgrad", "int-grad", "integrated-gradient", "integratedgradients"), ("integrated-gradients",)),
    **dict.fromkeys(
        (
            "gradient-x-input",
            "grad-x-input",
            "gradxinput",
            "grad-times-input",
            "gradient-times-input",
            "input-times-gradient",
            "inputxgradient",
        ),
        ("input-x-gradient",),
    ),
    **dict.fromkeys(("smooth-grad", "sg", "noise-tunnel", "noisetunnel"), ("smoothgrad",)),
    **dict.fromkeys(("smooth-grad-sq", "smoothgrad-squared", "sg-sq"), ("smoothgrad-sq",)),
    **dict.fromkeys(("var-grad", "vg"), ("vargrad",)),
    **dict.fromkeys(("gradientshap", "gradshap", "expected-gradients", "eg"), ("gradient-shap",)),
    "shap": ("kernel-shap", "gradient-shap"),
    **dict.fromkeys(("kernelshap",), ("kernel-shap",)),
    **dict.fromkeys(("shapley", "shapley-values", "shapley-value-sampling", "shapley-values-sampling"), ("shapley-sampling",)),
    **dict.fromkeys(("deep-lift", "deepliftshap", "deep-lift-shap", "deepshap"), ("deeplift",)),
    **dict.fromkeys(("gbp", "guidedbackprop", "guided-bp", "guided-backpropagation"), ("guided-backprop",)),
    **dict.fromkeys(("gradcam", "cam"), ("grad-cam",)),
    **dict.fromkeys(("guidedgradcam", "guided-gradcam", "ggcam"), ("guided-grad-cam",)),
    **dict.fromkeys(("ablation", "featureablation"), ("feature-ablation",)),
    **dict.fromkeys(("sliding-window",), ("occlusion",)),
    **dict.fromkeys(("gini-index", "sparsity", "sparseness"), ("gini",)),
    **dict.fromkeys(("pointing", "pointing-accuracy"), ("pointing-game",)),
    **dict.fromkeys(("infd",), ("infidelity",)),
    **dict.fromkeys(("sens-max", "sensitivity-max", "stability"), ("max-sensitivity",)),
    **dict.fromkeys(
        ("sanity-check", "sanity-checks", "parameter-randomisation", "randomization", "model-randomization"), ("randomisation",)
    ),
    **dict.fromkeys(("bim", "ifgsm", "i-fgsm", "basic-iterative", "iterative-fgsm", "linf-pgd", "pgd-linf", "l2-pgd", "pgd-l2"), ("pgd",)),
    **dict.fromkeys(("madry", "adv", "adversarial", "adversarial-training", "at", "pgd-training"), ("pgd-at", "pgd")),
    "pgd": ("pgd-at",),
    "fgsm": ("fgsm-at",),
    **dict.fromkeys(("fgm", "ffgsm", "fast-gradient", "fast-gradient-sign"), ("fgsm",)),
    **dict.fromkeys(("autopgd", "auto-pgd"), ("apgd",)),
    **dict.fromkeys(("apgdt", "apgd-dlr-t", "apgd-targeted", "targeted-apgd"), ("apgd-t",)),
    **dict.fromkeys(("square-attack", "squareattack"), ("square",)),
    **dict.fromkeys(("aa", "auto-attack", "standard-autoattack"), ("autoattack",)),
    **dict.fromkeys(("rand", "aa-rand"), ("autoattack-rand",)),
    **dict.fromkeys(("random", "random-start", "uniform-noise"), ("noise", "random-noise")),
    "inductive-noise-1": ("inductive-noise",),
    **dict.fromkeys(("salt-and-pepper", "salt-pepper"), ("impulse_noise",)),
    **dict.fromkeys(("gaussian", "gauss"), ("gaussian_noise", "gaussian_blur")),
    **dict.fromkeys(("poisson", "poisson-noise", "shot"), ("shot_noise",)),
    **dict.fromkeys(("impulse",), ("impulse_noise",)),
    **dict.fromkeys(("speckle",), ("speckle_noise",)),
    **dict.fromkeys(("blur",), ("gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur", "glass_blur")),
    **dict.fromkeys(("defocus",), ("defocus_blur",)),
    **dict.fromkeys(("glass", "frosted-glass", "frosted-glass-blur"), ("glass_blur",)),
    **dict.fromkeys(("motion",), ("motion_blur",)),
    **dict.fromkeys(("zoom",), ("zoom_blur",)),
    **dict.fromkeys(("jpeg", "jpg", "compression"), ("jpeg_compression",)),
    **dict.fromkeys(("elastic",), ("elastic_transform",)),
    **dict.fromkeys(("pixelation", "pixelated"), ("pixelate",)),
    "saturation": ("saturate",),
    "all": ("nineteen",),
    **dict.fromkeys(("clean", "natural", "erm", "ce", "cross-entropy", "none", "vanilla-training"), ("standard",)),
    **dict.fromkeys(("fast", "fast-at", "rs-fgsm", "fgsm-random-start"), ("fgsm-rs",)),
    **dict.fromkeys(("free", "free-adversarial-training"), ("free-at",)),
    "nfgsm": ("n-fgsm",),
    "mail": ("mail-at", "mail-trades"),
    **dict.fromkeys(("logit-pairing", "adversarial-logit-pairing"), ("alp",)),
    **dict.fromkeys(("jr", "jacobian-regularization", "jacobian-reg", "frobenius"), ("jacobian",)),
    **dict.fromkeys(
        (
            "gradient-penalty",
            "input-gradient",
            "input-gradients",
            "igr",
            "gradreg",
            "grad-reg",
            "input-gradient-regularization",
            "ross2018",
        ),
        ("double-backprop",),
    ),
    **dict.fromkeys(("weight-decay", "ridge"), ("l2",)),
    "lasso": ("l1",),
    "curvature": ("cure",),
    **dict.fromkeys(("gradient-alignment", "grad-align", "ga"), ("gradalign",)),
    **dict.fromkeys(("virtual-adversarial", "virtual-adversarial-training"), ("vat",)),
}
# what is not here, and what comes nearest
ABSENT: dict[str, tuple[str, ...]] = {
    "rise": ("occlusion", "shapley-sampling"),
    "lime": ("kernel-shap",),
    "lrp": ("deeplift",),
    **dict.fromkeys(("gradcam++", "grad-cam++", "scorecam", "score-cam", "layercam", "layer-cam", "eigencam", "eigen-cam"), ("grad-cam",)),
    **dict.fromkeys(("mim", "mi-fgsm", "mifgsm", "momentum"), ("pgd", "transfer:MODEL")),
    **dict.fromkeys(("cw", "c&w", "carlini", "carlini-wagner"), ("pgd-margin", "apgd,loss=margin")),
    **dict.fromkeys(("deepfool", "ddn", "fmn"), ("fab",)),
    **dict.fromkeys(("boundary", "hopskipjump", "hsj", "nes", "spsa", "simba"), ("square",)),
    **dict.fromkeys(("llr", "local-linearity"), ("gradalign", "cure")),
    **dict.fromkeys(("rain", "fogging"), ("spatter", "fog")),
}
HINTED_SUITES = ("smoke", "fast", "autoattack", "autoattack-plus", "autoattack-rand", "inductive")
# what is asked for, where another option takes the name; robench.objectives adds those of objectives and regularisers
OTHER_OPTION_HINTS: dict[str, dict[str, str]] = {
    "attack": {name: f"it is a suite: robench eval MODEL --suite {name}" for name in HINTED_SUITES},
}


def our_names_for(name: str, known: Collection[str]) -> tuple[list[str], bool]:
    """Our names among `known` for a name of the field, and whether they are the same thing; else what comes nearest to it."""
    plain = name.lower().replace("_", "-")
    same = [ours for ours in known if ours.replace("_", "-") == plain] or [ours for ours in OTHER_NAMES.get(plain, ()) if ours in known]
    if same:
        return same, True
    near = ABSENT.get(plain, ())
    return (list(near), False) if any(word.partition(",")[0] in known for word in near) else ([], False)
