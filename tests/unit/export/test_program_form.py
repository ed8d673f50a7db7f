"""The torch.export form, from which AOTInductor compiles: written where torch.export takes the model, else a reason."""

from pathlib import Path

import numpy as np
import pytest
import torch
from export_sources import make_source

from edgebuild.export.program import PROGRAM_FILE, write_program

pytestmark = pytest.mark.filterwarnings("ignore")


class Doubling(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.mul_(2)
        return x.relu()


class Looping(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while float(x.abs().sum()) > 4.0:
            x = x / 2
        return x


@pytest.mark.parametrize(
    ("module", "why"),
    [(torch.nn.Linear(6, 4), ""), (Doubling(), "writes into its inputs"), (Looping(), "ata-dependent")],
)
@pytest.mark.parametrize("scripted", [False, True])
def test_a_program_is_written_where_torch_export_takes_the_model_and_else_there_is_a_reason(
    module: torch.nn.Module, why: str, scripted: bool, tmp_path: Path
) -> None:
    module = torch.jit.script(module.eval()) if scripted else module.eval()
    samples = [[np.random.default_rng(i).standard_normal((3, 6)).astype(np.float32)] for i in range(3)]
    path = tmp_path / PROGRAM_FILE
    said = write_program(make_source(module, samples), path)
    assert path.exists() == (said == "") == (why == "")
    assert why in said or scripted
    if path.exists():
        (output,) = torch.export.load(path).module()(torch.from_numpy(samples[0][0]))
        assert torch.equal(output, module(torch.from_numpy(samples[0][0])))
