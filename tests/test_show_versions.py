"""What `show_versions` prints for a report."""

import re

import torch

import scratchnn


def test_versions_threads_and_devices_are_printed(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")
    scratchnn.show_versions()
    output = capsys.readouterr().out
    facts = dict(re.findall(r"^ *(.+?): (.*)$", output, re.MULTILINE))
    assert facts["scratchnn"] == scratchnn.__version__
    assert facts["torch"] == str(torch.get_num_threads())  # the second of this name: of threads, after the version
    assert f"torch: {torch.__version__}\n" in output
    assert facts["cuda:0"] == "GPU 0"
