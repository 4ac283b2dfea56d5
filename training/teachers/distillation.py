"""Distillation: a network learns the class probabilities and the pooled features of its teachers (arXiv 1503.02531).

Teachers and network see the same augmented input in the same step (function matching, arXiv 2106.05237).
"""

import torch
import torch.nn.functional as F
from torch import nn

from training.arguments import TeacherArguments


class Distillation(nn.Module):
    """
    The losses of a student with the linear projection that only the training of features needs.

    Args:
        arguments (`TeacherArguments`): weights and temperature.
        student_width, teacher_width (`int`): of the pooled features.

    Example:

    ```python
    >>> import torch
    >>> from training.arguments import TeacherArguments

    >>> distillation = Distillation(TeacherArguments(["runs/teacher"], feature_weight=1.0), 192, 384)
    >>> student = {"logits": torch.zeros(2, 4), "features": torch.randn(2, 192)}
    >>> losses = distillation(**student, teacher_logits=torch.zeros(1, 2, 4), teacher_features=torch.randn(1, 2, 384))
    >>> list(losses), float(losses["distillation"])
    (['distillation', 'features'], 0.0)

    ```"""

    def __init__(self, arguments: TeacherArguments, student_width: int, teacher_width: int):
        super().__init__()
        self.arguments = arguments
        self.projection = nn.Linear(student_width, teacher_width) if arguments.feature_weight > 0 else None

    def forward(
        self,
        logits: torch.Tensor,
        features: torch.Tensor,
        teacher_logits: torch.Tensor | None,
        teacher_features: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            logits (`torch.Tensor` of shape `(batch, num_labels)`): of the student.
            features (`torch.Tensor` of shape `(batch, student_width)` or `(batch, student_width, mel, time)`):
                of the student, pooled or as a map.
            teacher_logits (`torch.Tensor` of shape `(teachers, batch, num_labels)`, *optional*):
                needed where `weight` is above 0.
            teacher_features (`torch.Tensor`, *optional*): `(teachers, batch, teacher_width)` or, as maps of any grid,
                `(teachers, batch, teacher_width, mel, time)`; needed where `feature_weight` is above 0.

        Returns:
            `dict[str, torch.Tensor]`: `distillation` and `features`, those with a weight, without it.
        """
        losses = {}
        if teacher_logits is not None and self.arguments.weight > 0:
            losses["distillation"] = distillation_loss(
                logits, teacher_logits.float().mean(dim=0), self.arguments.temperature
            )
        if teacher_features is not None and self.projection is not None:
            taught = teacher_features.float().mean(dim=0)
            if features.ndim == 4:
                taught = F.adaptive_avg_pool2d(taught, (features.shape[-2], features.shape[-1])).permute(0, 2, 3, 1)
                features = features.permute(0, 2, 3, 1)
            losses["features"] = feature_loss(self.projection(features), taught)
        return losses

    def weight(self, name: str) -> float:
        """Weight of the loss `distillation` or `features`."""
        return {"distillation": self.arguments.weight, "features": self.arguments.feature_weight}[name]


def distillation_loss(logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """`T^2 * KL(teacher || student)` of the softmaxes at temperature `T`, mean over the batch (arXiv 1503.02531).

    Args:
        logits (`torch.Tensor` of shape `(batch, num_labels)`): of the student.
        teacher_logits (`torch.Tensor` of shape `(batch, num_labels)`): of the teacher.
        temperature (`float`, *optional*, defaults to 1.0): above 0.

    Returns:
        `torch.Tensor` of shape `()`, in float32 or wider.
    """
    student, teacher = (
        (scores if scores.dtype == torch.float64 else scores.float()).div(temperature).log_softmax(dim=-1)
        for scores in (logits, teacher_logits)
    )
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def feature_loss(projected: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """Mean squared error of two `(..., width)`, each layer-normalised over its width without weights, in float32."""
    width = projected.shape[-1:]
    return F.mse_loss(F.layer_norm(projected.float(), width), F.layer_norm(taught.float(), width))
