"""The executor `psld`, in the place where Snakemake looks for executors.

Every Snakemake of this environment imports it, so importing it changes nothing.
"""

from psld.cluster.executor import Executor, ExecutorSettings, common_settings

__all__ = ["Executor", "ExecutorSettings", "common_settings"]
