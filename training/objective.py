"""The training objective: cross-entropy, Patch-Mix contrastive learning (arXiv 2606.11922 and 2305.14032) and
distillation.

Clean and mixed views go through the network in one forward pass. The loss is `CE(clean) + sum over axes of weight *
contrastive(mixed, clean)`. With teachers, the cross-entropy has a weight, and the losses of [`Distillation`] on the
clean view are added.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from training.arguments import NEGATIVES, ObjectiveArguments
from training.patch_mix import mixed_patches
from training.prediction.classifier_loading import classify_pooled
from training.teachers.distillation import Distillation


class PatchMixContrastiveLoss(nn.Module):
    r"""
    Contrastive loss between mixed samples and the clean samples they are made of (arXiv 2305.14032, equation 3).

    A mixed sample has two positives: sample `i`, with weight `lam`, and sample `index[i]`, with weight `1 - lam`; all
    other clean samples of the batch are negatives.

    Args:
        temperature (`float`, *optional*, defaults to 0.2): of the softmax over cosine similarities.
        negatives (`str`, *optional*, defaults to `"all"`):
            `"all"`, or `"diff_label"`: other samples with the label of sample `i` leave the denominator; the two
            positives always stay.

    Example:

    ```python
    >>> import torch
    >>> from training.objective import PatchMixContrastiveLoss

    >>> contrastive = PatchMixContrastiveLoss()
    >>> clean, index = torch.eye(4), torch.tensor([1, 0, 3, 2])
    >>> float(contrastive(clean, clean, index, lam=1.0)) < float(contrastive(clean, clean, index, lam=0.5))
    True

    ```"""

    def __init__(self, temperature: float = 0.2, negatives: str = "all"):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature: {temperature} should be above 0")
        if negatives not in NEGATIVES:
            raise ValueError(f"negatives: {negatives!r} is not one of {', '.join(NEGATIVES)}")
        self.temperature = temperature
        self.negatives = negatives

    def forward(
        self,
        projected_mixed: torch.Tensor,
        targets_clean: torch.Tensor,
        index: torch.Tensor,
        lam: float | torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        r"""
        Args:
            projected_mixed (`torch.Tensor` of shape `(batch, features)`): projections of the mixed samples.
            targets_clean (`torch.Tensor` of shape `(batch, features)`): features of the clean samples.
            index (`torch.Tensor` of shape `(batch,)`): the sample that each mixed sample took patches from.
            lam (`float`): share of the patches that a mixed sample kept.
            labels (`torch.Tensor` of shape `(batch,)`, *optional*): classes; needed for `"diff_label"`.

        Returns:
            `torch.Tensor` of shape `()`, in float32 or wider.

        Raises:
            ValueError: shapes that do not fit each other, or labels that are missing.
        """
        batch = len(projected_mixed)
        if projected_mixed.ndim != 2 or projected_mixed.shape != targets_clean.shape or index.shape != (batch,):
            raise ValueError(
                "projected_mixed and targets_clean must both have shape (batch, features) and index (batch,), got "
                f"{tuple(projected_mixed.shape)}, {tuple(targets_clean.shape)} and {tuple(index.shape)}"
            )
        dtype = torch.promote_types(torch.promote_types(projected_mixed.dtype, targets_clean.dtype), torch.float32)
        # Autocast would compute the similarities in half precision.
        with torch.autocast(projected_mixed.device.type, enabled=False):
            mixed, clean = (F.normalize(features.to(dtype), dim=-1) for features in (projected_mixed, targets_clean))
            similarities = mixed @ clean.T / self.temperature
        own = torch.arange(batch, device=index.device)
        if self.negatives == "diff_label":
            if labels is None:
                raise ValueError("labels: needed for negatives='diff_label'; pass the class of each sample")
            left_out = labels.unsqueeze(1) == labels.unsqueeze(0)
            left_out[own, own] = left_out[own, index] = False
            similarities = similarities.masked_fill(left_out, -torch.inf)
        log_probability = F.log_softmax(similarities, dim=-1)
        return -(lam * log_probability[own, own] + (1 - lam) * log_probability[own, index]).mean()


class PatchMixProjector(nn.Sequential):
    """Linear, batch norm, ReLU, linear on pooled features `(batch, width)`, all of that width."""

    def __init__(self, width: int):
        super().__init__(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width))


@dataclass
class ObjectiveOutput(ModelOutput):
    """
    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): the whole objective, returned when `labels` is given.
        logits (`torch.Tensor` of shape `(batch, num_labels)`): class scores of the clean samples.
        cross_entropy (`torch.Tensor` of shape `()`, *optional*): its part on the clean samples.
        contrastive (`dict[str, torch.Tensor]`, *optional*): the unweighted contrastive loss of each axis, in training.
        taught (`dict[str, torch.Tensor]`, *optional*): the unweighted losses of [`Distillation`], in training.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    cross_entropy: torch.Tensor | None = None
    contrastive: dict[str, torch.Tensor] | None = None
    taught: dict[str, torch.Tensor] | None = None


