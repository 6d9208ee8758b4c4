"""Prints the numbers of tests/resize.rs and crop.rs: torchvision's Resize(shortest side) and CenterCrop, implemented with PIL.

python resize_golden.py    (made with Pillow 13.0.0, numpy 2.4.6)
"""

import numpy
from PIL import Image


def image(height, width, channels):
    y, x, c = numpy.meshgrid(numpy.arange(height), numpy.arange(width), numpy.arange(channels), indexing="ij")
    return ((y * 37 + x * 101 + c * 53 + (y * x) % 7 * 29) % 256).astype(numpy.uint8)


def resize_and_crop(pixels, size):
    height, width, channels = pixels.shape
    short, long = min(height, width), max(height, width)
    longer = int(size * long / short)
    new = (size, longer) if width <= height else (longer, size)  # PIL's (width, height)
    picture = Image.fromarray(pixels.squeeze(), {1: "L", 3: "RGB"}[channels]).resize(new, Image.Resampling.BILINEAR)
    left, top = int(round((new[0] - size) / 2.0)), int(round((new[1] - size) / 2.0))
    return numpy.asarray(picture.crop((left, top, left + size, top + size)))


# A part of the image, as CelebA's faces are cut out, then the same.
box = (5, 2, 16, 13)
part = Image.fromarray(image(13, 22, 3)).crop(box)
print(f"    crop {box}: &{resize_and_crop(numpy.asarray(part), 5).flatten().tolist()}")

for shape, size in [((13, 22, 3), 5), ((22, 13, 1), 5), ((3, 4, 3), 6)]:
    numbers = resize_and_crop(image(*shape), size).flatten().tolist()
    print(f"    ({list(shape)}, {size}, &{numbers}),")
