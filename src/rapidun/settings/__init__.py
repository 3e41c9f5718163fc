"""Every setting of every verb, in one place that needs no torch: typed, limited, with its help beside it.

The command line, YAML files, ``--print-config`` and docs/settings.md are made from these classes.
"""

from rapidun.settings.attribution import IndexConfig, IndexSettings, InfluenceSettings, TraceConfig, Wanted
from rapidun.settings.base import Section, make_config, set_dotted
from rapidun.settings.evaluation import EvaluationSettings, Thresholds, TriggerSettings
from rapidun.settings.model import ModelSettings, RowSettings
from rapidun.settings.reveal import (
    ArmSettings,
    JudgeSettings,
    ReleaseSettings,
    RevealConfig,
    SearchSettings,
    TaskSettings,
    UtilitySettings,
    read_task,
)
from rapidun.settings.run import DataSettings, MeasureConfig, MeasureData, RunConfig, SampleSettings, load_config
from rapidun.settings.unlearning import LoraSettings, UnlearnSettings, WeightSettings
from rapidun.settings.value import SavedConfig, StudentSettings, TeacherSettings, Uses, ValueConfig, ValueFiles

__all__ = [
    "ArmSettings",
    "DataSettings",
    "EvaluationSettings",
    "IndexConfig",
    "IndexSettings",
    "InfluenceSettings",
    "JudgeSettings",
    "LoraSettings",
    "MeasureConfig",
    "MeasureData",
    "ModelSettings",
    "ReleaseSettings",
    "RevealConfig",
    "RowSettings",
    "RunConfig",
    "SampleSettings",
    "SavedConfig",
    "SearchSettings",
    "Section",
    "StudentSettings",
    "TaskSettings",
    "TeacherSettings",
    "Thresholds",
    "TraceConfig",
    "TriggerSettings",
    "UnlearnSettings",
    "Uses",
    "UtilitySettings",
    "ValueConfig",
    "ValueFiles",
    "Wanted",
    "WeightSettings",
    "load_config",
    "make_config",
    "read_task",
    "set_dotted",
]
