"""Clustering by dynamics: k-means as a descent in an energy of centroids."""

from driftwell.models.clustering.kmeans import kmeans_energy, lloyd
from driftwell.models.clustering.stochastic_backward_euler import StochasticBackwardEulerKMeans

__all__ = ["StochasticBackwardEulerKMeans", "kmeans_energy", "lloyd"]
