"""The commands for a GPU machine: each one runs within its time limit, even if others fail."""

import sys

from benchmarks import gpu


def python(name: str, code: str, seconds: float = 30, **options) -> gpu.Command:
    return gpu.Command(name, (sys.executable, "-c", code), seconds, **options)


def test_outcomes_of_commands(tmp_path, capfd):
    outcomes = [
        gpu.run(command, tmp_path / "log", command.seconds)
        for command in (
            python("fine", "print('first'); print('last'); print()"),
            python("wrong", "raise SystemExit('a reason')"),
            gpu.Command("slow", ("sh", "-c", "echo begun; sleep 60"), 2),
            gpu.Command("missing", ("no-such-program",), 1),
        )
    ]
    assert [o.result for o in outcomes[:2]] == ["ok", "failed with status 1"]
    assert outcomes[2].result.startswith("stopped after 2 s")
    assert outcomes[3].result == "not run: there is no no-such-program on this machine"
    assert [o.last for o in outcomes] == ["last", "a reason", "begun", ""]
    assert "first" in capfd.readouterr().out


def test_output_is_logged(tmp_path):
    gpu.run(python("both", "import sys; print('out'); print('err', file=sys.stderr)"), tmp_path / "log", 30)
    assert set((tmp_path / "log").read_text().split()) == {"out", "err"}


def test_commands_find_the_packages_and_their_environment(tmp_path):
    code = (
        "import importlib.util as u, os; "
        "print(os.environ['VALUE'], all(map(u.find_spec, ('fused_inr', 'digan', 'benchmarks'))))"
    )
    assert gpu.run(python("find", code, environment={"VALUE": "this"}), tmp_path / "log", 60).last == "this True"


def test_without_a_gpu_every_step_reports_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(gpu, "device_name", lambda: "")
    every = gpu.steps(tmp_path, "")
    without_build = {name: [c for c in commands if c.needs_device] for name, commands in every.items()}
    assert all(without_build.values())
    monkeypatch.setattr(gpu, "steps", lambda out, device: without_build)
    assert gpu.main(["all"]) == 1
    printed = capsys.readouterr().out
    for step, commands in without_build.items():
        text = (tmp_path / "logs" / f"{step}-summary.txt").read_text()
        assert text.strip() in printed
        assert text.count("not run: no CUDA device") == len(commands)


def test_the_time_limit_stops_a_step(tmp_path, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(gpu, "device_name", lambda: "")
    commands = [python(name, "pass", needs_device=False) for name in ("one", "two")]
    monkeypatch.setattr(gpu, "steps", lambda out, device: {"check": commands})
    assert gpu.main(["check", "--limit", "0"]) == 1
    assert (tmp_path / "logs" / "check-summary.txt").read_text().count("not run: no time left") == 2
    assert gpu.main(["check"]) == 0


def test_commands_fit_the_limit_and_name_existing_files():
    for name, commands in gpu.steps(gpu.Path("out"), "NVIDIA H100 80GB HBM3").items():
        assert len({command.name for command in commands}) == len(commands), name
        for command in commands:
            assert command.seconds <= gpu.LIMIT
            for argument in command.arguments:
                if argument.startswith(("benchmarks/", "tests/")):
                    assert (gpu.ROOT / argument).exists()
    (command,) = (c for c in gpu.steps(gpu.Path("out"), "NVIDIA H100 80GB HBM3")["bench"] if c.needs_device)
    assert "out/cuda-nvidia-h100-80gb-hbm3.json" in command.arguments
