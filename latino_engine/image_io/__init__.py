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
)
from latino_engine.image_io.pictures import Picture, read_picture
from latino_engine.image_io.writing import write_image, write_npy

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "MAX_RMS_OUTSIDE",
    "Picture",
    "is_pixel_type",
    "read_image",
    "read_kernel",
    "read_mask",
    "read_picture",
    "tiff_page",
    "write_image",
    "write_npy",
]
