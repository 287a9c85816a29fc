"""Foreign files are read without running anything in them, and refused in one sentence."""

from __future__ import annotations

import os
import pickle
import zipfile

import pytest
import torch
from published_layouts import ddpm_layout, fill
from safetensors.torch import save_file

import latino_engine as le
from latino_engine.errors import PriorInvalid
from latino_engine.priors.importers.checkpoint import read_checkpoint, state_of


class Poison:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_poisoned_file_is_refused_and_nothing_is_run(tmp_path, zipped):
    trap, path = tmp_path / "trap", tmp_path / "net.pt"
    payload = {"conv_in.weight": torch.zeros(2, 2), "evil": Poison(trap)}
    torch.save(payload, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(PriorInvalid) as caught:
        le.import_ddpm(path)
    assert "holds the code object posix.mkdir; nothing of it was run" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not trap.exists()
    torch.load(path, weights_only=False)  # the file is a trap indeed
    assert trap.exists()


def test_a_plain_poisoned_pickle_is_refused(tmp_path):
    trap, path = tmp_path / "trap", tmp_path / "net.pt"
    path.write_bytes(pickle.dumps(Poison(trap)))
    with pytest.raises(PriorInvalid, match="checkpoint: expected"):
        read_checkpoint(path)
    assert not trap.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path, suffix, share):
    path, weights = tmp_path / f"net{suffix}", {"a": torch.randn(64, 64), "b": torch.randn(64)}
    torch.save(weights, path) if suffix == ".pt" else save_file(weights, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(PriorInvalid, match="checkpoint: expected a whole file of weights, got"):
        read_checkpoint(path)
    path.write_bytes(whole)
    assert torch.equal(read_checkpoint(path)["b"], weights["b"])


def test_a_size_limit_holds_for_the_file_and_for_what_it_unpacks_to(tmp_path):
    path = tmp_path / "net.pt"
    torch.save({"a": torch.zeros(500_000)}, path)
    assert "a" in read_checkpoint(path, max_bytes=3_000_000)
    with pytest.raises(PriorInvalid, match=r"expected at most 0\.001 GB, got 'net\.pt' of 0\.002"):
        read_checkpoint(path, max_bytes=1_000_000)
    with (
        zipfile.ZipFile(path) as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.namelist():
            bomb.writestr(entry, plain.read(entry))
    assert (tmp_path / "bomb.pt").stat().st_size < 100_000
    with pytest.raises(PriorInvalid, match=r"raise max_bytes \(--max-gb\) if you trust it"):
        read_checkpoint(tmp_path / "bomb.pt", max_bytes=1_000_000)


def test_tensors_larger_than_what_is_stored_and_no_arrays_are_refused(tmp_path):
    path = tmp_path / "net.pt"
    torch.save({"state": {"a": torch.zeros(1).expand(10**5, 10**6)}}, path)  # 400 GB in 1 kB
    with pytest.raises(PriorInvalid, match=r"expected at most 8\.59 GB, got 'net\.pt' of 400 GB"):
        read_checkpoint(path)
    for kind, tensor in {
        "sparse": torch.zeros(4, 4).to_sparse(),
        "meta": torch.zeros(4, 4, device="meta"),
    }.items():
        torch.save({"a": tensor}, path)
        with pytest.raises(PriorInvalid, match=f"expected dense tensors .* got a {kind} one; save"):
            read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_a_quantized_tensor_is_refused(tmp_path):
    quantized = torch.quantize_per_tensor(torch.rand(4, 4), 0.1, 0, torch.qint8)
    torch.save({"a": torch.zeros(2), "b": quantized}, tmp_path / "net.pt")
    with pytest.raises(PriorInvalid) as caught:
        read_checkpoint(tmp_path / "net.pt")
    assert str(caught.value) == (
        "checkpoint: expected dense tensors in 'net.pt', got a quantized one; save its weights as "
        "dense float tensors"
    )


def test_weights_are_found_in_the_usual_wrappings(tmp_path):
    weights = {k: v.half() for k, v in fill(ddpm_layout(multiples=(1, 1), blocks=1)).items()}
    plain = state_of(weights)
    assert all(v.dtype == torch.float32 for v in plain.values())
    for wrapped in (
        {"state_dict": weights, "epoch": 3},
        {f"module.{k}": v for k, v in weights.items()},
    ):
        assert state_of(wrapped).keys() == plain.keys()
    both = {"model": weights, "ema": weights}
    with pytest.raises(PriorInvalid, match="expected one mapping of weights, got model, ema; name"):
        state_of(both)
    assert state_of(both, "ema").keys() == plain.keys()
    with pytest.raises(PriorInvalid, match=r"key: expected the name of a mapping .* got 'emma'"):
        state_of(both, "emma")
    with pytest.raises(PriorInvalid, match="got none among epoch"):
        state_of({"epoch": 3})


def test_a_path_that_is_no_file_of_weights_is_refused(tmp_path):
    with pytest.raises(PriorInvalid, match="no such file; check the path"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(PriorInvalid, match="a folder; check the path"):
        read_checkpoint(tmp_path)
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(PriorInvalid, match=r"expected names with weights in 'list\.pt', got list"):
        read_checkpoint(tmp_path / "list.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(PriorInvalid, match=r"holds the code object torch\.nn\.modules\.linear\.Li"):
        read_checkpoint(tmp_path / "module.pt")
