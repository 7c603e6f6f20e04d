"""Run examples one after the other in this process, which imports PyTorch and scikit-learn once."""

import runpy
import sys

import matplotlib.pyplot as plt

for path in sys.argv[1:]:
    print("---", path, flush=True)
    runpy.run_path(path, run_name="__main__")
    plt.close("all")
