"""Run under `accelerate launch` by test_trainer.py: the gradients of one iteration, written by the main process."""

import sys
from pathlib import Path

import torch

from digan.training.distributed import LaterSum, make_accelerator
from digan.training.trainer import Trainer


def main(folder: Path) -> None:
    given = torch.load(folder / "in.pt", weights_only=False)
    accelerator = make_accelerator()
    assert accelerator.num_processes == 2
    trainer = Trainer(given["config"], accelerator)
    mine = {k: v[accelerator.process_index :: 2] for k, v in given["batch"].items()}
    reals = [trainer.reals(mine)]
    out = {}
    for name, optimizer, update in (
        ("g", trainer.opt_g, trainer.update_g),
        ("d", trainer.opt_d, trainer.update_d),
        ("r1", trainer.opt_d, trainer.update_r1),
    ):

        def keep(o, *_, name=name):
            out[name] = torch.cat([p.grad.flatten() for p in o.param_groups[0]["params"]]).clone()

        hook = optimizer.register_step_pre_hook(keep)
        update(reals)
        hook.remove()
    out["w_avg"] = trainer.g.mapping.w_avg
    later = LaterSum(accelerator)
    out["later"] = [later(value) for value in (1.0 + accelerator.process_index, 10.0, 0.0)]
    if accelerator.is_main_process:
        torch.save(out, folder / "out.pt")
    accelerator.end_training()
    # A thread of the process group that outlives it aborts one ending in twenty.
    threads = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name], threads


if __name__ == "__main__":
    main(Path(sys.argv[1]))
