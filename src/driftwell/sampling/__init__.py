"""Sampling: the verb `sample`, its samplers and diagnostics, and the log-partition function."""

from driftwell.sampling.log_partition import AnnealingPath, LogPartition, log_partition
from driftwell.sampling.samplers.annealed import AnnealedLangevin
from driftwell.sampling.samplers.baoab import BAOAB
from driftwell.sampling.samplers.descent import Descent
from driftwell.sampling.samplers.hmc import HMC
from driftwell.sampling.samplers.langevin import Langevin, UnadjustedLangevin
from driftwell.sampling.samplers.mala import MALA
from driftwell.sampling.samplers.replica_exchange import ReplicaExchange
from driftwell.sampling.samplers.sampler import Problem, Sampler
from driftwell.sampling.statistics import effective_sample_size, split_rhat
from driftwell.sampling.step_size import curvature, largest_curvature
from driftwell.sampling.verb import sample

__all__ = [
    "BAOAB",
    "HMC",
    "MALA",
    "AnnealedLangevin",
    "AnnealingPath",
    "Descent",
    "Langevin",
    "LogPartition",
    "Problem",
    "ReplicaExchange",
    "Sampler",
    "UnadjustedLangevin",
    "curvature",
    "effective_sample_size",
    "largest_curvature",
    "log_partition",
    "sample",
    "split_rhat",
]
