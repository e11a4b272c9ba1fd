"""One step of training: forward, backward, and the optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from deepcorrect.data import check_labels
from deepcorrect.distortions import distort_some
from deepcorrect.runtime import InputError, alone, autocast, process_count, to_device, total
from deepcorrect.training._augmentation import augment
from deepcorrect.training._forward import answers_for
from deepcorrect.training._job import Job
from deepcorrect.training._objectives import OBJECTIVES
from deepcorrect.training._shared_batches import Share
from deepcorrect.training._shared_norms import RunningNorms, SharedNorms


def train_step(job: Job, share: Share, generator: torch.Generator) -> Tensor:
    """Makes one step of the optimizer, in all processes the same.

    The gradient is that of the mean over all processes' images, as if one process had them all. In
    a step with a single image, as a last batch may be, batch norms use the statistics that they
    have gathered: one image has no statistics that describe a batch, and of pooled values it has
    none at all.

    Returns:
        The objective on all processes' images, without the L1 penalty: a scalar on the device,
        which is not waited for.
    """
    processes, weight = process_count(), share.weight
    with _as_one(share):
        loss, measured = _loss(job, share, generator)
        job.optimizer.zero_grad()
        (loss if processes == 1 else loss * weight).backward()
    if processes > 1:
        measured = _sum_gradients(job.parameters, measured * weight)
    job.optimizer.step()
    return measured


@contextmanager
def _as_one(share: Share) -> Iterator[None]:
    """Makes what is computed over a batch that of all processes' images."""
    with ExitStack() as entered:
        if share.total == 1:
            entered.enter_context(RunningNorms())
        if process_count() > 1:
            entered.enter_context(alone() if share.is_whole else SharedNorms())
        yield


def _loss(job: Job, share: Share, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The loss of this process's images, and the objective without the L1 penalty."""
    settings, device, part = job.settings, job.compared.device, (share.first, share.total)
    own = to_device(share.images, device, channels_last=False)
    images = augment(own, settings.augmentation, generator, part)
    labels = share.labels.to(device)
    mixed = distort_some(images, job.grid, settings.clean_share, generator, part, job.level_shares)
    with autocast(device, settings.precision):
        answers = answers_for(job.compared, images, mixed, labels, generator)
    if "labels" in job.compared.needs:
        check_labels(share.labels, answers.logits.shape[1])  # where they are: nothing waits
    loss = torch.zeros((), device=device)
    for name, weight in settings.objective.items():
        if weight > 0:
            loss = loss + weight * OBJECTIVES[name].loss(answers)
    measured = loss.detach()
    if settings.l1 > 0:
        weights = [p.abs().sum() for p in job.parameters if p.dim() > 1]
        loss = loss + settings.l1 * torch.stack(weights).sum()
    if not loss.requires_grad:
        raise InputError(
            "the objective has no gradient: the network computes its output without one, as under "
            "torch.no_grad() or after an argmax, or nothing that is trained affects it"
        )
    return loss, measured


def _sum_gradients(parameters: list[nn.Parameter], measured: Tensor) -> Tensor:
    """Adds up all processes' gradients in place, and returns the sum of what they measured."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([each.flatten().float() for each in (*gradients, measured)])
    *sums, measured = total(flat).split([each.numel() for each in (*gradients, measured)])
    for gradient, summed in zip(gradients, sums, strict=True):
        gradient.copy_(summed.view_as(gradient))
    return measured.squeeze()
