"""Writes goldens/packed.mat and goldens/plain.mat, which tests/mat.rs reads.

python mat_golden.py    (made with scipy 1.17.1, numpy 2.4.6)
"""

import pathlib

import numpy
from scipy.io import savemat

HERE = pathlib.Path(__file__).parent / "goldens"


def images(height, width, channels, count):
    y, x, c, n = numpy.meshgrid(*map(numpy.arange, (height, width, channels, count)), indexing="ij")
    return ((y * 37 + x * 101 + c * 53 + n * 11 + (y * x) % 7 * 29) % 256).astype(numpy.uint8)


def save(name, variables, packed):
    savemat(HERE / name, variables, do_compression=packed)
    # The header has the date.
    with open(HERE / name, "r+b") as file:
        file.write(b"MATLAB 5.0 MAT-file, by SciPy".ljust(116))


# As SVHN's files.
save("packed.mat", {"X": images(32, 32, 3, 3), "y": numpy.array([[10], [1], [9]], numpy.uint8)}, True)
other = {"note": "a text", "size": {"a": 1, "b": [1.5, 2]}, "where": numpy.array([[1 + 2j]]), "list": numpy.array([1, "a"], object)}
save("plain.mat", {**other, "X": images(4, 5, 1, 2), "y": numpy.array([0.0, 7.0])}, False)
