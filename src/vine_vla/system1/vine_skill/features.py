"""How far a situation is from those of training, in the space of the policy's features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class FeatureStatistics(nn.Module):
    """Mean and shrunken covariance of training features; saved with the policy's weights.

    Args:
        width: of the features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("whitening", torch.eye(width))

    def fit(self, features: Tensor) -> None:
        """Take the statistics of features [N, width], N at least 2 (Ledoit and Wolf 2004)."""
        from sklearn.covariance import LedoitWolf

        values = features.detach().cpu().double().numpy()
        found = LedoitWolf().fit(values)
        # For a matrix that is singular up to rounding, where features hardly ever change.
        floor = 1e-8 * max(float(np.trace(found.covariance_)) / values.shape[1], 1e-12)
        precision = np.linalg.inv(found.covariance_ + floor * np.eye(values.shape[1]))
        self.count.fill_(len(values))
        self.mean.copy_(torch.from_numpy(found.location_))
        self.whitening.copy_(torch.from_numpy(np.linalg.cholesky(precision)))
        # Shrinkage overstates the spread where frames are few; training frames are to be at 1 nevertheless.
        self.whitening /= self.distance(features).square().mean().sqrt().clamp(min=1e-6)

    def distance(self, features: Tensor) -> Tensor:
        """Mahalanobis distance, 1 for training frames (root of their mean square); more is farther away.

        NaN before `fit`. [B, width] to [B].
        """
        if int(self.count) == 0:
            return torch.full((len(features),), torch.nan)
        return ((features.float() - self.mean) @ self.whitening).square().mean(1).sqrt()
