"""The settings class of each command."""

from psld.cluster.settings import LaunchSettings
from psld.commands.certify import CertifySettings
from psld.commands.design import DesignSettings
from psld.commands.figure import FigureSettings
from psld.commands.page import PageSettings
from psld.commands.tabulate import TabulateSettings
from psld.commands.trace import TraceSettings
from psld.commands.verify import VerifySettings
from psld.commands.wandb import WandbCommandSettings
from psld.data.settings import PrepareSettings
from psld.grid.plan import PlanSettings
from psld.metrics.settings import (
    EvaluateCommandSettings,
    LikelihoodCommandSettings,
    ReferenceSettings,
    TrainExtractorSettings,
)
from psld.sampling.settings import SampleSettings
from psld.training.settings import ImportModelSettings, TrainGuideSettings, TrainSettings

COMPOSED = {
    "prepare": PrepareSettings,
    "design": DesignSettings,
    "train": TrainSettings,
    "train_guide": TrainGuideSettings,
    "train_extractor": TrainExtractorSettings,
    "import": ImportModelSettings,
    "reference": ReferenceSettings,
    "sample": SampleSettings,
    "evaluate": EvaluateCommandSettings,
    "likelihood": LikelihoodCommandSettings,
    "trace": TraceSettings,
    "wandb": WandbCommandSettings,
}
"""The commands with a config, configs/COMMAND.yaml."""

OF_GRIDS = {
    "tabulate": TabulateSettings,
    "figure": FigureSettings,
    "page": PageSettings,
    "certify": CertifySettings,
    "verify": VerifySettings,
    "plan": PlanSettings,
    "launch": LaunchSettings,
}
"""The commands without one."""
