"""Progress bars: shown on a terminal, in the main process, and nowhere else."""

import io
import sys

import pytest
from accelerate import PartialState

from hf_langimb import extract_features
from hf_langimb.console import bar, hidden, told_at_end


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "main", "expected"), [(Terminal, True, False), (Terminal, False, True), (io.StringIO, True, True)]
)
def test_bars_are_for_those_who_look_on(monkeypatch, stream, main, expected):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setattr(PartialState, "is_main_process", main)
    assert hidden() is expected
    assert list(bar(range(3), "Counting")) == [0, 1, 2]
    assert ("Counting" in sys.stderr.getvalue()) is not expected


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_features_show_how_far_they_are(monkeypatch, bert_tokenizer, tiny_bert, tiny_dataset, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    extract_features(tiny_bert(), bert_tokenizer, tiny_dataset(bert_tokenizer))
    assert ("Extracting features" in sys.stderr.getvalue()) is (stream is Terminal)


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (ValueError("no such\n  file \x1b[2J"), "xnli.py: no such file [2J", ""),
        (KeyboardInterrupt(), 130, "xnli.py: interrupted; the same command goes on from the steps that are done\n"),
    ],
)
def test_a_launched_program_ends_without_a_traceback(capsys, fault, code, said):
    with pytest.raises(SystemExit) as stop, told_at_end("xnli.py"):
        raise fault
    assert stop.value.code == code and capsys.readouterr().err == said
