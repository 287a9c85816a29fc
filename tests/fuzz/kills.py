"""Stops commands at their n-th call to the file system, and looks at what is left.

    python tests/fuzz/kills.py [--points 3] [--seed 0] [--commands compile sample] [--no-exchange]

Each command runs in a forked child with an audit hook, which ends the child by SIGKILL right before
its n-th call below the folder that the command writes in: over a fresh and over an existing target.
Then another child looks: the old or the new stands there whole; the same command succeeds; nothing
else is left. Without --points every call is a kill point. Prints one line of JSON for each command
and target, and ends with status 1 where anything fell short.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork of a process with threads may hang

_OS = "rename mkdir remove rmdir link symlink truncate chmod listdir scandir"
EVENTS = {"open", "shutil.rmtree", "shutil.copyfile", *(f"os.{name}" for name in _OS.split())}
SECONDS = 600.0  # of one child, on a busy machine


class Calls:
    """Counts the calls below a folder; kills this process before the n-th."""

    def __init__(self, root: Path, at: int | None) -> None:
        self.root, self.at, self.count = os.fspath(root), at, 0
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS:
            return
        paths = [os.fsdecode(a) for a in arguments[:2] if isinstance(a, (str, bytes, os.PathLike))]
        if any(path.startswith(self.root) for path in paths):
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], Any]) -> tuple[int, Any]:
    """(exit status, what `work` returned) of a fork of this process; a signal's status is < 0."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            signal.alarm(int(SECONDS))
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
            answer = json.dumps(work())
            status = 0
        except BaseException:
            answer = json.dumps(traceback.format_exc()[-3000:])
        with os.fdopen(writing, "w") as pipe:
            pipe.write(answer)
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, raw = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(raw), json.loads(text) if text else None


class World:
    """Inputs that no command writes to, and the folder in which they write."""

    def __init__(self, home: Path) -> None:
        self.inputs, self.root = home / "inputs", home / "out"
        self.inputs.mkdir()
        os.environ["LATINO_ENGINE_CACHE"] = str(home / "cache")

    def prepare(self) -> list[str]:
        """Writes the inputs; in a child, so that this process stays without threads."""
        import numpy as np
        import torch
        from blobs import blob_images
        from tiny import tiny_prior

        import latino_engine as le

        np.save(self.inputs / "blobs.npy", blob_images(8))
        prior = tiny_prior(1)
        le.save_prior(prior, self.inputs / "new")
        with torch.no_grad():
            prior.denoiser.network.conv_in.weight.mul_(1.5)
        le.save_prior(prior, self.inputs / "old")
        le.compile(le.load_prior(self.inputs / "new"), self.inputs / "a.engine", backend="torch")
        le.image_io.write_image(self.inputs / "a.png", torch.rand(1, 16, 16))
        return list(sys.modules)


def _sha(prior: Path) -> str:
    import latino_engine as le

    return le.load_prior(prior).content_hash()


class Command:
    """One command: how it is run for the old and for the new, and which of them stands there."""

    name = ""
    target = ""

    def run(self, world: World, which: str) -> None:
        raise NotImplementedError

    def stands(self, world: World) -> str:
        """The one that stands there whole: "old", "new"; anything else raises."""
        raise NotImplementedError


class Compile(Command):
    name, target = "compile", "x.engine"

    def run(self, world: World, which: str) -> None:
        import latino_engine as le

        prior = le.load_prior(world.inputs / which)
        le.compile(prior, world.root / self.target, backend="torch")

    def stands(self, world: World) -> str:
        from latino_engine.manifest import read_manifest

        found = read_manifest(world.root / self.target)["prior_sha256"]
        return {_sha(world.inputs / which): which for which in ("old", "new")}[found]


class Sample(Command):
    name, target = "sample", "posterior"
    seeds: ClassVar = {"old": 5, "new": 6}

    def run(self, world: World, which: str) -> None:
        import latino_engine as le
        from latino_engine.cli.restoration import restore
        from latino_engine.sampling.options import Sampling

        engine = le.load(world.inputs / "a.engine", threads=1)
        restore(
            engine,
            world.inputs / "a.png",
            "denoise",
            world.root / self.target,
            Sampling(num_samples=2, steps=1, seed=self.seeds[which]),
            simulate=True,
        )

    def stands(self, world: World) -> str:
        import latino_engine as le

        seed = le.Posterior.load(world.root / self.target).about["seed"]
        return {number: which for which, number in self.seeds.items()}[seed]


