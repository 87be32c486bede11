"""The executor `psld`. Snakemake finds plugins by the names of their packages.

Every Snakemake run in this environment imports the package, so the import has no side effects.
"""

from snakemake_executor_plugin_slurm import ExecutorSettings, common_settings

from psld.cluster.executor import Executor

__all__ = ["Executor", "ExecutorSettings", "common_settings"]
