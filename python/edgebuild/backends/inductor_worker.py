"""The process in which AOTInductor compiles: ``python -m edgebuild.backends.inductor_worker JOB.json``; prints one JSON object."""

import json
import sys
from pathlib import Path
from typing import Any


def main(job: Path) -> dict[str, str]:
    """Compiles the job's program and runs its samples; "library" and "flags", or "refused" with the reason."""
    import numpy as np
    import torch
    from torch._inductor import config
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    from edgebuild.export.arrays import to_numpy, to_torch

    data: dict[str, Any] = json.loads(job.read_text(encoding="utf-8"))
    program = torch.export.load(data["program"])
    args, kwargs = program.example_inputs
    options = {
        "freezing": True,  # weights are laid out for the kernels at compile time
        "cpp.dynamic_threads": True,  # as many threads as the variant is loaded with
        "cpp.simdlen": data["width"] or None,
        "cpp.march": None if data["march"] == "native" else data["march"],
        "aot_inductor.debug_symbols": False,
        "aot_inductor.precompile_headers": False,  # for one file they cost more than they spare
    }
    with torch.no_grad(), config.patch(options):
        flags = pick_vec_isa().build_arch_flags()
        library = torch._inductor.aot_compile(program.module(), args, kwargs, options=options)
    runner = torch._C._aoti.AOTIModelContainerRunnerCpu(library, 1)
    for sample in data["samples"]:
        with np.load(sample, allow_pickle=False) as arrays, torch.inference_mode():
            inputs = [to_torch(arrays[f"in.{index}"]) for index in range(len(args))]
            outputs = [to_numpy(tensor) for tensor in runner.run(inputs)]
            for index, (atol, rtol) in enumerate(data["tolerances"]):
                expected = arrays[f"out.{index}"]
                got = outputs[index]
                if got.shape != expected.shape or not np.allclose(got, expected, rtol=rtol, atol=atol, equal_nan=True):
                    return {"refused": f"compiled, output {index} is outside of its tolerance on {Path(sample).name}"}
    return {"library": str(library), "flags": flags}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))) + "\n")
