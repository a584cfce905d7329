"""The network that answers: an adapted network, its temperature and its "none of these", in one plain module.

The window, the command line and every exported file run this very module, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workbench.learn.protocol import Deployed


class Answering(nn.Module):
    """Pictures in, answers out.

    ``P(none) = sigmoid((d - threshold) / width)`` with ``d`` the distance to the nearest prototype, and
    ``P(k) = (1 - P(none)) softmax(z / T)_k``.

    Args:
        deployed: the adapted network on normalised pictures.
        mean: per channel.
        std: per channel.
        temperature: ``T``.
        prototypes: ``[N, D]`` class means in the embedding that ``deployed.trunk`` gives.
        threshold: distance at which "none of these" is as likely as not.
        width: over which that belief changes.
    """

    mean: Tensor
    std: Tensor
    temperature: Tensor
    prototypes: Tensor
    threshold: Tensor
    width: Tensor

    def __init__(
        self,
        deployed: Deployed,
        mean: Sequence[float],
        std: Sequence[float],
        temperature: float,
        prototypes: Tensor,
        threshold: float,
        width: float,
    ) -> None:
        super().__init__()
        self.deployed = deployed
        dtype = prototypes.dtype
        self.register_buffer("mean", torch.tensor(mean, dtype=dtype).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=dtype).view(1, -1, 1, 1))
        self.register_buffer("temperature", torch.tensor(temperature, dtype=dtype))
        self.register_buffer("prototypes", prototypes.detach().clone())
        self.register_buffer("threshold", torch.tensor(threshold, dtype=dtype))
        self.register_buffer("width", torch.tensor(width, dtype=dtype))
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Answers for pictures ``[B, C, H, W]`` in 0..1.

        Returns:
            logits ``[B, N]`` (divided by the temperature), probabilities ``[B, N+1]`` (last: none of these),
            distance ``[B]`` to the nearest prototype, embedding ``[B, D]``.
        """
        embedding = self.deployed.trunk((image - self.mean) / self.std)
        logits, probabilities, distance = self.from_embedding(embedding)
        return logits, probabilities, distance, embedding

    def from_embedding(self, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The part behind the trunk, for cached embeddings ``[B, D]``."""
        logits = self.deployed.head(embedding) / self.temperature
        squared = (embedding.unsqueeze(1) - self.prototypes.unsqueeze(0)).pow(2).sum(-1)
        distance = squared.min(dim=1).values.clamp_min(1e-12).sqrt()
        beyond = ((distance - self.threshold) / self.width).unsqueeze(1)
        # "1 - none" would be 0 for every picture that is far off, and its classes could not be ranked any more
        known = torch.sigmoid(-beyond).clamp_min(1e-9)
        probabilities = torch.cat([torch.softmax(logits, dim=1) * known, torch.sigmoid(beyond)], dim=1)
        return logits, probabilities, distance
