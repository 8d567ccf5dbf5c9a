"""What processes compare: the options that decide numbers, the data, and the state of the trainer."""

from dataclasses import replace

import pytest
import torch

from digan.config import PROCESSES_MAY_DIFFER, flag
from digan.training.agreement import option_facts, state_facts


def test_options_that_decide_numbers_are_compared_and_places_are_not(tiny):
    config = tiny()
    facts = option_facts(config)
    changed = option_facts(replace(config, lr=0.5, other_data=True, outdir="elsewhere", data="copy", workers=3))
    assert {name for name in facts if facts[name] != changed[name]} == {"--lr", "--other-data"}
    assert not {flag(name) for name in PROCESSES_MAY_DIFFER} & set(facts)
    assert facts["the version of torch"] == torch.__version__


def test_detectors_are_compared_by_their_content(tiny, tmp_path):
    def facts(content):
        path = tmp_path / f"{content}.pt"
        if content:
            path.write_text(content)
        return option_facts(tiny(metrics="fvd8_4f,fid8", detector=f"i3d={path},inception={path}"))

    one = facts("a")
    assert one == facts("a")
    assert differences(one, facts("b")) == {"the file of --detector i3d", "the file of --detector inception"}
    assert "No such file" in facts("")["the file of --detector i3d"]


@pytest.fixture
def facts(make_run):
    """The trainer of a run, and what its process compares."""
    run, trainer = make_run()
    return trainer, lambda: state_facts(trainer, run.data)


def differences(before, after):
    return {name for name in before if before[name] != after[name]}


def test_the_state_is_compared_bit_for_bit(facts, real_batch):
    trainer, facts = facts
    before = facts()
    assert differences(before, facts()) == set()
    trainer.clips_seen += 8
    assert differences(before, facts()) == {"the state to start from"}
    trainer.clips_seen -= 8
    assert facts() == before
    with torch.no_grad():
        trainer.g.mapping.w_avg[0] += 1e-7
    assert differences(before, facts()) == {"the state to start from"}
    with torch.no_grad():
        trainer.g.mapping.w_avg.zero_()
    assert facts() == before
    trainer.path_length_mean += 1
    assert differences(before, facts()) == {"the state to start from"}
