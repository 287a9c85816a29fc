"""The command line's words for operators, and what they say when they are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import latino_engine as le
from latino_engine.errors import ImageUnreadable, InvalidArgument
from latino_engine.operators import JPEG, MRI, Blur, Denoising, Inpainting, SuperResolution
from latino_engine.operators.builders import EXAMPLES
from latino_engine.operators.protocol import Operator
from latino_engine.operators.serialisation import save_operator
from latino_engine.operators.spec import parse_operator

SHAPE = (48, 40)


def parse(text: str, seed: int = 0) -> Operator:
    return parse_operator(text, 0.05, SHAPE, seed)


def mask_of(text: str, seed: int = 0) -> torch.Tensor:
    operator = parse(text, seed)
    assert isinstance(operator, (Inpainting, MRI))
    assert operator.mask.shape[-2:] == SHAPE
    return operator.mask.reshape(SHAPE)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("blur:std=1.6,size=13", Blur.gaussian(1.6, 0.05, size=13)),
        ("blur:std=1.6", Blur.gaussian(1.6, 0.05)),
        (" blur: size=13 , std=1.6 ", Blur.gaussian(1.6, 0.05, size=13)),
        ("uniform:size=9", Blur.uniform(9, 0.05)),
        ("motion:size=31,seed=3", Blur.motion(31, 0.05, seed=3)),
        ("motion:size=31", Blur.motion(31, 0.05, seed=7)),
        ("sr:factor=4", SuperResolution(4, 0.05, grid="centred")),
        ("sr:factor=4,grid=corner", SuperResolution(4, 0.05)),
        ("sr:factor=2,kernel=bicubic", SuperResolution(2, 0.05, kernel="bicubic")),
        (
            "sr:factor=4,kernel=gaussian",
            SuperResolution(4, 0.05, kernel="gaussian", grid="centred"),
        ),
    ],
)
def test_kernels(text: str, wanted: Blur | SuperResolution) -> None:
    operator = parse(text, seed=7)
    assert type(operator) is type(wanted)
    assert torch.equal(operator.kernel, wanted.kernel)  # type: ignore[attr-defined]
    assert operator.noise_std == 0.05
    if isinstance(wanted, SuperResolution):
        assert operator.factor == wanted.factor  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["blur:std=1.6", "uniform:size=5", "motion:size=7,seed=1"])
def test_a_blur_takes_the_border_of_the_call_unless_it_names_one(text: str) -> None:
    wrapping = le.operator(text, 0.05, SHAPE)
    reflecting = le.operator(text, 0.05, SHAPE, border="reflect")
    assert type(wrapping) is Blur and isinstance(reflecting, le.BorderedBlur)
    assert reflecting.border == "reflect" and torch.equal(reflecting.kernel, wrapping.kernel)
    stated = le.operator(f"{text},border=replicate", 0.05, SHAPE, border="reflect")
    assert isinstance(stated, le.BorderedBlur) and stated.border == "replicate"
    assert type(le.operator(f"{text},border=wrap", 0.05, SHAPE, border="reflect")) is Blur
    with pytest.raises(ValueError, match=r"^border: expected one of wrap, reflect, .*, got 'x'"):
        le.operator(text, 0.05, SHAPE, border="x")


@pytest.mark.parametrize("name", ["psf.npy", "psf.png", "a=b.npy"])
@pytest.mark.parametrize("form", ["blur:kernel={}", "sr:factor=2,kernel={}"])
def test_kernel_files(tmp_path: Path, name: str, form: str) -> None:
    pixels = np.arange(1, 16, dtype=np.uint8).reshape(3, 5)
    path = tmp_path / name
    np.save(path, pixels) if name.endswith("npy") else Image.fromarray(pixels).save(path)
    kernel = parse(form.format(path)).kernel  # type: ignore[attr-defined]
    wanted = torch.from_numpy(pixels / pixels.sum())
    assert (kernel.reshape(3, 5) - wanted).norm() / wanted.norm() < 1e-14


def test_plain_operators() -> None:
    denoising = parse("denoise")
    assert isinstance(denoising, Denoising)
    assert denoising.noise_std == 0.05
    jpeg = parse("jpeg:quality=20")
    assert isinstance(jpeg, JPEG)
    assert jpeg.quality == 20


@pytest.mark.parametrize("form", ["inpaint:mask={}", "mri:mask={}"])
@pytest.mark.parametrize("name", ["mask.png", "mask.npy"])
def test_mask_files(tmp_path: Path, form: str, name: str) -> None:
    observed = torch.rand(SHAPE) > 0.5
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, observed.numpy())
    else:
        Image.fromarray(observed.numpy().astype(np.uint8) * 255).save(path)
    assert torch.equal(mask_of(form.format(path)), observed.double())


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.999])
def test_random_gives_the_missing_fraction(fraction: float) -> None:
    mask = mask_of(f"inpaint:random={fraction}")
    assert int((mask == 0).sum()) == round(fraction * SHAPE[0] * SHAPE[1])


def test_random_masks_follow_the_seed_alone() -> None:
    for form in ("inpaint:random=0.5{}", "mri:acceleration=4{}"):
        state = torch.random.get_rng_state()
        first = mask_of(form.format(",seed=5"))
        assert torch.equal(state, torch.random.get_rng_state())
        torch.rand(10)
        assert torch.equal(first, mask_of(form.format(",seed=5"), seed=1))
        assert torch.equal(first, mask_of(form.format(""), seed=5))
        assert not torch.equal(first, mask_of(form.format(",seed=6")))


def test_random_masks_are_unrelated_to_the_noise_of_the_same_seed() -> None:
    """A mask drawn from the sampler's own noise would choose where that noise is low."""
    shape = (256, 256)
    operator = parse_operator("inpaint:random=0.5", 1.0, shape, seed=0)
    assert isinstance(operator, Inpainting)
    noise = Denoising(1.0).measure(torch.zeros(1, 1, *shape), seed=0)[0, 0].double()
    mask = operator.mask.reshape(shape)
    correlation = torch.corrcoef(torch.stack([mask.flatten(), noise.flatten()]))[0, 1]
    assert abs(correlation) < 4 / 256


