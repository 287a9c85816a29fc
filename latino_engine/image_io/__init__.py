"""Files in and out: images, masks and kernels, arrays, sets of images."""

from latino_engine.image_io.images import (
    EXTENSIONS,
    MAX_PIXELS,
    MAX_RMS_OUTSIDE,
    is_pixel_type,
    read_image,
    read_kernel,
    read_mask,
    tiff_page,
    write_image,
    write_npy,
)

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "MAX_RMS_OUTSIDE",
    "is_pixel_type",
    "read_image",
    "read_kernel",
    "read_mask",
    "tiff_page",
    "write_image",
    "write_npy",
]
