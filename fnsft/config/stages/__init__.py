"""The settings of every stage: one frozen dataclass each, every default with its source.

Sources: "2026" and "2025" are the two CollabMask papers (openreview Faoy8aclzJ and
5sLaujF45C); "ours" is a choice that ``docs/decisions.md`` argues.
"""

from fnsft.config.stages.data import DataSettings, Template
from fnsft.config.stages.evaluation import (
    CODE_KINDS,
    HARNESS_KINDS,
    PRIMARY_METRICS,
    AnswerSettings,
    Benchmark,
    BenchmarkKind,
    DriftSettings,
    ScoreSettings,
    TransferSettings,
)
from fnsft.config.stages.models import (
    DeltaSettings,
    ExportSettings,
    GenerateSettings,
    MergeSettings,
    PushSettings,
)
from fnsft.config.stages.networks import (
    AgreeSettings,
    LesionSettings,
    MatchSettings,
    NetworksSettings,
    Site,
)
from fnsft.config.stages.neurons import (
    CaptureSettings,
    ClusterSettings,
    DescribeSettings,
    MeasureSettings,
    OverlapSettings,
    ProjectSettings,
    SimilaritySettings,
    StatisticsSettings,
)
from fnsft.config.stages.reporting import (
    ChooseSettings,
    ExploreSettings,
    FigureKind,
    FigureSettings,
    PaperSettings,
    TableKind,
    TableSettings,
    TypesetSettings,
)
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
    FORWARD_MODES,
    FRACTION_METHODS,
    Affinity,
    EvaluateSettings,
    ForwardMode,
    Method,
    TrainSettings,
)

__all__ = [
    "Affinity",
    "AgreeSettings",
    "AnswerSettings",
    "Benchmark",
    "BenchmarkKind",
    "CLUSTER_AFFINITIES",
    "CODE_KINDS",
    "CaptureSettings",
    "ChooseSettings",
    "ClusterSettings",
    "ConvertSettings",
    "DataSettings",
    "DeltaSettings",
    "DescribeSettings",
    "DriftSettings",
    "EvaluateSettings",
    "ExploreSettings",
    "ExportSettings",
    "FORWARD_MODES",
    "FRACTION_METHODS",
    "FetchSettings",
    "FigureKind",
    "FigureSettings",
    "ForwardMode",
    "GenerateSettings",
    "HARNESS_KINDS",
    "LesionSettings",
    "MatchSettings",
    "MeasureSettings",
    "MergeSettings",
    "Method",
    "NetworksSettings",
    "OverlapSettings",
    "PRIMARY_METRICS",
    "PaperSettings",
    "PrepareSettings",
    "PretrainSettings",
    "ProjectSettings",
    "PushSettings",
    "ScoreSettings",
    "SimilaritySettings",
    "Site",
    "StatisticsSettings",
    "TableKind",
    "TableSettings",
    "Template",
    "TrainSettings",
    "TransferSettings",
    "TwinSettings",
    "TypesetSettings",
    "WorldSettings",
]
