"""Drawing a batch: D² sampling over features or gradient embeddings."""

from mmselect.core.sampling.d2 import Sampled, d2_sample
from mmselect.core.sampling.gradients import GradientPoints
from mmselect.core.sampling.nearest import nearest_picks
from mmselect.core.sampling.points import feature_points

__all__ = ["GradientPoints", "Sampled", "d2_sample", "feature_points", "nearest_picks"]
