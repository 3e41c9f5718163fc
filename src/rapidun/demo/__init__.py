"""The embedded models, their data, and the configuration behind ``rapidun demo``."""

from rapidun.demo.demo import asset, demo_config, run_demo

__all__ = ["asset", "demo_config", "run_demo"]
