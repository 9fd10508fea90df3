"""NannyML's univariate drift with its default thresholds: which chunks of each column alarm, by method.

Runs in its own environment (`make peers`). stdin: {"folder", "rows", "methods"}; reference.npy[rows, columns] and stream.npy[rows, columns]
in the folder, both cut into chunks of `rows`. stdout: {"version", "alarms": {method: [by column [by chunk]]}, "seconds"}.
"""

import json
import sys
import time
from pathlib import Path

import nannyml
import numpy as np
import pandas as pd


def main():
    told = json.load(sys.stdin)
    reference, stream = (np.load(Path(told["folder"]) / f"{name}.npy") for name in ("reference", "stream"))
    names = [f"c{i}" for i in range(reference.shape[1])]
    began = time.process_time()
    calculator = nannyml.UnivariateDriftCalculator(
        column_names=names, continuous_methods=told["methods"], chunk_size=told["rows"]
    )
    calculator.fit(pd.DataFrame(reference, columns=names))
    frame = calculator.calculate(pd.DataFrame(stream, columns=names)).filter(period="analysis").to_df()
    alarms = {
        method: [frame[name, method, "alert"].astype(int).tolist() for name in names] for method in told["methods"]
    }
    print(json.dumps({"version": nannyml.__version__, "alarms": alarms, "seconds": time.process_time() - began}))


main()
