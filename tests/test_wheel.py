"""The wheel holds everything: in a clean environment it explains itself and begins the demo."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT_MB = 60


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_trap_32_the_wheel_runs_in_a_clean_environment(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("rapidun-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert sum(name.endswith(".py") for name in names) > 80
    assert any(name.endswith("poisoned/model.safetensors") for name in names)
    assert wheel.stat().st_size < LIMIT_MB * 1e6
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    pip = [str(tmp_path / "venv" / "bin" / "pip"), "install", "--quiet"]
    subprocess.run([*pip, "-r", str(ROOT / "constraints.txt")], check=True)
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True)
    rapidun = str(tmp_path / "venv" / "bin" / "rapidun")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    told = subprocess.run(
        [rapidun, "--help"], check=True, capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert "demo" in told.stdout
    demo = [rapidun, "demo", "--out", "run", "--until", "before", "--set", "evaluation.prompts=30"]
    subprocess.run(demo, check=True, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (tmp_path / "run" / "before.json").exists()
