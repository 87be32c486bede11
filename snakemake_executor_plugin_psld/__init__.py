"""The executor `psld`, in the place where Snakemake looks for executors.

Every Snakemake of this environment imports it, so importing it changes nothing.
"""

from snakemake_executor_plugin_slurm import ExecutorSettings, common_settings

from psld.cluster.executor import Executor

__all__ = ["Executor", "ExecutorSettings", "common_settings"]
