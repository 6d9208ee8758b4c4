#!/usr/bin/env python3
"""Writes the golden files that the Rust tests compare with. See tools/README.md; never needed to build or test.

    python tools/goldens.py [unet] [formula] [sample] [schedules] [files] [tensorflow] [families]      (default: all)

Everything random here comes from torch's CPU generator with fixed seeds, so a rerun with the same torch and diffusers
writes the same bytes. Networks run in float64 from float32 weights: a golden is the exact answer, rounded once.
"""

import sys

from goldens_families import families
from goldens_files import files
from goldens_multistep import multistep
from goldens_sample import sample
from goldens_schedules import schedules
from goldens_tensorflow import tensorflow
from goldens_unet import formula, unet

ALL = (unet, formula, sample, schedules, multistep, files, tensorflow, families)
JOBS = {job.__name__: job for job in ALL}

if __name__ == "__main__":
    for name in sys.argv[1:] or JOBS:
        if name not in JOBS:
            sys.exit(f"{name}: not one of {', '.join(JOBS)}")
        JOBS[name]()
