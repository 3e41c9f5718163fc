"""Values of a pool's rows: the teacher, a student of it, and what is done with the values."""

from rapidun.pipeline.valuing.run import value, value_by_student
from rapidun.settings.value import SavedConfig, Uses, ValueConfig, ValueFiles

__all__ = ["SavedConfig", "Uses", "ValueConfig", "ValueFiles", "value", "value_by_student"]
