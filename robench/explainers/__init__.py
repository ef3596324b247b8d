"""Explainers: explain(model, x, target, draws, *, options) -> maps; the dict EXPLAINERS lists them. Captum lives here.

The contract. The caller has put the model into eval mode with frozen parameters (`core.model_calls.freeze_model`) and, for methods that
work on modules, has asked `explainable_model` for a model that they can treat. x is (B, C, H, W) in [0, 1], and target (B,) holds the class
whose logit is explained. The maps, (B, C, H, W) or (B, 1, H, W), are signed, detached, and a pure function of the image and `draws`: no map
depends on the batch. No model call has more than max(B, 64) rows (DeepLift: twice as many), so the caller bounds the memory by the number
of images. Options are keyword-only with plain defaults, and a wrong one is an InputError.

A new method is a function in a file and a line in EXPLAINERS. What a run must know of it besides stands above the function as
`@MethodFacts(...)`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from robench.explainers.facts import MethodFacts
from robench.explainers.grad_cam import chosen_layer, grad_cam, guided_grad_cam
from robench.explainers.gradients import (
    gradient_shap,
    input_x_gradient,
    integrated_gradients,
    saliency,
    smoothgrad,
    smoothgrad_sq,
    vargrad,
)  # fmt: skip
from robench.explainers.hooks import deeplift, guided_backprop
from robench.explainers.masking import feature_ablation, kernel_shap, masking_remarks, occlusion, shapley_sampling
from robench.explainers.rebuilt_models import explainable_model

__all__ = ["EXPLAINERS", "MethodFacts", "chosen_layer", "explainable_model", "masking_remarks"]

EXPLAINERS: dict[str, Callable[..., Tensor]] = {
    "saliency": saliency,
    "input-x-gradient": input_x_gradient,
    "integrated-gradients": integrated_gradients,
    "smoothgrad": smoothgrad,
    "smoothgrad-sq": smoothgrad_sq,
    "vargrad": vargrad,
    "gradient-shap": gradient_shap,
    "deeplift": deeplift,
    "guided-backprop": guided_backprop,
    "grad-cam": grad_cam,
    "guided-grad-cam": guided_grad_cam,
    "occlusion": occlusion,
    "feature-ablation": feature_ablation,
    "shapley-sampling": shapley_sampling,
    "kernel-shap": kernel_shap,
}