class Evaluate(Command):
    name, target = "evaluate", "scores"
    levels: ClassVar = {"old": 0.1, "new": 0.2}

    def run(self, world: World, which: str) -> None:
        import latino_engine as le
        from latino_engine.evaluation.evaluator import evaluate
        from latino_engine.evaluation.options import Evaluation

        options = Evaluation(
            str(world.inputs / "blobs.npy"),
            "denoise",
            noise_std=self.levels[which],
            size=16,
            limit=1,
            num_samples=2,
            steps=1,
        )
        evaluate(le.load(world.inputs / "a.engine", threads=1), options, world.root / self.target)

    def stands(self, world: World) -> str:
        from latino_engine.atomic import recover

        folder = world.root / self.target
        recover(folder)
        report = json.loads((folder / "evaluation.json").read_text())
        assert (folder / "evaluation.md").read_text() and (folder / "calibration.png").is_file()
        return {level: which for which, level in self.levels.items()}[report["noise_std"]]


class Export(Command):
    name, target = "export", "denoiser.onnx"

    def run(self, world: World, which: str) -> None:
        from latino_engine.cli.export import export

        export(str(world.inputs / which), world.root / self.target)

    def stands(self, world: World) -> str:
        import numpy as np
        import onnx
        from safetensors.numpy import load_file

        graph = onnx.load(str(world.root / self.target)).graph
        found = [onnx.numpy_helper.to_array(weight) for weight in graph.initializer]
        weights = {
            which: load_file(world.inputs / which / "model.safetensors") for which in ("old", "new")
        }
        (differs,) = (
            name
            for name, weight in weights["old"].items()
            if not np.array_equal(weight, weights["new"][name])
        )
        for which, tensors in weights.items():
            wanted = tensors[differs]
            if any(v.shape == wanted.shape and np.array_equal(v, wanted) for v in found):
                return which
        raise AssertionError("the weights of neither")


class TrainPrior(Command):
    """Its old target is a run of two steps, which the command goes on with to four."""

    name, target = "train-prior", "run"
    steps: ClassVar = {"old": 2, "new": 4}

    def run(self, world: World, which: str) -> None:
        from blobs import prior_training

        from latino_engine.distill.prior_training import train_prior

        options = prior_training(world.inputs / "blobs.npy", steps=self.steps[which], batch=2)
        train_prior(options, world.root / self.target, device="cpu")

    def stands(self, world: World) -> str:
        import latino_engine as le
        from latino_engine.distill.checkpoint import read_facts

        folder = world.root / self.target
        le.load_prior(folder)
        step = read_facts(folder / "training.safetensors")["step"]
        return {number: which for which, number in self.steps.items()}[step]


class Distil(Command):
    """Its old target is a run of one step, which the command goes on with to two."""

    name, target = "distill", "adapter"
    steps: ClassVar = {"old": 1, "new": 2}

    def run(self, world: World, which: str) -> None:
        from blobs import distillation

        import latino_engine as le
        from latino_engine.distill.distillation import distill

        steps = self.steps[which]
        options = distillation(world.inputs / "blobs.npy", training_steps=steps, batch=2, steps=1)
        prior = le.load_prior(world.inputs / "new")
        distill(prior, options, world.root / self.target, device="cpu")

    def stands(self, world: World) -> str:
        import latino_engine as le
        from latino_engine.distill.checkpoint import read_facts

        folder = world.root / self.target
        le.load_adapter(folder)
        step = read_facts(folder / "training.safetensors")["step"]
        return {number: which for which, number in self.steps.items()}[step]


COMMANDS = {kind.name: kind() for kind in (Compile, Sample, Evaluate, Export, TrainPrior, Distil)}
#: Several files, each whole by itself: a first write that was cut short has none or some of them.
BY_FILES = ("train-prior", "distill")


