"""The embedded models, their data, and the configuration behind ``rapidun demo``."""

from rapidun.demo.demo import demo_config, demo_settings, run_demo
from rapidun.demo.embedded import asset

__all__ = ["asset", "demo_config", "demo_settings", "run_demo"]
