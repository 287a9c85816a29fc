"""A user without HOME and without an entry in the system's list, as containers have it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import os, pwd, sys
def nobody(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = nobody
from pathlib import Path
try:
    Path.home()
except RuntimeError:
    pass
else:
    sys.exit("there is a home")
from latino_engine.system.cache import cache_folder, through_cache
folder = cache_folder()
assert folder == cache_folder() and folder.is_dir(), folder
assert folder.stat().st_mode & 0o077 == 0, "others can write it"
target = Path(sys.argv[1])
through_cache("key", target, lambda: target.write_bytes(b"graph"))
target.unlink()
through_cache("key", target, lambda: sys.exit("it was not kept"))
assert target.read_bytes() == b"graph"
print(folder)
"""


def test_exports_are_kept_in_a_folder_of_the_process(tmp_path: Path) -> None:
    hidden = ("HOME", "XDG_CACHE_HOME", "LATINO_ENGINE_CACHE")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "denoiser.onnx")],
        capture_output=True,
        text=True,
        env=env,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).exists()