def test_random_masks_cover_the_image() -> None:
    mean = torch.stack([mask_of(f"inpaint:random=0.5,seed={seed}") for seed in range(200)]).mean(0)
    assert (mean - 0.5).abs().max() < 5.5 * 0.5 / 200**0.5


def test_the_last_pixel_is_observed() -> None:
    operator = parse_operator("inpaint:random=0.9", 0.05, (1, 2))
    assert isinstance(operator, Inpainting)
    assert operator.mask.sum() == 1


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ("8", slice(20, 28), slice(16, 24)),
        ("7", slice(20, 27), slice(16, 23)),
        ("16x4", slice(16, 32), slice(18, 22)),
        ("48X4", slice(0, 48), slice(18, 22)),
    ],
)
def test_box_is_centred(box: str, rows: slice, columns: slice) -> None:
    wanted = torch.ones(SHAPE, dtype=torch.float64)
    wanted[rows, columns] = 0
    assert torch.equal(mask_of(f"inpaint:box={box}"), wanted)


@pytest.mark.parametrize("width", [40, 41])
@pytest.mark.parametrize("acceleration", [1.0, 2.5, 4.0, 40.0])
def test_mri_columns(width: int, acceleration: float) -> None:
    operator = parse_operator(f"mri:acceleration={acceleration}", 0.05, (6, width))
    assert isinstance(operator, MRI)
    mask = operator.mask.reshape(6, width)
    assert torch.equal(mask, mask[:1].expand_as(mask))
    assert int(mask[0].sum()) == round(width / acceleration)
    num_centre = max(round(0.32 * width / acceleration), 1)
    dc = width // 2
    around = (torch.arange(num_centre) - num_centre // 2) + dc
    assert bool((mask[0, around] == 1).all())


def test_mri_columns_keep_the_mean() -> None:
    """DC is where the operator expects it: a constant image passes unchanged."""
    operator = parse_operator("mri:acceleration=8", 0.05, SHAPE)
    x = torch.ones(1, 2, *SHAPE, dtype=torch.float64)
    error = (operator.A_adjoint(operator.A(x)) - x).norm() / x.norm()
    assert error < 1e-12


def test_every_example_parses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("psf.npy", np.ones((3, 3)))
    np.save("mask.npy", np.tri(256))
    np.save("psfs.npy", np.ones((2, 3, 3, 3)))
    save_operator(Denoising(0.05), "operator.npz")
    Image.fromarray(np.tri(256, dtype=np.uint8) * 255).save("mask.png")
    Image.new("RGB", (256, 256), "grey").save("photo.jpg", quality=60)
    operators = [parse_operator(text, 0.05, (256, 256)) for text in EXAMPLES]
    assert all(isinstance(operator, Operator) for operator in operators)
    assert len({text.partition(":")[0] for text in EXAMPLES}) == 16


NAMES = (
    "blur, uniform, motion, sr, inpaint, denoise, jpeg, mri, demosaic, colorize, tomography, cs, "
    "phase, poisson, varying, saved"
)
BLUR = "blur:std=1.6,size=13 or blur:kernel=psf.npy"
INPAINT = "inpaint:mask=mask.png or inpaint:random=0.5,seed=0 or inpaint:box=64"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blurr:std=1", f"operator: expected one of {NAMES}, got 'blurr'; did you mean 'blur'?"),
        (
            "xyz",
            f"operator: expected one of {NAMES}, got 'xyz'; "
            "write it as name:key=value, e.g. blur:std=1.6",
        ),
        (
            "",
            f"operator: expected one of {NAMES}, got ''; "
            "write it as name:key=value, e.g. blur:std=1.6",
        ),
        (
            "blur:stdd=1",
            "operator blur: expected the keys border, kernel, size, std, got 'stdd'; "
            "did you mean 'std'?",
        ),
        (
            "blur:std=1,q=2",
            f"operator blur: expected the keys border, kernel, size, std, got 'q'; write {BLUR}",
        ),
        ("denoise:std=1", "operator denoise: expected no keys, got 'std'; write denoise"),
        ("blur", f"operator blur: expected one of the keys std, kernel, got none; write {BLUR}"),
        (
            "blur:size=3",
            f"operator blur: expected one of the keys std, kernel, got size; write {BLUR}",
        ),
        (
            "blur:std=1,kernel=a.npy",
            "operator blur: expected one of the keys std, kernel, got std and kernel; "
            f"write {BLUR}",
        ),
        (
            "blur:kernel=a.npy,size=3",
            f"operator blur: expected kernel without size, got both; write {BLUR}",
        ),
        (
            "blur:std=1,border=reflekt",
            "operator blur, border: expected one of reflect, replicate, valid, wrap, got "
            "'reflekt'; did you mean 'reflect'?",
        ),
        (
            "demosaic:pattern=XTRANS",
            "operator demosaic, pattern: expected one of RGGB, BGGR, GRBG, GBRG, got 'XTRANS'; "
            "write e.g. demosaic:pattern=RGGB",
        ),
        (
            "poisson:peak=0",
            "operator poisson, peak: expected a number of photons above 0, got '0'; "
            "write e.g. poisson:peak=50",
        ),
        (
            "cs:ratio=2",
            "operator cs, ratio: expected a share above 0, at most 1, got '2'; "
            "write e.g. cs:ratio=0.25,seed=0",
        ),
        (
            "sr:kernel=bicubic",
            "operator sr: expected the key factor, got kernel; write sr:factor=4,kernel=bicubic",
        ),
        (
            "inpaint",
            "operator inpaint: expected one of the keys mask, random, box, got none; "
            f"write {INPAINT}",
        ),
        (
            "blur:1.6",
            "operator blur: expected key=value, got '1.6'; write it as blur:key=value,key=value",
        ),
        (
            "blur:std=",
            "operator blur: expected key=value, got 'std='; write it as blur:key=value,key=value",
        ),
        (
            "blur:std=1,std=2",
            "operator blur: expected each key once, got std twice; remove one of them",
        ),
        *(
            (
                f"blur:std={value}",
                "operator blur, std: expected a number of pixels above 0, at most 40, "
                f"got '{value}'; write e.g. blur:std=1.6,size=13",
            )
            for value in ("abc", "0", "-1", "nan", "inf", "1e9")
        ),
        *(
            (
                f"uniform:size={value}",
                f"operator uniform, size: expected a whole number from 1 to 40, got '{value}'; "
                "write e.g. uniform:size=9",
            )
            for value in ("3.5", "0", "41", "-3", "1e1", "9999999999999999999")
        ),
        (
            "motion:size=9,seed=18446744073709551616",
            "operator motion, seed: expected a whole number from 0 to 18446744073709551615, "
            "got '18446744073709551616'; write e.g. motion:size=31,seed=3",
        ),
        (
            "sr:factor=x4",
            "operator sr, factor: expected a whole number from 1 to 40, got 'x4'; "
            "write e.g. sr:factor=4,kernel=bicubic",
        ),
        (
            "sr:factor=4,kernel=bicubik",
            "operator sr, kernel: expected bicubic, gaussian, a library's such as pillow-bicubic, "
            "or a file (npy, an image), got 'bicubik'; did you mean 'bicubic'?",
        ),
        (
            "jpeg:quality=101",
            "operator jpeg, quality: expected a whole number from 1 to 100, got '101'; "
            "write e.g. jpeg:quality=20",
        ),
        *(
            (
                f"inpaint:random={value}",
                "operator inpaint, random: expected the missing fraction, above 0 and below 1, "
                f"got '{value}'; write e.g. inpaint:random=0.5,seed=0",
            )
            for value in ("0", "1", "50", "half")
        ),
        *(
            (
                f"inpaint:box={value}",
                "operator inpaint, box: expected a side in pixels or HEIGHTxWIDTH, "
                f"got '{value}'; write e.g. inpaint:box=64",
            )
            for value in ("x", "4x", "0", "-4", "1x2x3", "4.5")
        ),
        (
            "inpaint:box=64",
            "operator inpaint, box: expected a box smaller than the image, 48 x 40, got 64 x 64; "
            "write e.g. inpaint:box=64",
        ),
        (
            "inpaint:box=48x40",
            "operator inpaint, box: expected a box smaller than the image, 48 x 40, got 48 x 40; "
            "write e.g. inpaint:box=64",
        ),
        (
            "mri:acceleration=0.5",
            "operator mri, acceleration: expected a number of 1 or more, got '0.5'; "
            "write e.g. mri:acceleration=4,seed=0",
        ),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text)
    assert str(caught.value) == message


def test_mask_of_another_size(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.eye(40))
    for name in ("inpaint", "mri"):
        with pytest.raises(InvalidArgument) as caught:
            parse(f"{name}:mask={tmp_path / 'mask.npy'}")
        assert str(caught.value) == (
            f"operator {name}, mask: expected 48 x 40 pixels as the image, got 40 x 40; "
            "crop or resize the mask"
        )


@pytest.mark.parametrize("text", ["blur:kernel={}", "inpaint:mask={}", "sr:factor=2,kernel={}"])
def test_missing_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "missing.npy"
    with pytest.raises(ImageUnreadable) as caught:
        parse(text.format(path))
    assert str(caught.value) == f"{path}: expected an image file, got no such file; check the path"