class PatchMixTraining(nn.Module):
    """
    A classifier with the parts that only its training needs, so that wrappers for several devices see all of them.

    Args:
        classifier (`PreTrainedModel`):
            its `base_model` returns `pooler_output`, and `classify_pooled` knows the rest.
        arguments (`ObjectiveArguments`): the objective.
        class_weights (`torch.Tensor` of shape `(num_labels,)`, *optional*): weights of the cross-entropy.
        label_smoothing (`float`, *optional*, defaults to 0.0): of the cross-entropy, in training.
        distillation (`Distillation`, *optional*): losses against teachers; none when not given.
    """

    # The loss is a plain mean, so the Trainer must scale it under gradient accumulation.
    accepts_loss_kwargs = False

    def __init__(
        self,
        classifier: PreTrainedModel,
        arguments: ObjectiveArguments,
        class_weights: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
        distillation: Distillation | None = None,
    ):
        super().__init__()
        self.classifier = classifier
        self.arguments = arguments
        self.label_smoothing = label_smoothing
        self.class_weights: torch.Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.contrastive = PatchMixContrastiveLoss(arguments.temperature, arguments.negatives)
        self.projector: PatchMixProjector | None = None
        if arguments.axes:
            self.projector = PatchMixProjector(classifier.config.hidden_size)
            self.projector.requires_grad_(arguments.projector == "trained")
        self.distillation = distillation

    @property
    def config(self):
        """That of the classifier; the Trainer reads it."""
        return self.classifier.config

    @property
    def _no_split_modules(self):
        return self.classifier._no_split_modules

    def activation_checkpointing_enable(self, **kwargs):
        """That of the classifier; the Trainer calls it."""
        self.classifier.activation_checkpointing_enable(**kwargs)

    def forward(
        self,
        input_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        teacher_logits: torch.Tensor | None = None,
        teacher_features: torch.Tensor | None = None,
    ) -> ObjectiveOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, frames, num_mel_bins)`): normalised log-mel spectrograms.
            labels (`torch.Tensor` of shape `(batch,)`, *optional*): class indices.
            teacher_logits, teacher_features (`torch.Tensor`, *optional*): the answers of teachers, as for
                [`Distillation`].

        Outside training, or without labels, the loss is plain cross-entropy, without mixed views.
        """
        # The contrastive loss of a single sample is zero: there is nothing to tell it from.
        axes = self.arguments.axes if self.training and labels is not None and len(labels) > 1 else ()
        with mixed_patches(self.classifier.get_input_embeddings(), axes, self.arguments.alpha) as draws:
            outputs = self.classifier.base_model(input_values.repeat(1 + len(axes), 1, 1))
        clean, *mixed = outputs.pooler_output.split(len(input_values))
        logits = self._head(clean)
        if labels is None:
            return ObjectiveOutput(logits=logits)
        if not self.training:
            return ObjectiveOutput(loss=F.cross_entropy(logits.float(), labels), logits=logits)
        # Divided by the number of cycles and not, as "mean" does, by the weights of this batch: those differ between
        # the parts of a batch, over processes and accumulated steps.
        total = F.cross_entropy(
            logits.float(), labels, self.class_weights, reduction="sum", label_smoothing=self.label_smoothing
        )
        cross_entropy = total / len(labels)
        contrastive = {}
        if self.projector is not None and axes:
            targets = self._targets(clean)
            for axis, view, draw in zip(axes, mixed, draws, strict=True):
                contrastive[axis] = self.contrastive(self.projector(view), targets, draw.index, draw.lam, labels)
        weighted = [self.arguments.weight(axis) * loss for axis, loss in contrastive.items()]
        taught = {}
        labelled = cross_entropy
        if self.distillation is not None:
            labelled = self.distillation.arguments.weight_of_labels * cross_entropy
            takes_map = self.distillation.arguments.features == "map"
            features = outputs.last_hidden_state[: len(input_values)] if takes_map else clean
            taught = self.distillation(logits, features, teacher_logits, teacher_features)
            weighted += [self.distillation.weight(name) * loss for name, loss in taught.items()]
        loss = torch.stack([labelled, *weighted]).sum()
        return ObjectiveOutput(
            loss=loss, logits=logits, cross_entropy=cross_entropy, contrastive=contrastive, taught=taught
        )

    def _head(self, features: torch.Tensor) -> torch.Tensor:
        return classify_pooled(self.classifier, features)

    def _targets(self, clean: torch.Tensor) -> torch.Tensor:
        if self.projector is not None and self.arguments.targets.startswith("project"):
            clean = self.projector(clean)
        return clean.detach() if self.arguments.targets.endswith("block") else clean


def class_weights_from_labels(labels: list[int], num_labels: int, balance: float) -> torch.Tensor | None:
    """
    Weights of the cross-entropy, proportional to the number of cycles of a class to the power `-balance`.

    Args:
        labels (`list[int]`): classes of the training cycles.
        num_labels (`int`): number of classes; `labels` are below it.
        balance (`float`): 0 for no weights (`None` is returned), 1 for classes of equal total weight.

    Returns:
        `torch.Tensor` of shape `(num_labels,)`, *optional*: scaled so that their mean over the cycles is 1.
    """
    if balance == 0:
        return None
    counts = torch.bincount(torch.tensor(labels), minlength=num_labels).double()
    weights = counts**-balance
    return (weights * counts.sum() / (weights * counts).sum()).float()
