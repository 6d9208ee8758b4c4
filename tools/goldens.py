#!/usr/bin/env python3
"""Writes the golden files of the Rust tests. See tools/README.md; not required to build or test.

    python tools/goldens.py [unet] [formula] [sample] [schedules] [multistep] [schedulers] [files] [tensorflow] [families] [lucidrains] [lucidrains_versions] [lucidrains_classes] [lucidrains_sampling] [edm] [edm_sampling] [edm_augment] [edm_preconditioners] [hmdolatabadi]
        [hmdolatabadi_sampling]      (default: all)

All random numbers come from torch's CPU generator with fixed seeds, so the same torch and diffusers write the same bytes
again. Networks run in float64 with float32 weights: a golden is the exact result, rounded once.
"""

import sys

from goldens_families import families
from goldens_edm import edm, edm_augment, edm_preconditioners, edm_sampling
from goldens_files import files
from goldens_hmdolatabadi import hmdolatabadi, hmdolatabadi_sampling
from goldens_lucidrains import lucidrains, lucidrains_classes, lucidrains_sampling, lucidrains_versions
from goldens_multistep import multistep
from goldens_sample import sample
from goldens_schedulers import schedulers
from goldens_schedules import schedules
from goldens_tensorflow import tensorflow
from goldens_unet import formula, unet

ALL = (
    unet,
    formula,
    sample,
    schedules,
    multistep,
    schedulers,
    files,
    tensorflow,
    families,
    lucidrains,
    lucidrains_versions,
    lucidrains_classes,
    lucidrains_sampling,
    edm,
    edm_sampling,
    edm_augment,
    edm_preconditioners,
    hmdolatabadi,
    hmdolatabadi_sampling,
)
JOBS = {job.__name__: job for job in ALL}

if __name__ == "__main__":
    for name in sys.argv[1:] or JOBS:
        if name not in JOBS:
            sys.exit(f"{name}: unknown; expected one of {', '.join(JOBS)}")
        JOBS[name]()