def tree(root: Path) -> list[str]:
    """Names of everything below a folder; pictures of a step by their kind."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def killed_everywhere(
    world: World, command: Command, existing: bool, points: int | None, seed: int
) -> dict[str, Any]:
    """One command over one target, killed at all points or at some of them."""
    begun = time.monotonic()
    template = world.inputs.parent / f"template-{command.name}-{existing}"

    def reset() -> None:
        shutil.rmtree(world.root, ignore_errors=True)
        if template.exists():
            shutil.copytree(template, world.root)
        else:
            world.root.mkdir()

    reset()
    if existing:
        _well(in_child(lambda: command.run(world, "old")), "making the old one")
        shutil.copytree(world.root, template)

    def counted() -> tuple[int, list[str]]:
        calls = Calls(world.root, None)
        command.run(world, "new")
        return calls.count, list(sys.modules)

    total, modules = _well(in_child(counted), "an undisturbed run")
    _import_all(modules)
    right = tree(world.root)
    chosen = list(range(1, total + 1))
    if points is not None and points < total:
        chosen = sorted(random.Random(f"{seed} {command.name} {existing}").sample(chosen, points))
    fell: list[str] = []
    found = {"old": 0, "new": 0, "nothing": 0}
    for point in chosen:
        reset()

        def killed(point: int = point) -> None:
            Calls(world.root, point)
            command.run(world, "new")

        status, answer = in_child(killed)
        if status not in (0, -signal.SIGKILL):
            fell.append(f"{point}: ended with {status}, {answer}")
        status, answer = in_child(lambda: seen(world, command, existing))
        if status != 0:
            fell.append(f"{point}: {answer}")
            continue
        found[answer["stood"]] += 1
        if answer["stands"] != "new" or answer["tree"] != right:
            fell.append(f"{point}: afterwards {answer['stands']}, {answer['tree']}, not {right}")
    return {
        "command": command.name,
        "target": "existing" if existing else "fresh",
        "calls": total,
        "killed_at": len(chosen),
        "stood": found,
        "fell_short": fell,
        "seconds": round(time.monotonic() - begun, 1),
    }


def seen(world: World, command: Command, existing: bool) -> dict[str, Any]:
    """What stands there, then what stands there after the same command."""
    target = world.root / command.target
    try:
        stood = command.stands(world)
    except Exception:
        # Before the first write nothing stands there: no target at all, or for a run, whose files
        # come one by one, a folder without all of them.
        if existing or not (not target.exists() or command.name in BY_FILES):
            raise
        stood = "nothing"
    command.run(world, "new")
    return {"stood": stood, "stands": command.stands(world), "tree": tree(world.root)}


def _import_all(names: list[str]) -> None:
    """What a child has imported, so that its siblings need not."""
    for name in names:
        if name not in sys.modules and not name.startswith("__"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _well(child: tuple[int, Any], what: str) -> Any:
    status, answer = child
    if status != 0:
        raise SystemExit(f"{what} failed with status {status}:\n{answer}")
    return answer


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--points", type=int, help="so many of each, chosen by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=sorted(COMMANDS), default=sorted(COMMANDS))
    parser.add_argument("--targets", nargs="+", default=["fresh", "existing"])
    parser.add_argument("--no-exchange", action="store_true")
    options = parser.parse_args()
    import torch

    import latino_engine.cli.restoration
    import latino_engine.compilation.compiler
    import latino_engine.distill.distillation
    import latino_engine.distill.prior_training
    import latino_engine.evaluation.evaluator  # noqa: F401
    from latino_engine.atomic import exchange

    torch.set_num_threads(1)
    if options.no_exchange:
        exchange._renameat2 = lambda: None
    short = False
    with tempfile.TemporaryDirectory() as home:
        world = World(Path(os.path.realpath(home)))
        _import_all(_well(in_child(world.prepare), "making the inputs"))
        for name in options.commands:
            for target in options.targets:
                row = killed_everywhere(
                    world, COMMANDS[name], target == "existing", options.points, options.seed
                )
                short = short or bool(row["fell_short"])
                print(json.dumps(row), flush=True)
    return int(short)


if __name__ == "__main__":
    sys.exit(main())
