"""The settings of every stage: one frozen dataclass each, every default with its source.

Sources: "2026" and "2025" are the two CollabMask papers (openreview Faoy8aclzJ and
5sLaujF45C); "ours" is a choice that ``docs/decisions.md`` argues.
"""

from fnsft.config.stages.neurons import (
    CaptureSettings,
    ClusterSettings,
    MeasureSettings,
    OverlapSettings,
    ProjectSettings,
    StatisticsSettings,
)
from fnsft.config.stages.reporting import ChooseSettings, FigureKind, FigureSettings, TableSettings
from fnsft.config.stages.sources import (
    ConvertSettings,
    FetchSettings,
    PrepareSettings,
    PretrainSettings,
    TwinSettings,
    WorldSettings,
)
from fnsft.config.stages.training import (
    CLUSTER_AFFINITIES,
    FRACTION_METHODS,
    MASKED_METHODS,
    Affinity,
    EvaluateSettings,
    Method,
    TrainSettings,
)

__all__ = [
    "Affinity",
    "CLUSTER_AFFINITIES",
    "CaptureSettings",
    "ChooseSettings",
    "ClusterSettings",
    "ConvertSettings",
    "EvaluateSettings",
    "FRACTION_METHODS",
    "FetchSettings",
    "FigureKind",
    "FigureSettings",
    "MASKED_METHODS",
    "MeasureSettings",
    "Method",
    "OverlapSettings",
    "PrepareSettings",
    "PretrainSettings",
    "ProjectSettings",
    "StatisticsSettings",
    "TableSettings",
    "TrainSettings",
    "TwinSettings",
    "WorldSettings",
]
