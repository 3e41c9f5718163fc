"""The embedded models, their data, and the configuration behind ``rapidun demo``."""

from rapidun.demo.demo import asset, demo_config, demo_settings, run_demo

__all__ = ["asset", "demo_config", "demo_settings", "run_demo"]
