"""Runs an ONNX model with OpenVINO in an environment of its own: `python on_openvino.py '{...}'`.

The job: model, inputs (npz with "x", float32 [N, 3, H, W]), out (npz), hint, threads, rounds. Writes the first output
of every input, and the seconds an input took (CPU, wall; least of all rounds).
"""

import json
import sys
import time

import numpy as np
import openvino


def main() -> None:
    job = json.loads(sys.argv[1])
    x = np.load(job["inputs"])["x"]
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": job["threads"],
        "PERFORMANCE_HINT": job["hint"],
        "NUM_STREAMS": 1,
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(job["model"]), "CPU", options).create_infer_request()
    request.infer({0: x[:1]})
    cpu = wall = float("inf")
    for _ in range(job["rounds"]):
        used, began = time.process_time(), time.perf_counter()
        found = []
        for image in x:
            request.infer({0: image[None]})
            found.append(request.get_output_tensor(0).data.copy())
        cpu = min(cpu, (time.process_time() - used) / len(x))
        wall = min(wall, (time.perf_counter() - began) / len(x))
    np.savez(job["out"], y=np.concatenate(found), cpu=cpu, wall=wall)


if __name__ == "__main__":
    main()
